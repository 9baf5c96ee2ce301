"""Decide an experiment: promote, abort, continue, inconclusive, or invalid.

Promote needs every goal and every guardrail on the increase to be proven, each at alpha: a version that misses any one
of them is promoted with probability at most alpha, without a correction (intersection-union). Abort needs one of them
broken, and shares alpha among them: a version that keeps them all is aborted with probability at most alpha. Both hold
at every look. A mismatch between the promised and the measured split makes everything invalid, whatever the rates say.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

from deploypipe.stats import limits, planning, srm, two_arms, words
from deploypipe.stats.counts import Window, total
from deploypipe.stats.intervals import DifferenceSequence, Interval, difference_sequence, rate_sequence
from deploypipe.stats.limits import LimitTest
from deploypipe.stats.two_arms import DifferenceTest, Direction, EProcess
from rollouts import analysis
from rollouts.analysis import COMPARISON_WEIGHT, Reader, SettingsError, Verdict

CODE_VERSION = "experiment-1"
"""Changes whenever the same windows could give another decision."""

SRM_ALPHA = 0.001


class Outcome(StrEnum):
    PROMOTE = "promote"
    ABORT = "abort"
    CONTINUE = "continue"
    INCONCLUSIVE = "inconclusive"
    INVALID = "invalid"


class Aim(StrEnum):
    NON_INFERIORITY = "non_inferiority"
    """Candidate worse by less than the margin."""
    SUPERIORITY = "superiority"
    """Candidate better by more than the margin."""


class Role(StrEnum):
    GOAL = "goal"
    GUARDRAIL = "guardrail"


class State(StrEnum):
    MET = "met"
    BROKEN = "broken"
    OPEN = "open"


@dataclass(frozen=True, slots=True)
class Goal:
    metric: str = "error_rate"
    aim: Aim = Aim.NON_INFERIORITY
    margin_points: float = 0.5

    @property
    def margin(self) -> float:
        """The difference, candidate minus stable, that must be surely undercut."""
        return self.margin_points / 100 if self.aim is Aim.NON_INFERIORITY else -self.margin_points / 100


@dataclass(frozen=True, slots=True)
class Guardrail:
    """`error_rate_increase`: limit in points above stable. `error_rate`: in percent of the candidate's requests."""

    metric: str
    limit: float

    @property
    def compares(self) -> bool:
        return self.metric == "error_rate_increase"


@dataclass(frozen=True, slots=True)
class ExperimentSettings:
    goals: tuple[Goal, ...] = (Goal(),)
    guardrails: tuple[Guardrail, ...] = (Guardrail("error_rate", 5.0),)
    alpha: float = 0.05
    min_requests: int = 1000
    """Of the candidate, before it may be promoted. Never a floor for aborting."""
    max_seconds: float = 1800.0
    auto_promote: bool = False
    auto_rollback: bool = True

    @property
    def harm_margins(self) -> tuple[float, ...]:
        """Each margin beyond which the candidate is worse than was allowed."""
        margins = {goal.margin for goal in self.goals if goal.aim is Aim.NON_INFERIORITY}
        return tuple(sorted(margins | {rail.limit / 100 for rail in self.guardrails if rail.compares}))

    @property
    def hard_limits(self) -> tuple[float, ...]:
        return tuple(sorted({rail.limit / 100 for rail in self.guardrails if not rail.compares}))

    @property
    def harm_alpha(self) -> float:
        """Each comparison's part of alpha."""
        weight = COMPARISON_WEIGHT if self.hard_limits else 1.0
        return self.alpha * weight / max(len(self.harm_margins), 1)

    @property
    def limit_alpha(self) -> float:
        weight = 1 - COMPARISON_WEIGHT if self.harm_margins else 1.0
        return self.alpha * weight / max(len(self.hard_limits), 1)

    def to_json(self) -> dict[str, Any]:
        return {
            **asdict(self),
            "goals": [asdict(g) for g in self.goals],
            "guardrails": [asdict(g) for g in self.guardrails],
        }


