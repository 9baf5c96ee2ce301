"""How long an examination still takes, from how long its checks took before. Pure."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from registry.qa.base import Check
from registry.qa.runner import AT_ONCE

NEWEST = 5
"""Of so many earlier times of a check, the median is what is expected."""
SERVER_START = "server"
"""Stands among the expected times for what passes while no check runs: the server and the live copy are started."""

# Where a check was never run here before.
TYPICAL_FILES = 0.2
TYPICAL_TOGETHER = 0.5
TYPICAL_ALONE = 1.0
TYPICAL_SERVER_START = 5.0

OVERDUE = 1.5
OVERDUE_SECONDS = 2.0


@dataclass(frozen=True)
class Left:
    seconds: float
    overdue: tuple[str, ...] = ()
    """Labels of what runs now and takes longer than usual."""

    @property
    def sentence(self) -> str:
        if self.seconds >= 1:
            return f"about {_rounded(self.seconds)} left"
        return "longer than usual" if self.overdue else "nearly done"


@dataclass(frozen=True)
class UnderWay:
    name: str
    label: str
    seconds: float
    """Since it was begun."""

    @property
    def late(self) -> str:
        return f"{self.label}: longer than usual"


def typical(check: type[Check]) -> float:
    if not check.needs_server:
        return TYPICAL_FILES
    return TYPICAL_ALONE if check.alone or check.needs_live or check.last else TYPICAL_TOGETHER


def expected(checks: Sequence[type[Check]], earlier: Mapping[str, Sequence[float]]) -> dict[str, float]:
    """Seconds of each check, and of the server's start. `earlier` has times by name, the newest first."""
    times = {check.name: _median(earlier.get(check.name), typical(check)) for check in checks}
    return {**times, SERVER_START: _median(earlier.get(SERVER_START), TYPICAL_SERVER_START)}


def idle(whole: float, checks: Sequence[type[Check]], took: Mapping[str, float]) -> float:
    """What of a finished examination's `whole` seconds no check can account for."""
    return max(0.0, whole - _together([c for c in checks if not c.needs_server], took) - _on_server(checks, took))


def left(
    checks: Sequence[type[Check]],
    times: Mapping[str, float],
    *,
    done: Collection[str],
    under_way: Sequence[UnderWay],
    seconds: float,
    own_server: bool = True,
) -> Left:
    """Of an examination that has run for `seconds`. `own_server`: it starts the server that it examines."""
    now = {running.name: running for running in under_way}
    rest = {
        check.name: max(0.0, times[check.name] - (now[check.name].seconds if check.name in now else 0.0))
        for check in checks
        if check.name not in done
    }
    waiting = [check for check in checks if check.name in rest]
    total = _together([c for c in waiting if not c.needs_server], rest) + _on_server(waiting, rest)
    asking = [check for check in checks if check.needs_server]
    if own_server and asking and not any(check.name in done or check.name in now for check in asking):
        spent = 0.0 if any(not check.needs_server for check in waiting) else seconds
        total += max(0.0, times[SERVER_START] - spent)
    overdue = [r.label for r in under_way if r.seconds > OVERDUE * times.get(r.name, math.inf) + OVERDUE_SECONDS]
    return Left(total, tuple(overdue))


def _on_server(checks: Sequence[type[Check]], seconds: Mapping[str, float]) -> float:
    asking = [check for check in checks if check.needs_server]
    single = [check for check in asking if check.alone or check.needs_live or check.last]
    together = [check for check in asking if check not in single]
    return _together(together, seconds) + math.fsum(seconds.get(check.name, 0.0) for check in single)


def _together(checks: Sequence[type[Check]], seconds: Mapping[str, float]) -> float:
    """As the runner does it: each free place takes the next in line."""
    places = [0.0] * AT_ONCE
    for check in checks:
        places[places.index(min(places))] += seconds.get(check.name, 0.0)
    return max(places)


def _median(times: Sequence[float] | None, otherwise: float) -> float:
    return float(median(times[:NEWEST])) if times else otherwise


def _rounded(seconds: float) -> str:
    if seconds < 10:
        return f"{round(seconds)} s"
    if seconds < 60:
        return f"{2 * round(seconds / 2)} s"
    minutes, rest = divmod(10 * round(seconds / 10), 60)
    return f"{minutes} min {rest} s" if rest and minutes < 10 else f"{minutes} min"
