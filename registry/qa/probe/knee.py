"""Looks for the highest rate at which the limits hold, by a bounded number of presses. Pure."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

CLOSE = 1.1
"""Two rates that are nearer than that are told apart by luck in so short presses."""


class Holds(StrEnum):
    YES = "held"
    NO = "broke"
    UNKNOWN = "not measured"
    """The probe itself could not keep up, or had no time left."""


@dataclass(frozen=True)
class Pressed:
    rate: float
    holds: Holds
    said: str
    """The figures, to stand after the rate."""


@dataclass(frozen=True)
class Knee:
    pressed: tuple[Pressed, ...]
    held: float | None
    """The highest rate at which the limits held; None when they did at none."""
    broke: float | None
    """The lowest one above it at which they did not; None when none was found."""


Press = Callable[[float, int], Pressed]
"""With a rate and the number of the press, which makes its seed."""


def find_knee(press: Press, *, start: float, lowest: float, highest: float, most: int) -> Knee:
    """Doubles or halves from `start` until one rate held and another broke, then halves what lies between.

    A rate at which a press did not hold is pressed once more: a short one meets a hiccup of the machine now and then.
    """
    search = _Search(press, most)
    rate = min(max(start, lowest), highest)
    while search.goes_on:
        if not search.holds(rate):
            if search.held is not None or rate <= lowest:
                break
            rate = max(lowest, rate / 2)
        elif search.broke is not None or rate >= highest:
            break
        else:
            rate = min(highest, 2 * rate)
    while search.goes_on and search.held and search.broke and search.broke / search.held > CLOSE:
        search.holds(math.sqrt(search.held * search.broke))
    return Knee(tuple(search.pressed), search.held, search.broke)


class _Search:
    def __init__(self, press: Press, most: int) -> None:
        self.press = press
        self.most = most
        self.pressed: list[Pressed] = []
        self.held: float | None = None
        self.broke: float | None = None
        self.ended = False

    @property
    def goes_on(self) -> bool:
        return not self.ended and len(self.pressed) < self.most

    def holds(self, rate: float) -> bool:
        found = self._press(rate)
        if found is not Holds.YES and self.goes_on:
            found = self._press(rate)
        self.ended = self.ended or found is Holds.UNKNOWN
        if found is Holds.YES:
            self.held = rate if self.held is None else max(self.held, rate)
        elif found is Holds.NO:
            self.broke = rate if self.broke is None else min(self.broke, rate)
        return found is Holds.YES

    def _press(self, rate: float) -> Holds:
        self.pressed.append(self.press(rate, len(self.pressed)))
        return self.pressed[-1].holds