@dataclass(frozen=True, slots=True)
class MetricRow:
    """One line of the table: what a manager reads on the left, what a statistician checks on the right."""

    name: str
    role: Role
    metric: str
    state: State
    limit: float
    """In the unit of the estimate: the margin, below zero when better is asked for, or the limit."""
    estimate: float | None
    """Points of difference, or percent for `error_rate`."""
    low: float
    high: float
    confidence: float
    """Holds at every look at once."""
    log_evidence: float
    """That the row is met; of a limit, which has no such test, 0."""
    log_threshold: float
    log_evidence_against: float
    log_threshold_against: float | None
    """None for a row that cannot abort."""
    stable_requests: int
    candidate_requests: int

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "role": self.role.value, "state": self.state.value}


@dataclass(frozen=True, slots=True)
class Decision:
    verdict: Outcome
    sentence: str
    gate: Verdict
    """What a rollout step that waits for this experiment is told."""
    automatic: bool
    """The settings let the product act on this verdict; otherwise a person is asked."""
    decided_by: str
    timed_out: bool
    rows: tuple[MetricRow, ...]
    totals: Window
    log_srm_evidence: float
    further_requests: int | None
    further_seconds: float | None
    looks: int
    seconds: float
    provider_problem: str | None
    settings: ExperimentSettings
    code_version: str = CODE_VERSION

    def to_json(self) -> dict[str, Any]:
        return {
            **asdict(self),
            "verdict": self.verdict.value,
            "gate": self.gate.value,
            "rows": [row.to_json() for row in self.rows],
            "totals": self.totals.to_json(),
            "settings": self.settings.to_json(),
        }


def gate_verdict(outcome: Outcome, *, provider_problem: bool = False) -> Verdict:
    """A spoilt measurement is no failure of the model, and an end without a decision is no success."""
    if provider_problem or outcome is Outcome.INVALID:
        return Verdict.PROVIDER_ERROR
    return {Outcome.PROMOTE: Verdict.PASS, Outcome.ABORT: Verdict.FAIL}.get(outcome, Verdict.INSUFFICIENT_DATA)


def sequence_for(settings: ExperimentSettings) -> DifferenceSequence:
    """The interval's state before the first window; `intervals.extend` it with each new one and hand it to `decide`."""
    margins = {goal.margin for goal in settings.goals} | set(settings.harm_margins)
    return difference_sequence((), alpha=settings.alpha, margins=margins)


