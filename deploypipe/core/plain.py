"""Values that JSON, SQLite and PostgreSQL each give back exactly as they were given: what rows are made of.

PostgreSQL keeps JSON numbers as decimals, so 1e22 comes back as a whole number and -0.0 as 0.0; it takes neither zero
characters nor halves of surrogate pairs; no database takes NaN; and a key comes back as text whatever it was.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence, Set
from datetime import date
from decimal import Decimal
from enum import Enum
from typing import Any


def plain(value: Any) -> Any:
    """The nearest value that can be kept. What has no JSON form becomes the text that `str` gives."""
    if isinstance(value, Enum):
        return plain(value.value)
    if isinstance(value, str):
        return text(value)
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, float):
        return _number(value)
    if isinstance(value, Mapping):
        return {plain_key(key): plain(item) for key, item in value.items()}
    if isinstance(value, Sequence | Set) and not isinstance(value, bytes | bytearray):
        return [plain(item) for item in (sorted(value, key=str) if isinstance(value, Set) else value)]
    if isinstance(value, date):  # and datetime
        return value.isoformat()
    return text(str(value))


def text(value: str) -> str:
    return value.replace("\0", "\N{REPLACEMENT CHARACTER}").encode(errors="replace").decode()


def plain_key(key: Any) -> str:
    value = plain(key)
    return value if isinstance(value, str) else str(value)


def _number(value: float) -> float | int | str:
    if not math.isfinite(value):
        return str(value)
    if value.is_integer() and "e" in repr(value):
        return int(Decimal(repr(value)))
    return value or 0.0


def faults(value: Any, place: str = "") -> Iterator[tuple[str, str]]:
    """Each place in a JSON value that no database could keep, and what would be right."""
    if isinstance(value, str) and text(value) != value:
        yield place, "holds a zero character or half of a surrogate pair"
    elif isinstance(value, float) and not math.isfinite(value):
        yield place, "is too large for a number"
    elif isinstance(value, Mapping):
        for key, item in value.items():
            below = f"{place}.{text(key)}" if place else text(key)
            if text(key) != key:
                yield below, "its name holds a zero character or half of a surrogate pair"
            yield from faults(item, below)
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from faults(item, f"{place}[{index}]")
