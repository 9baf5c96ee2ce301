"""Today's traffic of a live version, read from the gateway's records: what a forecast is made of.

Windows count sessions only while a test is under way, so sessions are counted anew here, from the newest lines, by the
same rules.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime, timedelta
from itertools import takewhile
from pathlib import Path

from django.conf import settings
from django.core.cache import cache
from django.utils import timezone

from abtests.forecast import Traffic
from deploypipe.metrics import feedback, units
from deploypipe.metrics.definitions import Unit
from deploypipe.metrics.models import Feedback as Said
from deploypipe.metrics.records import Counts, Record, parse_line
from deploypipe.metrics.sessions import request_digest
from deploypipe.metrics.sources.trials import FORCED
from deploypipe.metrics.units import Counting, Session, Split
from deploypipe.metrics.windows import ArmWindow
from registry.models import RegisteredModel
from rollouts.models import Environment, Route

LONGEST = timedelta(minutes=60)
READ_BYTES = 4 * 1024 * 1024
"""Of the newest lines; about 10,000 requests."""
MOST_WORDS = 20_000
KEPT_SECONDS = 30
"""Somebody who is filling in a form asks many times."""
_PERIOD = 1
_ALWAYS = Split(_PERIOD, since_ms=0, until_ms=None, arms={}, shares={})


def traffic_now(model: RegisteredModel, environment: Environment) -> Traffic:
    """Of its live version, in the last hour at most. Without traffic it has no requests."""
    key = f"abtests.traffic.{model.pk}.{environment.pk}"
    kept: Traffic | None = cache.get(key)
    if kept is None:
        kept = measured(model, environment, timezone.now(), Path(settings.GATEWAY_RECORDS))
        if kept.requests:  # the first ones should be seen as soon as they come
            cache.set(key, kept, KEPT_SECONDS)
    return kept


def arriving(model: RegisteredModel, environment: Environment, unit: Unit) -> float:
    """Requests or sessions a minute that some version of it has answered, in the last hour at most. Those of before the
    last change of the split count, too: where an experiment begins, that was a moment ago."""
    now = timezone.now()
    newest = list(_newest(_lines_backwards(Path(settings.GATEWAY_RECORDS), READ_BYTES), now - LONGEST))
    mine = [
        record
        for record in newest
        if (record.environment, record.model) == (environment.name, model.name)
        and record.group != FORCED
        and record.judges
    ]
    if not mine:
        return 0.0
    seconds = max(1.0, now.timestamp() - min(record.start_ms for record in newest) / 1000)
    count = len(mine) if unit is Unit.REQUEST else len({record.session for record in mine if record.session})
    return 60 * count / seconds


def measured(
    model: RegisteredModel, environment: Environment, now: datetime, records: Path, *, read_bytes: int = READ_BYTES
) -> Traffic:
    route = Route.objects.filter(model=model, environment=environment).select_related("stable").first()
    if route is None or route.stable is None:
        return Traffic(0.0, ArmWindow())
    newest = list(_newest(_lines_backwards(records, read_bytes), now - LONGEST))
    if not newest:
        return Traffic(0.0, ArmWindow())
    # A version that has been live for two minutes has traffic of two minutes.
    begins = max(min(record.start_ms for record in newest) / 1000, route.changed_at.timestamp())
    seconds = max(1.0, now.timestamp() - begins)
    here = (environment.name, model.name, route.stable.name)
    mine = [
        record
        for record in newest
        if (record.environment, record.model, record.backend) == here
        and not record.group
        and record.start_ms >= 1000 * begins
    ]
    said = Said.objects.filter(environment=environment.name, model=model.name, received_at__gte=now - LONGEST)
    words = list(said.order_by("pk")[:MOST_WORDS])
    return Traffic(seconds, summed(mine[::-1], words, session_seconds=settings.SESSION_SECONDS))


def _newest(lines: Iterable[bytes], since: datetime) -> Iterator[Record]:
    """From the newest backwards."""
    wanted = since.timestamp() * 1000
    records = (record for line in lines if (record := parse_line(line)) is not None)
    # A request is recorded when it ends: one that took an hour may stand among the newest.
    return (record for record in takewhile(lambda r: r.ended_ms >= wanted, records) if record.start_ms >= wanted)


def _lines_backwards(path: Path, left: int) -> Iterator[bytes]:
    """Of the file and of the one that was rotated last, as far as so many bytes reach."""
    for file in (path, path.with_name(f"{path.name}.1")):
        try:
            with file.open("rb") as stream:
                size = stream.seek(0, os.SEEK_END)
                stream.seek(max(0, size - left))
                content = stream.read(left)
        except OSError:
            continue  # rotated in this moment, or never; that records cannot be read at all is said by the monitor
        lines = content.split(b"\n")
        if len(content) < size:
            lines = lines[1:]  # began in the midst of one
        yield from (line for line in reversed(lines) if line)
        left -= len(content)
        if left <= 0:
            return


def summed(records: Sequence[Record], said: Iterable[Said] = (), *, session_seconds: float) -> ArmWindow:
    """One version's requests, in the order in which they ended, and what was said of their sessions: as one window.

    Sessions that still go on are counted as far as they have come.
    """
    counts, counting = Counts(), Counting(round(1000 * session_seconds))
    sessions: dict[str, Session] = {}
    for record in records:
        counts.add(record)
        if record.session:
            sessions[record.session] = units.meet(sessions.get(record.session), record, _ALWAYS, counting)
    for session in sessions.values():
        units.close(session, counting)
    names = {request_digest(record.request_id): record.session for record in records}
    for word in said:
        session_named = sessions.get(word.session or names.get(word.request, ""))
        if session_named is not None:
            feedback.hear(session_named, word, counting)
    tally = counting.of(records[0].backend if records else "", _PERIOD)
    return ArmWindow(
        requests=counts.judged,
        errors={kind.value: count for kind, count in counts.errors.items()},
        client_errors=counts.client_errors,
        latency=counts.first_ms.counts,
        duration=counts.duration_ms.counts,
        events=counts.events,
        fresh=tally.fresh.frozen(),
        feedback=tally.words.frozen(),
    )