def decide(
    windows: Sequence[Window],
    settings: ExperimentSettings,
    *,
    seconds: float,
    provider_problem: str | None,
    units: Iterable[srm.Assigned] = (),
    sequence: DifferenceSequence | None = None,
) -> Decision:
    """`units` are sessions assigned per stage of constant split.

    `sequence` is the interval over exactly these windows, when the caller carries it along; otherwise it is computed,
    with the same result.
    """
    from_windows = _Replay(windows, settings, sequence)
    rows = from_windows.rows()
    seen = from_windows.totals
    mismatch = srm.replay(units)
    broken = next((row for row in rows if row.state is State.BROKEN), None)
    unmet = [row for row in rows if row.state is not State.MET]
    missing = settings.min_requests - seen.candidate.requests
    further = _further_requests(seen, settings, rows)
    further_seconds = further / seen.requests * seconds if further is not None and seen.requests else None
    decided_by, timed_out = "", seconds >= settings.max_seconds

    if provider_problem is not None:
        verdict = Outcome.CONTINUE
        sentence = f"On hold, because the measurements could not be read: {provider_problem}"
    elif mismatch.reached(SRM_ALPHA):
        verdict, decided_by = Outcome.INVALID, "sample_ratio"
        sentence = _mismatched(mismatch)
    elif broken is not None:
        verdict, decided_by = Outcome.ABORT, broken.name
        against = analysis.Evidence(
            broken.name, Direction.ABORT, broken.log_evidence_against, broken.log_threshold_against or 0.0, 0, 0
        )
        sentence = f"{_capital(seen)}: {_broken_words(broken)} ({against.in_words})."
    elif rows and not unmet and missing <= 0:
        verdict, decided_by = Outcome.PROMOTE, "all_goals"
        met = [row.name for row in rows if row.log_threshold > 0]
        least = min((row for row in rows if row.log_threshold > 0), key=lambda row: row.log_evidence, default=None)
        evidence = (
            f" (least evidence {words.odds(least.log_evidence)}, needed {words.odds(least.log_threshold)})"
            if least
            else ""
        )
        sentence = f"{_capital(seen)}: {' and '.join(met)}{evidence}."
    else:
        verdict = Outcome.INCONCLUSIVE if timed_out else Outcome.CONTINUE
        sentence = _open(seen, unmet, missing, seconds if timed_out else None, further, further_seconds)
    decided = verdict not in (Outcome.CONTINUE, Outcome.INCONCLUSIVE)
    return Decision(
        verdict=verdict,
        sentence=sentence,
        gate=gate_verdict(verdict, provider_problem=provider_problem is not None),
        automatic={Outcome.PROMOTE: settings.auto_promote, Outcome.ABORT: settings.auto_rollback}.get(verdict, False),
        decided_by=decided_by,
        timed_out=timed_out and not decided,
        rows=rows,
        totals=seen,
        log_srm_evidence=mismatch.max_log_evidence,
        further_requests=None if decided else further,
        further_seconds=None if decided else further_seconds,
        looks=len(windows),
        seconds=seconds,
        provider_problem=provider_problem,
        settings=settings,
    )


class _Replay:
    """Each test over the windows, computed once although several rows may ask for it."""

    def __init__(
        self, windows: Sequence[Window], settings: ExperimentSettings, sequence: DifferenceSequence | None
    ) -> None:
        self.windows = windows
        self.settings = settings
        self.totals = total(windows)
        if sequence is None:
            margins = {goal.margin for goal in settings.goals} | set(settings.harm_margins)
            sequence = difference_sequence(windows, alpha=settings.alpha, margins=margins)
        if sequence.looks != len(windows):
            raise ValueError(f"the interval has seen {sequence.looks} windows, the decision {len(windows)}")
        self.interval = sequence.interval
        self._tests: dict[DifferenceTest, EProcess] = {}

    def rows(self) -> tuple[MetricRow, ...]:
        goals = [
            self._compared(_goal_name(goal), Role.GOAL, goal.metric, goal.margin, goal.aim is Aim.NON_INFERIORITY)
            for goal in self.settings.goals
        ]
        rails = [
            self._compared(_points_name(rail.limit), Role.GUARDRAIL, rail.metric, rail.limit / 100, True)
            if rail.compares
            else self._limited(rail)
            for rail in self.settings.guardrails
        ]
        return (*goals, *rails)

    def _compared(self, name: str, role: Role, metric: str, margin: float, may_abort: bool) -> MetricRow:
        met = self._replayed(Direction.PROMOTE, margin)
        broken = self._replayed(Direction.ABORT, margin)
        state = State.MET if met.reached(self.settings.alpha) else State.OPEN
        if may_abort and broken.reached(self.settings.harm_alpha):
            state = State.BROKEN
        return MetricRow(
            name=name,
            role=role,
            metric=metric,
            state=state,
            limit=100 * margin,
            estimate=analysis.difference_points(self.totals),
            **_percent(self.interval),
            log_evidence=met.max_log_evidence,
            log_threshold=-math.log(self.settings.alpha),
            log_evidence_against=broken.max_log_evidence,
            log_threshold_against=-math.log(self.settings.harm_alpha) if may_abort else None,
            stable_requests=self.totals.stable.requests,
            candidate_requests=self.totals.candidate.requests,
        )

    def _limited(self, rail: Guardrail) -> MetricRow:
        arms = [window.candidate for window in self.windows]
        above = limits.replay(arms, LimitTest(Direction.ABORT, rail.limit / 100))
        rate = self.totals.candidate.rate
        state = State.MET if rate is not None and rate <= rail.limit / 100 else State.OPEN
        if above.reached(self.settings.limit_alpha):
            state = State.BROKEN
        return MetricRow(
            name=f"the error rate is at most {words.limit(rail.limit)}",
            role=Role.GUARDRAIL,
            metric=rail.metric,
            state=state,
            limit=rail.limit,
            estimate=None if rate is None else 100 * rate,
            **_percent(rate_sequence(arms, alpha=self.settings.alpha)),
            log_evidence=0.0,
            log_threshold=0.0,
            log_evidence_against=above.max_log_evidence,
            log_threshold_against=-math.log(self.settings.limit_alpha),
            stable_requests=0,
            candidate_requests=self.totals.candidate.requests,
        )

    def _replayed(self, direction: Direction, margin: float) -> EProcess:
        test = DifferenceTest(direction, margin)
        if test not in self._tests:
            self._tests[test] = two_arms.replay(self.windows, test)
        return self._tests[test]


