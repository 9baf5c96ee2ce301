"""What a program may say of a session: read item by item, so that one wrong item does not lose the others. Pure.

{"session": "…"} or {"request_id": "…"}, with at least one of rating, converted, cost, values.
`id` and `at` may be there.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from deploypipe.metrics.sessions import request_digest, session_digest

MOST_ITEMS = 1000
MOST_VALUES = 20
LONGEST_ID = 1000
LONGEST_KEY = 100
LARGEST = 1e12
AHEAD = timedelta(minutes=5)
"""A sender's clock may be so much before ours."""
_NAME = re.compile(r"[a-z][a-z0-9_]{0,39}")
_SHOWN = 60


@dataclass(frozen=True, slots=True)
class Item:
    key: str
    """Digest of the sender's own id, or of all that is said: twice the same counts once."""
    session: str
    """The gateway's digest, like `request`; one of the two is empty."""
    request: str
    rating: int | None
    converted: bool | None
    cost: float | None
    values: Mapping[str, float]
    said_at: datetime


@dataclass(frozen=True, slots=True)
class Rejected:
    index: int
    field: str
    value: str
    """As it was given, cut; of ids, which may be a person's, only what they look like."""
    right: str

    def to_json(self) -> dict[str, Any]:
        return {"index": self.index, "field": self.field, "value": self.value, "right": self.right}


class _Wrong(ValueError):
    def __init__(self, name: str, value: str, right: str) -> None:
        super().__init__(name)
        self.field = name
        self.value = value
        self.right = right


@dataclass
class Parsed:
    items: list[Item] = field(default_factory=list)
    rejected: list[Rejected] = field(default_factory=list)


def parse(items: Sequence[Any], now: datetime) -> Parsed:
    parsed = Parsed()
    for index, said in enumerate(items):
        try:
            parsed.items.append(_item(said, now))
        except _Wrong as wrong:
            parsed.rejected.append(Rejected(index, wrong.field, wrong.value, wrong.right))
    return parsed


def _item(said: Any, now: datetime) -> Item:
    if not isinstance(said, Mapping):
        raise _Wrong("", _shown(said), "give an object")
    for name in said:
        if name not in _FIELDS:
            raise _Wrong(_cut(name), _shown(said[name]), f"there is no such field; there are: {', '.join(_FIELDS)}")
    session, request = _id(said, "session"), _id(said, "request_id")
    if (session is None) == (request is None):
        raise _Wrong("session", "missing" if session is None else "beside request_id", "give session or request_id")
    words = {name: read(said[name]) for name, read in _WORDS.items() if said.get(name) is not None}
    if not words:
        raise _Wrong("rating", "missing", f"say at least one of {', '.join(_WORDS)}")
    named = session_digest(session) if session is not None else ""
    asked = request_digest(request) if request is not None else ""
    said_at = _moment(said.get("at"), now)
    return Item(
        key=_key(said, [named, asked, words, said.get("at")]),
        session=named,
        request=asked,
        rating=words.get("rating"),
        converted=words.get("converted"),
        cost=words.get("cost"),
        values=words.get("values", {}),
        said_at=said_at,
    )


def _id(said: Mapping[str, Any], name: str) -> str | None:
    value = said.get(name)
    if value is None:
        return None
    if not isinstance(value, str) or not 0 < len(value) <= LONGEST_ID or not _can_be_sent(value):
        raise _Wrong(name, _look_of(value), f"give a text of 1 to {LONGEST_ID} characters")
    return value


def _can_be_sent(value: str) -> bool:
    try:
        value.encode()
    except UnicodeEncodeError:  # half of a surrogate pair
        return False
    return True


def _key(said: Mapping[str, Any], content: list[Any]) -> str:
    given = said.get("id")
    if given is None:
        return _digest(json.dumps(content, sort_keys=True))
    if not isinstance(given, str) or not 0 < len(given) <= LONGEST_KEY or not _can_be_sent(given):
        raise _Wrong("id", _look_of(given), f"give a text of 1 to {LONGEST_KEY} characters")
    return _digest(json.dumps({"id": given}))


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def _moment(value: Any, now: datetime) -> datetime:
    if value is None:
        return now
    right = "give a time with its zone, such as 2026-01-31T12:00:00Z"
    if not isinstance(value, str):
        raise _Wrong("at", _shown(value), right)
    try:
        moment = datetime.fromisoformat(value)
        if moment.tzinfo is None:
            raise _Wrong("at", _shown(value), right)
        moment = moment.astimezone(UTC)
    except (ValueError, OverflowError) as error:
        raise error if isinstance(error, _Wrong) else _Wrong("at", _shown(value), right) from None
    if moment > now + AHEAD:
        raise _Wrong("at", _shown(value), "give a time that is not ahead of now")
    return min(moment, now)


def _rating(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int | float) or value not in (1, 2, 3, 4, 5):
        raise _Wrong("rating", _shown(value), "give a whole number from 1 to 5")
    return int(value)


def _converted(value: Any) -> bool:
    if not isinstance(value, bool):
        raise _Wrong("converted", _shown(value), "give true or false")
    return value


def _cost(value: Any) -> float:
    number = _number("cost", value)
    if number < 0:
        raise _Wrong("cost", _shown(value), "give a number that is not below 0")
    return number


def _values(value: Any) -> dict[str, float]:
    if not isinstance(value, Mapping) or not 0 < len(value) <= MOST_VALUES:
        raise _Wrong("values", _shown(value), f"give an object of 1 to {MOST_VALUES} names and numbers")
    for name in value:
        if not _NAME.fullmatch(name):
            raise _Wrong(
                f"values.{_cut(name)}", _shown(value[name]), "name it in small letters, digits and _, at most 40"
            )
    return {name: _number(f"values.{name}", number) for name, number in value.items()}


def _number(name: str, value: Any) -> float:
    fine = isinstance(value, int | float) and not isinstance(value, bool)
    if not fine or abs(value) > LARGEST or not math.isfinite(value):
        raise _Wrong(name, _shown(value), f"give a number, at most {LARGEST:,.0f} in size")
    return float(value)


_WORDS: dict[str, Callable[[Any], Any]] = {
    "rating": _rating,
    "converted": _converted,
    "cost": _cost,
    "values": _values,
}
_FIELDS = ("session", "request_id", *_WORDS, "id", "at")


def _shown(value: Any) -> str:
    """As JSON, so that the text "5" is not taken for the number."""
    return _cut(json.dumps(value, default=str, ensure_ascii=False))


def _cut(text: Any) -> str:
    text = str(text).encode(errors="replace").decode()
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 1]}…"


def _look_of(value: Any) -> str:
    return f"a text of {len(value)} characters" if isinstance(value, str) else "no text"
