"""The cells of the table, and which were left out.

Each factor is varied around one place in the middle (1 % errors, 200 requests a minute, a tenth of the traffic, one
hour), and base rate, effect and traffic in full against each other. Ours alone is also held against every combination
of base rate, traffic and split that a false verdict could hide in.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from benchmarks.judges.scenarios import MARGIN, Latency, Scenario

BASES = (0.001, 0.005, 0.01, 0.05)
TRAFFIC = (2.0, 20.0, 200.0, 2000.0)
SPLITS = (0.01, 0.1, 0.5)
SLOW_MINUTES = 12 * 60
"""Of cells with two requests a minute."""

VALIDITY_RUNS, RUNS = 10_000, 2_000

MIDDLE = "1 % errors, 200/min, split 10 %"
"""The family that all factors are varied around."""

LATENCIES = (
    ("same latency", Latency()),
    ("+10 %", Latency(1.1)),
    ("+20 %, at the margin", Latency(1.2)),
    ("+50 %", Latency(1.5)),
    ("only the tail: 8 % take three times as long", Latency(1.0, 0.08, 3.0)),
)


@dataclass(frozen=True, slots=True)
class Cell:
    family: str
    """What the cell has in common with those that differ in the effect alone."""
    effect: str
    scenario: Scenario
    runs: int
    peers: bool = True
    alone: bool = False
    """Ours is also asked about the error rate alone, to compare its power."""
    batch: int = 500

    @property
    def name(self) -> str:
        return self.scenario.name


def cells() -> list[Cell]:
    return [*_errors(), *_slow_traffic(), *_splits(), *_moving(), *_sessions(), *_latencies(), *_validity()]


def small() -> list[Cell]:
    """For a first look, and for tests: every kind of cell."""
    kept = {MIDDLE, "ramp, 1 % errors, 200/min", "sessions, 1 % errors, 200/min, split 50 %"}
    some = [cell for cell in cells() if cell.family in kept or cell.family.startswith("latency, 200/min, split 10 %")]
    return scaled(some, 0.05)


def scaled(some: Iterable[Cell], part: float) -> list[Cell]:
    """With that part of their runs, at least 200."""
    return [replace(cell, runs=max(200, round(cell.runs * part)), batch=min(cell.batch, 250)) for cell in some]


def effects(base: float) -> list[tuple[str, float]]:
    """The same size is not given twice: doubling 0.5 % is half a point."""
    named = [("no change", 0.0), ("+0.5 points, at the margin", MARGIN), ("×2", base), ("×5", 4 * base)]
    found: list[tuple[str, float]] = []
    for name, effect in named:
        if not any(abs(effect - other) < 1e-12 for _, other in found):
            found.append((name, effect))
    return found


def _cells(family: str, base: Scenario, batch: int = 500) -> Iterator[Cell]:
    for name, effect in effects(base.base):
        scenario = replace(base, name=f"{family}: {name}", effect=effect)
        yield Cell(family, name, scenario, RUNS if scenario.beyond else VALIDITY_RUNS, batch=batch)


def _window(per_minute: float) -> int:
    """Seconds between two looks. At two requests a minute a window without a request teaches nobody anything."""
    return {2.0: 60, 2000.0: 15}.get(per_minute, 30)


def _base(per_minute: float = 200.0, base: float = 0.01, share: float = 0.1) -> Scenario:
    minutes = SLOW_MINUTES if per_minute < 20 else 60
    return Scenario("", base, per_minute=per_minute, share=share, minutes=minutes, window_seconds=_window(per_minute))


def _named(scenario: Scenario) -> str:
    return f"{100 * scenario.base:g} % errors, {_traffic(scenario)}, split {100 * scenario.share:g} %"


def _traffic(scenario: Scenario) -> str:
    return f"{scenario.per_minute:g}/min" + (", 12 h" if scenario.minutes == SLOW_MINUTES else "")


def _errors() -> Iterator[Cell]:
    for per_minute in TRAFFIC[1:]:
        for base in BASES:
            scenario = _base(per_minute, base)
            for cell in _cells(_named(scenario), scenario):
                yield replace(cell, alone=per_minute == 20)


def _slow_traffic() -> Iterator[Cell]:
    for share in SPLITS[1:]:
        scenario = _base(2.0, share=share)
        yield from _cells(_named(scenario), scenario, batch=200)


def _splits() -> Iterator[Cell]:
    for share in (0.01, 0.5):
        scenario = _base(share=share)
        yield from _cells(_named(scenario), scenario)


def _moving() -> Iterator[Cell]:
    for per_minute in (200.0, 2000.0):
        scenario = replace(_base(per_minute), ramp=True)
        yield from _cells(f"ramp, 1 % errors, {_traffic(scenario)}", scenario)
    yield from _cells("day's pattern, 1 % errors, 200/min, split 10 %", replace(_base(), drift=2.0))
    yield from _cells("day's pattern and ramp, 1 % errors, 2000/min", replace(_base(2000.0), drift=2.0, ramp=True))
    outage = replace(_base(share=0.5), outage=(20, 30))
    yield from _cells("outage of the metrics, 1 % errors, 200/min, split 50 %", outage)


def _sessions() -> Iterator[Cell]:
    for share in (0.1, 0.5):
        scenario = replace(_base(share=share), sessions=True)
        yield from _cells(f"sessions, 1 % errors, 200/min, split {100 * share:g} %", scenario, batch=50)
    ramp = replace(_base(), sessions=True, ramp=True)
    yield from _cells("sessions and ramp, 1 % errors, 200/min", ramp, batch=50)


def _latencies() -> Iterator[Cell]:
    for per_minute, minutes, share in ((20.0, 60, 0.1), (200.0, 60, 0.1), (200.0, 60, 0.5), (2000.0, 20, 0.1)):
        family = f"latency, {per_minute:g}/min{', 20 min' if minutes == 20 else ''}, split {100 * share:g} %"
        yield from _of_latency(family, replace(_base(per_minute, base=0.0, share=share), minutes=minutes))
    moving = replace(_base(base=0.0), ramp=True, drift=1.5)
    yield from _of_latency("latency, day's pattern and ramp, 200/min", moving)


def _of_latency(family: str, base: Scenario) -> Iterator[Cell]:
    for name, latency in LATENCIES:
        scenario = replace(base, name=f"{family}: {name}", latency=latency)
        yield Cell(family, name, scenario, RUNS if scenario.beyond else VALIDITY_RUNS, batch=100)


def _validity() -> Iterator[Cell]:
    """Ours alone: nothing changed, and exactly at the margin, wherever no cell above has been."""
    been = {cell.family for part in (_errors(), _slow_traffic(), _splits()) for cell in part}
    for per_minute in TRAFFIC:
        for base in BASES:
            for share in SPLITS:
                scenario = replace(_base(per_minute, base, share), window_seconds=max(30, _window(per_minute)))
                if _named(scenario) in been:
                    continue
                for name, effect in effects(base)[:2]:
                    named = replace(scenario, name=f"{_named(scenario)}: {name}", effect=effect)
                    yield Cell(_named(scenario), name, named, VALIDITY_RUNS, peers=False, batch=500)
