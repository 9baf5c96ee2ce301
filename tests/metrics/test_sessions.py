"""Requests become sessions that each count once, whoever reads the log and whenever they die."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.db import DatabaseError, connections
from django.test.utils import CaptureQueriesContext

from deploypipe.metrics.models import Epoch, Period, Unit, UnitRequest, Window
from deploypipe.metrics.sessions import request_digest, session_digest
from deploypipe.metrics.sources import sessions as kept
from deploypipe.metrics.windows import CANDIDATE, MOST_REQUESTS, STABLE, WHOLE, Units
from deploypipe.stats.histogram import bin_of
from tests.metrics.world import BEGAN, FAILED, LEFT, SPAN, Gateway, facts, line, seen, stored, totals

pytestmark = pytest.mark.django_db
USUAL_BIN = bin_of(55.5)


@pytest.fixture
def gateway(tmp_path: Path) -> Gateway:
    return Gateway(tmp_path / "access.log")


def fresh(period: int = 2, arm: str = STABLE) -> Units:
    return totals()[period, arm].fresh


def returning(period: int, arm: str = STABLE) -> Units:
    return totals()[period, arm].returning


# First and whole


def test_first_reading_is_known_at_once_and_counts_once(gateway: Gateway) -> None:
    gateway.serve("ann", "v1", 10)
    gateway.serve("ann", "v1", 11, **FAILED)
    assert fresh().first == (1, 0)
    assert fresh().first_latency == {USUAL_BIN: 1}
    assert fresh().whole == {}


def test_whole_reading_is_known_when_its_time_is_over(gateway: Gateway) -> None:
    gateway.serve("ann", "v1", 10)
    gateway.serve("ann", "v1", 11, **FAILED)
    gateway.serve("ann", "v1", 12)
    gateway.read(10 + SPAN)
    assert fresh().whole == {}
    gateway.read(10 + SPAN + 3)
    assert fresh().whole == {(3, 1): 1}
    assert fresh().whole_latency == {USUAL_BIN: WHOLE}
    gateway.settle()
    assert fresh().whole == {(3, 1): 1}


def test_whole_reading_takes_in_the_first_ten_requests(gateway: Gateway) -> None:
    for number in range(MOST_REQUESTS + 3):
        gateway.serve("ann", "v2", 10 + number / 10, **(FAILED if number in (1, 11) else {}))
    gateway.settle()
    assert fresh(arm=CANDIDATE).whole == {(MOST_REQUESTS, 1): 1}
    assert sum(fresh(arm=CANDIDATE).whole_latency.values()) == WHOLE


def test_who_is_served_well_and_asks_on_is_not_counted_before_who_was_failed_and_left(gateway: Gateway) -> None:
    gateway.serve("failed", "v2", 10, **FAILED)
    for number in range(MOST_REQUESTS):
        gateway.serve("served", "v2", 10 + number / 10)
    gateway.read(10 + SPAN)
    assert fresh(arm=CANDIDATE).whole == {}
    gateway.read(10 + SPAN + 3)
    assert fresh(arm=CANDIDATE).whole == {(1, 1): 1, (MOST_REQUESTS, 0): 1}


def test_request_that_ends_after_the_session_is_over_is_not_in_it(gateway: Gateway) -> None:
    gateway.write(line("ann", "v1", 10), line("ann", "v1", 12, took=SPAN, **FAILED))
    gateway.settle()
    assert fresh().whole == {(1, 0): 1}
    assert totals()[2, STABLE].errors == {"http_5xx": 1}


def test_first_request_counts_however_long_it_took(gateway: Gateway) -> None:
    gateway.write(line("ann", "v1", 10, took=3 * SPAN, **FAILED))
    gateway.settle()
    assert fresh().first == (1, 1)
    assert fresh().whole == {(1, 1): 1}


def test_each_latency_of_a_session_weighs_its_part(gateway: Gateway) -> None:
    for number, milliseconds in enumerate((10, 10, 10, 100)):
        gateway.serve("ann", "v1", 10 + number, first_ms=milliseconds)
    gateway.settle()
    assert fresh().whole_latency == {bin_of(10): WHOLE * 3 // 4, bin_of(100): WHOLE // 4}


def test_session_that_only_failed_has_no_latency(gateway: Gateway) -> None:
    gateway.serve("ann", "v1", 10, **FAILED)
    gateway.settle()
    assert (fresh().whole, fresh().whole_latency, fresh().first_latency) == ({(1, 1): 1}, {}, {})


def test_client_that_leaves_judges_nothing(gateway: Gateway) -> None:
    gateway.serve("ann", "v1", 10, **LEFT)
    gateway.serve("bob", "v1", 10, **LEFT)
    gateway.serve("bob", "v1", 12, **FAILED)
    gateway.settle()
    assert fresh().first == (1, 1)
    assert fresh().whole == {(1, 1): 1}
    assert totals()[2, STABLE].client_errors == 2
    assert totals()[2, STABLE].assigned == 2


# Who counts


def test_request_of_before_the_epoch_belongs_to_no_session(gateway: Gateway) -> None:
    gateway.write(line("ann", "v1", -1, took=2, **FAILED))
    gateway.settle()
    assert not Unit.objects.exists()
    assert [(row.epoch, row.requests) for row in stored() if row.requests] == [("", 1)]
    assert seen() == []


def test_forced_and_held_out_requests_are_no_sessions_and_are_counted_apart(gateway: Gateway) -> None:
    gateway.write(line("ann", "v2", 10, group="forced"), line("bob", "v1", 10, group="holdout"), line("cat", "v1", 10))
    gateway.settle()
    assert {(row.group, row.backend): row.requests for row in stored() if row.requests} == {
        ("", "v1"): 1, ("forced", "v2"): 1, ("holdout", "v1"): 1,
    }  # fmt: skip
    assert Unit.objects.get().session == "cat"
    assert {place: arm.requests for place, arm in totals().items()} == {(2, STABLE): 1, (2, CANDIDATE): 0}


def test_who_looks_at_another_version_by_force_counts_no_more(gateway: Gateway) -> None:
    gateway.serve("ann", "v1", 10)
    gateway.serve("ann", "v2", 11, group="forced")
    gateway.serve("ann", "v1", 12, **FAILED)
    gateway.settle()
    assert fresh().whole == {(1, 0): 1}


def test_forced_request_on_ones_own_arm_is_not_in_the_session(gateway: Gateway) -> None:
    gateway.serve("ann", "v1", 10)
    gateway.serve("ann", "v1", 11, group="forced", **FAILED)
    gateway.serve("ann", "v1", 12)
    gateway.settle()
    assert fresh().whole == {(2, 0): 1}


def test_route_without_facts_has_windows_but_no_sessions(gateway: Gateway) -> None:
    gateway.write(line("ann", "v1", 10, model="other"))
    gateway.settle()
    row = Window.objects.get(model="other")
    assert (row.requests, row.epoch, row.share, row.fresh) == (1, "", None, {})
    assert not Unit.objects.exists()


def test_reading_without_facts_counts_requests_alone(gateway: Gateway, tmp_path: Path) -> None:
    from deploypipe.metrics.sources.gateway import read

    gateway.write(line("ann", "v1", 10))
    assert read(gateway.log) == [1]
    assert not Epoch.objects.exists()


# The split changes


def test_sessions_come_back_after_a_ramp_and_count_as_returning(gateway: Gateway) -> None:
    gateway.serve("ann", "v2", 10)
    gateway.serve("bob", "v1", 10)
    gateway.change(0.5, at=20)
    gateway.serve("ann", "v2", 30, **FAILED)
    gateway.serve("bob", "v1", 30)
    gateway.serve("new", "v1", 31)
    gateway.settle()
    assert fresh(2, CANDIDATE).first == (1, 0)
    assert returning(4, CANDIDATE).first == (1, 1)
    assert (fresh(4, CANDIDATE).first, fresh(4).first) == ((0, 0), (1, 0))
    assert returning(4).whole == {(1, 0): 1}
    assert {window.period: window.shares for window in seen()} == {
        2: {STABLE: 0.9, CANDIDATE: 0.1}, 4: {STABLE: 0.5, CANDIDATE: 0.5},
    }  # fmt: skip


def test_session_that_moves_with_the_weight_counts_for_neither_arm_again(gateway: Gateway) -> None:
    gateway.serve("ann", "v1", 10)
    gateway.change(0.5, at=20)
    gateway.serve("ann", "v2", 30, **FAILED)
    gateway.serve("ann", "v1", 31, **FAILED)
    gateway.change(0.9, at=40)
    gateway.serve("ann", "v2", 50, **FAILED)
    gateway.settle()
    assert fresh(2).whole == {(1, 0): 1}
    assert all(totals()[place].fresh.first == (0, 0) for place in ((4, STABLE), (4, CANDIDATE), (6, CANDIDATE)))
    assert all(totals()[place].returning.first == (0, 0) for place in ((4, STABLE), (4, CANDIDATE), (6, CANDIDATE)))
    assert totals()[4, CANDIDATE].requests == 1


def test_request_under_way_while_the_split_changes_counts_where_it_began(gateway: Gateway) -> None:
    gateway.write(line("ann", "v1", 10))
    gateway.change(0.5, at=20)
    gateway.write(line("ann", "v1", 15, took=10, **FAILED), line("slow", "v2", 16, took=12, **FAILED))
    gateway.settle()
    assert fresh(2).whole == {(2, 1): 1}
    assert fresh(2, CANDIDATE).whole == {(1, 1): 1}
    assert totals()[2, STABLE].requests == 2
    assert (4, STABLE) in totals()
    assert totals()[4, CANDIDATE].requests == 0


def test_what_began_while_the_split_was_being_written_counts_in_no_period(gateway: Gateway) -> None:
    gateway.read(19)
    gateway.routes = [facts(0.5, period=3, period_since=None)]
    gateway.write(line("ann", "v1", 19.5))
    gateway.read(20)
    gateway.routes = [facts(0.5, period=4, period_since=BEGAN + timedelta(seconds=20.5))]
    gateway.serve("bob", "v1", 20.2)
    gateway.serve("ann", "v1", 30)
    gateway.settle()
    assert {place: arm.fresh.first for place, arm in totals().items() if arm.requests} == {(4, STABLE): (1, 0)}
    assert [(row.period, row.share, row.requests) for row in stored() if row.period == 0] == [
        (0, None, 1), (0, None, 1),
    ]  # fmt: skip


def test_request_of_an_earlier_split_that_ends_after_one_of_the_next_counts_in_neither(gateway: Gateway) -> None:
    gateway.serve("ann", "v1", 10)
    gateway.change(0.5, at=20)
    gateway.serve("ann", "v1", 30)
    gateway.serve("ann", "v1", 15, took=20, **FAILED)
    gateway.settle()
    assert (fresh(2).whole, returning(4).whole) == ({(1, 0): 1}, {(1, 0): 1})
    assert totals()[2, STABLE].errors == {"http_5xx": 1}


def test_while_one_version_stands_in_for_another_nobody_counts(gateway: Gateway) -> None:
    """The candidate's server is away: all are on stable, and that is not what was promised to either arm."""
    gateway.serve("ann", "v1", 10)
    gateway.read(20)
    gateway.routes = [facts(period=4, period_since=BEGAN + timedelta(seconds=20), shares={})]
    gateway.serve("ann", "v1", 30, **FAILED)
    gateway.serve("bob", "v1", 30, **FAILED)
    gateway.routes = [facts(period=6, period_since=BEGAN + timedelta(seconds=40))]
    gateway.serve("bob", "v1", 50)
    gateway.settle()
    assert {window.period for window in seen()} == {2, 6}
    assert fresh(2).whole == {(1, 0): 1}
    assert fresh(6).whole == {(1, 0): 1}


