"""What is asked of a candidate: criteria, and what is known of each at one look. `criteria` re-exports these."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

from deploypipe.metrics.definitions import Family, Metric, Reading, Unit, metric_named

_MOST_PERCENT = 10_000.0


class Kind(StrEnum):
    INCREASE = "increase"
    """Candidate worse than stable by less than the margin (non-inferiority)."""
    IMPROVEMENT = "improvement"
    """Candidate better than stable by more than the margin (superiority)."""
    EQUIVALENCE = "equivalence"
    """Candidate neither better nor worse by the margin."""
    LIMIT = "limit"
    """The candidate alone stays on the right side of a fixed value."""


class Role(StrEnum):
    GOAL = "goal"
    GUARDRAIL = "guardrail"


class State(StrEnum):
    MET = "met"
    BROKEN = "broken"
    OPEN = "open"
    MISSING = "missing"
    """Nothing was measured that could answer it; never taken for met."""


class Scope(StrEnum):
    FRESH = "fresh"
    """Sessions never seen before in another split: each counts once, whatever periods the windows span."""
    ALL = "all"
    """And those that return from an earlier split, in the first period of the windows alone, lest one counts twice."""


@dataclass(frozen=True, slots=True)
class Criterion:
    metric: str
    """Name in `definitions`."""
    kind: Kind
    margin: float
    """In the metric's unit: percentage points, stars, milliseconds; percent where `relative`; of LIMIT the limit."""
    relative: bool = False
    level: float | None = None
    """Of a metric that has quantiles: 0.95 asks for the P95."""
    role: Role = Role.GUARDRAIL
    proves: bool = True
    """It must be proven before a promotion; otherwise it is enough that it holds as measured."""
    aborts: bool = True
    """Evidence against it ends everything."""
    slack: float = 0.0
    """Of a quantile that may rise by so many percent: how much, in its unit, it may rise in any case."""

    def __post_init__(self) -> None:
        if problem := _problem(self):
            raise ValueError(f"{self.metric}: {problem}")

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> Criterion:
        return cls(**{**stored, "kind": Kind(stored["kind"]), "role": Role(stored["role"])})


@dataclass(frozen=True, slots=True)
class Plan:
    criteria: tuple[Criterion, ...]
    alpha: float = 0.05
    """Of a promotion that should not have been, and again of an abort that should not have been."""
    unit: Unit = Unit.SESSION
    arms: int = 1
    """Candidates that are compared with the same stable version: alpha is divided among them."""
    scope: Scope = Scope.FRESH
    closing: float = 0.0
    """Part of an abort's alpha that is kept for one exact test at the planned end, see `closing`."""

    def __post_init__(self) -> None:
        # Enums are strings, and plans are written with plain strings, too.
        object.__setattr__(self, "unit", Unit(self.unit))
        object.__setattr__(self, "scope", Scope(self.scope))
        if not 0 < self.alpha <= 0.5:
            raise ValueError(f"alpha must lie above 0 and be at most 0.5, not {self.alpha}")
        if self.arms < 1:
            raise ValueError(f"arms must be at least 1, not {self.arms}")
        if not 0 <= self.closing < 1:
            raise ValueError(f"closing must be at least 0 and below 1, not {self.closing}")
        if not self.criteria:
            raise ValueError("criteria: there is none, so nothing could ever be decided")
        if len(set(self.criteria)) < len(self.criteria):
            raise ValueError("criteria: the same one is there twice")
        for criterion in self.criteria:
            metric = metric_named(criterion.metric)
            if not metric.readings(self.unit):
                raise ValueError(f"{criterion.metric} cannot be measured with {self.unit}s as the unit")

    def to_json(self) -> dict[str, Any]:
        return {
            "criteria": [criterion.to_json() for criterion in self.criteria],
            "alpha": self.alpha,
            "unit": self.unit.value,
            "arms": self.arms,
            "scope": self.scope.value,
            "closing": self.closing,
        }

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> Plan:
        return cls(
            tuple(Criterion.from_json(criterion) for criterion in stored["criteria"]),
            float(stored["alpha"]),
            Unit(stored["unit"]),
            int(stored["arms"]),
            Scope(stored["scope"]),
            float(stored["closing"]),
        )


