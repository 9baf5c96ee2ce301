"""YAML as plain values, and where in the text each of them stands.

Built from PyYAML's events, not its objects: nothing is ever constructed or expanded. Tags, anchors and a second
document are refused, and scalars are read as YAML 1.2 and JSON do: `yes` is a text, `012` is no number.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import yaml

Path = tuple[str | int, ...]
LARGEST = 256 * 1024
"""Bytes of a text."""
DEEPEST = 20
LONGEST_NUMBER = 40
_INTEGER = re.compile(r"-?(0|[1-9][0-9]*)")
_NUMBER = re.compile(r"-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][-+]?[0-9]+)?")
_WORDS = {"": None, "~": None, "null": None, "true": True, "false": False}


class Unusable:
    """Stands where something is of which a problem was already told."""

    def __str__(self) -> str:
        return "…"


UNUSABLE = Unusable()


@dataclass(frozen=True)
class Place:
    """Counted from 1, as editors do."""

    line: int
    column: int


START = Place(1, 1)


@dataclass(frozen=True)
class Problem:
    line: int
    path: str
    """Dotted; empty where it is the text as a whole."""
    message: str
    """To stand after the path: "is not known here; the nearest is max_latency_ms (milliseconds)"."""
    column: int = 1

    def __str__(self) -> str:
        return f"line {self.line}, column {self.column}: {self.sentence}"

    @property
    def sentence(self) -> str:
        return f"{self.path or 'the text'} {self.message}."

    def to_json(self) -> dict[str, str | int]:
        return {"line": self.line, "column": self.column, "path": self.path, "message": self.message}


@dataclass
class Read:
    value: object
    places: dict[Path, Place] = field(default_factory=dict)
    """Of a mapping's entry: its key."""
    problems: list[Problem] = field(default_factory=list)

    def place(self, path: Path) -> Place:
        """Of the thing, or of what it would stand in."""
        while path and path not in self.places:
            path = path[:-1]
        return self.places.get(path, START)

    def tell(self, path: Path, message: str) -> None:
        place = self.place(path)
        self.problems.append(Problem(place.line, dotted(path), message, place.column))


def reads_as_text(text: str) -> bool:
    """Whether it is a text also where it stands without quotes."""
    return text.lower() not in _WORDS and not _NUMBER.fullmatch(text)


def dotted(path: Path) -> str:
    shown = "".join(f"[{step}]" if isinstance(step, int) else f".{_short(step)}" for step in path)
    return shown.removeprefix(".")


def _short(key: str) -> str:
    """In one line, whatever a key between quotes may hold."""
    shown = key if key.isprintable() else json.dumps(key)
    return shown if len(shown) <= 80 else f"{shown[:79]}…"


def read(source: str | bytes) -> Read:
    """The value, with every problem that is one of YAML; what the value should be is the caller's to say."""
    given = source.encode(errors="surrogatepass") if isinstance(source, str) else source
    if len(given) > LARGEST:
        return _refused(START, f"is longer than {LARGEST:,} bytes")
    try:
        text = given.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        before = given[: error.start].decode(errors="replace")
        return _refused(_end_of(before), f"is not UTF-8: the byte 0x{given[error.start]:02x} cannot stand there")
    try:
        return _Composer(yaml.parse(text, Loader=yaml.SafeLoader)).document()
    except yaml.reader.ReaderError as error:
        return _refused(_end_of(text[: error.position]), f"holds the character U+{ord(text[error.position]):04X}")
    except yaml.MarkedYAMLError as error:
        context = f" {error.context}" if error.context else ""
        return _refused(_place(error.problem_mark or error.context_mark), f"is not YAML: {error.problem}{context}")
    except (ValueError, OverflowError):  # of an escape like "\\UFFFFFFFF", which PyYAML does not look at
        return _refused(START, "is not YAML: an escape names a character that does not exist")
    except _TooDeep as error:
        return _refused(error.place, f"is nested more than {DEEPEST} levels deep there")


def _refused(place: Place, message: str) -> Read:
    return Read(UNUSABLE, problems=[Problem(place.line, "", message, place.column)])


def _end_of(text: str) -> Place:
    return Place(text.count("\n") + 1, len(text) - text.rfind("\n"))


def _place(mark: Any) -> Place:
    """PyYAML's stubs have two kinds of marks, and none for events that it made up."""
    return Place(mark.line + 1, mark.column + 1) if mark else START


