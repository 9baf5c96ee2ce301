"""Is one arm's mean above (or below) a fixed limit? One arm alone, an answer that holds at every look.

Beta-binomial mixture over the means beyond the limit (Robbins 1970; Howard, Ramdas, McAuliffe, Sekhon, Ann. Stat.
49(2), 2021): E = B(a+S, b+F; q beyond p0) / B(a, b; q beyond p0) / (p0^S (1-p0)^F), the Beta prior cut at the limit.
Cut, so that every member of the mixture is a supermartingale under each mean within the limit, also one that changes in
time; the uncut mixture has that property at the limit alone.

Values between 0 and 1 are allowed, S their sum and F that of their complements: by the inequality of arithmetic and
geometric means (q/p0)^x ((1-q)/(1-p0))^(1-x) <= x q/p0 + (1-x) (1-q)/(1-p0), which is linear in x, so that its mean is
at most 1 whenever the mean of x is within the limit. For values that vary little `bets` gains more from each.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import special

from deploypipe.stats.samples import Sample
from deploypipe.stats.two_arms import LOG_FLOOR, Side

Floats = npt.NDArray[np.float64]

_PRIOR = 0.5  # Jeffreys


@dataclass(frozen=True, slots=True)
class LimitTest:
    side: Side
    """ABOVE: the null is mean <= limit. BELOW: the null is mean >= limit."""
    limit: float

    def __post_init__(self) -> None:
        if not 0 < self.limit < 1:
            raise ValueError(f"limit must lie between 0 and 1, not {self.limit}")


@dataclass(frozen=True, slots=True)
class LimitProcess:
    test: LimitTest
    units: float = 0.0
    total: float = 0.0
    """Sum of the values."""
    max_log_evidence: float = 0.0

    @property
    def log_evidence(self) -> float:
        total, units = np.array([self.total], float), np.array([self.units], float)
        return float(log_evidence(total, units, self.test)[0])

    @property
    def mean(self) -> float | None:
        return self.total / self.units if self.units else None

    def reached(self, alpha: float) -> bool:
        return self.max_log_evidence >= -math.log(alpha)

    def to_json(self) -> dict[str, Any]:
        return {
            "side": self.test.side.value,
            "limit": self.test.limit,
            "units": self.units,
            "total": self.total,
            "max_log_evidence": self.max_log_evidence,
        }

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> LimitProcess:
        return cls(
            LimitTest(Side(stored["side"]), float(stored["limit"])),
            float(stored["units"]),
            float(stored["total"]),
            float(stored["max_log_evidence"]),
        )


def start(test: LimitTest) -> LimitProcess:
    return LimitProcess(test)


def update(state: LimitProcess, sample: Sample) -> LimitProcess:
    return advance(state, (sample,))


def replay(samples: Iterable[Sample], test: LimitTest) -> LimitProcess:
    return advance(start(test), samples)


def advance(state: LimitProcess, samples: Iterable[Sample]) -> LimitProcess:
    return advance_many((state,), (list(samples),))[0]


def advance_many(states: Sequence[LimitProcess], samples_of_each: Sequence[Sequence[Sample]]) -> list[LimitProcess]:
    """Many tests, each of its own windows, in one pass; the same bits as one after the other."""
    if len(states) != len(samples_of_each):
        raise ValueError(
            f"samples_of_each must have one item for each of {len(states)} states, not {len(samples_of_each)}"
        )
    after = list(states)
    sums: list[tuple[float, float]] = []
    owners: list[int] = []
    for index, (state, samples) in enumerate(zip(states, samples_of_each, strict=True)):
        total, units = state.total, state.units
        for sample in samples:
            if sample.frequencies:
                total, units = total + sample.total, units + sample.units
                sums.append((total, units))
                owners.append(index)
    if not sums:
        return after
    totals, units_ = np.array(sums).T
    sign = np.array([states[index].test.side.sign for index in owners])
    limit = np.array([states[index].test.limit for index in owners])
    for index, (total, units), evidence in zip(
        owners, sums, log_evidence_at(totals, units_, sign, limit).tolist(), strict=True
    ):
        after[index] = LimitProcess(states[index].test, units, total, max(after[index].max_log_evidence, evidence))
    return after


def log_evidence(totals: Floats, units: Floats, test: LimitTest) -> Floats:
    """For sums and numbers of units so far; any shape."""
    return log_evidence_at(totals, units, np.array(test.side.sign), np.array(test.limit))


def log_evidence_at(totals: Floats, units: Floats, sign: Floats, limit: Floats) -> Floats:
    rest = np.maximum(units - totals, 0.0)
    a, b = totals + _PRIOR, rest + _PRIOR
    above = sign > 0
    mass = np.where(above, special.betaincc(a, b, limit), special.betainc(a, b, limit))
    prior = np.where(above, special.betaincc(_PRIOR, _PRIOR, limit), special.betainc(_PRIOR, _PRIOR, limit))
    # An incomplete beta function that underflows means no evidence; clamped to a small number it would turn into some.
    with np.errstate(divide="ignore"):
        log_mass = np.log(mass)
    value: Floats = (
        log_mass
        + special.betaln(a, b)
        - np.log(prior)
        - float(special.betaln(_PRIOR, _PRIOR))
        - totals * np.log(limit)
        - rest * np.log1p(-limit)
    )
    bounded: Floats = np.where(mass > 0, np.maximum(value, LOG_FLOOR), LOG_FLOOR)
    return bounded
