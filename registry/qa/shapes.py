"""What settings may look like: each key with its kind, its unit and its limits, and sentences for what is wrong.

A shape is asked about plain values, wherever they came from: YAML, the API, a form.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Protocol

from registry.qa.parameters import Parameter
from registry.qa.places import UNUSABLE, Path

LONGEST_SHOWN = 60
_WITH_UNIT = re.compile(r" *-?[0-9][0-9_,.]* *[A-Za-zµ%/]+ *")


@dataclass(frozen=True)
class Fault:
    path: Path
    message: str
    """To stand after the path."""


@dataclass(frozen=True)
class Unknown(Fault):
    """A key that is none here."""


class Shape(Protocol):
    @property
    def unit(self) -> str: ...

    def faults(self, value: object, path: Path) -> Iterator[Fault]: ...


def shown(value: object) -> str:
    if value is None:
        return "empty"
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= LONGEST_SHOWN else f"{text[: LONGEST_SHOWN - 1]}…"


@dataclass(frozen=True)
class Leaf:
    """One value with the kind, the unit and the limits of a parameter."""

    parameter: Parameter

    @property
    def unit(self) -> str:
        return self.parameter.unit

    def faults(self, value: object, path: Path) -> Iterator[Fault]:
        if value is not UNUSABLE and self.parameter.problem(value):
            yield Fault(path, f"is {shown(value)}: give {self.parameter.wanted}{self._hint(value)}")

    def _hint(self, value: object) -> str:
        if not isinstance(value, str) or self.parameter.kind not in (int, float):
            return ""
        if _WITH_UNIT.fullmatch(value):
            return ", the number alone" + (f", in {self.unit}" if self.unit else "")
        return ", without quotes" if re.fullmatch(r"-?[0-9.]+", value) else ""


@dataclass(frozen=True)
class Written:
    """A text of a certain form: a duration, an amount of memory."""

    form: re.Pattern[str]
    wanted: str
    also_number: bool = False
    unit: str = ""

    def faults(self, value: object, path: Path) -> Iterator[Fault]:
        number = isinstance(value, int | float) and not isinstance(value, bool)
        text = str(value) if number and self.also_number else value
        if value is UNUSABLE or (isinstance(text, str) and self.form.fullmatch(text)):
            return
        yield Fault(
            path, f"is empty: give {self.wanted}" if value is None else f"is {shown(value)}: give {self.wanted}"
        )


@dataclass(frozen=True)
class Several:
    """A list of known words, none twice."""

    known: tuple[str, ...]
    unit: str = ""

    def faults(self, value: object, path: Path) -> Iterator[Fault]:
        if value is UNUSABLE:
            return
        if not isinstance(value, Sequence) or isinstance(value, str):
            yield Fault(path, f"is {shown(value)}: give a list of {', '.join(self.known)}")
            return
        for index, item in enumerate(value):
            if item is UNUSABLE:
                continue
            if not isinstance(item, str) or item not in self.known:
                yield Fault((*path, index), f"is {shown(item)}: {_nearest(str(item), self.known)}")
            elif item in value[:index]:
                yield Fault((*path, index), f"is {shown(item)} again: give it once")


@dataclass(frozen=True)
class Mix:
    """Lengths with their shares: [[8, 0.7], [64, 0.3]]."""

    length: Parameter
    share: Parameter
    most: int = 50
    unit: str = ""

    def faults(self, value: object, path: Path) -> Iterator[Fault]:
        if value is UNUSABLE:
            return
        if not isinstance(value, Sequence) or isinstance(value, str) or len(value) > self.most:
            yield Fault(path, f"is {shown(value)}: give a list of at most {self.most} pairs, {self._pair}")
            return
        for index, pair in enumerate(value):
            here = (*path, index)
            if pair is UNUSABLE:
                continue
            if not isinstance(pair, Sequence) or isinstance(pair, str) or len(pair) != 2:
                yield Fault(here, f"is {shown(pair)}: give a pair, {self._pair}")
                continue
            yield from Leaf(self.length).faults(pair[0], (*here, 0))
            yield from Leaf(self.share).faults(pair[1], (*here, 1))

    @property
    def _pair(self) -> str:
        return f"[{self.length.name}, {self.share.name}]"


@dataclass(frozen=True)
class Section:
    keys: Mapping[str, Shape]
    unit: str = ""
    what: str = "keys"

    def faults(self, value: object, path: Path) -> Iterator[Fault]:
        if value is UNUSABLE:
            return
        if not isinstance(value, Mapping):
            yield Fault(path, f"is {shown(value)}: give its {self.what}, {_some(self.keys)}")
            return
        for key, item in value.items():
            if shape := self.keys.get(key) if isinstance(key, str) else None:
                yield from shape.faults(item, (*path, key))
            else:
                units = {name: shape.unit for name, shape in self.keys.items()}
                right = _nearest(str(key), tuple(self.keys), units)
                yield Unknown((*path, str(key)), f"is not known here; {right}")


@dataclass(frozen=True)
class Named:
    """A mapping whose keys are names that are given elsewhere."""

    name: re.Pattern[str]
    wanted: str
    each: Shape
    unit: str = ""

    def faults(self, value: object, path: Path) -> Iterator[Fault]:
        if value is UNUSABLE:
            return
        if not isinstance(value, Mapping):
            yield Fault(path, f"is {shown(value)}: give {self.wanted}, and below it what it has")
            return
        for key, item in value.items():
            if not isinstance(key, str) or not self.name.fullmatch(key):
                yield Fault((*path, str(key)), f"is not usable as a name: give {self.wanted}")
            else:
                yield from self.each.faults(item, (*path, key))


def _nearest(key: str, known: Sequence[str], units: Mapping[str, str] | None = None) -> str:
    folded = {name.lower(): name for name in known}
    wanted = key[:LONGEST_SHOWN].lower().replace("-", "_")
    if found := get_close_matches(wanted, folded, n=1, cutoff=0.6):
        name = folded[found[0]]
        unit = (units or {}).get(name)
        return f"the nearest is {name}{f' ({unit})' if unit else ''}"
    return f"there are: {_some(known)}" if known else "nothing can be set here"


def _some(names: Mapping[str, Shape] | Sequence[str], most: int = 12) -> str:
    listed = list(names)
    return ", ".join(listed[:most]) + (f" and {len(listed) - most} more" if len(listed) > most else "")