def test_splits_that_nobody_saw_are_not_guessed(gateway: Gateway) -> None:
    """The reader was away while the split went from 10 to 30 to 50: what began in between met nobody knows what."""
    gateway.serve("ann", "v1", 10)
    gateway.routes = [facts(0.5, period=6, period_since=BEGAN + timedelta(seconds=200))]
    gateway.write(line("bob", "v1", 100), line("cat", "v1", 210))
    gateway.settle()
    assert {place: arm.fresh.first for place, arm in totals().items() if arm.requests} == {
        (2, STABLE): (1, 0), (6, STABLE): (1, 0),
    }  # fmt: skip


def test_new_salt_draws_everybody_anew(gateway: Gateway) -> None:
    gateway.serve("ann", "v1", 10)
    gateway.routes = [facts(epoch="other", since=BEGAN + timedelta(seconds=20), period=4,
                            period_since=BEGAN + timedelta(seconds=20))]  # fmt: skip
    gateway.serve("ann", "v2", 30, **FAILED)
    gateway.settle()
    assert totals(seen(epoch="salt"))[2, STABLE].fresh.whole == {(1, 0): 1}
    assert totals(seen(epoch="other"))[4, CANDIDATE].fresh.whole == {(1, 1): 1}
    assert Epoch.objects.get(name="salt").ended_at is not None


