"""What users say reaches the session that it is about, once."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.db import DatabaseError, connections

from deploypipe.metrics import feedback
from deploypipe.metrics.models import Feedback, FeedbackTotals
from deploypipe.metrics.sessions import session_digest
from deploypipe.metrics.windows import CANDIDATE, STABLE, ArmWindow
from deploypipe.metrics.windows import Feedback as Words
from deploypipe.stats.samples import Moments
from tests.metrics.world import BEGAN, Gateway, facts, line, seen, totals

pytestmark = pytest.mark.django_db


@pytest.fixture
def gateway(tmp_path: Path) -> Gateway:
    return Gateway(tmp_path / "access.log")


def say(at: float, *items: dict[str, Any], model: str = "textgen") -> feedback.Receipt:
    return feedback.accept("production", model, items, BEGAN + timedelta(seconds=at))


def on(user: str, **said: Any) -> dict[str, Any]:
    return {"session": user, **said}


def arm(name: str = STABLE, period: int = 2) -> ArmWindow:
    return totals().get((period, name), ArmWindow())


def serve(gateway: Gateway, user: str, backend: str, at: float, **changes: Any) -> None:
    gateway.serve(session_digest(user), backend, at, **changes)


def state() -> tuple[int, int, int]:
    found = FeedbackTotals.objects.get(model="textgen")
    return found.waiting, found.matched, found.unmatched


def test_rating_counts_for_the_arm_of_its_session(gateway: Gateway) -> None:
    serve(gateway, "ann", "v2", 10)
    say(12, on("ann", rating=4, converted=True, cost=0.5, values={"edits": 3}))
    gateway.read(13)
    words = Words({4: 1}, (1, 1), Moments(1, 0.5, 0.25), {"edits": Moments(1, 3.0, 9.0)})
    assert arm(CANDIDATE).fresh.feedback == words
    assert arm(CANDIDATE).feedback == words
    assert arm(STABLE).feedback == Words()
    assert state() == (0, 1, 0)


def test_first_word_of_each_kind_counts_and_all_of_them_are_shown(gateway: Gateway) -> None:
    serve(gateway, "ann", "v1", 10)
    say(12, on("ann", rating=4), on("ann", rating=1), on("ann", cost=2))
    gateway.read(13)
    say(14, on("ann", rating=5), on("ann", converted=False, cost=9))
    gateway.read(15)
    assert arm().fresh.feedback == Words({4: 1}, (1, 0), Moments(1, 2.0, 4.0), {})
    assert arm().feedback == Words({4: 1, 1: 1, 5: 1}, (1, 0), Moments(2, 11.0, 85.0), {})


def test_request_finds_its_session(gateway: Gateway) -> None:
    serve(gateway, "ann", "v2", 10, request_id="r-1")
    serve(gateway, "bob", "v1", 10.5, request_id="r-2")
    say(12, {"request_id": "r-1", "rating": 2}, {"request_id": "r-2", "rating": 5}, {"request_id": "r-3", "rating": 1})
    gateway.read(13)
    assert (arm(CANDIDATE).fresh.feedback.ratings, arm().fresh.feedback.ratings) == ({2: 1}, {5: 1})
    assert state() == (1, 2, 0)


def test_only_the_first_requests_of_a_session_are_known_by_name(gateway: Gateway) -> None:
    for number in range(12):
        serve(gateway, "ann", "v1", 10 + number, request_id=f"r-{number}")
    say(30, *({"request_id": f"r-{number}", "rating": 5} for number in (0, 9, 10)))
    gateway.read(31)
    assert state() == (1, 2, 0)


def test_word_that_comes_before_its_record_waits_for_it(gateway: Gateway) -> None:
    """A user rates a stream that is still going on: its record comes when it has ended."""
    gateway.read(5)
    say(10, on("ann", rating=4))
    gateway.read(11)
    assert state() == (1, 0, 0)
    gateway.write(line(session_digest("ann"), "v2", 8, took=40))
    for at in range(48, 80):
        gateway.read(at)
    assert arm(CANDIDATE).fresh.feedback.ratings == {4: 1}
    assert state() == (0, 1, 0)


def test_word_on_a_session_that_never_comes_is_given_up_after_ten_minutes(gateway: Gateway) -> None:
    gateway.read(5)
    say(10, on("ann", rating=4))
    gateway.read(600)
    assert state() == (1, 0, 0)
    gateway.read(641)
    assert state() == (0, 0, 1)
    serve(gateway, "ann", "v1", 650)
    gateway.read(660)
    assert arm().feedback == Words()
    assert Feedback.objects.get().state == "unmatched"


def test_what_waits_is_looked_for_less_and_less_often(gateway: Gateway) -> None:
    gateway.read(5)
    say(10, *(on(f"s{number}", rating=4) for number in range(50)))
    looks = 0

    def count(execute: Any, sql: str, params: Any, many: bool, context: Any) -> Any:
        nonlocal looks
        looks += sql.startswith("UPDATE") and "metrics_feedback" in sql
        return execute(sql, params, many, context)

    with connections["default"].execute_wrapper(count):
        for at in range(11, 611):
            gateway.read(at)
    assert 20 < looks < 40


def test_said_after_the_split_changed_it_counts_where_the_session_is_counted_now(gateway: Gateway) -> None:
    serve(gateway, "ann", "v2", 10)
    serve(gateway, "bob", "v2", 10)
    say(12, on("ann", rating=4))
    gateway.change(0.5, at=20)
    serve(gateway, "ann", "v2", 30)
    say(31, on("ann", rating=2), on("bob", rating=5))
    gateway.read(32)
    assert arm(CANDIDATE).fresh.feedback.ratings == {4: 1, 5: 1}
    assert arm(CANDIDATE, 4).returning.feedback.ratings == {2: 1}
    assert arm(CANDIDATE, 4).fresh.feedback.ratings == {}


def test_session_that_moved_is_heard_but_decides_nothing(gateway: Gateway) -> None:
    serve(gateway, "ann", "v1", 10)
    gateway.change(0.5, at=20)
    serve(gateway, "ann", "v2", 30)
    say(31, on("ann", rating=1))
    gateway.read(32)
    heard = [arm(name, period).feedback.ratings for name in (STABLE, CANDIDATE) for period in (2, 4)]
    assert sum(sum(ratings.values()) for ratings in heard) == 1
    assert all(a.fresh.feedback == Words() == a.returning.feedback for a in totals().values())


def test_with_a_new_salt_only_what_was_said_of_the_new_test_counts_there(gateway: Gateway) -> None:
    serve(gateway, "ann", "v1", 10, request_id="r-1")
    gateway.routes = [
        facts(epoch="other", since=BEGAN + timedelta(seconds=20), period=4, period_since=BEGAN + timedelta(seconds=20))
    ]
    gateway.read(21)
    said = on("ann", rating=3, at=(BEGAN + timedelta(seconds=15)).isoformat())
    say(30, said, on("ann", rating=5), {"request_id": "r-1", "rating": 1})
    gateway.read(31)
    assert totals(seen(epoch="salt"))[2, STABLE].feedback.ratings == {3: 1, 1: 1}
    assert state() == (1, 2, 0)
    serve(gateway, "ann", "v2", 40)
    gateway.read(50)
    assert totals(seen(epoch="other"))[4, CANDIDATE].fresh.feedback.ratings == {5: 1}


def test_word_of_another_model_stays_away(gateway: Gateway) -> None:
    serve(gateway, "ann", "v1", 10)
    say(12, on("ann", rating=4), model="other")
    gateway.read(13)
    assert arm().feedback == Words()


def test_twice_sent_is_once_counted(gateway: Gateway) -> None:
    serve(gateway, "ann", "v1", 10)
    items = [on("ann", rating=4), on("ann", rating=4), on("ann", rating=5, id="7"), on("bob", rating=1, id="7")]
    first = say(12, *items)
    assert (first.accepted, first.duplicates) == (2, 2)
    again = say(13, *items)
    assert (again.accepted, again.duplicates) == (0, 4)
    gateway.read(14)
    assert arm().feedback.ratings == {4: 1, 5: 1}
    later = say(20, *items)
    assert (later.accepted, later.duplicates) == (0, 4)
    totals = FeedbackTotals.objects.get()
    assert (totals.accepted, totals.duplicates, totals.rejected) == (2, 10, 0)


def test_same_id_for_another_model_is_another_item() -> None:
    assert say(1, on("ann", rating=4, id="7")).accepted == 1
    assert say(1, on("ann", rating=4, id="7"), model="other").accepted == 1


def test_no_id_is_kept(gateway: Gateway) -> None:
    say(1, on("ann-the-user", rating=4, id="order-of-ann"), {"request_id": "request-of-ann", "rating": 2})
    assert "ann" not in str(list(Feedback.objects.values()))


class PowerCut(BaseException):
    pass


@pytest.mark.parametrize("table", ['metrics_feedback"', "metrics_feedbacktotals", 'metrics_unit"', "metrics_window"])
@pytest.mark.parametrize("error", [PowerCut, DatabaseError])
def test_crash_while_it_is_matched_loses_and_doubles_nothing(
    gateway: Gateway, table: str, error: type[BaseException]
) -> None:
    serve(gateway, "ann", "v1", 10)
    say(12, on("ann", rating=4), on("nobody", rating=1))

    def cut(execute: Any, sql: str, params: Any, many: bool, context: Any) -> Any:
        result = execute(sql, params, many, context)
        if sql.startswith(("INSERT", "UPDATE")) and table in sql:
            raise error("the power fails")
        return result

    with pytest.raises(error), connections["default"].execute_wrapper(cut):
        gateway.read(13)
    assert state() == (2, 0, 0)
    gateway.read(13)
    gateway.read(14)
    assert arm().feedback.ratings == {4: 1}
    assert arm().fresh.feedback.ratings == {4: 1}
    assert state() == (1, 1, 0)


def test_what_is_a_day_old_is_forgotten(gateway: Gateway) -> None:
    serve(gateway, "ann", "v1", 10)
    say(12, on("ann", rating=4))
    gateway.read(13)
    gateway.read(12 + feedback.KEPT.total_seconds())
    assert Feedback.objects.count() == 1
    gateway.read(14 + feedback.KEPT.total_seconds())
    assert Feedback.objects.count() == 0
    assert state() == (0, 1, 0)
