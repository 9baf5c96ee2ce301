"""Judge the candidate's error rate against the stable version's: pass, fail, not enough data, or no measurements.

Two questions run side by side. "Is it worse by more than the margin, or above the limit?" gathers evidence over the
whole rollout, so that a good candidate is failed by chance with probability at most alpha per rollout, however many
looks and steps there are. "Is it surely not worse by the margin?" counts this step's windows alone, so that what was
seen at ten percent of the traffic does not vouch for fifty. Both hold at every look (`deploypipe.stats.two_arms`).

A judgement is a function of the windows, the settings and the time in the step alone: the same windows give the same
judgement, to the last bit. Keep the settings of one rollout the same in all its steps: alpha is spent per rollout.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from typing import Any

from deploypipe.stats import limits, planning, two_arms, words
from deploypipe.stats.counts import ArmCounts, Window, total
from deploypipe.stats.limits import LimitTest
from deploypipe.stats.two_arms import DifferenceTest, Direction

CODE_VERSION = "error-rates-1"
"""Changes whenever the same windows could give another judgement."""

COMPARISON_WEIGHT = 0.8
"""Of alpha, to the comparison with the stable version; the rest to the absolute limit. Both together spend alpha."""

_MOST_FURTHER_REQUESTS = 100_000_000


class Verdict(StrEnum):
    PASS = "pass"  # noqa: S105 -- a verdict, not a password
    FAIL = "fail"
    INSUFFICIENT_DATA = "insufficient_data"
    PROVIDER_ERROR = "provider_error"


class SettingsError(ValueError):
    """`fields` names each wrong field and says its value and what would be right."""

    def __init__(self, fields: Mapping[str, str]) -> None:
        self.fields: dict[str, str] = dict(fields)
        super().__init__(" ".join(f"{name}: {problem}" for name, problem in self.fields.items()))


@dataclass(frozen=True, slots=True)
class AnalysisSettings:
    max_error_increase_points: float = 0.5
    max_error_rate_percent: float | None = 5.0
    alpha: float = 0.05
    min_requests: int = 100
    """Of the candidate in this step, before it may pass. Never a floor for failing."""
    max_seconds: float = 1800.0

    @property
    def margin(self) -> float:
        return self.max_error_increase_points / 100

    @property
    def limit(self) -> float | None:
        return None if self.max_error_rate_percent is None else self.max_error_rate_percent / 100

    @property
    def comparison_alpha(self) -> float:
        return self.alpha if self.max_error_rate_percent is None else self.alpha * COMPARISON_WEIGHT

    @property
    def limit_alpha(self) -> float:
        return self.alpha * (1 - COMPARISON_WEIGHT)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Evidence:
    name: str
    """`worse_than_stable`, `above_limit`, `not_worse_than_stable` or `below_limit`."""
    direction: Direction
    log_evidence: float
    """The most so far; natural logarithm."""
    log_threshold: float
    stable_requests: int
    candidate_requests: int

    @property
    def reached(self) -> bool:
        return self.log_evidence >= self.log_threshold

    @property
    def in_words(self) -> str:
        return f"evidence {self.odds_in_words}"

    @property
    def odds_in_words(self) -> str:
        return f"{words.odds(self.log_evidence)}, needed {words.odds(self.log_threshold)}"

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "direction": self.direction.value, "reached": self.reached}


@dataclass(frozen=True, slots=True)
class Judgement:
    verdict: Verdict
    sentence: str
    decided_by: str
    """Name of the evidence that decided, or an empty string."""
    timed_out: bool
    """The time is over without a decision; what that means is the plan's to say."""
    step: Window
    """Totals of this step."""
    rollout: Window
    """Totals of the whole rollout."""
    difference_points: float | None
    """Candidate minus stable in this step, as observed; of the whole rollout when that is what failed."""
    evidence: tuple[Evidence, ...]
    further_requests: int | None
    """Of both arms, about, until a decision if things go on as they are; None when no decision is in sight."""
    further_seconds: float | None
    """The same at the rate of this step."""
    step_windows: int
    rollout_windows: int
    seconds_in_step: float
    provider_problem: str | None
    compare: bool
    settings: AnalysisSettings
    code_version: str = CODE_VERSION

    def to_json(self) -> dict[str, Any]:
        return {
            **asdict(self),
            "verdict": self.verdict.value,
            "step": self.step.to_json(),
            "rollout": self.rollout.to_json(),
            "evidence": [item.to_json() for item in self.evidence],
            "settings": self.settings.to_json(),
        }

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> Judgement:
        evidence = tuple(
            Evidence(
                item["name"],
                Direction(item["direction"]),
                item["log_evidence"],
                item["log_threshold"],
                item["stable_requests"],
                item["candidate_requests"],
            )
            for item in stored["evidence"]
        )
        return cls(
            **{
                **stored,
                "verdict": Verdict(stored["verdict"]),
                "step": Window.from_json(stored["step"]),
                "rollout": Window.from_json(stored["rollout"]),
                "evidence": evidence,
                "settings": AnalysisSettings(**stored["settings"]),
            }
        )