def _percent(interval: Interval) -> dict[str, float]:
    return {"low": 100 * interval.low, "high": 100 * interval.high, "confidence": interval.confidence}


def _goal_name(goal: Goal) -> str:
    if goal.aim is Aim.NON_INFERIORITY:
        return _points_name(goal.margin_points)
    return (
        f"the error rate falls by more than {words.points(goal.margin_points)}"
        if goal.margin_points
        else "the error rate falls"
    )


def _points_name(points: float) -> str:
    return f"the error rate rises by less than {words.points(points)}"


def _broken_words(row: MetricRow) -> str:
    if row.metric == "error_rate" and row.role is Role.GUARDRAIL:
        return f"above the limit of {words.limit(row.limit)}"
    return f"worse by more than {words.points(row.limit)}"


def _capital(seen: Window) -> str:
    return analysis.capitalised(analysis.observed(seen))


def _mismatched(mismatch: srm.SrmProcess) -> str:
    units = mismatch.stable + mismatch.candidate
    return (
        f"The split is not what was promised: {mismatch.candidate:,} of {units:,} sessions"
        f" ({words.percent(mismatch.candidate / units)}) met the candidate, {words.percent(mismatch.share)} should have"
        f" (evidence {words.odds(mismatch.max_log_evidence)}, needed {words.odds(-math.log(SRM_ALPHA))})."
        " No comparison can be trusted until the cause is found."
    )


def _open(
    seen: Window,
    unmet: Sequence[MetricRow],
    missing: int,
    timed_out_after: float | None,
    further: int | None,
    further_seconds: float | None,
) -> str:
    start = "Keep running"
    if timed_out_after is not None:
        start = f"No decision after {words.duration(timed_out_after)}, the longest allowed"
    if not seen.candidate.requests:
        return f"{start}: no request has reached the candidate yet."
    parts = [f"{start}: {analysis.observed(seen)}"]
    if missing > 0:
        parts.append(
            f"the candidate may be promoted after {seen.candidate.requests + missing:,} requests, {missing:,} more"
        )
    for row in unmet:
        if row.log_threshold > 0:
            evidence = f"{words.odds(row.log_evidence)}, needed {words.odds(row.log_threshold)}"
            parts.append(f"evidence that {row.name}: {evidence}")
        else:
            parts.append(f"it does not hold at the moment that {row.name}")
    return f"{'; '.join(parts)}.{analysis.in_sight(further, further_seconds)}"


