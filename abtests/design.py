"""What an experiment will cost, said before it starts: requests and minutes at today's traffic and this split."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from deploypipe.stats import planning, words

SPLITS: tuple[float, ...] = (0.05, 0.1, 0.25, 0.5)


@dataclass(frozen=True, slots=True)
class Design:
    share: float
    requests_to_pass: int
    """Of both arms together, until a version with the same error rate is promoted."""
    minutes_to_pass: float
    requests_to_abort_doubled: int | None
    """Until a version with twice the error rate is aborted; None when twice is within the margin."""
    minutes_to_abort_doubled: float | None
    feasible: bool
    """An equal version is promoted within the time allowed."""
    suggested_share: float | None
    """The smallest usual split that is feasible, when this one is not."""
    sentence: str


def design(
    *,
    base_rate: float,
    margin_points: float,
    share: float,
    requests_per_minute: float,
    max_minutes: float = 30.0,
    alpha: float = 0.05,
    min_requests: int = 0,
    splits: Sequence[float] = SPLITS,
) -> Design:
    """`min_requests` is the candidate's floor for promotion."""
    margin = margin_points / 100
    plan = planning.plan(base_rate, margin, share, alpha)
    to_pass = _to_pass(base_rate, margin, share, alpha, min_requests)
    to_abort = None if plan.requests_to_abort_doubled is None else math.ceil(plan.requests_to_abort_doubled)
    minutes = planning.minutes(to_pass, requests_per_minute)
    feasible = minutes <= max_minutes
    suggested = None
    if not feasible:
        reachable = max_minutes * requests_per_minute
        suggested = next(
            (s for s in sorted(splits) if _to_pass(base_rate, margin, s, alpha, min_requests) <= reachable), None
        )
    abort_minutes = None if to_abort is None else planning.minutes(to_abort, requests_per_minute)
    return Design(
        share=share,
        requests_to_pass=to_pass,
        minutes_to_pass=minutes,
        requests_to_abort_doubled=to_abort,
        minutes_to_abort_doubled=abort_minutes,
        feasible=feasible,
        suggested_share=suggested,
        sentence=" ".join(
            [
                f"An equal version is promoted after about {_needs(to_pass, minutes)}.",
                "Twice the error rate stays within the margin and is not called worse."
                if to_abort is None or abort_minutes is None
                else f"Twice the error rate is caught after about {_needs(to_abort, abort_minutes)}.",
                *_advice(feasible, suggested, share, max_minutes),
            ]
        ),
    )


def _to_pass(base_rate: float, margin: float, share: float, alpha: float, min_requests: int) -> int:
    needed = planning.requests_to_decide(base_rate, base_rate, margin, share, alpha)
    return math.ceil(max(needed, min_requests / share))


def _needs(requests: int, minutes: float) -> str:
    if math.isinf(minutes):
        return f"{words.count(requests)} requests; there is no traffic now"
    return f"{words.count(requests)} requests, {words.duration(minutes * 60)} at today's traffic"


def _advice(feasible: bool, suggested: float | None, share: float, max_minutes: float) -> list[str]:
    if feasible:
        return []
    longest = words.duration(max_minutes * 60)
    if suggested is None:
        return [f"No usual split decides within {longest}: allow more time or a wider margin."]
    return [f"That is more than {longest}; with {words.percent(suggested)} instead of {words.percent(share)} it fits."]
