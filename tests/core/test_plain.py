"""What rows are made of must come back as it went in, from SQLite and from PostgreSQL alike."""

from __future__ import annotations

import json
from datetime import UTC, date, datetime
from decimal import Decimal
from enum import StrEnum
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deploypipe.core.plain import faults, plain


class Colour(StrEnum):
    RED = "red"


@pytest.mark.parametrize(
    ("value", "kept"),
    [
        (None, None),
        (True, True),
        (0, 0),
        (10**40, 10**40),
        (0.1, 0.1),
        (5.0, 5.0),
        (1e-7, 1e-7),
        (1e22, 10**22),
        (-1e23, -(10**23)),
        (-0.0, 0.0),
        (float("nan"), "nan"),
        (float("-inf"), "-inf"),
        ("naïve 🙂", "naïve 🙂"),
        ("a\0b", "a\N{REPLACEMENT CHARACTER}b"),
        ("\ud800", "?"),
        (Colour.RED, "red"),
        (Decimal("1.50"), "1.50"),
        (date(2026, 1, 2), "2026-01-02"),
        (datetime(2026, 1, 2, 3, 4, 5, 6, tzinfo=UTC), "2026-01-02T03:04:05.000006+00:00"),
        ((1, 2), [1, 2]),
        ({"b", "a"}, ["a", "b"]),
        ({10: "x", None: "y", Colour.RED: "z"}, {"10": "x", "None": "y", "red": "z"}),
        ({"deep": [{"er": -0.0}]}, {"deep": [{"er": 0.0}]}),
    ],
)
def test_value_becomes_one_that_can_be_kept(value: Any, kept: Any) -> None:
    found = plain(value)
    assert found == kept
    assert json.dumps(found) == json.dumps(kept)


def as_postgresql_keeps_it(text: str) -> Any:
    """jsonb holds every number as a decimal; an exponent is written out, and zero has no sign."""

    def number(digits: str) -> Any:
        written = format(Decimal(digits), "f")
        written = "0" + written[2:] if written.startswith("-0") and not Decimal(digits) else written
        return float(written) if "." in written else int(written)

    return json.loads(text, parse_float=number, parse_int=number)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters()),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(st.characters()) | st.integers(), inner),
    max_leaves=10,
)


@given(VALUES)
def test_kept_value_is_the_same_after_every_round_trip(value: Any) -> None:
    kept = plain(value)
    written = json.dumps(kept, sort_keys=True, ensure_ascii=False)
    written.encode()
    assert json.dumps(json.loads(written), sort_keys=True, ensure_ascii=False) == written
    assert json.dumps(as_postgresql_keeps_it(written), sort_keys=True, ensure_ascii=False) == written
    assert list(faults(kept)) == []
    assert plain(kept) == kept


@pytest.mark.parametrize(
    ("value", "places"),
    [
        ({"a": [1, {"b": "x\0"}]}, ["a[1].b"]),
        ({"a": float("inf")}, ["a"]),
        ({"a": "\udc80", "b": "fine"}, ["a"]),
        ({"a": {"k\0": 1}}, ["a.k\N{REPLACEMENT CHARACTER}"]),
        ({"a": [1.5, None, True, "ü", 10**30]}, []),
    ],
)
def test_fault_names_its_place(value: Any, places: list[str]) -> None:
    assert [place for place, _ in faults(value)] == places
