"""What a judge said of each run, and when."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[Any]
Bools = npt.NDArray[np.bool_]

OPEN, PROMOTE, ABORT = 0, 1, 2


@dataclass(frozen=True, slots=True)
class Verdicts:
    """Of many runs. `look` is the number of the window after which the verdict fell; of OPEN it is the last."""

    kind: Ints
    look: Ints

    def __getitem__(self, runs: slice) -> Verdicts:
        return Verdicts(self.kind[runs], self.look[runs])


def first(promote: Bools, abort: Bools) -> Verdicts:
    """From (runs, windows): the first of the two to be true, abort where both are in the same window."""
    windows = promote.shape[1]
    promoted = np.where(promote.any(axis=1), promote.argmax(axis=1), windows)
    aborted = np.where(abort.any(axis=1), abort.argmax(axis=1), windows)
    kind = np.where(aborted <= promoted, ABORT, PROMOTE)
    look = np.minimum(promoted, aborted)
    kind = np.where(look == windows, OPEN, kind)
    return Verdicts(kind, np.minimum(look, windows - 1))


def at_ticks(windows: int, ticks: Ints, said: Bools) -> Bools:
    """Spread what was said at some windows, (runs, ticks), over all of them."""
    spread = np.zeros((said.shape[0], windows), dtype=bool)
    spread[:, ticks] = said
    return spread


def at_end(windows: int, runs: int) -> Bools:
    last = np.zeros((runs, windows), dtype=bool)
    last[:, -1] = True
    return last
