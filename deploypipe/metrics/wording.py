"""A criterion in words: what is wanted, what it means that it is broken, what was measured."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from deploypipe.metrics.definitions import Family, Metric, Reading, Value, metric_named
from deploypipe.metrics.questions import Criterion, Kind
from deploypipe.stats import words
from deploypipe.stats.histogram import Histogram

_UNITS = {Reading.FIRST: "session", Reading.WHOLE: "session", Reading.WORD: "session", Reading.REQUEST: "request"}


def wanted(criterion: Criterion) -> str:
    """ "the error rate rises by less than 0.5 points"."""
    metric = metric_named(criterion.metric)
    subject, amount = f"the {quantity(criterion, metric)}", size(criterion, metric)
    worse, better = ("rises", "falls") if metric.lower_is_better else ("falls", "rises")
    match criterion.kind:
        case Kind.INCREASE:
            return f"{subject} {worse} by less than {amount}"
        case Kind.IMPROVEMENT:
            return f"{subject} {better} by more than {amount}" if criterion.margin else f"{subject} {better}"
        case Kind.EQUIVALENCE:
            return f"{subject} changes by less than {amount}"
        case Kind.LIMIT:
            return f"{subject} is at {'most' if metric.lower_is_better else 'least'} {amount}"


def broken(criterion: Criterion) -> str:
    """What the evidence against it says: "worse by more than 0.5 points"."""
    metric = metric_named(criterion.metric)
    amount = size(criterion, metric, joint="and")
    match criterion.kind:
        case Kind.INCREASE:
            return f"worse by more than {amount}"
        case Kind.IMPROVEMENT:
            return f"not better by {amount}" if criterion.margin else "not better"
        case Kind.EQUIVALENCE:
            return f"different by more than {amount}"
        case Kind.LIMIT:
            return f"{'above' if metric.lower_is_better else 'below'} the limit of {amount}"


def quantity(criterion: Criterion, metric: Metric) -> str:
    return metric.label if criterion.level is None else f"P{100 * criterion.level:g} {metric.label}"


def size(criterion: Criterion, metric: Metric, joint: str = "or") -> str:
    """The margin or the limit, as it was set. With a slack: within one "or" the other, beyond one "and" the other."""
    margin = criterion.margin
    if criterion.relative:
        return words.limit(margin) + (f" {joint} {in_unit(criterion.slack, metric.unit)}" if criterion.slack else "")
    if criterion.kind is Kind.LIMIT:
        return in_unit(margin, metric.unit)
    return words.points(margin) if metric.points == "points" else in_unit(margin, metric.points)


def in_unit(value: float, unit: str) -> str:
    if unit == "stars":
        return f"{value:g} star" if value == 1 else f"{value:g} stars"
    return f"{value:,.6g} {unit}".rstrip()


def amount(metric: str, kind: str, relative: bool, value: float) -> str:
    """An estimate or an end of its interval: a change has its sign, a value of its own has none."""
    known = metric_named(metric)
    if kind == Kind.LIMIT:
        return _short(value, known.unit)
    unit = "%" if relative else known.points
    return f"{value:+,.2f} {unit}".rstrip().replace("-", "−")


def measured(criterion: Criterion, reading: Reading, stable: Value, candidate: Value) -> str:
    """ "candidate 5 of 61 sessions failed (8.2 %), stable 2 of 3,240 (0.1 %)"."""
    metric = metric_named(criterion.metric)
    first = f"candidate {_arm(metric, criterion, reading, candidate, named=True)}"
    if criterion.kind is Kind.LIMIT:
        return first
    # The unit is named once.
    again = not units_of(candidate)
    return f"{first}, stable {_arm(metric, criterion, reading, stable, named=again)}"


def _arm(metric: Metric, criterion: Criterion, reading: Reading, value: Any, *, named: bool) -> str:
    count, unit = units_of(value), _UNITS[reading]
    if not count:
        return f"no {unit}s" if named else "none"
    units = f"{_number(count)} {unit if count == 1 else f'{unit}s'}" if named else _number(count)
    if metric.family is Family.ARRIVALS:
        return f"{_number(count)} {metric.unit}" if named else _number(count)
    event = f" {metric.event}" if named else ""
    if metric.event and reading is Reading.WHOLE:
        of = "the requests of " if named else ""
        return f"{words.percent(value.mean)} of {of}{units}{event}"
    if metric.event:
        return f"{_number(value.total)} of {units}{event} ({words.percent(value.mean)})"
    name = f"P{100 * criterion.level:g} " if criterion.level is not None and named else ""
    return f"{name}{_short(value_of(metric, criterion, value), metric.unit)} (of {units})"


def value_of(metric: Metric, criterion: Criterion, value: Any) -> float | None:
    """One arm's own value, in the metric's unit."""
    match metric.family:
        case Family.BOUNDED:
            mean = value.mean
            return None if mean is None else metric.scale[0] + mean * (metric.scale[1] - metric.scale[0])
        case Family.QUANTILE:
            return quantile(value, criterion.level or 0.5)
        case Family.MEAN:
            return value.mean  # type: ignore[no-any-return]
        case Family.ARRIVALS:
            return float(value)


def quantile(bins: Mapping[int, float], level: float) -> float | None:
    # Histogram only divides and compares: fractional counts are as good. In order, so that sums have the same bits
    # whether the bins were stored in between or not.
    return Histogram(dict(sorted(bins.items()))).quantile(level) if bins else None  # type: ignore[arg-type]


def units_of(value: Any) -> float:
    if isinstance(value, Mapping):
        return math.fsum(value.values())
    return float(value) if isinstance(value, int) else float(value.units)


def _short(value: float | None, unit: str) -> str:
    if value is None:
        return "nothing"
    digits = 0 if abs(value) >= 100 else 1 if abs(value) >= 10 else 2
    return f"{value:,.{digits}f} {unit}".rstrip()


def _number(value: float) -> str:
    """Counts of units; a session of which a part failed is a part of one."""
    return f"{value:,.0f}" if abs(value - round(value)) < 0.05 else f"{value:,.1f}"