def _further_requests(seen: Window, settings: ExperimentSettings, rows: Sequence[MetricRow]) -> int | None:
    """Until the last open comparison is decided, if the rates stay as estimated."""
    if not seen.candidate.requests or not seen.stable.requests:
        return None
    share = seen.candidate.requests / seen.requests
    stable_rate = (seen.stable.errors + 2.0) / (seen.stable.requests + 200.0)
    candidate_rate = (seen.candidate.errors + 20 * stable_rate) / (seen.candidate.requests + 20)
    most = (settings.min_requests - seen.candidate.requests) / share
    for row, margin in zip(rows, _margins(settings), strict=True):
        if margin is None or row.state is State.MET:
            continue
        promising = candidate_rate - stable_rate < margin
        if not promising and row.log_threshold_against is not None:
            gap = row.log_threshold_against - max(row.log_evidence_against, 0.0)
        elif promising:
            gap = row.log_threshold - max(row.log_evidence, 0.0)
        else:
            return None
        growth = planning.growth_per_request(stable_rate, candidate_rate, margin, share)
        needed = max(gap, 0.0) / growth if growth > 0 else math.inf
        if not promising:
            return math.ceil(needed) if math.isfinite(needed) else None
        most = max(most, needed)
    return max(math.ceil(most), 0) if math.isfinite(most) else None


def _margins(settings: ExperimentSettings) -> list[float | None]:
    return [
        *(goal.margin for goal in settings.goals),
        *(rail.limit / 100 if rail.compares else None for rail in settings.guardrails),
    ]


def parse_settings(given: Mapping[str, Any]) -> ExperimentSettings:
    """Raises `rollouts.analysis.SettingsError`."""
    settings = ExperimentSettings(**analysis.read_fields(given, _READERS))
    if not settings.goals and not any(rail.compares for rail in settings.guardrails):
        raise SettingsError({"goals": "there is none, and no guardrail compares the versions; name at least one goal."})
    return settings


def _goal(given: Any) -> Goal:
    if not isinstance(given, Mapping):
        raise ValueError('a goal such as {"metric": "error_rate", "aim": "non_inferiority", "margin_points": 0.5}')
    goal = Goal(**_nested(given, _GOAL_READERS))
    if goal.aim is Aim.NON_INFERIORITY and goal.margin_points == 0:
        raise ValueError("a goal that an equal version can meet: non-inferiority needs a margin above 0 points")
    return goal


def _guardrail(given: Any) -> Guardrail:
    if not isinstance(given, Mapping) or not {"metric", "limit"} <= set(given):
        raise ValueError('a guardrail such as {"metric": "error_rate_increase", "limit": 0.5}')
    return Guardrail(**_nested(given, _GUARDRAIL_READERS))


def _nested(given: Mapping[str, Any], readers: Mapping[str, Reader]) -> dict[str, Any]:
    try:
        return analysis.read_fields(given, readers)
    except SettingsError as error:
        raise ValueError(f"right ({error})") from error


def _listed(read: Reader) -> Reader:
    def read_all(value: Any) -> tuple[Any, ...]:
        if isinstance(value, str | Mapping) or not isinstance(value, Sequence):
            raise ValueError("a list")
        return tuple(read(item) for item in value)

    return read_all


def _one_of(*choices: str) -> Reader:
    def read(value: Any) -> str:
        if value not in choices:
            raise ValueError(f"one of {', '.join(choices)}")
        return str(value)

    return read


def _flag(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError("true or false")
    return value


_GOAL_READERS: dict[str, Reader] = {
    "metric": _one_of("error_rate"),
    "aim": lambda value: Aim(_one_of(*(aim.value for aim in Aim))(value)),
    "margin_points": analysis.number("a number of percentage points from 0 to below 100", lambda v: 0 <= v < 100),
}
_GUARDRAIL_READERS: dict[str, Reader] = {
    "metric": _one_of("error_rate_increase", "error_rate"),
    "limit": analysis.number("a number above 0 and below 100", lambda v: 0 < v < 100),
}
_READERS: dict[str, Reader] = {
    "goals": _listed(_goal),
    "guardrails": _listed(_guardrail),
    "alpha": analysis.ALPHA,
    "min_requests": analysis.REQUESTS,
    "max_seconds": analysis.SECONDS,
    "auto_promote": _flag,
    "auto_rollback": _flag,
}
