"""What the tests are fed: observations of both arms that were made in the same stretch of time.

An observation is one unit's outcome on a scale from 0 to 1: whether a request failed (0 or 1), the share of a session's
requests that failed, a rating from one to five stars brought to that scale. Only how many units had each value is
kept, which loses nothing: within one stretch of time their order never counts.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Sample:
    """How many units had each value. Frequencies may be fractional: a session that is slow in one of its four requests
    may count as a quarter of a slow unit and three quarters of a quick one."""

    frequencies: tuple[tuple[float, float], ...] = ()
    """(value in [0, 1], number of units), by rising value, no value twice, no number zero."""

    def __post_init__(self) -> None:
        last = -1.0
        for value, number in self.frequencies:
            if not (0 <= value <= 1 and value > last):
                raise ValueError(f"values must lie in [0, 1] and rise: {[value for value, _ in self.frequencies]}")
            if not 0 < number < math.inf:
                raise ValueError(f"numbers must be above 0 and finite: {self.frequencies}")
            last = value

    @classmethod
    def of(cls, frequencies: Mapping[float, float]) -> Sample:
        return cls(tuple(sorted((value, number) for value, number in frequencies.items() if number)))

    @classmethod
    def binary(cls, units: float, ones: float) -> Sample:
        """`ones` of them had the value 1, the others 0."""
        if not 0 <= ones <= units:
            raise ValueError(f"ones must lie between 0 and units, not {ones} of {units}")
        zeros = units - ones
        return cls((((0.0, zeros),) if zeros else ()) + (((1.0, ones),) if ones else ()))

    @property
    def units(self) -> float:
        return sum(number for _, number in self.frequencies)

    @property
    def total(self) -> float:
        return sum(value * number for value, number in self.frequencies)

    @property
    def mean(self) -> float | None:
        units = self.units
        return self.total / units if units else None

    @property
    def mirrored(self) -> Sample:
        """1 - value: for a metric of which more is better."""
        return Sample(tuple((1 - value, number) for value, number in reversed(self.frequencies)))

    def __add__(self, other: Sample) -> Sample:
        if not other.frequencies:
            return self
        joined = dict(self.frequencies)
        for value, number in other.frequencies:
            joined[value] = joined.get(value, 0) + number
        return Sample.of(joined)

    def to_json(self) -> list[list[float]]:
        return [[value, number] for value, number in self.frequencies]

    @classmethod
    def from_json(cls, stored: Iterable[Any]) -> Sample:
        return cls(tuple((float(value), number) for value, number in stored))


NOBODY = Sample()


@dataclass(frozen=True, slots=True)
class Pair:
    """One window of both arms."""

    stable: Sample = NOBODY
    candidate: Sample = NOBODY
    period: int = 0
    """Changes whenever the split changes: windows of different periods are never joined (Simpson's paradox)."""

    def to_json(self) -> dict[str, Any]:
        return {"stable": self.stable.to_json(), "candidate": self.candidate.to_json(), "period": self.period}

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> Pair:
        return cls(Sample.from_json(stored["stable"]), Sample.from_json(stored["candidate"]), int(stored["period"]))


NO_PAIR = Pair()


@dataclass(frozen=True, slots=True)
class Moments:
    """Of a quantity without bounds, such as a cost: enough for its mean and its variance."""

    units: int = 0
    total: float = 0.0
    squares: float = 0.0

    def __post_init__(self) -> None:
        if self.units < 0 or self.squares < 0:
            raise ValueError(f"units and squares must not be negative: {self}")
        if not math.isfinite(self.total) or not math.isfinite(self.squares):
            raise ValueError(f"total and squares must be finite: {self}")

    def __add__(self, other: Moments) -> Moments:
        return Moments(self.units + other.units, self.total + other.total, self.squares + other.squares)

    @property
    def mean(self) -> float | None:
        return self.total / self.units if self.units else None

    @property
    def variance(self) -> float | None:
        """Unbiased; None with fewer than two units."""
        if self.units < 2:
            return None
        return max(0.0, (self.squares - self.total * self.total / self.units) / (self.units - 1))

    def to_json(self) -> list[float]:
        return [self.units, self.total, self.squares]

    @classmethod
    def from_json(cls, stored: Iterable[Any]) -> Moments:
        units, total, squares = stored
        return cls(int(units), float(total), float(squares))


NOTHING = Moments()


@dataclass(frozen=True, slots=True)
class MomentsPair:
    stable: Moments = NOTHING
    candidate: Moments = NOTHING
    period: int = 0


NO_MOMENTS_PAIR = MomentsPair()


@dataclass(frozen=True, slots=True)
class HistogramPair:
    """Latencies of both arms: bin of `deploypipe.stats.histogram` → number of units, which may be fractional."""

    stable: Mapping[int, float]
    candidate: Mapping[int, float]
    period: int = 0