def test_sessions_of_a_test_that_ended_are_still_brought_to_their_end(gateway: Gateway) -> None:
    gateway.serve("ann", "v1", 10)
    gateway.routes = []
    gateway.read(20)
    gateway.read(100)
    assert fresh().whole == {(1, 0): 1}
    assert totals()[2, STABLE].assigned == 1


# Assigned


def test_assigned_counts_sessions_whatever_came_of_them_and_however_long_it_took(gateway: Gateway) -> None:
    """A slow version must not look as if it were given fewer sessions: they count by when they began."""
    gateway.write(line("quick", "v1", 10), line("left", "v1", 10, **LEFT), line("slow", "v2", 10, took=40))
    gateway.read(55)
    assert {arm.assigned for arm in totals().values()} == {0}
    gateway.read(10 + SPAN + 3)
    assert (totals()[2, STABLE].assigned, totals()[2, CANDIDATE].assigned) == (2, 1)
    gateway.settle()
    assert (totals()[2, STABLE].assigned, totals()[2, CANDIDATE].assigned) == (2, 1)


def test_assigned_is_for_sessions_that_are_new_to_the_epoch_and_began_well_within_a_split(gateway: Gateway) -> None:
    gateway.serve("soon", "v1", 0.5)
    gateway.serve("ann", "v1", 10)
    gateway.change(0.5, at=20)
    gateway.serve("ann", "v2", 30)
    gateway.serve("early", "v2", 20.5)
    gateway.serve("new", "v2", 30)
    gateway.settle()
    assert {place: arm.assigned for place, arm in totals().items() if arm.assigned} == {
        (2, STABLE): 1, (4, CANDIDATE): 1,
    }  # fmt: skip


