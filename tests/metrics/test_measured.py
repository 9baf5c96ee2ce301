"""From stored windows to what decisions read."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from deploypipe.metrics.measured import measured
from deploypipe.metrics.models import Window
from deploypipe.metrics.windows import CANDIDATE, STABLE, from_json, to_json
from deploypipe.stats.histogram import bin_of
from tests.metrics.world import ARMS, BEGAN, FAILED, Gateway, facts, line, seen, totals

pytestmark = pytest.mark.django_db


@pytest.fixture
def gateway(tmp_path: Path) -> Gateway:
    return Gateway(tmp_path / "access.log")


def at(seconds: float) -> object:
    return BEGAN + timedelta(seconds=seconds)


def test_window_says_all_that_the_records_say(gateway: Gateway) -> None:
    gateway.write(line("a", "v1", 10), line("b", "v2", 10, **FAILED), line("c", "v1", 10, flags="DC"))
    gateway.read(12)
    (window,) = seen()
    assert (window.period, window.seconds) == (2, 12)
    assert window.shares == {STABLE: 0.9, CANDIDATE: 0.1}
    stable, candidate = window.arm(STABLE), window.arm(CANDIDATE)
    assert (stable.requests, stable.client_errors, stable.failed, stable.events) == (1, 1, 0, 12)
    assert (candidate.requests, candidate.errors) == (1, {"http_5xx": 1})
    assert stable.latency == {bin_of(55.5): 2}
    assert stable.duration == {bin_of(100): 1}
    assert from_json(to_json(window)) == window


def test_windows_come_oldest_first_and_only_the_new_ones_when_asked(gateway: Gateway) -> None:
    for moment in range(10, 15):
        gateway.serve(f"s{moment}", "v1", moment)
    windows = seen()
    assert [window.number for window in windows] == sorted({window.number for window in windows})
    assert len(windows) == 5
    assert seen(after=windows[2].number) == windows[3:]
    assert seen(after=windows[-1].number) == []


def test_both_arms_or_neither_where_a_request_began_before(gateway: Gateway) -> None:
    gateway.write(line("a", "v1", 10), line("b", "v2", 18))
    gateway.read(20)
    gateway.write(line("c", "v1", 22), line("d", "v2", 22))
    gateway.read(24)
    assert [window.arm(STABLE).requests for window in seen(since=at(15))] == [1]
    assert [window.arm(CANDIDATE).requests for window in seen(since=at(15))] == [1]
    assert len(seen(since=at(5))) == 2


def test_what_an_earlier_split_still_tells_is_not_of_this_step(gateway: Gateway) -> None:
    gateway.serve("old", "v1", 10)
    gateway.change(0.5, at=20)
    gateway.serve("new", "v1", 30)
    gateway.settle()
    assert {window.period for window in seen(since=at(21))} == {4}
    assert {window.period for window in seen()} == {2, 4}
    assert totals(seen(since=at(21)))[4, STABLE].fresh.whole == {(1, 0): 1}


def test_windows_of_other_routes_backends_and_epochs_are_left_out(gateway: Gateway) -> None:
    gateway.write(line("a", "v1", 10), line("a", "v0", 10), line("a", "v1", 10, model="other"))
    gateway.write(line("a", "v1", 10, environment="staging"))
    gateway.read(11)
    assert {place: arm.requests for place, arm in totals().items()} == {(2, STABLE): 1, (2, CANDIDATE): 0}
    assert seen(epoch="another") == []
    assert len(seen(epoch="salt")) == 1
    assert measured("production", "textgen", {"v0": STABLE}, BEGAN) == []


def test_windows_of_no_test_are_read_where_no_epoch_is_asked_for(gateway: Gateway) -> None:
    gateway.routes = []
    gateway.serve("a", "v1", 10)
    (window,) = seen()
    assert (window.shares, window.arm(STABLE).requests) == ({}, 1)


def test_three_arms_are_three_arms(gateway: Gateway) -> None:
    arms = {**ARMS, "v3": "candidate-2"}
    shares = {STABLE: 0.8, CANDIDATE: 0.1, "candidate-2": 0.1}
    gateway.routes = [facts(arms=arms, shares=shares)]
    gateway.write(*(line(f"s{n}", backend, 10) for n, backend in enumerate(arms)))
    gateway.settle()
    windows = measured("production", "textgen", arms, BEGAN)
    assert windows[0].shares == shares
    assert {name: arm.fresh.first for name, arm in windows[0].arms.items()} == dict.fromkeys(arms.values(), (1, 0))


def test_windows_up_to_a_number_are_those_that_were_judged_by_then(gateway: Gateway) -> None:
    for moment in range(10, 15):
        gateway.serve(f"s{moment}", "v1", moment)
    windows = seen()
    assert seen(until=windows[2].number) == windows[:3]
    assert seen(after=windows[0].number, until=windows[2].number) == windows[1:3]
    assert seen(until=0) == []


def test_looking_on_reads_by_an_index_and_asks_thrice(gateway: Gateway) -> None:
    for moment in range(10, 20):
        gateway.serve(f"s{moment}", "v1", moment)
    last = seen()[5].number
    with CaptureQueriesContext(connection) as captured:
        assert len(seen(after=last)) == 4
    assert len(captured) == 3
    asked = captured[-1]["sql"]
    if connection.vendor == "sqlite":
        with connection.cursor() as cursor:
            cursor.execute(f"EXPLAIN QUERY PLAN {asked}")
            plan = " ".join(str(row[-1]) for row in cursor.fetchall())
        assert "SCAN" not in plan
        assert "TEMP B-TREE" not in plan


def test_rows_that_older_code_has_written_are_read_in_its_bins(gateway: Gateway) -> None:
    gateway.serve("a", "v1", 10)
    Window.objects.filter(backend="v1").update(bins=8, first_ms={"46": 3})
    (window,) = seen()
    assert window.arm(STABLE).latency == {46 * 8 + 4: 3}
