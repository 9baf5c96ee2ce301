"""Where a rate, or the difference of two, can lie, given what was seen."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np
from scipy import special

from deploypipe.stats.counts import ArmCounts, Window
from deploypipe.stats.two_arms import DifferenceTest, Direction, EProcess, advance_all, start

_STEPS = (0.0005, 0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.015, 0.02, 0.025, 0.03, 0.04, 0.05, 0.075, 0.1, 0.15, 0.2)
_WIDE = (0.3, 0.4, 0.5, 0.65, 0.8)
GRID = tuple(sorted({0.0, *_STEPS, *_WIDE, *(-step for step in (*_STEPS, *_WIDE))}))
"""45 differences, dense near zero; fixed before any data, which the coverage needs."""

_CHUNK = 100


@dataclass(frozen=True, slots=True)
class Interval:
    low: float
    high: float
    confidence: float


@dataclass(frozen=True, slots=True)
class DifferenceSequence:
    """A confidence sequence for candidate - stable: at every look at once, it covers with the given confidence.

    Both one-sided tests of `two_arms` on a grid of margins, each at alpha; what neither rejects stays
    (Turner, Grünwald, arXiv 2203.09785): confidence 1 - 2 alpha. Its ends agree with the verdicts: once the evidence
    for promotion has reached 1/alpha the high end is at most the margin, and likewise the low end for abort.
    """

    alpha: float
    grid: tuple[float, ...]
    lower: tuple[EProcess, ...]
    """Tests of "difference <= d" not yet rejected."""
    upper: tuple[EProcess, ...]
    """Tests of "difference >= d" not yet rejected."""
    looks: int = 0

    @property
    def interval(self) -> Interval:
        # A true difference between two grid points is covered by the test at its neighbour, so go one point outwards.
        above = [state.test.margin for state in self.lower]
        below = [state.test.margin for state in self.upper]
        low = max((d for d in self.grid if d < min(above)), default=-1.0) if above else self.grid[-1]
        high = min((d for d in self.grid if d > max(below)), default=1.0) if below else self.grid[0]
        return Interval(low, high, 1 - 2 * self.alpha)


def difference_sequence(
    windows: Iterable[Window], *, alpha: float, margins: Iterable[float] = ()
) -> DifferenceSequence:
    """`margins` are added to the grid, so that the ends can fall on them exactly."""
    grid = tuple(sorted({*GRID, *margins}))
    empty = DifferenceSequence(
        alpha,
        grid,
        tuple(start(DifferenceTest(Direction.ABORT, d)) for d in grid),
        tuple(start(DifferenceTest(Direction.PROMOTE, d)) for d in grid),
    )
    return extend(empty, windows)


def extend(sequence: DifferenceSequence, windows: Iterable[Window]) -> DifferenceSequence:
    new = list(windows)
    first, size = 0, _CHUNK
    while first < len(new):  # a rejected difference stays rejected, and costs nothing from then on: look early
        chunk = new[first : first + size]
        first, size = first + size, 2 * size
        sequence = replace(
            sequence,
            lower=_still_kept(sequence.lower, chunk, sequence.alpha),
            upper=_still_kept(sequence.upper, chunk, sequence.alpha),
        )
    return replace(sequence, looks=sequence.looks + len(new))


def _still_kept(states: tuple[EProcess, ...], windows: list[Window], alpha: float) -> tuple[EProcess, ...]:
    return tuple(state for state in advance_all(states, windows) if not state.reached(alpha))


def rate_sequence(arms: Iterable[ArmCounts], *, alpha: float) -> Interval:
    """A confidence sequence, confidence 1 - 2 alpha, for one arm's rate while it does not change.

    {p : B(a+S, b+F)/B(a, b) < p^S (1-p)^F / (2 alpha) at every look so far}: beta-binomial mixture (Robbins 1970).
    """
    grid = np.concatenate([[0.0], np.geomspace(1e-5, 0.1, 161), np.linspace(0.105, 0.995, 179), [1.0]])
    new = np.array([(arm.requests, arm.errors) for arm in arms if arm.requests], dtype=np.float64).reshape(-1, 2)
    kept = np.ones(len(grid), dtype=bool)
    for first in range(0, len(new), _CHUNK):
        requests = new[: first + _CHUNK, 0].cumsum()[first:, None]
        errors = new[: first + _CHUNK, 1].cumsum()[first:, None]
        mixture = special.betaln(errors + 0.5, requests - errors + 0.5) - special.betaln(0.5, 0.5)
        likelihood = special.xlogy(errors, grid) + special.xlog1py(requests - errors, -grid)
        kept &= (mixture - likelihood < -math.log(2 * alpha)).all(axis=0)
    inside = np.flatnonzero(kept)
    if not len(inside):  # the rate changed so much that no single one explains all looks
        return Interval(0.0, 1.0, 1 - 2 * alpha)
    low = grid[max(inside[0] - 1, 0)]
    high = grid[min(inside[-1] + 1, len(grid) - 1)]
    return Interval(float(low), float(high), 1 - 2 * alpha)


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