def test_session_that_moved_was_assigned_to_its_first_arm(gateway: Gateway) -> None:
    gateway.serve("ann", "v1", 10)
    gateway.change(0.5, at=20)
    gateway.serve("ann", "v2", 30)
    gateway.settle()
    assert totals()[2, STABLE].assigned == 1
    assert totals()[4, CANDIDATE].assigned == 0


# Time


def test_seconds_of_all_windows_are_the_time_that_was_watched(gateway: Gateway) -> None:
    for at in (10, 10.5, 30, 47):
        gateway.serve("ann", "v1", at)
    gateway.change(0.5, at=50)
    gateway.write(line("ann", "v1", 49, took=4))
    gateway.read(60)
    gateway.settle(100)
    per_period: dict[int, float] = {}
    for window in seen():
        per_period[window.period] = per_period.get(window.period, 0) + window.seconds
    assert per_period == {2: pytest.approx(50), 4: pytest.approx(50)}


def test_silence_of_one_arm_is_a_measurement(gateway: Gateway) -> None:
    gateway.serve("ann", "v1", 10)
    (window,) = seen()
    assert set(window.arms) == {STABLE, CANDIDATE}
    assert window.arm(CANDIDATE).requests == 0


def test_nothing_new_writes_nothing(gateway: Gateway) -> None:
    gateway.serve("ann", "v1", 10)
    gateway.settle()
    before = Window.objects.count()
    for at in range(1001, 1010):
        assert gateway.read(at) == []
    assert Window.objects.count() == before