class _TooDeep(Exception):
    def __init__(self, place: Place) -> None:
        super().__init__(place)
        self.place = place


class _Composer:
    def __init__(self, events: Iterator[yaml.Event]) -> None:
        self.events = (event for event in events if not isinstance(event, yaml.StreamStartEvent))
        self.read = Read(UNUSABLE)

    def document(self) -> Read:
        if isinstance(next(self.events), yaml.StreamEndEvent):
            self.read.value = None
            return self.read
        self.read.value = self._value(next(self.events), ())
        next(self.events)  # the document's end
        if not isinstance(again := next(self.events), yaml.StreamEndEvent):
            self._tell(again, (), "holds a second document: give one")
        return self.read

    def _tell(self, event: yaml.Event, path: Path, message: str) -> Unusable:
        place = _place(event.start_mark)
        self.read.problems.append(Problem(place.line, dotted(path), message, place.column))
        return UNUSABLE

    def _value(self, event: yaml.Event, path: Path) -> object:
        self.read.places.setdefault(path, _place(event.start_mark))
        value: object
        match event:
            case yaml.AliasEvent():
                return self._tell(event, path, f"is an alias (*{event.anchor}): write the value out")
            case yaml.ScalarEvent():
                value = self._scalar(event, path)
            case yaml.MappingStartEvent():
                value = self._mapping(path)
            case _:
                value = self._sequence(path)
        if tag := _tag(event):
            return self._tell(event, path, f"has the tag {tag[:80]}: leave it out")
        if anchor := getattr(event, "anchor", None):
            return self._tell(event, path, f"has the anchor &{anchor[:80]}: leave it out, and write each value out")
        return value

    def _scalar(self, event: yaml.ScalarEvent, path: Path) -> object:
        text: str = event.value
        if not _can_be_kept(text):
            return self._tell(event, path, "holds a zero character or half of a surrogate pair")
        if event.style is not None or reads_as_text(text):
            return text
        if text.lower() in _WORDS:
            return _WORDS[text.lower()]
        if len(text) > LONGEST_NUMBER:
            return self._tell(event, path, f"is a number of {len(text)} digits: give a shorter one")
        return int(text) if _INTEGER.fullmatch(text) else float(text)

    def _mapping(self, path: Path) -> object:
        found: dict[str, object] = {}
        self._not_too_deep(path)
        while not isinstance(key := next(self.events), yaml.MappingEndEvent):
            name = self._key(key, path)
            here = (*path, name) if name is not None else (*path, "?")
            known = name in found
            if name is not None and not known:
                self.read.places[here] = _place(key.start_mark)
            if known:
                first = self.read.places[here].line
                self._tell(key, here, f"is given twice, first in line {first}: keep one")
            # Of what is given twice the first one is looked at; the second's own problems are told all the same.
            value = self._value(next(self.events), here)
            if name is not None and not known:
                found[name] = value
        return found

    def _key(self, event: yaml.Event, path: Path) -> str | None:
        if isinstance(event, yaml.ScalarEvent) and not _can_be_kept(event.value):
            self._tell(event, path, "has a key with a zero character or half of a surrogate pair")
            return None
        if isinstance(event, yaml.ScalarEvent) and not (event.tag or event.anchor):
            return str(event.value)
        if isinstance(event, yaml.ScalarEvent | yaml.AliasEvent):
            self._tell(event, path, "has a key with a tag, an anchor or an alias: write the key itself")
            return None
        self._value(event, (*path, "?"))
        self._tell(event, path, "has a key that is not a text")
        return None

    def _sequence(self, path: Path) -> object:
        found: list[object] = []
        self._not_too_deep(path)
        while not isinstance(event := next(self.events), yaml.SequenceEndEvent):
            found.append(self._value(event, (*path, len(found))))
        return found

    def _not_too_deep(self, path: Path) -> None:
        if len(path) >= DEEPEST:
            raise _TooDeep(self.read.places[path])


def _can_be_kept(text: str) -> bool:
    """Databases and JSON refuse the rest."""
    return "\0" not in text and not any("\ud800" <= character <= "\udfff" for character in text)


def _tag(event: yaml.Event) -> str:
    """Where somebody wrote one. A lone "!" says "a text" and changes nothing here either: it is refused as the rest."""
    return str(getattr(event, "tag", None) or "")
