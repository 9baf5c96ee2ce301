from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry import progress
from registry.progress import SERVER_START, Left, UnderWay
from registry.qa.base import Check


def check(name: str, *, server: bool = True, alone: bool = False, last: bool = False) -> type[Check]:
    facts = {"name": f"made.{name}", "label": name.title(), "needs_server": server, "alone": alone, "last": last}
    return type(name, (Check,), facts)


FILES = check("files", server=False)
TOGETHER = [check(f"together{n}") for n in range(5)]
LOAD = check("load", alone=True)
LAST = check("last", last=True)
CHECKS = [FILES, *TOGETHER, LOAD, LAST]
TIMES = {FILES.name: 3.0, **{one.name: 1.0 for one in TOGETHER}, LOAD.name: 6.0, LAST.name: 2.0, SERVER_START: 10.0}


def left(*done: type[Check], under_way: tuple[UnderWay, ...] = (), seconds: float = 0.0) -> Left:
    return progress.left(CHECKS, TIMES, done={c.name for c in done}, under_way=under_way, seconds=seconds)


def test_at_the_beginning_all_is_left_and_four_run_at_once() -> None:
    assert left().seconds == 3 + 10 + 2 + 6 + 2  # five checks of a second on four places take two


def test_what_runs_counts_for_what_it_still_needs() -> None:
    running = UnderWay(LOAD.name, "Load", 4.5)
    assert left(FILES, *TOGETHER, under_way=(running,)).seconds == 1.5 + 2


def test_server_that_is_being_started_is_waited_for_from_then_on() -> None:
    assert left(FILES, seconds=4).seconds == 6 + 2 + 6 + 2
    assert left(FILES, seconds=60).seconds == 2 + 6 + 2


def test_it_is_never_less_than_nothing_and_says_when_it_takes_longer() -> None:
    slow = UnderWay(LAST.name, "Last", 60.0)
    late = left(FILES, *TOGETHER, LOAD, under_way=(slow,))
    assert (late.seconds, late.overdue, late.sentence) == (0.0, ("Last",), "longer than usual")
    a_little = UnderWay(LAST.name, "Last", 3.0)
    assert left(FILES, *TOGETHER, LOAD, under_way=(a_little,)).sentence == "nearly done"


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.4, "nearly done"), (1.2, "about 1 s left"), (12.4, "about 12 s left"), (13.2, "about 14 s left"),
     (62, "about 1 min left"), (83, "about 1 min 20 s left"), (725, "about 12 min left")],
)  # fmt: skip
def test_time_left_is_said_as_exactly_as_it_is_known(seconds: float, words: str) -> None:
    assert Left(seconds).sentence == words


def test_median_of_the_newest_times_is_expected_else_what_is_typical() -> None:
    times = progress.expected([FILES, LOAD], {LOAD.name: [6.0, 5.0, 90.0, 7.0, 6.5, 1000.0, 1000.0]})
    assert times[LOAD.name] == 6.5
    assert times[FILES.name] == progress.TYPICAL_FILES
    assert times[SERVER_START] == progress.TYPICAL_SERVER_START


def test_time_that_no_check_accounts_for_is_the_servers_start() -> None:
    took = {name: seconds for name, seconds in TIMES.items() if name != SERVER_START}
    assert progress.idle(23.0, CHECKS, took) == 10.0
    assert progress.idle(5.0, CHECKS, took) == 0.0


@given(
    st.sets(st.sampled_from([c.name for c in CHECKS])),
    st.dictionaries(st.sampled_from([c.name for c in CHECKS]), st.floats(0, 1e4)),
    st.floats(0, 1e5),
)
def test_it_is_never_negative_and_more_work_done_never_makes_it_longer(
    done: set[str], running: dict[str, float], seconds: float
) -> None:
    under_way = [UnderWay(name, name, at) for name, at in running.items() if name not in done]
    now = progress.left(CHECKS, TIMES, done=done, under_way=under_way, seconds=seconds).seconds
    everything = progress.left(CHECKS, TIMES, done={c.name for c in CHECKS}, under_way=(), seconds=seconds).seconds
    assert 0 <= everything <= now <= sum(TIMES.values())
