"""However many sessions there are, only so many are remembered, whatever arm they met and whatever came of them."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deploypipe.metrics import feedback
from deploypipe.metrics.models import Epoch, FeedbackTotals, RecordCursor, Unit, UnitRequest
from deploypipe.metrics.sessions import session_digest
from deploypipe.metrics.units import Sample
from deploypipe.metrics.windows import CANDIDATE, STABLE, Measured
from rollouts.bucketing import bucket
from tests.metrics.world import FAILED, SPAN, Gateway, facts, line, seen, totals

MOST = 40


@pytest.fixture
def gateway(tmp_path: Path, settings: Any, db: None) -> Gateway:
    settings.SESSIONS_REMEMBERED = MOST
    return Gateway(tmp_path / "access.log")


def names(count: int) -> list[str]:
    return [session_digest(f"user-{number}") for number in range(count)]


def traffic(count: int, *, begin: float = 5.0, each: int = 1) -> list[str]:
    """A session every tenth of a second, each in one arm of two; one in seven fails."""
    lines = []
    for number, name in enumerate(names(count)):
        arm = "v2" if number % 3 == 0 else "v1"
        outcome = FAILED if number % 7 == 0 else {}
        lines += [line(name, arm, begin + number / 10 + k / 100, **outcome) for k in range(each)]
    return lines


def serve(gateway: Gateway, lines: list[str], *, batch: int = 10) -> None:
    for first in range(0, len(lines), batch):
        gateway.write(*lines[first : first + batch])
        gateway.read(10 + first / 10)


def sample() -> Sample:
    epoch = Epoch.objects.get()
    return Sample(MOST, epoch.halvings, epoch.sampled)


# Who is in it


@given(st.integers(2, 50), st.lists(st.integers(0, 2**64 - 1).map(lambda number: f"{number:016x}"), unique=True))
def test_sample_never_holds_more_than_its_most_for_long_and_only_loses_who_was_in_it(
    largest: int, offered: list[str]
) -> None:
    drawn = Sample(largest)
    inside: set[str] = set()
    for name in offered:
        before = {one for one in inside if one in drawn}
        if name in drawn:
            inside.add(name)
            drawn.grow()
        assert {one for one in before if one in drawn} <= before
        assert name not in drawn or drawn.halvings == 0 or name < drawn.end
        assert drawn.size < largest


@pytest.mark.parametrize("halvings", [0, 1, 3, 5])
def test_each_halving_takes_half_of_them_and_half_of_each_arm(halvings: int) -> None:
    drawn = Sample(10**9, halvings)
    offered = [f"user-{number}" for number in range(40_000)]
    stayed = [user for user in offered if session_digest(user) in drawn]
    expected = 40_000 / 2**halvings
    assert abs(len(stayed) - expected) <= 4 * expected**0.5
    of_candidate = sum(bucket(user, salt="5eed") < 1_000 for user in stayed)
    assert abs(of_candidate - 0.1 * len(stayed)) <= 4 * (0.09 * len(stayed)) ** 0.5


# What is counted


def test_below_its_most_everybody_counts(gateway: Gateway) -> None:
    serve(gateway, traffic(MOST - 1))
    gateway.settle()
    assert sample().halvings == 0
    assert sum(arm.fresh.first[0] for arm in totals().values()) == MOST - 1


def test_many_sessions_leave_few_rows_and_each_counts_at_most_once(gateway: Gateway) -> None:
    serve(gateway, traffic(1_000, each=2), batch=40)
    gateway.settle()
    gateway.read(1_001)
    assert sample().halvings >= 3
    assert Unit.objects.count() <= MOST
    assert all(name in sample() for name in Unit.objects.values_list("session", flat=True))
    assert UnitRequest.objects.count() == 2 * Unit.objects.count()
    before = {arm: totals()[2, arm].fresh for arm in (STABLE, CANDIDATE)}
    counted = sum(units.first[0] for units in before.values())
    assert MOST <= counted < 300
    # They all come back: nobody is counted again, also not who was forgotten.
    serve(gateway, traffic(1_000, begin=2_000), batch=100)
    gateway.settle(5_000)
    assert {arm: totals()[2, arm].fresh for arm in (STABLE, CANDIDATE)} == before


def test_every_session_that_counts_is_counted_to_its_end(gateway: Gateway) -> None:
    serve(gateway, traffic(400, each=3), batch=30)
    gateway.settle()
    for arm in (STABLE, CANDIDATE):
        units = totals()[2, arm].fresh
        assert sum(units.whole.values()) == units.first[0]
        assert {requests for requests, _ in units.whole} == {3}
        assert sum(count for (_, failed), count in units.whole.items() if failed) == units.first[1]


def test_all_requests_are_counted_whether_their_session_is_or_not(gateway: Gateway) -> None:
    serve(gateway, traffic(500))
    gateway.settle()
    assert sum(arm.requests for arm in totals().values()) == 500


@pytest.mark.parametrize("seed", range(4))
def test_any_batching_draws_the_same_sample_and_counts_the_same(gateway: Gateway, tmp_path: Path, seed: int) -> None:
    rng = random.Random(seed)
    lines = traffic(300, each=2)
    gateway.write(*lines)
    gateway.settle()
    at_once, drawn = totals(), sample()
    assert drawn.halvings >= 2
    Epoch.objects.all().delete()
    RecordCursor.objects.all().delete()
    again = Gateway(tmp_path / "again.log", routes=[facts(epoch="another")])
    first = 0
    while first < len(lines):
        some = lines[first : first + rng.randint(1, 60)]
        again.write(*some)
        first += len(some)
        again.read(5 + first / 20 + 0.1)
    again.settle()
    assert sample() == drawn
    assert totals(of("another")) == at_once


def of(epoch: str) -> list[Measured]:
    return seen(epoch=epoch)


def test_feedback_of_somebody_outside_of_the_sample_finds_no_test(gateway: Gateway) -> None:
    serve(gateway, traffic(200), batch=20)
    gateway.settle()
    users = [f"user-{number}" for number in range(200)]
    said = [{"session": user, "rating": 4} for user in users]
    feedback.accept("production", "textgen", said, gateway.now)
    gateway.read(1_010)
    gateway.read(1_020 + feedback.PATIENCE.total_seconds())
    remembered = Unit.objects.count()
    found = FeedbackTotals.objects.get()
    assert (found.matched, found.unmatched) == (remembered, 200 - remembered)
    words = [totals()[2, arm].fresh.feedback.ratings.get(4, 0) for arm in (STABLE, CANDIDATE)]
    assert sum(words) == remembered


def test_halving_waits_for_who_is_under_way(gateway: Gateway) -> None:
    """A session that has begun is observed to its end, though it is not in the sample any more."""
    outside = next(name for name in names(100) if name >= "8")
    gateway.write(line(outside, "v1", 5))
    gateway.write(*(line(name, "v1", 6 + number / 100) for number, name in enumerate(names(MOST)) if name != outside))
    gateway.read(8)
    assert sample().halvings == 1
    gateway.serve(outside, "v1", 10, **FAILED)
    assert Unit.objects.filter(session=outside).exists()
    gateway.read(5 + SPAN + 5)
    gateway.read(5 + SPAN + 6)
    assert not Unit.objects.filter(session=outside).exists()
    assert totals()[2, STABLE].fresh.whole[2, 1] == 1
