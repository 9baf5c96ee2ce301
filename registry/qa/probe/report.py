"""The figures of one load. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from statistics import median
from typing import Any

from registry.qa.probe.engine_side import engine_side
from registry.qa.probe.figures import Estimate, Figure, figure, figure_of_groups, rate_bounds, share_bounds
from registry.qa.probe.measured import UNANSWERED, Failure, Measured, Request


@dataclass(frozen=True)
class ProbeReport:
    path: str
    streamed: bool
    """False: the server cannot stream, and the first text is the whole answer."""
    gave_up: bool
    """No warm-up request was answered: the figures are those of the warm-up, and the load was not begun."""
    requests: int
    failures: dict[str, int]
    """By class (`Failure`); empty when none failed."""
    error_percent: dict[str, Estimate]
    """By class, and "all"."""
    examples: dict[str, str]
    """What the first failure of each class said."""
    seconds: float
    first_token_ms: Figure | None
    """None when no request brought any text. One that timed out counts with the time waited."""
    gap_ms: Figure | None
    """Between two pieces of a stream; an engine may put several tokens into one."""
    whole_ms: Figure | None
    lag_ms: Figure | None
    """How late the probe was in sending: large on a machine that is too busy to measure on."""
    tokens: int
    tokens_from: str
    """"usage" where the server counted them, else "events"."""
    tokens_per_second: Estimate
    requests_per_second: Estimate
    """Answered without failure."""
    engine: dict[str, Any] = field(default_factory=dict)
    """What the engine's own counters say of the same time; empty where it shows none."""

    @property
    def failed(self) -> int:
        return sum(self.failures.values())

    @property
    def silent(self) -> bool:
        """Not one request was answered, not even with an error or a part of an answer."""
        return not self.tokens and sum(self.failures.get(kind, 0) for kind in UNANSWERED) == self.requests

    @property
    def error_rate_percent(self) -> float:
        return 100.0 * self.failed / self.requests

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def report(measured: Measured) -> ProbeReport:
    requests, seconds = measured.requests, measured.seconds
    answered = [request for request in requests if request.failure is None]
    failures = Counter(request.failure.value for request in requests if request.failure)
    counted = bool(answered) and all(request.tokens is not None for request in answered)
    tokens = [_tokens(request, counted) for request in requests]
    lasts = median(request.ended - request.due for request in requests)
    return ProbeReport(
        path=measured.path,
        streamed=measured.streamed,
        gave_up=measured.gave_up,
        requests=len(requests),
        failures={kind.value: failures[kind.value] for kind in Failure if failures[kind.value]},
        error_percent=_error_percent(failures, len(requests)),
        examples={r.failure.value: r.detail for r in reversed(requests) if r.failure},
        seconds=round(seconds, 3),
        first_token_ms=figure([request.first for request in requests if request.first is not None]),
        gap_ms=figure_of_groups([request.gaps for request in requests]),
        whole_ms=figure([request.whole for request in requests if request.whole is not None]),
        lag_ms=figure([request.lag for request in requests]),
        tokens=sum(tokens),
        tokens_from="usage" if counted else "events",
        tokens_per_second=_tokens_per_second(requests, tokens, seconds, lasts),
        requests_per_second=_per_second(
            [request.ended for request in answered], [1.0] * len(answered), seconds, lasts, digits=2
        ),
        engine=engine_side(measured.engine_before, measured.engine_after),
    )


def _tokens(request: Request, counted: bool) -> int:
    return request.tokens if counted and request.tokens is not None else request.pieces


def _error_percent(failures: Counter[str], requests: int) -> dict[str, Estimate]:
    counts = {"all": failures.total(), **{kind.value: failures[kind.value] for kind in Failure if failures[kind.value]}}
    return {name: _percent(count, requests) for name, count in counts.items()}


def _percent(count: int, requests: int) -> Estimate:
    low, high = share_bounds(count, requests)
    return Estimate(round(100 * count / requests, 3), round(100 * low, 3), round(100 * high, 3))


def _tokens_per_second(requests: Sequence[Request], tokens: Sequence[int], seconds: float, lasts: float) -> Estimate:
    """Each token at the time of its piece; what the server counts beyond the pieces is spread over them."""
    times: list[float] = []
    amounts: list[float] = []
    for request, count in zip(requests, tokens, strict=True):
        at = request.due + (request.first or 0.0)
        for gap in (0.0, *request.gaps)[: request.pieces]:
            at += gap
            times.append(at)
            amounts.append(count / request.pieces)
    found = _per_second(times, amounts, seconds, lasts, digits=1)
    return Estimate(round(sum(tokens) / seconds, 1) if seconds else 0.0, found.low, found.high)


def _per_second(
    times: Sequence[float], amounts: Sequence[float], seconds: float, lasts: float, *, digits: int
) -> Estimate:
    low, high = rate_bounds(times, amounts, seconds, lasts) if times else (None, None)
    return Estimate(
        round(sum(amounts) / seconds, digits) if seconds else 0.0,
        None if low is None else round(low, digits),
        None if high is None else round(high, digits),
    )
