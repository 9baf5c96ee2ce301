"""the sessions of the tests that are under way, between the database and the rules of `metrics.units`.

Everything here happens in the transaction that moves the cursor of the records, so each request is met exactly once.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from datetime import timedelta
from typing import Any, TypeVar

from django.db.models import QuerySet

from deploypipe.metrics import units
from deploypipe.metrics.models import Epoch, Unit, UnitRequest
from deploypipe.metrics.records import Record
from deploypipe.metrics.sessions import request_digest
from deploypipe.metrics.sources.trials import FORCED, Trial, Trials
from deploypipe.metrics.sources.upsert import upsert
from deploypipe.metrics.units import Session

KEPT = timedelta(hours=1)
"""After an epoch has ended, its sessions stay: the test may come back, and so may what users say."""
_IN_ONE_QUERY = 900
_FORGET_AT_ONCE = 5_000

_STATE = (
    "backend", "period", "first_backend", "first_period", "began_ms", "opened_ms", "requests", "failed", "latencies",
    "named", "assigned", "counted", "returning", "moved", "closed", "said",
)  # fmt: skip
T = TypeVar("T")


def meet(trial: Trial, records: Sequence[Record], clock_ms: int | None) -> None:
    """Count these requests of the trial's route, in the order of the log, and what is due by now of their sessions."""
    records = [record for record in records if trial.takes(record)]
    known = load(trial.row, {record.session for record in records})
    touched: dict[str, Session] = {}
    for record in records:
        name = record.session
        session = touched.get(name) or known.get(name)
        if record.group == FORCED and (session is None or session.backend == record.backend):
            continue  # somebody looks at a version; only who was drawn for another one is spoilt by it
        split = trial.split_at(record.start_ms)
        if name not in trial.sample and not (
            session is not None and session.is_under_way(record, split, trial.counting.span_ms)
        ):
            continue
        if session is None:
            trial.sample.grow()
        touched[name] = units.meet(session, record, split, trial.counting, resumed=trial.row.resumed)
    for session in touched.values():
        if clock_ms is not None:
            units.pass_time(session, clock_ms, trial.counting)
    store(trial, touched)
    _name(trial)
    trial.keep_sample()


def settle(trials: Trials, clock_ms: int) -> None:
    """Count what waited for time alone, of every session."""
    due: dict[int, dict[str, Session]] = {}
    rows = Unit.objects.filter(due_ms__lte=clock_ms).values_list("epoch_id", "session", *_STATE)
    for epoch_id, name, *state in rows.iterator(chunk_size=2_000):
        due.setdefault(epoch_id, {})[name] = Session(*state)
    for epoch_id, sessions in due.items():
        trial = trials.of_epoch(epoch_id)
        for session in sessions.values():
            units.pass_time(session, clock_ms, trial.counting)
        _store_settled(trial, sessions)


def _store_settled(trial: Trial, sessions: dict[str, Session]) -> None:
    """As `store`; but of most of them only two marks have changed, the same for all."""
    done = [name for name, session in sessions.items() if session.closed and session.assigned]
    rows = Unit.objects.filter(epoch=trial.row)
    for names in pieces(done):
        rows.filter(session__in=names).update(assigned=True, closed=True, due_ms=None)
    store(trial, {name: session for name, session in sessions.items() if not (session.closed and session.assigned)})


def load(epoch: Epoch, names: Iterable[str]) -> dict[str, Session]:
    found: dict[str, Session] = {}
    for some in pieces(sorted(names)):
        rows = Unit.objects.filter(epoch=epoch, session__in=some).values_list("session", *_STATE)
        found |= {name: Session(*state) for name, *state in rows}
    return found


def store(trial: Trial, sessions: dict[str, Session]) -> None:
    span_ms = trial.counting.span_ms
    rows = (
        (trial.row.pk, name, session.due_ms(span_ms), *(_column(getattr(session, column)) for column in _STATE))
        for name, session in sessions.items()
    )
    columns = ("epoch_id", "session", "due_ms", *_STATE)
    upsert(Unit, columns, rows, unique=("epoch_id", "session"), update=True)


def _column(value: Any) -> Any:
    return json.dumps(value) if isinstance(value, list) else value


def _name(trial: Trial) -> None:
    rows = (
        (trial.row.pk, request_digest(record.request_id), record.session)
        for record in trial.counting.named
        if record.request_id
    )
    # A client may give two requests one id: the first one has it.
    upsert(UnitRequest, ("epoch_id", "digest", "session"), rows, unique=("epoch_id", "digest"), update=False)


def forget(trials: Trials) -> None:
    """A piece of what nobody will ask for any more; the next read goes on."""
    for trial in trials.running.values():
        if trial.sample.halvings:
            _forget_some(Unit.objects.filter(epoch=trial.row, session__gte=trial.sample.end, due_ms=None))
    over = Epoch.objects.filter(ended_at__lt=trials.now - KEPT, forgotten_at=None).order_by("pk").first()
    if over is None:
        return
    if _forget_some(Unit.objects.filter(epoch=over, due_ms=None)) or Unit.objects.filter(epoch=over).exists():
        return
    Epoch.objects.filter(pk=over.pk).update(forgotten_at=trials.now)


def _forget_some(rows: QuerySet[Unit]) -> int:
    """Of one epoch's; with them the names of their requests."""
    some = list(rows.order_by("session").values_list("epoch_id", "session")[:_FORGET_AT_ONCE])
    for piece in pieces([session for _, session in some]):
        for model in (UnitRequest, Unit):
            model._default_manager.filter(epoch=some[0][0], session__in=piece).delete()
    return len(some)


def pieces(items: Sequence[T]) -> Iterator[Sequence[T]]:
    """As many as may stand in one query."""
    for start in range(0, len(items), _IN_ONE_QUERY):
        yield items[start : start + _IN_ONE_QUERY]