# Reading


def story() -> list[str]:
    lines = []
    for number in range(60):
        session, backend = f"s{number % 17}", "v2" if number % 17 < 4 else "v1"
        lines.append(line(session, backend, 5 + number * 1.7, **(FAILED if number % 7 == 0 else {})))
    return lines


def in_pieces(gateway: Gateway, sizes: list[int]) -> None:
    """Each time so many lines, read when they have ended."""
    lines, done = story(), 0
    for size in sizes:
        gateway.write(*lines[done : done + size])
        done = min(len(lines), done + size)
        gateway.read(5 + (done - 1) * 1.7 + 0.1)
    gateway.write(*lines[done:])
    gateway.settle()


@pytest.mark.parametrize("sizes", [[60], [1] * 60, [7] * 8, [0, 30, 0, 0, 29], [59, 1]])
def test_any_batching_of_the_same_records_counts_the_same_sessions(gateway: Gateway, sizes: list[int]) -> None:
    in_pieces(gateway, sizes)
    for arm, sessions in ((CANDIDATE, 4), (STABLE, 13)):
        units = fresh(arm=arm)
        assert units.first[0] == sessions
        assert sum(units.whole.values()) == sessions
        assert totals()[2, arm].assigned == sessions
    assert fresh().first == (13, 2)
    assert sum(n * count for (n, _), count in fresh().whole.items()) == 39


