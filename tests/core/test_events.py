from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from django.db import transaction

from deploypipe.core import events
from deploypipe.core.events import Event

pytestmark = pytest.mark.django_db(transaction=True)


@dataclass(frozen=True)
class KettleBoiled(Event):
    kettle: int


@pytest.fixture
def heard() -> Iterator[list[KettleBoiled]]:
    kept: list[KettleBoiled] = []
    events.subscribe(KettleBoiled, kept.append)
    yield kept
    events.unsubscribe(KettleBoiled, kept.append)


def test_event_is_told_after_the_commit_only(heard: list[KettleBoiled]) -> None:
    with transaction.atomic():
        events.announce(KettleBoiled(1))
        assert heard == []
    assert heard == [KettleBoiled(1)]


def test_event_of_a_change_that_was_rolled_back_is_never_told(heard: list[KettleBoiled]) -> None:
    with transaction.atomic():
        events.announce(KettleBoiled(1))
        transaction.set_rollback(True)
    assert heard == []


def test_event_of_an_inner_change_that_was_rolled_back_is_never_told(heard: list[KettleBoiled]) -> None:
    with transaction.atomic():
        events.announce(KettleBoiled(1))
        with transaction.atomic():
            events.announce(KettleBoiled(2))
            transaction.set_rollback(True)
    assert heard == [KettleBoiled(1)]


def test_outside_of_a_transaction_it_is_told_at_once(heard: list[KettleBoiled]) -> None:
    events.announce(KettleBoiled(1))
    assert heard == [KettleBoiled(1)]


def test_failing_listener_stops_neither_the_next_nor_the_verb(caplog: pytest.LogCaptureFixture) -> None:
    told: list[str] = []

    def fails(event: KettleBoiled) -> None:
        told.append("first")
        raise RuntimeError("burnt")

    def works(event: KettleBoiled) -> None:
        told.append("second")

    events.subscribe(KettleBoiled, fails)
    events.subscribe(KettleBoiled, works)
    try:
        with caplog.at_level(logging.CRITICAL, logger="deploypipe.core.events"), transaction.atomic():
            events.announce(KettleBoiled(1))
    finally:
        events.unsubscribe(KettleBoiled, fails)
        events.unsubscribe(KettleBoiled, works)
    assert told == ["first", "second"]


def test_listener_is_told_once_however_often_it_subscribes(heard: list[KettleBoiled]) -> None:
    events.subscribe(KettleBoiled, heard.append)
    events.announce(KettleBoiled(1))
    assert heard == [KettleBoiled(1)]
