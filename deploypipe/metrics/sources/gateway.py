"""The gateway's records become windows in the database, each line counted exactly once."""

from __future__ import annotations

import logging
from datetime import datetime
from pathlib import Path

from django.db import transaction
from django.db.models import F
from django.utils import timezone

from deploypipe.metrics.models import RecordCursor, Window
from deploypipe.metrics.records import Batch, Counts, Cursor, read_new

logger = logging.getLogger(__name__)

CURSOR = "gateway"
MOST_BATCHES = 8
"""In one go; what is left is read a second later."""


def read(path: Path) -> list[int]:
    """Read what is new; the numbers of the batches that hold any window."""
    written: list[int] = []
    for _ in range(MOST_BATCHES):
        cursor, _ = RecordCursor.objects.get_or_create(name=CURSOR)
        # The file is read outside of the transaction; the conditional update below lets only one reader count it.
        batch = read_new(path, _position(cursor))
        if _store(cursor, batch, timezone.now()) and batch.counts:
            written.append(cursor.batch + 1)
        if not batch.more:
            break
    return written


def _position(cursor: RecordCursor) -> Cursor | None:
    return Cursor(cursor.inode, cursor.device, cursor.offset) if cursor.inode else None


@transaction.atomic
def _store(cursor: RecordCursor, batch: Batch, now: datetime) -> bool:
    place = batch.cursor
    moved = RecordCursor.objects.filter(pk=cursor.pk, batch=cursor.batch).update(
        inode=place.inode if place else 0,
        device=place.device if place else 0,
        offset=place.offset if place else 0,
        batch=F("batch") + 1,
        records=F("records") + sum(counts.requests for counts in batch.counts.values()),
        garbage=F("garbage") + batch.garbage,
        read_at=now,
    )
    if not moved:
        return False
    if batch.garbage:
        logger.warning("%d lines of the gateway's log are no records", batch.garbage)
    if batch.lost:
        logger.warning("the gateway's log was replaced before it was read to its end: some requests were not counted")
    Window.objects.bulk_create(
        _window(arm, counts, cursor.batch + 1, batch, now) for arm, counts in batch.counts.items()
    )
    return True


def _window(arm: tuple[str, str, str], counts: Counts, number: int, batch: Batch, now: datetime) -> Window:
    environment, model, backend = arm
    first, last = batch.spans[arm]
    return Window(
        batch=number,
        environment=environment[:40],
        model=model[:40],
        backend=backend[:63],
        first_at=first,
        last_at=last,
        taken_at=now,
        requests=counts.judged,
        errors=counts.failed,
        error_classes={kind.value: count for kind, count in counts.errors.items()},
        client_errors=counts.client_errors,
        sessions=len(counts.sessions),
        events=counts.events,
        first_ms=counts.first_ms.to_json(),
        duration_ms=counts.duration_ms.to_json(),
    )
