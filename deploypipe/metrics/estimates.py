"""How large a difference is, for people to read; decisions go by evidence alone.

Where the split changed, stable's periods are weighed as the candidate's are (direct standardisation), so that a bad
hour in which the candidate had more of the traffic does not count against it (Simpson's paradox).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from deploypipe.metrics import wording
from deploypipe.metrics.definitions import Family
from deploypipe.metrics.probes import Source
from deploypipe.metrics.questions import Criterion, Kind
from deploypipe.metrics.reading import Seen
from deploypipe.metrics.windows import add_counts
from deploypipe.stats.arrivals import Arrived
from deploypipe.stats.samples import Moments, Sample

_NOTHING: dict[Family, Any] = {
    Family.BOUNDED: Sample(), Family.QUANTILE: {}, Family.MEAN: Moments(), Family.ARRIVALS: 0,
}  # fmt: skip


def total(source: Source, seen: Seen) -> tuple[Any, Any]:
    """Of stable and candidate, as the metric reads them."""
    family = source.metric.family
    stable = candidate = _NOTHING[family]
    for _, a, b in seen:
        stable, candidate = _plus(family, stable, a), _plus(family, candidate, b)
    return (stable.mirrored, candidate.mirrored) if source.mirrored else (stable, candidate)


def _plus(family: Family, left: Any, right: Any) -> Any:
    return add_counts(left, right) if family is Family.QUANTILE else left + right


def estimate(criterion: Criterion, source: Source, seen: Seen) -> float | None:
    """In the unit of the margin."""
    metric = source.metric
    if criterion.kind is Kind.LIMIT:
        return wording.value_of(metric, criterion, total(source, seen)[1])
    stable, candidate = _standardised(criterion, source, seen)
    if stable is None or candidate is None:
        return None
    if not criterion.relative:
        return candidate - stable
    return 100 * (candidate / stable - 1) if stable > 0 else None


def _standardised(criterion: Criterion, source: Source, seen: Seen) -> tuple[float | None, float | None]:
    """Each arm's value over the periods that have both, stable's weighed by the candidate's units."""
    metric = source.metric
    both: list[tuple[Any, Any]] = [(a, b) for _, a, b in seen if wording.units_of(a) and wording.units_of(b)]
    if not both:
        return None, None
    if metric.family is Family.ARRIVALS:
        return None, None  # counts say nothing without the shares: `ratio_of_arrivals`
    weights = [wording.units_of(b) / wording.units_of(a) for a, b in both]
    if metric.family is Family.QUANTILE:
        stable: dict[Any, Any] = {}
        candidate: dict[Any, Any] = {}
        for (a, b), weight in zip(both, weights, strict=True):
            stable = add_counts(stable, {bin_: weight * number for bin_, number in a.items()})
            candidate = add_counts(candidate, b)
        level = criterion.level or 0.5
        return wording.quantile(stable, level), wording.quantile(candidate, level)
    units = sum(wording.units_of(b) for _, b in both)
    means = (
        sum(weight * a.total for (a, _), weight in zip(both, weights, strict=True)) / units,
        sum(b.total for _, b in both) / units,
    )
    if metric.family is Family.MEAN:
        return means
    low, high = metric.scale
    stable_mean, candidate_mean = (low + (1 - m if source.mirrored else m) * (high - low) for m in means)
    return stable_mean, candidate_mean


def ratio_of_arrivals(counts: Iterable[Arrived]) -> float | None:
    """The change in percent, over all shares that were in force (Mantel, Haenszel, JNCI 22, 1959)."""
    candidate = stable = 0.0
    for one in counts:
        candidate += one.candidate * (1 - one.share)
        stable += one.stable * one.share
    return 100 * (candidate / stable - 1) if stable > 0 else None
