"""One batch as rows of `Window`: requests counted per arm, group and period, and what sessions and feedback add."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from typing import NamedTuple

from deploypipe.metrics.models import RecordCursor, Window
from deploypipe.metrics.records import Batch, Counts, Record
from deploypipe.metrics.sources.trials import Trial, Trials, milliseconds
from deploypipe.metrics.units import Split, Tally
from deploypipe.metrics.windows import feedback_to_json, units_to_json


class Place(NamedTuple):
    """Which row something is counted in. In this order they are written: rows of one period lie together."""

    environment: str
    model: str
    epoch: str
    period: int
    """0 where it is not known which split was in force."""
    backend: str
    group: str


@dataclass
class _Requests:
    counts: Counts = field(default_factory=Counts)
    first: datetime | None = None
    last: datetime | None = None

    def add(self, record: Record) -> None:
        self.counts.add(record)
        self.first = record.at if self.first is None else min(self.first, record.at)
        self.last = record.at if self.last is None else max(self.last, record.at)


def windows_of(batch: Batch, trials: Trials, cursor: RecordCursor, clock: datetime) -> list[Window]:
    """`cursor` as it was before this batch."""
    requests = _requests(batch, trials)
    tallies = {
        Place(trial.row.environment, trial.row.model, trial.row.name, period, backend, ""): tally
        for trial in trials.all()
        for (backend, period), tally in trial.counting.tallies.items()
    }
    by_name = {(trial.row.environment, trial.row.model, trial.row.name): trial for trial in trials.all()}
    places = {*requests, *tallies}
    spoken_of = {place[:3] for place in places} & set(by_name)
    for name in spoken_of:
        places |= set(_whole(by_name[name], {place.period for place in places if place[:3] == name}))
    rows = []
    for place in sorted(places):
        trial = by_name.get(place[:3])
        split = trial.split_numbered(place.period) if trial else None
        row = _row(place, requests.get(place, _Requests()), tallies.get(place, Tally()), trials.now)
        row.batch = cursor.batch + 1
        row.share = None if split is None else split.shares.get(split.arms.get(place.backend, ""))
        row.seconds = _seconds(trial, split, cursor, batch, clock)
        rows.append(row)
    for name in spoken_of:
        by_name[name].measured_until(clock)
    return rows


def _requests(batch: Batch, trials: Trials) -> dict[Place, _Requests]:
    found: dict[Place, _Requests] = {}
    for record in batch.records:
        trial = trials.running.get((record.environment, record.model))
        if trial is not None and record.start_ms < trial.since_ms:
            trial = None
        split = trial.split_at(record.start_ms) if trial else None
        place = Place(
            record.environment[:40],
            record.model[:40],
            trial.row.name if trial else "",
            split.number if split else 0,
            record.backend[:63],
            record.group[:10],
        )
        found.setdefault(place, _Requests()).add(record)
    return found


def _whole(trial: Trial, periods: set[int]) -> Iterator[Place]:
    """Every arm of each period of which there is anything, and of the one in force now: silence is a measurement."""
    for split in trial.splits:
        if split.number in periods or split.until_ms is None:
            for backend in split.arms:
                yield Place(trial.row.environment, trial.row.model, trial.row.name, split.number, backend, "")


def _seconds(trial: Trial | None, split: Split | None, cursor: RecordCursor, batch: Batch, clock: datetime) -> float:
    """Of the period, what no earlier window has told of."""
    if trial is None:
        before = cursor.clock or batch.first or clock
        return max(0.0, (clock - before).total_seconds())
    if split is None:
        return 0.0
    measured = trial.row.measured_at
    begin = max(split.since_ms, milliseconds(measured) if measured else split.since_ms)
    end = min(milliseconds(clock), split.until_ms if split.until_ms is not None else milliseconds(clock))
    return max(0, end - begin) / 1000


def _row(place: Place, requests: _Requests, tally: Tally, now: datetime) -> Window:
    counts = requests.counts
    return Window(
        environment=place.environment,
        model=place.model,
        backend=place.backend,
        group=place.group,
        epoch=place.epoch,
        period=place.period,
        first_at=requests.first or now,
        last_at=requests.last or now,
        taken_at=now,
        requests=counts.judged,
        errors=counts.failed,
        error_classes={kind.value: count for kind, count in counts.errors.items()},
        client_errors=counts.client_errors,
        sessions=len(counts.sessions),
        events=counts.events,
        first_ms=counts.first_ms.to_json(),
        duration_ms=counts.duration_ms.to_json(),
        assigned=tally.assigned,
        fresh=units_to_json(tally.fresh.frozen()),
        returning=units_to_json(tally.returning.frozen()),
        feedback=feedback_to_json(tally.words.frozen()),
    )
