"""What is different between two examinations. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum

from registry.qa.runner import Result
from registry.report import measured
from registry.scoring import Status

WORTH_TELLING = 0.10
"""Relative change of a value from which on it is shown: below it, two measurements of one server differ, too."""
_RANK = {Status.PASSED: 2, Status.NOT_APPLICABLE: 2, Status.NOT_CHECKED: 1, Status.ERROR: 1, Status.FAILED: 0}


class Kind(IntEnum):
    """In the order in which they are told."""

    WORSE = 0
    BETTER = 1
    OTHER = 2
    VALUE = 3
    NEW = 4
    GONE = 5


@dataclass(frozen=True)
class Change:
    name: str
    label: str
    kind: Kind
    sentence: str


def changes(before: Sequence[Result], now: Sequence[Result]) -> list[Change]:
    earlier = {result.name: result for result in before}
    names = {result.name for result in now}
    found = [change for result in now if (change := _change(earlier.get(result.name), result))]
    found += [
        Change(r.name, r.label, Kind.GONE, f"was {_word(r)}, and was not made now")
        for r in before
        if r.name not in names
    ]
    return sorted(found, key=lambda change: change.kind)


def _change(before: Result | None, now: Result) -> Change | None:
    if before is None:
        return Change(now.name, now.label, Kind.NEW, f"was not made before; {_word(now)} now")
    if before.outcome.status != now.outcome.status:
        step = _RANK[now.outcome.status] - _RANK[before.outcome.status]
        kind = Kind.WORSE if step < 0 else Kind.BETTER if step > 0 else Kind.OTHER
        return Change(now.name, now.label, kind, f"was {_word(before)}, is {_word(now)}{_values(before, now)}")
    old, new = before.outcome.value, now.outcome.value
    if old is None or new is None or old == new or before.outcome.unit != now.outcome.unit:
        return None
    if abs(new - old) < WORTH_TELLING * abs(old):
        return None
    return Change(now.name, now.label, Kind.VALUE, _values(before, now).removeprefix(": "))


def _values(before: Result, now: Result) -> str:
    old, new = before.outcome.value, now.outcome.value
    if old is None or new is None or old == new or before.outcome.unit != now.outcome.unit:
        return ""
    share = f" ({100 * (new - old) / abs(old):+.0f} %)".replace("-", "−") if old else ""
    return f": {measured(old, '')} → {measured(new, now.outcome.unit)}{share}"


def _word(result: Result) -> str:
    return result.outcome.status.value.replace("_", " ")