def judge(
    step_windows: Sequence[Window],
    rollout_windows: Sequence[Window],
    settings: AnalysisSettings,
    *,
    provider_problem: str | None,
    seconds_in_step: float,
    compare: bool | None = None,
) -> Judgement:
    """`rollout_windows` are all windows since the rollout began, this step's included.

    `compare` says whether the stable version serves traffic in this step; without it, whether it ever had a request.
    Where there is nothing to compare with (first deployment, all traffic on the candidate) the absolute limit decides.
    """
    step, rollout = total(step_windows), total(rollout_windows)
    if compare is None:
        compare = rollout.stable.requests > 0
    against = _evidence_against(rollout_windows, rollout, settings)
    passing = _evidence_for(step_windows, step, settings, compare)
    broken = next((item for item in against if item.reached), None)
    further = _further_requests(step, rollout, settings, compare, passing, against)
    seconds = further / step.requests * seconds_in_step if further is not None and step.requests else None

    holds = _holds(step, settings)
    verdict, decided_by, timed_out, shown = Verdict.INSUFFICIENT_DATA, "", False, step
    if provider_problem is not None:
        verdict = Verdict.PROVIDER_ERROR
        sentence = f"No judgement, because the measurements could not be read: {provider_problem}"
    elif broken is not None:
        verdict, decided_by, shown = Verdict.FAIL, broken.name, rollout
        sentence = _failed(broken, rollout, settings)
    elif passing is not None and passing.reached and not holds:
        verdict, decided_by = Verdict.PASS, passing.name
        sentence = _passed(passing, step, settings)
    else:
        timed_out = seconds_in_step >= settings.max_seconds
        sentence = _undecided(passing, step, settings, holds, further, seconds, seconds_in_step if timed_out else None)
    decided = verdict in (Verdict.PASS, Verdict.FAIL)
    return Judgement(
        verdict=verdict,
        sentence=sentence,
        decided_by=decided_by,
        timed_out=timed_out,
        step=step,
        rollout=rollout,
        difference_points=difference_points(shown),
        evidence=against if passing is None else (*against, passing),
        further_requests=None if decided else further,
        further_seconds=None if decided else seconds,
        step_windows=len(step_windows),
        rollout_windows=len(rollout_windows),
        seconds_in_step=seconds_in_step,
        provider_problem=provider_problem,
        compare=compare,
        settings=settings,
    )


def guard(rollout_windows: Sequence[Window], settings: AnalysisSettings, *, provider_problem: str | None) -> Judgement:
    """The watch that never sleeps, between analysis steps too: it can fail a rollout, and never passes anything."""
    judgement = judge((), rollout_windows, settings, provider_problem=provider_problem, seconds_in_step=0.0)
    if judgement.verdict is not Verdict.INSUFFICIENT_DATA:
        return judgement
    sentence = f"No sign of harm so far: {observed(judgement.rollout)}."
    return replace(judgement, sentence=sentence, difference_points=difference_points(judgement.rollout))


def _evidence_against(windows: Sequence[Window], seen: Window, settings: AnalysisSettings) -> tuple[Evidence, ...]:
    worse = two_arms.replay(windows, DifferenceTest(Direction.ABORT, settings.margin))
    found = [_evidence("worse_than_stable", Direction.ABORT, worse.max_log_evidence, settings.comparison_alpha, seen)]
    if settings.limit is not None:
        above = limits.replay((w.candidate for w in windows), LimitTest(Direction.ABORT, settings.limit))
        found.append(_evidence("above_limit", Direction.ABORT, above.max_log_evidence, settings.limit_alpha, seen))
    return tuple(found)


