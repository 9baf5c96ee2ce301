"""From windows to what the tests are fed: one item of data per window and source, and what was seen in all."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from deploypipe.metrics.cores import Counted, Item
from deploypipe.metrics.definitions import Family, Unit, Value
from deploypipe.metrics.probes import Source
from deploypipe.metrics.questions import Scope
from deploypipe.metrics.windows import STABLE, ArmWindow, Measured, Units, add_counts, add_units
from deploypipe.stats.samples import HistogramPair, Moments, MomentsPair, Pair, Sample

Seen = tuple[tuple[int, Value, Value], ...]
"""(period, stable's total, candidate's total), oldest first."""


@dataclass(frozen=True, slots=True)
class Reader:
    unit: Unit
    scope: Scope
    first_period: int
    arm: str

    def items(self, sources: Sequence[Source], windows: Iterable[Measured]) -> tuple[list[Item], ...]:
        """For each source, one item for each window."""
        found: tuple[list[Item], ...] = tuple([] for _ in sources)
        for window in windows:
            stable, candidate = window.arm(STABLE), window.arm(self.arm)
            if self.unit is Unit.SESSION:
                a, b = self._units(stable, window.period), self._units(candidate, window.period)
                for source, items in zip(sources, found, strict=True):
                    read = source.metric.sessions
                    items.append(self._item(source, window, read(a, source.reading), read(b, source.reading)))
            else:
                for source, items in zip(sources, found, strict=True):
                    ask = source.metric.requests
                    items.append(self._item(source, window, ask(stable), ask(candidate)))
        return found

    def _units(self, arm: ArmWindow, period: int) -> Units:
        if self.scope is Scope.ALL and period == self.first_period:
            return add_units(arm.fresh, arm.returning)
        return arm.fresh

    def _item(self, source: Source, window: Measured, stable: Any, candidate: Any) -> Item:
        match source.metric.family:
            case Family.BOUNDED:
                if source.mirrored:
                    return Pair(stable.mirrored, candidate.mirrored, window.period)
                return Pair(stable, candidate, window.period)
            case Family.QUANTILE:
                return HistogramPair(stable, candidate, window.period)
            case Family.MEAN:
                return MomentsPair(stable, candidate, window.period)
            case Family.ARRIVALS:
                return Counted(stable, candidate, self._share(window), window.period)

    def _share(self, window: Measured) -> float:
        ours, stable = window.shares.get(self.arm, 0.0), window.shares.get(STABLE, 0.0)
        return ours / (ours + stable) if ours and stable else 0.0


def add(family: Family, seen: Seen, items: Iterable[Item]) -> Seen:
    """One after the other: any batching gives the same bits. Late sessions may bring an earlier period up again."""
    periods: dict[int, tuple[Any, Any]] = {period: (stable, candidate) for period, stable, candidate in seen}
    for item in items:
        before = periods.get(item.period)
        if before is None:
            periods[item.period] = (item.stable, item.candidate)
        else:
            periods[item.period] = (_sum(family, before[0], item.stable), _sum(family, before[1], item.candidate))
    return tuple((period, stable, candidate) for period, (stable, candidate) in periods.items())


def _sum(family: Family, left: Any, right: Any) -> Any:
    if family is not Family.QUANTILE:
        return left + right
    return add_counts(left, right) if right else left


def seen_to_json(family: Family, seen: Seen) -> list[list[Any]]:
    return [[period, _value_to_json(family, a), _value_to_json(family, b)] for period, a, b in seen]


def seen_from_json(family: Family, stored: Iterable[Sequence[Any]]) -> Seen:
    return tuple((int(period), _value_from_json(family, a), _value_from_json(family, b)) for period, a, b in stored)


def _value_to_json(family: Family, value: Any) -> Any:
    match family:
        case Family.QUANTILE:
            return {str(bin_): number for bin_, number in sorted(value.items())}
        case Family.ARRIVALS:
            return value
        case _:
            return value.to_json()


def _value_from_json(family: Family, stored: Any) -> Value:
    match family:
        case Family.BOUNDED:
            return Sample.from_json(stored)
        case Family.QUANTILE:
            return _bins(stored)
        case Family.MEAN:
            return Moments.from_json(stored)
        case Family.ARRIVALS:
            return int(stored)


def _bins(stored: Mapping[str, float]) -> Mapping[int, float]:
    return {int(bin_): number for bin_, number in stored.items()}