@dataclass(frozen=True, slots=True)
class Row:
    """One criterion at one look: what a manager reads first, what a statistician checks after."""

    name: str
    """What is wanted, as words: "the error rate rises by less than 0.5 points"."""
    metric: str
    kind: Kind
    role: Role
    state: State
    margin: float
    relative: bool
    level: float | None
    estimate: float | None
    """In the unit of the margin: the difference, the change in percent, or of LIMIT the candidate's own value."""
    low: float | None
    """Of the estimate's interval, which holds at every look at once. None where there is no end on that side yet, or no
    interval was asked for."""
    high: float | None
    confidence: float
    log_evidence: float
    """That the criterion is met; natural logarithm, the most so far."""
    log_threshold: float | None
    """None where it need not be proven."""
    log_evidence_against: float
    """Of the reading that is nearest to its threshold."""
    log_threshold_against: float | None
    """None where it cannot abort."""
    stable_units: float
    candidate_units: float
    unit: Unit
    reading: Reading
    """Of the estimate and of the proof."""
    reading_against: Reading
    stable_value: float | None
    """Of each arm alone, in the metric's unit."""
    candidate_value: float | None
    measured: str
    """ "candidate 5 of 61 sessions failed (8.2 %), stable 2 of 3,240 (0.1 %)"."""
    broken_words: str
    """What it means that it is broken: "worse by more than 0.5 points"."""
    asymptotic: bool = False
    """The evidence is exact only in the limit of many units (means without bounds)."""
    closing_p: float | None = None
    """Of the exact test at the planned end; None before, and where there is none."""
    closing_alpha: float | None = None
    """What it must not exceed to call harm; None where no such test is planned."""

    @property
    def proves(self) -> bool:
        return self.log_threshold is not None

    @property
    def closed_broken(self) -> bool:
        """The exact test at the planned end calls harm."""
        return self.closing_p is not None and self.closing_alpha is not None and self.closing_p <= self.closing_alpha

    def to_json(self) -> dict[str, Any]:
        return {name: value.value if isinstance(value, StrEnum) else value for name, value in asdict(self).items()}

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> Row:
        enums: dict[str, Any] = {
            "kind": Kind, "role": Role, "state": State, "unit": Unit, "reading": Reading, "reading_against": Reading,
        }  # fmt: skip
        return cls(**{name: enums[name](value) if name in enums else value for name, value in stored.items()})


def _problem(criterion: Criterion) -> str:
    metric = metric_named(criterion.metric)
    margin, low, high = criterion.margin, *metric.scale
    if not math.isfinite(margin):
        return f"margin is {margin!r}, give a number"
    quantiles = metric.family is Family.QUANTILE
    if quantiles and (criterion.level is None or not 0 < criterion.level < 1):
        return f"level is {criterion.level!r}, give the quantile as a number between 0 and 1, such as 0.95"
    if not quantiles and criterion.level is not None:
        return f"level is {criterion.level!r}, but this metric has no quantiles"
    if not 0 <= criterion.slack < math.inf:
        return f"slack is {criterion.slack!r}, give a number, at least 0"
    if criterion.slack and not (quantiles and criterion.kind is Kind.INCREASE):
        return f"slack is {criterion.slack:g}, but only a quantile that may rise by a margin in percent has one"
    if criterion.kind is Kind.LIMIT:
        if criterion.relative:
            return "a limit cannot be relative"
        if metric.family in (Family.ARRIVALS, Family.MEAN):
            return "there is no limit for it, only a comparison with stable"
        if metric.bounded and not low < margin < high:
            return f"the limit is {margin:g}, give a number between {low:g} and {high:g}"
        return "" if metric.bounded or margin > 0 else f"the limit is {margin:g}, give a number above 0"
    return _problem_of_comparison(criterion, metric)


def _problem_of_comparison(criterion: Criterion, metric: Metric) -> str:
    margin, low, high = criterion.margin, *metric.scale
    if margin < 0 or (margin == 0 and criterion.kind is not Kind.IMPROVEMENT):
        return f"margin is {margin:g}, give a number above 0"
    if metric.family in (Family.QUANTILE, Family.ARRIVALS) and not criterion.relative:
        return "it is compared in percent: set relative"
    if metric.family is Family.ARRIVALS and not (criterion.proves or criterion.aborts):
        return "without a proof and without an abort nothing is known of it: let it do one of both"
    if criterion.relative and metric.bounded and low != 0:
        return f"its scale begins at {low:g} and not at 0: give the margin in {metric.points}, not in percent"
    if criterion.relative and margin > _MOST_PERCENT:
        return f"margin is {margin:g} %, give at most {_MOST_PERCENT:,.0f}"
    falls = criterion.kind is (Kind.IMPROVEMENT if metric.lower_is_better else Kind.INCREASE)
    if criterion.relative and (falls or criterion.kind is Kind.EQUIVALENCE) and margin >= 100:
        return f"margin is {margin:g} %, give less than 100: nothing falls by more than all"
    if not criterion.relative and metric.bounded and margin >= high - low:
        return f"margin is {margin:g}, give less than {high - low:g}"
    return ""
