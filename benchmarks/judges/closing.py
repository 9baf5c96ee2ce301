"""Which windows form a block, for many runs at once: the rule of `deploypipe.stats.blocks.close_blocks`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from deploypipe.stats.blocks import Blocks

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[Any]
Bools = npt.NDArray[np.bool_]

NEVER = np.iinfo(np.int64).max


@dataclass(frozen=True, slots=True)
class Closed:
    """Blocks of many runs, each run's own first in its row. `look`: the window with which it closed, or NEVER."""

    values: Floats
    """Shape (runs, blocks, values), as that of the numbers of units in each arm."""
    stable: Floats
    candidate: Floats
    look: Ints

    def part(self, runs: Ints, first: int, last: int) -> Blocks:
        return Blocks(self.values[runs, first:last], self.stable[runs, first:last], self.candidate[runs, first:last])


class Closing:
    def __init__(self, runs: int, values: Floats, units: int) -> None:
        self.values, self.units = values, units
        self.stable, self.candidate = np.zeros((2, runs, len(values)))
        self.stable_n, self.candidate_n = np.zeros((2, runs))
        self.count = np.zeros(runs, dtype=np.int64)
        self.closed: list[tuple[Ints, Ints, Floats, Floats, Ints]] = []

    @property
    def empty(self) -> Bools:
        return np.asarray((self.stable_n == 0) & (self.candidate_n == 0))

    def new_period(self, window: int) -> None:
        """The product closes what is left of the old period when the new one's first window comes."""
        self._close(window, 1)
        for rest in (self.stable, self.candidate, self.stable_n, self.candidate_n):
            rest[:] = 0

    def add(self, window: int, stable: Ints, candidate: Ints) -> None:
        self.stable += stable
        self.candidate += candidate
        self.stable_n += stable.sum(axis=-1)
        self.candidate_n += candidate.sum(axis=-1)
        self._close(window, self.units)

    def _close(self, window: int, least: int) -> None:
        full = np.nonzero(np.minimum(self.stable_n, self.candidate_n) >= least)[0]
        if not len(full):
            return
        looks = np.full(len(full), window)
        self.closed.append((full, self.count[full], self.stable[full], self.candidate[full], looks))
        self.count[full] += 1
        for rest in (self.stable, self.candidate, self.stable_n, self.candidate_n):
            rest[full] = 0

    def done(self) -> Closed:
        shape = (len(self.count), max(1, int(self.count.max())))
        stable, candidate = np.zeros((2, *shape, len(self.values)))
        look = np.full(shape, NEVER)
        if self.closed:
            runs, place, a, b, looks = (np.concatenate(column) for column in zip(*self.closed, strict=True))
            stable[runs, place], candidate[runs, place], look[runs, place] = a, b, looks
        if len(self.values) == 2:
            return Closed(np.broadcast_to(self.values, stable.shape), stable, candidate, look)
        # Of many values a block has few: those that it has come first, the others are left out.
        there = stable + candidate > 0
        order = np.argsort(~there, axis=-1, kind="stable")[..., : max(1, int(there.sum(axis=-1).max()))]
        stable, candidate = (np.take_along_axis(numbers, order, axis=-1) for numbers in (stable, candidate))
        return Closed(self.values[order], stable, candidate, look)
