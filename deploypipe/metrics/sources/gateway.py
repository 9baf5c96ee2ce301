"""The gateway's records become windows in the database, each line counted exactly once."""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from django.conf import settings
from django.db import transaction
from django.db.models import F
from django.utils import timezone

from deploypipe.metrics import feedback
from deploypipe.metrics.facts import Facts, RouteFacts
from deploypipe.metrics.models import RecordCursor, Window
from deploypipe.metrics.records import Batch, Cursor, Record, read_new
from deploypipe.metrics.sources import sessions
from deploypipe.metrics.sources.rows import windows_of
from deploypipe.metrics.sources.trials import Key, Trials, milliseconds
from deploypipe.metrics.units import LAG_MS

__all__ = ["CURSOR", "Facts", "RouteFacts", "read"]

logger = logging.getLogger(__name__)

CURSOR = "gateway"
MOST_BATCHES = 8
"""In one go; what is left is read a second later."""


def read(path: Path, facts: Facts | None = None, *, clock: Callable[[], datetime] = timezone.now) -> list[int]:
    """Read what is new; the numbers of the batches that hold any window. Without facts no session is counted."""
    written: list[int] = []
    for _ in range(MOST_BATCHES):
        cursor, _ = RecordCursor.objects.get_or_create(name=CURSOR)
        asked = clock()
        # The file is read outside of the transaction; the conditional update below lets only one reader count it.
        batch = read_new(path, _position(cursor))
        if _store(cursor, batch, facts, asked):
            written.append(cursor.batch + 1)
        if not batch.more:
            break
    return written


def _position(cursor: RecordCursor) -> Cursor | None:
    return Cursor(cursor.inode, cursor.device, cursor.offset) if cursor.inode else None


@transaction.atomic
def _store(cursor: RecordCursor, batch: Batch, facts: Facts | None, asked: datetime) -> bool:
    """Whether there is any window. `asked` is from before the file was read: all that ended by then is known."""
    clock = _clock(batch, asked)
    if not _move(cursor, batch, asked, clock):
        return False
    trials = Trials(asked, int(settings.SESSION_SECONDS * 1000), settings.SESSIONS_REMEMBERED)
    if facts is not None:
        trials.learn(facts(), cursor.read_at)
    lag = milliseconds(clock) - LAG_MS if clock is not None else None
    of_route: dict[Key, list[Record]] = {}
    for record in batch.records:
        of_route.setdefault((record.environment, record.model), []).append(record)
    for key, trial in trials.running.items():
        sessions.meet(trial, of_route.get(key, []), lag)
    if lag is not None:
        sessions.settle(trials, lag)
    feedback.match(trials)
    sessions.forget(trials)
    feedback.forget(trials.now)
    return bool(Window.objects.bulk_create(windows_of(batch, trials, cursor, clock or asked)))


def _clock(batch: Batch, asked: datetime) -> datetime | None:
    """Up to when all is known. While much is left to read, that is not now."""
    if not batch.more:
        return asked
    return None if batch.ended_ms is None else min(asked, datetime.fromtimestamp(batch.ended_ms / 1000, UTC))


def _move(cursor: RecordCursor, batch: Batch, now: datetime, clock: datetime | None) -> bool:
    place = batch.cursor
    moved = RecordCursor.objects.filter(pk=cursor.pk, batch=cursor.batch).update(
        inode=place.inode if place else 0,
        device=place.device if place else 0,
        offset=place.offset if place else 0,
        batch=F("batch") + 1,
        records=F("records") + len(batch.records),
        garbage=F("garbage") + batch.garbage,
        read_at=now,
        clock=clock or cursor.clock,
    )
    if moved and batch.garbage:
        logger.warning("%d lines of the gateway's log are no records", batch.garbage)
    if moved and batch.lost:
        logger.warning("the gateway's log was replaced before it was read to its end: some requests were not counted")
    return bool(moved)
