"""What a program may say, and what it is told where it says something else."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deploypipe.metrics.feedback_items import Item, parse
from deploypipe.metrics.sessions import request_digest, session_digest

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


def one(**said: Any) -> Item:
    parsed = parse([said], NOW)
    assert parsed.rejected == []
    return parsed.items[0]


def test_session_is_known_by_the_gateways_digest_alone() -> None:
    item = one(session="user-1", rating=4)
    assert (item.session, item.request) == (session_digest("user-1"), "")
    assert "user-1" not in repr(item)


def test_request_is_known_by_its_digest() -> None:
    item = one(request_id="r-1", converted=False, cost=0.5, values={"edits": 3})
    assert (item.session, item.request) == ("", request_digest("r-1"))
    assert (item.rating, item.converted, item.cost, item.values) == (None, False, 0.5, {"edits": 3.0})


def test_key_is_the_senders_or_of_all_that_is_said() -> None:
    usual: dict[str, Any] = {"session": "a", "rating": 4}
    assert one(**usual).key == one(**usual).key
    different: list[dict[str, Any]] = [
        {"rating": 5},
        {"session": "b"},
        {"at": "2026-01-02T03:04:04Z"},
        {"converted": True},
        {"id": "7"},
    ]
    assert len({one(**{**usual, **change}).key for change in [{}, *different]}) == 6
    assert one(**usual, id="7").key == one(session="b", rating=1, id="7").key


def test_moment_is_the_senders_and_never_ahead_of_now() -> None:
    assert one(session="a", rating=4).said_at == NOW
    assert one(session="a", rating=4, at="2026-01-02T04:04:00+01:00").said_at == NOW - timedelta(seconds=5)
    assert one(session="a", rating=4, at="2026-01-02T03:06:00Z").said_at == NOW


A = {"session": "a"}
WRONG: dict[str, tuple[Any, str, str, str]] = {
    "no object": (7, "", "7", "give an object"),
    "nobody": ({"rating": 4}, "session", "missing", "give session or request_id"),
    "two": ({**A, "request_id": "r", "rating": 4}, "session", "beside request_id", "give session or request_id"),
    "empty session": ({"session": "", "rating": 4}, "session", "a text of 0 characters", "1 to 1000 characters"),
    "session no text": ({"session": 12345, "rating": 4}, "session", "no text", "give a text"),
    "session half a pair": ({"session": "\ud800", "rating": 4}, "session", "a text of 1 characters", "give a text"),
    "long request": ({"request_id": "x" * 1001, "rating": 4}, "request_id", "a text of 1001 characters", "1000"),
    "nothing": (A, "rating", "missing", "at least one of rating, converted, cost, values"),
    "six stars": ({**A, "rating": 6}, "rating", "6", "1 to 5"),
    "half a star": ({**A, "rating": 4.5}, "rating", "4.5", "1 to 5"),
    "stars as text": ({**A, "rating": "5"}, "rating", '"5"', "1 to 5"),
    "stars as truth": ({**A, "rating": True}, "rating", "true", "1 to 5"),
    "converted as number": ({**A, "converted": 1}, "converted", "1", "true or false"),
    "cost below nothing": ({**A, "cost": -1}, "cost", "-1", "not below 0"),
    "cost beyond": ({**A, "cost": 1e13}, "cost", "10000000000000.0", "at most 1,000,000,000,000"),
    "cost of thousands of digits": ({**A, "cost": 10**400}, "cost", "1" + "0" * 58 + "…", "at most"),
    "cost as text": ({**A, "cost": "1"}, "cost", '"1"', "give a number"),
    "values no object": ({**A, "values": [1]}, "values", "[1]", "1 to 20 names"),
    "no values": ({**A, "values": {}}, "values", "{}", "1 to 20 names"),
    "many values": ({**A, "values": {f"v{n}": 1 for n in range(21)}}, "values", '{"v0": 1', "1 to 20 names"),
    "name of a value": ({**A, "values": {"Edits": 3}}, "values.Edits", "3", "small letters"),
    "value no number": ({**A, "values": {"edits": "3"}}, "values.edits", '"3"', "give a number"),
    "id no text": ({**A, "rating": 4, "id": 7}, "id", "no text", "1 to 100 characters"),
    "moment without a zone": ({**A, "rating": 4, "at": "2026-01-02T03:04:05"}, "at", '"2026-01-02', "with its zone"),
    "no moment": ({**A, "rating": 4, "at": "yesterday"}, "at", '"yesterday"', "with its zone"),
    "moment as number": ({**A, "rating": 4, "at": 1760000000}, "at", "1760000000", "with its zone"),
    "moment before time": ({**A, "rating": 4, "at": "0001-01-01T00:00:00+14:00"}, "at", '"0001', "with its zone"),
    "moment ahead": ({**A, "rating": 4, "at": "2026-01-02T04:00:00Z"}, "at", '"2026', "not ahead of now"),
    "another field": ({**A, "rating": 4, "comment": "bad"}, "comment", '"bad"', "session, request_id, rating"),
}


@pytest.mark.parametrize(("said", "field", "value", "right"), WRONG.values(), ids=WRONG.keys())
def test_rejection_names_field_value_and_what_would_be_right(said: Any, field: str, value: str, right: str) -> None:
    parsed = parse([{**A, "rating": 1}, said], NOW)
    assert len(parsed.items) == 1
    (rejected,) = parsed.rejected
    assert (rejected.index, rejected.field) == (1, field)
    assert rejected.value.startswith(value)
    assert right in rejected.right


def test_rejection_never_repeats_an_id() -> None:
    parsed = parse([{"session": "secret-user" * 200, "rating": 1}, {"session": "secret-user", "rating": 9}], NOW)
    assert len(parsed.rejected) == 2
    assert "secret-user" not in repr(parsed)


anything = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(),
    lambda below: st.lists(below, max_size=3) | st.dictionaries(st.text(), below, max_size=3),
    max_leaves=5,
)
names = st.sampled_from(["session", "request_id", "rating", "converted", "cost", "values", "id", "at"]) | st.text()


@given(st.lists(st.dictionaries(names, anything, max_size=6) | anything, max_size=5))
def test_whatever_is_said_is_taken_or_rejected(items: list[Any]) -> None:
    parsed = parse(items, NOW)
    assert len(parsed.items) + len(parsed.rejected) == len(items)
