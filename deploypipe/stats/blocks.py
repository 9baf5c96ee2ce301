"""Blocks of both arms as arrays, for many tests or many simulated runs at once."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from deploypipe.stats.samples import NOBODY, Pair, Sample

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Blocks:
    """`stable` and `candidate` say how many units had each of `values`, shape (…, blocks, values)."""

    values: Floats
    """Rising; shape (values,), or (…, blocks, values) where the blocks' values differ."""
    stable: Floats
    candidate: Floats

    @classmethod
    def binary(cls, stable_n: Floats, stable_ones: Floats, candidate_n: Floats, candidate_ones: Floats) -> Blocks:
        """Of 0 and 1, each argument of shape (…, blocks)."""
        stable = np.stack([stable_n - stable_ones, stable_ones], axis=-1).astype(np.float64)
        candidate = np.stack([candidate_n - candidate_ones, candidate_ones], axis=-1).astype(np.float64)
        return cls(np.array([0.0, 1.0]), stable, candidate)

    @classmethod
    def of(cls, pairs: Sequence[Pair]) -> Blocks:
        """Shape (pairs, values); what one pair holds takes the first places of its row."""
        values, stable, candidate = [], [], []
        for pair in pairs:
            a, b = dict(pair.stable.frequencies), dict(pair.candidate.frequencies)
            row = sorted({*a, *b})
            values.append(row)
            stable.append([a.get(value, 0.0) for value in row])
            candidate.append([b.get(value, 0.0) for value in row])
        width = max((len(row) for row in values), default=0)
        return cls(*(_padded(rows, width) for rows in (values, stable, candidate)))

    def closed(self, units: int, periods: Sequence[int] | None = None) -> Blocks:
        """Windows joined to blocks as `two_arms` does it, in place: a block stands where its last window was, and where
        no block ends there is nothing. `periods` has one number for each window; without it there is one period."""
        count = self.stable.shape[-2]
        period = [0] * count if periods is None else list(periods)
        stable, candidate = np.zeros_like(self.stable), np.zeros_like(self.candidate)
        a, b = np.zeros_like(self.stable[..., 0, :]), np.zeros_like(self.candidate[..., 0, :])
        for i in range(count):
            a, b = a + self.stable[..., i, :], b + self.candidate[..., i, :]
            least = np.minimum(a.sum(axis=-1), b.sum(axis=-1))[..., None]
            last = i + 1 == count
            ends = (least >= units) if last or period[i + 1] == period[i] else (least > 0)
            stable[..., i, :], candidate[..., i, :] = np.where(ends, a, 0.0), np.where(ends, b, 0.0)
            gone = ends if last or period[i + 1] == period[i] else True
            a, b = np.where(gone, 0.0, a), np.where(gone, 0.0, b)
        return Blocks(self.values, stable, candidate)


def close_blocks(pending: Pair, pairs: Iterable[Pair], units: int) -> tuple[list[Pair], Pair]:
    """A block closes when each arm has that many units. When the period changes, an open block closes if it has any
    unit of both arms, and is dropped otherwise: a rule about counts alone, and no block has units of two periods."""
    closed = []
    open_ = pending
    for pair in pairs:
        if pair.period != open_.period:
            if open_.stable.frequencies and open_.candidate.frequencies:
                closed.append(open_)
            open_ = Pair(NOBODY, NOBODY, pair.period)
        open_ = Pair(_joined(open_.stable, pair.stable), _joined(open_.candidate, pair.candidate), pair.period)
        if open_.stable.units >= units and open_.candidate.units >= units:
            closed.append(open_)
            open_ = Pair(NOBODY, NOBODY, pair.period)
    return closed, open_


def _joined(left: Sample, right: Sample) -> Sample:
    if not left.frequencies:
        return right
    return left + right


def _padded(rows: Sequence[Sequence[float]], width: int) -> Floats:
    array = np.zeros((len(rows), width))
    for place, row in enumerate(rows):
        array[place, : len(row)] = row
    return array