def _evidence_for(
    windows: Sequence[Window], seen: Window, settings: AnalysisSettings, compare: bool
) -> Evidence | None:
    if compare:
        not_worse = two_arms.replay(windows, DifferenceTest(Direction.PROMOTE, settings.margin))
        return _evidence("not_worse_than_stable", Direction.PROMOTE, not_worse.max_log_evidence, settings.alpha, seen)
    if settings.limit is None:
        return None
    below = limits.replay((w.candidate for w in windows), LimitTest(Direction.PROMOTE, settings.limit))
    return _evidence("below_limit", Direction.PROMOTE, below.max_log_evidence, settings.alpha, seen)


def _evidence(name: str, direction: Direction, log_evidence: float, alpha: float, seen: Window) -> Evidence:
    return Evidence(name, direction, log_evidence, -math.log(alpha), seen.stable.requests, seen.candidate.requests)


def _holds(step: Window, settings: AnalysisSettings) -> str:
    """Why the candidate may not pass yet, whatever the evidence; empty when nothing holds it."""
    missing = settings.min_requests - step.candidate.requests
    if missing > 0:
        return f"the candidate may pass after {settings.min_requests:,} requests in this step, {missing:,} more"
    rate = step.candidate.rate
    if (
        rate is not None
        and settings.max_error_rate_percent is not None
        and 100 * rate > settings.max_error_rate_percent
    ):
        return (
            f"the candidate's rate is above the limit of {words.limit(settings.max_error_rate_percent)} at the moment"
        )
    return ""


def _further_requests(
    step: Window,
    rollout: Window,
    settings: AnalysisSettings,
    compare: bool,
    passing: Evidence | None,
    against: Sequence[Evidence],
) -> int | None:
    """Until a decision, if the rates stay as estimated; a candidate with few requests is taken to be like stable."""
    if not step.candidate.requests or passing is None:
        return None
    share = step.candidate.requests / step.requests
    if compare:
        stable_rate = (rollout.stable.errors + 2.0) / (rollout.stable.requests + 200.0)
        candidate_rate = (rollout.candidate.errors + 20 * stable_rate) / (rollout.candidate.requests + 20)
        growth = planning.growth_per_request(stable_rate, candidate_rate, settings.margin, share)
        promising = candidate_rate - stable_rate < settings.margin
    else:
        limit = settings.limit or 0.0
        candidate_rate = (step.candidate.errors + 0.5) / (step.candidate.requests + 1)
        growth = planning.divergence(candidate_rate, limit) * share
        promising = candidate_rate < limit
    target = passing if promising else against[0 if compare else -1]
    needed = max(target.log_threshold - max(target.log_evidence, 0.0), 0.0) / growth if growth > 0 else math.inf
    if promising:
        needed = max(needed, (settings.min_requests - step.candidate.requests) / share)
    return math.ceil(needed) if needed <= _MOST_FURTHER_REQUESTS else None


def difference_points(seen: Window) -> float | None:
    stable, candidate = seen.stable.rate, seen.candidate.rate
    return None if stable is None or candidate is None else 100 * (candidate - stable)


def observed(seen: Window) -> str:
    """ "candidate 5 of 61 requests failed (8.2 %), stable 2 of 3,240 (0.1 %)"."""
    stable = words.of(seen.stable.errors, seen.stable.requests)
    if not seen.candidate.requests:
        return f"candidate no requests, stable {_failed_of(seen.stable)}" if seen.stable.requests else "no requests"
    return f"candidate {_failed_of(seen.candidate)}, stable {stable}"


def _failed_of(arm: ArmCounts) -> str:
    if arm.rate is None:
        return "no requests"
    return f"{arm.errors:,} of {arm.requests:,} requests failed ({words.percent(arm.rate)})"


def _failed(broken: Evidence, rollout: Window, settings: AnalysisSettings) -> str:
    if broken.name == "worse_than_stable":
        reason = f"worse by more than {words.points(settings.max_error_increase_points)}"
    else:
        reason = f"above the limit of {words.limit(settings.max_error_rate_percent or 0.0)}"
    return f"{capitalised(observed(rollout))}: {reason} ({broken.in_words})."


