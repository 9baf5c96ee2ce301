"""The goals that our judge is held against: in how many cells each holds, and where it does not, with numbers."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from benchmarks.judges import ours, peers
from benchmarks.judges.figures import Figures, Share, minutes, percent, ratio, wald
from benchmarks.judges.run import OURS, OURS_ALONE
from deploypipe.metrics.cores import Core
from deploypipe.metrics.probes import compiled

MOST_TO_WALD = 2.0
LEAST_POWER = 0.8


@dataclass(frozen=True, slots=True)
class Goal:
    words: str
    held: int
    of: int
    """Cells, or comparisons with a peer in a cell, that can tell."""
    misses: tuple[str, ...]
    """Each of the others, with its numbers."""
    notes: tuple[str, ...] = ()

    @property
    def passed(self) -> bool | None:
        """None where no cell could tell."""
        return self.held == self.of if self.of else None


def goals(all_of_them: Sequence[Figures], alpha: float) -> list[Goal]:
    some = [one for one in all_of_them if one.alpha == alpha]
    own = [one for one in some if one.judge == OURS]
    return [
        _level("A version within or at the margin is falsely aborted in at most α of the runs",
               [(one.cell.name, one.falsely_aborted) for one in own], alpha),
        _level("A version at or beyond the margin is promoted in at most α of the runs",
               [(one.cell.name, one.badly_promoted) for one in own], alpha),
        _holds(some),
        _speed(own),
        _power(some),
        _quicker(some, alpha, to_abort=True),
        _quicker(some, alpha, to_abort=False),
    ]  # fmt: skip


def _level(words: str, found: Iterable[tuple[str, Share | None]], alpha: float) -> Goal:
    shares = sorted(((share, name) for name, share in found if share is not None), key=lambda pair: -pair[0].value)
    above = [(share, name) for share, name in shares if share.value > alpha]
    misses = tuple(
        f"“{name}”: {percent(share)}" + ("" if share.low > alpha else "; its interval still allows α")
        for share, name in above
    )
    notes = tuple(f"the worst: {percent(share)} in “{name}”" for share, name in shares[:1])
    return Goal(words, len(shares) - len(above), len(shares), misses, notes)


def _holds(some: Sequence[Figures]) -> Goal:
    """Verdicts that fall while nothing is measured, of the peers the worst cell of each."""
    away = [(one, one.during_outage) for one in some if one.during_outage is not None]
    own = [(one, share) for one, share in away if one.judge == OURS]
    misses = tuple(f"“{one.cell.name}”: {percent(share)}" for one, share in own if share.count)
    worst: dict[str, Share] = {}
    for one, share in sorted(away, key=lambda pair: pair[1].value):
        if share.count and one.judge not in (OURS, OURS_ALONE):
            worst[one.judge] = share
    notes = ("who does not hold: " + "; ".join(f"{judge} {percent(share)}" for judge, share in worst.items()),)
    return Goal(
        "Nothing is decided while nothing is measured", len(own) - len(misses), len(own), misses, notes if worst else ()
    )


def _speed(own: Sequence[Figures]) -> Goal:
    """In cells whose time is long enough for twice the bound."""
    held, missed, too_short, first_look = [], [], [], []
    for one in own:
        scenario = one.cell.scenario
        bound = wald(one.cell, one.alpha)
        if not scenario.beyond or scenario.per_minute < 100 or math.isnan(bound):
            continue
        if MOST_TO_WALD * bound > scenario.per_minute * scenario.minutes:
            too_short.append(one)
        elif one.to_wald <= MOST_TO_WALD:
            held.append(one)
        elif one.minutes <= scenario.first_telling_minutes:
            first_look.append(one)
        else:
            missed.append(one)
    notes = []
    if held:
        lowest, highest = min(one.to_wald for one in held), max(one.to_wald for one in held)
        notes.append(f"where it holds, the ratio is {lowest:.2f} to {highest:.2f}")
    if first_look:
        notes.append("not counted, decided at the first look that can tell: " + _names(first_look))
    if too_short:
        notes.append("not counted, the cell's time is shorter than twice the bound: " + _names(too_short))
    return Goal(
        f"A regression is caught with at most {MOST_TO_WALD:g} × Wald's bound in the median, from 100 requests/min on",
        len(held),
        len(held) + len(missed),
        tuple(
            f"“{one.cell.name}”: {ratio(one.to_wald)}; against the bound at the part of α that this criterion has"
            f" among the mission's four, {ratio(one.to_wald / _cost_of_sharing(one))}"
            for one in missed
        ),
        tuple(notes),
    )


def _cost_of_sharing(one: Figures) -> float:
    """log(1 / the part of alpha that the cell's criterion has for an abort) over log(1 / alpha)."""
    core = Core.TWO_ARMS if one.cell.scenario.latency is None else Core.QUANTILE
    probes = compiled(ours.plan(one.cell.scenario, one.alpha)).probes
    return min(probe.log_threshold for probe in probes if probe.against and probe.question.core is core) / -math.log(
        one.alpha
    )


def _power(some: Sequence[Figures]) -> Goal:
    """One question against one question: ours is asked about the error rate alone, as the exact test is."""
    by_key = {(one.cell.name, one.judge): one for one in some}
    held = 0
    misses, notes = [], []
    for (name, judge), one in by_key.items():
        yard = by_key.get((name, peers.YARDSTICK))
        if judge != OURS_ALONE or not one.cell.scenario.beyond or yard is None:
            continue
        part = _caught(one) / _caught(yard) if _caught(yard) else math.nan
        numbers = (
            f"“{name}”: {_in_percent(one)} against {_in_percent(yard)}, {part:.2f} of it (as one of the mission's four"
            f" criteria, with a part of α: {_in_percent(by_key[name, OURS])})"
        )
        if part >= LEAST_POWER:
            held += 1
            notes.append(numbers)
        else:
            misses.append(numbers)
    words = (
        f"At 20 requests/min and a tenth of the traffic, power after an hour is at least {LEAST_POWER:g} of that of the"
        " exact test that looks once and knew the end"
    )
    return Goal(words, held, held + len(misses), tuple(misses), tuple(notes))


def _caught(one: Figures) -> float:
    return 1 - one.missed.value if one.missed is not None else math.nan


def _in_percent(one: Figures) -> str:
    return f"{100 * _caught(one):.1f} %"


def _quicker(some: Sequence[Figures], alpha: float, *, to_abort: bool) -> Goal:
    """Against each peer that keeps alpha in all cells of the family: by the median time to the right verdict.

    Where the peer has none by the end there is nothing to be quicker than.
    """
    held = at_once = 0
    lost: dict[str, tuple[Figures, list[str]]] = {}
    for mine, their in _comparable(some, alpha, to_abort=to_abort):
        if mine.minutes <= their.minutes:
            held += 1
            at_once += mine.minutes == their.minutes
        else:
            lost.setdefault(mine.cell.name, (mine, []))[1].append(f"{their.judge} {minutes(their.minutes)}")
    misses = tuple(f"“{name}”: ours {_time(mine)}; {', '.join(quicker)}" for name, (mine, quicker) in lost.items())
    count = held + sum(len(quicker) for _, quicker in lost.values())
    words = (
        "A regression is aborted no later (median) than by any peer that aborts at most α of the sound versions"
        if to_abort
        else "A sound version is promoted no later (median) than by any peer that promotes at most α of the bad ones"
    )
    notes = [f"comparisons with a peer in a cell; in {at_once} of them both take equally long"] if held else []
    if to_abort:
        lenient = list(_comparable(some, alpha, to_abort=True, identical_alone=True))
        no_later = sum(mine.minutes <= their.minutes for mine, their in lenient)
        notes.append(
            f"with the peers that keep α for an identical version, whatever they do at the margin: {no_later} of"
            f" {len(lenient)}"
        )
    return Goal(f"{words} in the same cells", held, count, misses, tuple(notes))


def _comparable(
    some: Sequence[Figures], alpha: float, *, to_abort: bool, identical_alone: bool = False
) -> Iterator[tuple[Figures, Figures]]:
    """Ours and a peer's in the same cell."""
    by_family: dict[tuple[str, str], list[Figures]] = {}
    for one in some:
        by_family.setdefault((one.cell.family, one.judge), []).append(one)
    for (family, judge), theirs in by_family.items():
        if judge in (OURS, OURS_ALONE):
            continue
        own = {one.cell.name: one for one in by_family[family, OURS]}
        shares = [
            one.falsely_aborted if to_abort else one.badly_promoted
            for one in theirs
            if one.cell.scenario.unchanged or not identical_alone
        ]
        if max((share.value for share in shares if share is not None), default=1.0) > alpha:
            continue
        for their in theirs:
            if their.missed is not None and their.cell.scenario.beyond is to_abort and math.isfinite(their.minutes):
                yield own[their.cell.name], their


def _time(one: Figures) -> str:
    return f"more than half undecided ({_in_percent(one)} decided)" if math.isinf(one.minutes) else minutes(one.minutes)


def _names(some: Iterable[Figures]) -> str:
    return "; ".join(f"“{one.cell.name}” ({ratio(one.to_wald)})" for one in some)
