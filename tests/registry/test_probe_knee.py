"""The highest rate that holds, on servers whose knee is known."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry.qa.probe.knee import CLOSE, Holds, Knee, Pressed, find_knee


def server(knee: float, *, hiccups: frozenset[int] = frozenset()) -> Callable[[float, int], Pressed]:
    def press(rate: float, number: int) -> Pressed:
        return Pressed(rate, Holds.YES if rate <= knee and number not in hiccups else Holds.NO, "")

    return press


def search(knee: float, **more: float) -> Knee:
    return find_knee(server(knee), start=more.get("start", 20), lowest=1, highest=200, most=14)


@pytest.mark.parametrize("knee", [1.0, 3.7, 20.0, 33.0, 71.0, 150.0])
def test_knee_lies_between_what_held_and_what_broke(knee: float) -> None:
    found = search(knee)
    assert found.held is not None
    assert found.broke is not None
    assert found.held <= knee < found.broke
    assert found.broke / found.held <= 1.2


def test_server_that_holds_at_the_highest_rate_is_pressed_no_harder() -> None:
    found = search(500)
    assert (found.held, found.broke) == (200, None)
    assert max(one.rate for one in found.pressed) == 200


def test_server_that_breaks_at_the_lowest_rate_holds_at_none() -> None:
    found = search(0.5)
    assert (found.held, found.broke) == (None, 1)
    assert min(one.rate for one in found.pressed) == 1


def test_one_hiccup_does_not_break_a_rate() -> None:
    found = find_knee(server(71, hiccups=frozenset({1, 4})), start=20, lowest=1, highest=200, most=14)
    assert found.held is not None
    assert found.broke is not None
    assert found.held <= 71 < found.broke


def test_search_ends_where_nothing_can_be_measured() -> None:
    def press(rate: float, number: int) -> Pressed:
        return Pressed(rate, Holds.UNKNOWN if rate > 30 else Holds.YES, "the probe was late")

    found = find_knee(press, start=20, lowest=1, highest=200, most=14)
    assert (found.held, found.broke) == (20, None)
    assert [one.rate for one in found.pressed] == [20, 40, 40]


@given(st.floats(0.1, 1000), st.floats(0.5, 300), st.integers(1, 20), st.frozensets(st.integers(0, 20), max_size=5))
def test_search_is_bounded_and_never_contradicts_itself(
    knee: float, start: float, most: int, hiccups: frozenset[int]
) -> None:
    found = find_knee(server(knee, hiccups=hiccups), start=start, lowest=1, highest=200, most=most)
    assert 1 <= len(found.pressed) <= most
    assert all(1 <= one.rate <= 200 for one in found.pressed)
    if found.held is not None:
        assert found.held <= knee
        assert found.broke is None or found.held < found.broke
    if not hiccups and most >= 20 and found.held and found.broke:
        assert found.broke / found.held <= CLOSE
