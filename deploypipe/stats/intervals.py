"""Where the difference or the ratio of two arms' means can lie, given what was seen: covered at every look at once.

Both one-sided tests of `two_arms` on a grid of boundaries that was fixed before any data, each at alpha; what neither
rejects stays (Turner, Grünwald, arXiv 2203.09785): confidence 1 - 2 alpha. One arm's mean is in `mean_intervals`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import special

from deploypipe.stats import factors
from deploypipe.stats.blocks import Blocks, close_blocks
from deploypipe.stats.factors import Alternatives, Parameters
from deploypipe.stats.samples import NO_PAIR, Pair
from deploypipe.stats.two_arms import EProcess, Side, log_sum

Floats = npt.NDArray[np.float64]

_STEPS = (0.0005, 0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.015, 0.02, 0.025, 0.03, 0.04, 0.05, 0.075, 0.1, 0.15, 0.2)
_WIDE = (0.3, 0.4, 0.5, 0.65, 0.8)
DIFFERENCES = tuple(sorted({0.0, *_STEPS, *_WIDE, *(-step for step in (*_STEPS, *_WIDE))}))
"""45, dense near zero."""
_TIMES = (1.02, 1.05, 1.1, 1.15, 1.2, 1.3, 1.4, 1.5, 1.75, 2.0, 2.5, 3.0, 4.0, 5.0, 7.0, 10.0, 20.0)
RATIOS = tuple(sorted({1.0, *_TIMES, *(1 / times for times in _TIMES)}))
"""35, dense near one."""


@dataclass(frozen=True, slots=True)
class Interval:
    low: float
    high: float
    confidence: float


class Scale(StrEnum):
    DIFFERENCE = "difference"
    """candidate - stable"""
    RATIO = "ratio"
    """candidate / stable"""

    @property
    def grid(self) -> tuple[float, ...]:
        return DIFFERENCES if self is Scale.DIFFERENCE else RATIOS

    @property
    def ends(self) -> tuple[float, float]:
        return (-1.0, 1.0) if self is Scale.DIFFERENCE else (0.0, math.inf)


@dataclass(frozen=True, slots=True)
class TwoArmSequence:
    """All that must be kept between two looks."""

    scale: Scale
    alpha: float
    prior_mean: float = 0.01
    prior_units: float = 200.0
    block_units: int = 5
    lower: tuple[tuple[float, ...], ...] = ()
    """log e-values of "at most d", for the last values of the grid, which are not yet rejected."""
    upper: tuple[tuple[float, ...], ...] = ()
    """log e-values of "at least d", for the first values of the grid."""
    past: tuple[float, ...] = (0.0,) * 6
    pending: Pair = NO_PAIR
    looks: int = 0

    @property
    def interval(self) -> Interval:
        # What lies between two values of the grid is covered by the test at its neighbour: go one value outwards.
        grid, (lowest, highest) = self.scale.grid, self.scale.ends
        first, last = len(grid) - len(self.lower), len(self.upper)
        low = grid[first - 1] if first else lowest
        high = grid[last] if last < len(grid) else highest
        if low > high:  # so much has changed that no single value explains all looks
            low, high = lowest, highest
        return Interval(low, high, 1 - 2 * self.alpha)

    def agreeing_with(self, verdicts: Iterable[EProcess]) -> Interval:
        """The interval, its ends moved to where they say the same as these tests of the same data at this alpha: below
        a margin exactly if the test for BELOW it has come to its verdict, and above likewise.

        Unless such a verdict is wrong, which has probability at most alpha, it covers with its confidence.
        """
        interval = self.interval
        low, high = interval.low, interval.high
        grid, (lowest, highest) = self.scale.grid, self.scale.ends
        for state in verdicts:
            edge = state.test.difference if self.scale is Scale.DIFFERENCE else state.test.ratio
            reached = state.reached(self.alpha)
            if state.test.side is Side.BELOW:
                beyond = next((value for value in grid if value > edge), highest)
                high = min(high, edge) if reached else max(high, beyond)
            else:
                beyond = next((value for value in reversed(grid) if value < edge), lowest)
                low = max(low, edge) if reached else min(low, beyond)
        if low > high:  # the verdicts of two times, of which none holds for both
            low, high = lowest, highest
        return Interval(low, high, interval.confidence)

    def to_json(self) -> dict[str, Any]:
        return {
            "scale": self.scale.value,
            "alpha": self.alpha,
            "prior_mean": self.prior_mean,
            "prior_units": self.prior_units,
            "block_units": self.block_units,
            "lower": [list(row) for row in self.lower],
            "upper": [list(row) for row in self.upper],
            "past": list(self.past),
            "pending": self.pending.to_json(),
            "looks": self.looks,
        }

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> TwoArmSequence:
        return cls(
            Scale(stored["scale"]),
            float(stored["alpha"]),
            float(stored["prior_mean"]),
            float(stored["prior_units"]),
            int(stored["block_units"]),
            tuple(tuple(float(value) for value in row) for row in stored["lower"]),
            tuple(tuple(float(value) for value in row) for row in stored["upper"]),
            tuple(float(value) for value in stored["past"]),
            Pair.from_json(stored["pending"]),
            int(stored["looks"]),
        )


def start(
    scale: Scale, *, alpha: float, prior_mean: float = 0.01, prior_units: float = 200.0, block_units: int = 5
) -> TwoArmSequence:
    if not 0 < alpha < 0.5:
        raise ValueError(f"alpha must lie between 0 and 0.5, not {alpha}")
    weights = tuple(np.log(Alternatives.SEEN.weights).tolist())
    every = (weights,) * len(scale.grid)
    return TwoArmSequence(scale, alpha, prior_mean, prior_units, block_units, every, every)


def extend(sequence: TwoArmSequence, pairs: Iterable[Pair]) -> TwoArmSequence:
    return extend_many((sequence,), (list(pairs),))[0]


def extend_many(sequences: Sequence[TwoArmSequence], pairs_of_each: Sequence[Sequence[Pair]]) -> list[TwoArmSequence]:
    """Many, each by its own windows, in one pass; the same bits as one after the other."""
    after = list(sequences)
    waiting: dict[int, list[Pair]] = {}
    for index, (sequence, pairs) in enumerate(zip(sequences, pairs_of_each, strict=True)):
        closed, pending = close_blocks(sequence.pending, pairs, sequence.block_units)
        after[index] = replace(sequence, pending=pending, looks=sequence.looks + len(pairs))
        if closed:
            waiting[index] = closed
    while waiting:
        _one_more_block(after, {index: blocks.pop(0) for index, blocks in waiting.items()})
        waiting = {index: blocks for index, blocks in waiting.items() if blocks}
    return after


def _one_more_block(after: list[TwoArmSequence], closed: Mapping[int, Pair]) -> None:
    some = [after[index] for index in closed]
    blocks = Blocks.of(list(closed.values()))
    block_sums = factors.sums(blocks)
    past = np.array([sequence.past for sequence in some])
    owners = np.concatenate([np.full(len(s.lower) + len(s.upper), place) for place, s in enumerate(some)])
    before = np.array([row for s in some for row in (*s.lower, *s.upper)]).reshape(-1, len(Alternatives.SEEN.weights))
    edges = [
        e for s in some for e in (*s.scale.grid[len(s.scale.grid) - len(s.lower) :], *s.scale.grid[: len(s.upper)])
    ]
    sign = [x for s in some for x in (*[1.0] * len(s.lower), *[-1.0] * len(s.upper))]
    of_ratio = np.array([s.scale is Scale.RATIO for s in some])[owners]
    parameters = Parameters(
        Alternatives.SEEN,
        np.array(sign),
        np.where(of_ratio, 0.0, edges),
        np.where(of_ratio, edges, 1.0),
        np.array([s.prior_mean for s in some])[owners],
        np.array([s.prior_units for s in some])[owners],
    )
    chosen = Blocks(blocks.values[owners], blocks.stable[owners], blocks.candidate[owners])
    components = before + factors.log_factors(chosen, block_sums[owners], past[owners], parameters)
    evidence = log_sum(components)
    rows, following, first = components.tolist(), past + block_sums, 0
    for place, (index, sequence) in enumerate(zip(closed, some, strict=True)):
        middle = first + len(sequence.lower)
        end = middle + len(sequence.upper)
        rejected = evidence[first:end] >= -math.log(sequence.alpha)
        low, high = rejected[: middle - first], rejected[middle - first :]
        # Whoever rejects "at most d" rejects "at most" everything below d.
        from_ = first + (int(np.flatnonzero(low)[-1]) + 1 if low.any() else 0)
        to = middle + (int(np.flatnonzero(high)[0]) if high.any() else len(high))
        after[index] = replace(
            sequence,
            lower=tuple(map(tuple, rows[from_:middle])),
            upper=tuple(map(tuple, rows[middle:to])),
            past=tuple(following[place].tolist()),
        )
        first = end


def wilson(events: int, trials: int, *, confidence: float = 0.95) -> Interval:
    """For one share shown once, not for a decision at repeated looks (Wilson, JASA 22, 1927, p. 209)."""
    if trials == 0:
        return Interval(0.0, 1.0, confidence)
    z = float(special.ndtri(0.5 + confidence / 2))
    p = events / trials
    scale = 1 + z * z / trials
    middle = (p + z * z / (2 * trials)) / scale
    half = z * math.sqrt(p * (1 - p) / trials + z * z / (4 * trials * trials)) / scale
    return Interval(
        0.0 if events == 0 else max(0.0, middle - half),
        1.0 if events == trials else min(1.0, middle + half),
        confidence,
    )


def binomial_bounds(n: int, share: float, alpha: float) -> tuple[int, int]:
    """Counts, both ends included, that n requests at this share give with probability at least 1 - alpha. Exact."""
    if n < 0 or not 0 <= share <= 1 or not 0 < alpha < 1:
        raise ValueError(f"need n >= 0, share in [0, 1] and alpha in (0, 1), not {n}, {share}, {alpha}")

    def quantile(probability: float) -> int:
        low, high = 0, n
        while low < high:
            middle = (low + high) // 2
            low, high = (low, middle) if special.bdtr(middle, n, share) >= probability else (middle + 1, high)
        return low

    return quantile(alpha / 2), quantile(1 - alpha / 2)
