"""Does something happen more (or less) often per user in the candidate than `ratio` times in stable? Counts in time.

Of events alone: tickets, alerts, requests per session, where nobody knows out of how many. Each event is the
candidate's with probability share * r / (1 - share + share * r), r the ratio of the rates per unit of exposure,
whatever the rate itself does in time: Lindon, Malek, "Anytime-valid inference for multinomial count data", NeurIPS
2022, arXiv 2011.03567 (there a Dirichlet prior on that probability, here a fixed list of ratios, so that periods of
another split need not begin anew: their factors multiply).

An alternative r on one side of the boundary is a supermartingale under every ratio on the other side, also one that
changes in time: E[factor] is linear in the probability, rises (falls) with it, and is 1 at the boundary. Independence
is assumed of events: count users with an event, not bursts.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import special

from deploypipe.stats.intervals import Interval
from deploypipe.stats.two_arms import Side

Floats = npt.NDArray[np.float64]
Counts = Sequence[tuple[float, float, float]]

STEPS = np.geomspace(0.02, 4.0, 24)
"""log of the alternatives' ratios over the boundary's: from 2 % to 55 times, each with the same weight."""


@dataclass(frozen=True, slots=True)
class Arrived:
    """Events of both arms while the candidate had `share` of the exposure."""

    share: float
    stable: int
    candidate: int

    def __post_init__(self) -> None:
        if not 0 <= self.share <= 1:
            raise ValueError(f"share must lie between 0 and 1, not {self.share}")
        if self.stable < 0:
            raise ValueError(f"stable must not be negative, not {self.stable}")
        if self.candidate < 0:
            raise ValueError(f"candidate must not be negative, not {self.candidate}")


@dataclass(frozen=True, slots=True)
class ArrivalTest:
    side: Side
    ratio: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.ratio < math.inf:
            raise ValueError(f"ratio must be above 0, not {self.ratio}")

    def to_json(self) -> dict[str, Any]:
        return {"side": self.side.value, "ratio": self.ratio}

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> ArrivalTest:
        return cls(Side(stored["side"]), float(stored["ratio"]))


@dataclass(frozen=True, slots=True)
class ArrivalProcess:
    test: ArrivalTest
    counts: tuple[Arrived, ...] = ()
    """One for each share that was ever in force, by rising share: all that the evidence depends on."""
    max_log_evidence: float = 0.0

    @property
    def log_evidence(self) -> float:
        return log_evidence(self.counts, self.test)

    @property
    def stable(self) -> int:
        return sum(arrived.stable for arrived in self.counts)

    @property
    def candidate(self) -> int:
        return sum(arrived.candidate for arrived in self.counts)

    @property
    def p_value(self) -> float:
        return math.exp(-max(self.max_log_evidence, 0.0))

    def reached(self, alpha: float) -> bool:
        return self.max_log_evidence >= -math.log(alpha)

    def to_json(self) -> dict[str, Any]:
        return {
            "test": self.test.to_json(),
            "counts": [[arrived.share, arrived.stable, arrived.candidate] for arrived in self.counts],
            "max_log_evidence": self.max_log_evidence,
        }

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> ArrivalProcess:
        return cls(
            ArrivalTest.from_json(stored["test"]),
            tuple(Arrived(float(share), int(a), int(b)) for share, a, b in stored["counts"]),
            float(stored["max_log_evidence"]),
        )


def start(test: ArrivalTest) -> ArrivalProcess:
    return ArrivalProcess(test)


def update(state: ArrivalProcess, arrived: Arrived) -> ArrivalProcess:
    """A share of nothing or of everything compares nobody: such events are left out."""
    if not 0 < arrived.share < 1 or not arrived.stable + arrived.candidate:
        return state
    joined = {old.share: old for old in state.counts}
    old = joined.get(arrived.share, Arrived(arrived.share, 0, 0))
    joined[arrived.share] = Arrived(arrived.share, old.stable + arrived.stable, old.candidate + arrived.candidate)
    counts = tuple(joined[share] for share in sorted(joined))
    return ArrivalProcess(state.test, counts, max(state.max_log_evidence, log_evidence(counts, state.test)))


def advance(state: ArrivalProcess, arrived: Iterable[Arrived]) -> ArrivalProcess:
    for one in arrived:
        state = update(state, one)
    return state


def advance_many(
    states: Sequence[ArrivalProcess], arrived_of_each: Sequence[Sequence[Arrived]]
) -> list[ArrivalProcess]:
    if len(states) != len(arrived_of_each):
        raise ValueError(
            f"arrived_of_each must have one item for each of {len(states)} states, not {len(arrived_of_each)}"
        )
    return [advance(state, arrived) for state, arrived in zip(states, arrived_of_each, strict=True)]


def replay(arrived: Iterable[Arrived], test: ArrivalTest) -> ArrivalProcess:
    return advance(start(test), arrived)


def log_evidence(counts: Iterable[Arrived], test: ArrivalTest) -> float:
    """A function of the totals at each share: the order of events says nothing."""
    return log_evidence_of([(one.share, one.stable, one.candidate) for one in counts], test)


def log_evidence_of(counts: Counts, test: ArrivalTest) -> float:
    """Of share, stable's and candidate's events, which may be expected numbers."""
    boundary = math.log(test.ratio)
    alternatives = np.append(boundary + test.side.sign * STEPS, boundary)
    values = _log_likelihood(counts, alternatives)
    return float(special.logsumexp(values[:-1] - values[-1]) - math.log(len(STEPS)))


def interval(counts: Sequence[Arrived], alpha: float) -> Interval:
    """Of the ratio of rates, confidence 1 - 2 alpha at every look: ratios that neither side's test rejects, on a grid
    of one percent from a thousandth to a thousand; 0 and inf where no end is known."""
    if not 0 < alpha < 0.5:
        raise ValueError(f"alpha must lie between 0 and 0.5, not {alpha}")
    grid = np.arange(math.log(1e-3), math.log(1e3), 0.01)
    totals = [(one.share, one.stable, one.candidate) for one in counts]
    low = _first_kept(totals, grid, Side.ABOVE, alpha)
    high = _first_kept(totals, grid[::-1], Side.BELOW, alpha)
    return Interval(low, high, 1 - 2 * alpha)


def _first_kept(counts: Counts, grid: Floats, side: Side, alpha: float) -> float:
    """From one end inwards, the last ratio before the first that is not rejected."""
    alternatives = grid[:, None] + side.sign * STEPS
    values = _log_likelihood(counts, alternatives.ravel()).reshape(alternatives.shape)
    evidence = special.logsumexp(values - _log_likelihood(counts, grid)[:, None], axis=1) - math.log(len(STEPS))
    kept = np.flatnonzero(evidence < -math.log(alpha))
    rejected = int(kept[0]) if kept.size else len(grid)
    if not rejected:
        return 0.0 if side is Side.ABOVE else math.inf
    return float(np.exp(grid[rejected - 1]))


def _log_likelihood(counts: Counts, log_ratios: Floats) -> Floats:
    total: Floats = np.zeros_like(log_ratios)
    for share, stable, candidate in counts:
        logit = math.log(share) - math.log1p(-share) + log_ratios
        total = total - candidate * np.logaddexp(0, -logit) - stable * np.logaddexp(0, logit)
    return total
