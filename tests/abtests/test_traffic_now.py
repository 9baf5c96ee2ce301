"""Today's traffic is read from the gateway's records by the rules by which decisions count."""

from __future__ import annotations

import json
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from django.core.cache import cache
from django.utils import timezone

from abtests import traffic_now
from abtests.forecast import Traffic
from abtests.traffic_now import LONGEST, measured
from deploypipe.metrics import feedback
from deploypipe.metrics.definitions import Unit
from deploypipe.metrics.sessions import session_digest
from deploypipe.metrics.windows import WHOLE
from deploypipe.stats.histogram import bin_of
from rollouts.models import Route
from tests.abtests.world import World
from tests.metrics.test_records import USUAL

pytestmark = pytest.mark.django_db

NOW = timezone.now().replace(microsecond=0)
FAILED: dict[str, Any] = {"status": 503, "events": None, "first_ms": None, "stream_error": None, "complete": None}


class Log:
    """Lines as the gateway writes them, of the live version unless they say otherwise."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def add(self, session: str, minutes_ago: float, *, took_ms: float = 100.0, **changes: Any) -> None:
        start = round(1000 * (NOW - timedelta(minutes=minutes_ago)).timestamp())
        said = {
            **USUAL, "backend": "textgen-v1", "session": session_digest(session), "start_ms": str(start),
            "duration_us": round(1000 * took_ms), "duration_ms": round(took_ms),
            "request_id": f"{session}-{minutes_ago}", **changes,
        }  # fmt: skip
        with self.path.open("a") as file:
            file.write(json.dumps(said) + "\n")


@pytest.fixture
def log(tmp_path: Path) -> Log:
    return Log(tmp_path / "access.log")


@pytest.fixture
def read(world: World, log: Log) -> Any:
    """The live version serves since two hours."""
    Route.objects.update(changed_at=NOW - timedelta(hours=2))
    return lambda now=NOW, **how: measured(world.live.model, world.environment, now, log.path, **how)


def test_requests_and_sessions_of_the_live_version_are_counted(log: Log, read: Any) -> None:
    for minute in range(30, 0, -1):
        log.add(f"user-{minute % 10}", minute)
    log.add("user-0", 0.5, **FAILED)
    found = read()
    assert (found.requests, found.sessions) == (31, 10)
    assert found.seconds == pytest.approx(30 * 60)
    assert found.per_minute(found.requests) == pytest.approx(31 / 30)
    assert found.requests_per_session == 3.1
    assert found.arm.errors == {"http_5xx": 1}
    assert found.latency_ms(0.5) == pytest.approx(55.5, rel=0.02)


def test_session_is_read_as_decisions_read_it(log: Log, read: Any) -> None:
    """Its observation takes in what ended within SESSION_SECONDS of its first request, at most ten requests."""
    log.add("ann", 10)
    log.add("ann", 9.5, **FAILED)
    log.add("ann", 8)  # two minutes later
    for _ in range(12):
        log.add("bob", 5, **FAILED)
    units = read().arm.fresh
    assert units.first == (2, 1)
    assert units.whole == {(2, 1): 1, (10, 10): 1}
    assert units.whole_latency == {bin_of(55.5): WHOLE}
    assert units.first_latency == {bin_of(55.5): 1}


@pytest.mark.parametrize(
    "changes",
    [
        {"model": "other"},
        {"environment": "staging"},
        {"backend": "textgen-v2"},
        {"group": "forced"},
        {"group": "holdout"},
        {"status": 404, "events": None, "first_ms": None, "stream_error": None, "complete": None},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_what_says_nothing_of_the_live_version_does_not_count(changes: dict[str, Any], log: Log, read: Any) -> None:
    log.add("ann", 10)
    log.add("bob", 5, **changes)
    found = read()
    assert (found.requests, found.sessions) == (1, 1)


def test_version_that_has_been_live_for_two_minutes_has_traffic_of_two_minutes(log: Log, read: Any) -> None:
    for minute in (30, 20, 10, 1.5, 1):
        log.add(f"user-{minute}", minute)
    Route.objects.update(changed_at=NOW - timedelta(minutes=2))
    found = read()
    assert (found.requests, found.seconds) == (2, 120)


def test_only_the_last_hour_counts_and_a_request_that_took_longer_hides_nothing(log: Log, read: Any) -> None:
    log.add("old", 90)
    log.add("ann", 30)
    log.add("late", 80, took_ms=79 * 60_000)
    found = read()
    assert found.sessions == 1
    assert found.seconds == 30 * 60
    assert read(NOW + LONGEST).requests == 0


def test_file_that_was_rotated_is_read_on(log: Log, read: Any) -> None:
    log.add("ann", 10)
    log.path.rename(log.path.with_name("access.log.1"))
    assert read().requests == 1
    log.add("bob", 5)
    found = read()
    assert (found.requests, found.seconds) == (2, 600)


def test_only_the_newest_lines_of_a_long_file_are_read(log: Log, read: Any) -> None:
    for place in range(100):
        log.add(f"user-{place}", 50 - place / 4)
    found = read(read_bytes=log.path.stat().st_size // 2)
    assert 45 <= found.requests <= 50
    assert found.per_minute(found.requests) == pytest.approx(found.requests / (25.25 + found.requests / 4), rel=0.05)


@pytest.mark.parametrize("content", [None, "", "no record\n{}\n"])
def test_without_records_there_is_no_traffic(content: str | None, log: Log, read: Any) -> None:
    if content is not None:
        log.path.write_text(content)
    assert read() == Traffic(0.0, read().arm)
    assert read().per_minute(5) == 0.0


def test_without_a_live_version_there_is_no_traffic(log: Log, read: Any) -> None:
    log.add("ann", 10)
    Route.objects.update(stable=None)
    assert read().requests == 0


def test_what_users_said_belongs_to_their_sessions(log: Log, read: Any) -> None:
    log.add("ann", 10)
    log.add("bob", 9)
    say(NOW, {"session": "ann", "rating": 5}, {"session": "ann", "rating": 1, "id": "again"})
    say(NOW, {"request_id": "bob-9", "rating": 4, "converted": True, "cost": 2.0, "values": {"edits": 3}})
    say(NOW, {"session": "nobody", "rating": 3})
    arm = read().arm
    assert arm.fresh.feedback.ratings == {5: 1, 4: 1}
    assert arm.fresh.feedback.conversions == (1, 1)
    assert arm.fresh.feedback.cost.mean == 2.0
    assert arm.fresh.feedback.custom["edits"].mean == 3.0
    assert arm.feedback.ratings == {5: 1, 1: 1, 4: 1}


def say(now: datetime, *items: dict[str, Any]) -> None:
    receipt = feedback.accept("production", "textgen", items, now)
    assert (receipt.accepted, receipt.rejected) == (len(items), [])


def test_traffic_is_kept_for_those_who_ask_again_and_again(world: World, log: Log, settings: Any) -> None:
    settings.GATEWAY_RECORDS = log.path
    cache.clear()
    Route.objects.update(changed_at=NOW - timedelta(hours=2))
    log.add("ann", 1)
    ask = lambda: traffic_now.traffic_now(world.live.model, world.environment)  # noqa: E731
    assert ask().units(Unit.REQUEST) == 1
    log.add("bob", 0.5)
    assert ask().units(Unit.REQUEST) == 1
    cache.clear()
    assert ask().units(Unit.SESSION) == 2