def _passed(passing: Evidence, step: Window, settings: AnalysisSettings) -> str:
    return f"{capitalised(observed(step))}: {_aim(passing, settings)} ({passing.in_words})."


def _aim(passing: Evidence, settings: AnalysisSettings) -> str:
    if passing.name == "not_worse_than_stable":
        return f"not worse by {words.points(settings.max_error_increase_points)} or more"
    return f"below the limit of {words.limit(settings.max_error_rate_percent or 0.0)}"


def _undecided(
    passing: Evidence | None,
    step: Window,
    settings: AnalysisSettings,
    holds: str,
    further: int | None,
    seconds: float | None,
    timed_out_after: float | None,
) -> str:
    start = "Not enough data yet"
    if timed_out_after is not None:
        start = f"No decision after {words.duration(timed_out_after)}, the longest allowed"
    if not step.candidate.requests:
        return f"{start}: no request has reached the candidate in this step."
    if passing is None:
        return f"{start}: {observed(step)}. Nothing can decide without stable traffic to compare with or a limit."
    parts = [f"{start}: {observed(step)}"]
    if holds:
        parts.append(holds)
    if not passing.reached:
        parts.append(f"evidence that it is {_aim(passing, settings)}: {passing.odds_in_words}")
    return f"{'; '.join(parts)}.{in_sight(further, seconds)}"


def in_sight(further: int | None, seconds: float | None) -> str:
    """How much longer, as a sentence of its own."""
    if further is None:
        return " No decision is in sight at these rates."
    if further <= 0:
        return ""
    about = f" About {words.count(further)} more requests are needed"
    return f"{about}, {words.duration(seconds)} at this traffic." if seconds else f"{about}."


def capitalised(sentence: str) -> str:
    return sentence[:1].upper() + sentence[1:]


# Settings come from people and programs: each wrong value is named with what would be right.

Reader = Callable[[Any], Any]


def parse_settings(given: Mapping[str, Any]) -> AnalysisSettings:
    return AnalysisSettings(**read_fields(given, _READERS))


def read_fields(given: Mapping[str, Any], readers: Mapping[str, Reader]) -> dict[str, Any]:
    """The given values, read; a reader raises ValueError with what would be right."""
    values: dict[str, Any] = {}
    problems: dict[str, str] = {}
    for name, value in given.items():
        if name not in readers:
            problems[str(name)] = unknown(str(name), readers)
            continue
        try:
            values[name] = readers[name](value)
        except ValueError as error:
            problems[name] = f"{value!r} is not {error}."
    if problems:
        raise SettingsError(problems)
    return values


def unknown(name: str, known: Iterable[str]) -> str:
    choices = sorted(known)
    near = difflib.get_close_matches(name, choices, n=1)
    hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(choices)}."
    return f"there is no such setting; {hint}"


def number(right: str, accepts: Callable[[float], bool], *, optional: bool = False) -> Reader:
    def read(value: Any) -> float | None:
        if value is None and optional:
            return None
        if isinstance(value, bool) or not isinstance(value, int | float) or not accepts(value):
            raise ValueError(right)
        return float(value)

    return read


def whole(right: str, accepts: Callable[[int], bool]) -> Reader:
    def read(value: Any) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or not accepts(value):
            raise ValueError(right)
        return value

    return read


MARGIN_POINTS = number("a number of percentage points above 0 and below 100, such as 0.5", lambda v: 0 < v < 100)
LIMIT_PERCENT = number("a percentage above 0 and below 100, such as 5", lambda v: 0 < v < 100)
ALPHA = number("a probability above 0 and at most 0.5, such as 0.05", lambda v: 0 < v <= 0.5)
SECONDS = number("a number of seconds above 0, such as 1800", lambda v: 0 < v < math.inf)
REQUESTS = whole("a whole number of requests, at least 1, such as 100", lambda v: v >= 1)

_READERS: dict[str, Reader] = {
    "max_error_increase_points": MARGIN_POINTS,
    "max_error_rate_percent": number(
        "a percentage above 0 and below 100, such as 5, or nothing for no limit", lambda v: 0 < v < 100, optional=True
    ),
    "alpha": ALPHA,
    "min_requests": REQUESTS,
    "max_seconds": SECONDS,
}