def test_backlog_is_read_by_the_records_clock(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    """The reader was away for an hour: what lies in a later batch still belongs to the session of an earlier one."""
    filler = [line(f"f{number}", "v1", 11 + number / 1000, path="/" + "x" * 240) for number in range(7_000)]
    gateway.write(line("ann", "v2", 10), *filler, line("ann", "v2", 30, **FAILED))
    assert len(gateway.read(3600)) == 2
    assert fresh(arm=CANDIDATE).whole == {(2, 1): 1}
    assert fresh().whole == {(1, 0): 7_000}


class PowerCut(BaseException):
    pass


TABLES = ["metrics_recordcursor", 'metrics_unit"', "metrics_unitrequest", "metrics_window", "metrics_epoch"]


@pytest.mark.parametrize("table", TABLES)
@pytest.mark.parametrize("error", [PowerCut, DatabaseError])
def test_crash_between_any_two_steps_loses_and_doubles_nothing(
    gateway: Gateway, table: str, error: type[BaseException]
) -> None:
    gateway.write(*story()[:30])
    gateway.read(60)
    gateway.write(*story()[30:])

    def cut(execute: Callable[..., Any], sql: str, params: Any, many: bool, context: Any) -> Any:
        result = execute(sql, params, many, context)
        if sql.startswith(("INSERT", "UPDATE")) and table in sql:
            raise error("the power fails")
        return result

    before = seen()
    with pytest.raises(error), connections["default"].execute_wrapper(cut):
        gateway.read(110)
    assert seen() == before
    gateway.read(110)
    gateway.settle()
    assert fresh().first == (13, 2)
    assert (sum(fresh().whole.values()), sum(fresh(arm=CANDIDATE).whole.values())) == (13, 4)


@pytest.fixture
def closing() -> Iterator[None]:
    yield
    connections.close_all()


@pytest.mark.django_db(transaction=True)
def test_readers_at_once_count_each_session_once(gateway: Gateway, closing: None) -> None:
    ended = threading.Event()
    faults: list[BaseException] = []

    def read() -> None:
        try:
            while not ended.is_set():
                gateway.read(200)
        except BaseException as error:
            faults.append(error)
        finally:
            connections.close_all()

    readers = [threading.Thread(target=read) for _ in range(3)]
    for reader in readers:
        reader.start()
    for each in range(40):
        gateway.write(*(line(f"s{each}-{n}", "v1", 195 + each / 100) for n in range(5)))
    ended.set()
    for reader in readers:
        reader.join(30)
    assert not faults
    gateway.settle()
    assert fresh().first == (200, 0)
    assert fresh().whole == {(1, 0): 200}
    assert totals()[2, STABLE].requests == 200


def test_queries_do_not_grow_with_requests(gateway: Gateway) -> None:
    def queries(count: int, at: float) -> int:
        gateway.write(*(line(f"s{at}-{n}", "v1", at) for n in range(count)))
        with CaptureQueriesContext(connections["default"]) as captured:
            gateway.read(at + 1)
        return len(captured)

    queries(1, 10)
    few, more = queries(5, 20), queries(50, 30)
    assert more <= few + 3  # of fifty rows, an insert takes a second piece


# What is kept


def test_sessions_and_requests_are_forgotten_an_hour_after_the_test(gateway: Gateway) -> None:
    gateway.serve("ann", "v1", 10)
    gateway.settle()
    gateway.routes = []
    gateway.read(1100)
    later = kept.KEPT.total_seconds()
    gateway.read(1000 + later)
    assert Unit.objects.count() == 1
    for _ in range(4):
        gateway.read(1200 + later)
    assert [model.objects.count() for model in (Unit, UnitRequest, Period, Epoch)] == [0, 0, 1, 1]
    assert fresh().whole == {(1, 0): 1}


def test_nobody_is_fresh_in_a_test_that_comes_back_after_its_sessions_were_forgotten(gateway: Gateway) -> None:
    """Whoever comes may have been counted before: a question about the whole test may not count her again."""
    gateway.serve("ann", "v1", 10)
    gateway.settle()
    there, gateway.routes = gateway.routes, []
    for at in (1100, 1200 + kept.KEPT.total_seconds(), 1201 + kept.KEPT.total_seconds()):
        gateway.read(at)
    assert Epoch.objects.get().forgotten_at is not None
    gateway.routes = there
    for name in ("ann", "bob"):
        gateway.serve(name, "v1", 9_000)
    gateway.settle(9_100)
    assert (fresh().first, returning(2).first, totals()[2, STABLE].assigned) == ((1, 0), (2, 0), 1)
    assert (Epoch.objects.get().forgotten_at, Epoch.objects.get().resumed) == (None, True)


def test_a_test_that_comes_back_with_its_salt_goes_on(gateway: Gateway) -> None:
    """Both servers were away for a moment, and the route had one arm."""
    gateway.serve("ann", "v1", 10)
    there, gateway.routes = gateway.routes, []
    gateway.read(20)
    gateway.routes = there
    gateway.serve("ann", "v1", 30, **FAILED)
    gateway.settle()
    assert Epoch.objects.get().ended_at is None
    assert fresh().whole == {(2, 1): 1}


def test_digests_stay_as_they_are() -> None:
    """Stored ones must be found again; tests/rollouts/test_envoy_sticky.py holds them to the gateway's."""
    assert session_digest("user-1") == "11ae37c7f3f85627"
    assert session_digest("é" * 300) == "410a5ab78f3025b5"
    assert request_digest("user-1") == "9aac5a8621eae188"
