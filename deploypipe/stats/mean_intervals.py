"""Where one arm's mean can lie, given what was seen: covered at every look at once, with confidence 1 - 2 alpha.

What the one-sided tests of `limits` or `bets` reject at no limit, stays; so the ends agree with those tests' verdicts.
The evidence falls with the limit that the mean is said to be above wherever it is more than a little, so each end is
found by bisection.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

import numpy as np
import numpy.typing as npt

from deploypipe.stats import bets, limits
from deploypipe.stats.intervals import Interval
from deploypipe.stats.samples import NOBODY, Sample

Floats = npt.NDArray[np.float64]

_HALVINGS = 40
_EDGE = 1e-9


class Means(StrEnum):
    RATE = "rate"
    """Of 0 and 1: tested by `limits`."""
    BOUNDED = "bounded"
    """Of values between them, such as ratings and shares: tested by `bets`."""


@dataclass(frozen=True, slots=True)
class MeanSequence:
    means: Means
    alpha: float
    seen: Sample = NOBODY
    low: float = 0.0
    high: float = 1.0

    @property
    def interval(self) -> Interval:
        if self.low > self.high:  # so much has changed that no single mean explains all looks
            return Interval(0.0, 1.0, 1 - 2 * self.alpha)
        return Interval(self.low, self.high, 1 - 2 * self.alpha)

    def to_json(self) -> dict[str, Any]:
        return {
            "means": self.means.value,
            "alpha": self.alpha,
            "seen": self.seen.to_json(),
            "low": self.low,
            "high": self.high,
        }

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> MeanSequence:
        return cls(
            Means(stored["means"]),
            float(stored["alpha"]),
            Sample.from_json(stored["seen"]),
            float(stored["low"]),
            float(stored["high"]),
        )


def start(means: Means, *, alpha: float) -> MeanSequence:
    if not 0 < alpha < 0.5:
        raise ValueError(f"alpha must lie between 0 and 0.5, not {alpha}")
    return MeanSequence(means, alpha)


def extend(sequence: MeanSequence, samples: Iterable[Sample]) -> MeanSequence:
    return extend_many((sequence,), (list(samples),))[0]


def extend_many(sequences: Sequence[MeanSequence], samples_of_each: Sequence[Sequence[Sample]]) -> list[MeanSequence]:
    """Many, each by its own windows, in one pass; the same bits as one after the other."""
    after = list(sequences)
    waiting = {
        index: some
        for index, samples in enumerate(samples_of_each)
        if (some := [sample for sample in samples if sample.frequencies])
    }
    if len(sequences) != len(samples_of_each):
        raise ValueError(f"samples_of_each must have {len(sequences)} items, not {len(samples_of_each)}")
    while waiting:
        for index, samples in waiting.items():
            after[index] = replace(after[index], seen=after[index].seen + samples.pop(0))
        for means in Means:
            group = [index for index in waiting if after[index].means is means]
            if group:
                _move_ends(after, group, means)
        waiting = {index: samples for index, samples in waiting.items() if samples}
    return after


def _move_ends(after: list[MeanSequence], group: Sequence[int], means: Means) -> None:
    some = [after[index] for index in group]
    threshold = np.array([-math.log(sequence.alpha) for sequence in some])
    table = _table([sequence.seen for sequence in some])
    low = np.array([max(sequence.low, _EDGE) for sequence in some])
    high = np.array([min(sequence.high, 1 - _EDGE) for sequence in some])
    new_low = _end(low, np.full_like(low, 1 - _EDGE), table, 1.0, threshold, means)
    new_high = _end(high, np.full_like(high, _EDGE), table, -1.0, threshold, means)
    for place, index in enumerate(group):
        after[index] = replace(
            some[place],
            low=float(new_low[place]) if new_low[place] > low[place] else some[place].low,
            high=float(new_high[place]) if new_high[place] < high[place] else some[place].high,
        )


def _end(start_: Floats, stop: Floats, table: Floats, sign: float, threshold: Floats, means: Means) -> Floats:
    """The last limit between both that is rejected."""
    rejected = start_.copy()
    moves = np.flatnonzero(_evidence(table, sign, start_, means) >= threshold)
    if not len(moves):
        return rejected
    kept, some = stop[moves], rejected[moves]
    for _ in range(_HALVINGS):
        middle = 0.5 * (some + kept)
        gone = _evidence(table[:, moves], sign, middle, means) >= threshold[moves]
        some, kept = np.where(gone, middle, some), np.where(gone, kept, middle)
    rejected[moves] = some
    return rejected


def _evidence(table: Floats, sign: float, limit: Floats, means: Means) -> Floats:
    signs = np.full_like(limit, sign)
    if means is Means.BOUNDED:
        return bets.log_evidence_at(table[0], table[1], signs, limit)
    totals, units = np.zeros_like(limit), np.zeros_like(limit)
    for place in range(table.shape[-1]):
        totals = totals + table[0, :, place] * table[1, :, place]
        units = units + table[1, :, place]
    return limits.log_evidence_at(totals, units, signs, limit)


def _table(samples: Sequence[Sample]) -> Floats:
    """Values and numbers, shape (2, samples, values)."""
    width = max(len(sample.frequencies) for sample in samples)
    table = np.zeros((2, len(samples), width))
    for row, sample in enumerate(samples):
        table[:, row, : len(sample.frequencies)] = np.array(sample.frequencies).T
    return table
