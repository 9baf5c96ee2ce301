"""Which tests are under way: what the routes say, kept in rows, so that late records find the split of their time."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime

from django.db.models import Q

from deploypipe.metrics import units
from deploypipe.metrics.facts import RouteFacts
from deploypipe.metrics.models import Epoch, Period
from deploypipe.metrics.records import Record
from deploypipe.metrics.units import Counting, Sample, Split

FORCED = "forced"

Key = tuple[str, str]
"""Environment and model."""


@dataclass
class Trial:
    """One epoch, and what this batch adds to it."""

    row: Epoch
    splits: list[Split]
    """Oldest first. Where nothing is promised (one version stands in for another), nobody counts."""
    counting: Counting
    sample: Sample

    def __post_init__(self) -> None:
        self.since_ms = milliseconds(self.row.since)
        self.backends = {backend for split in self.splits for backend in split.arms}
        self.splits = [split for split in self.splits if split.shares]

    def takes(self, record: Record) -> bool:
        drawn = record.group in ("", FORCED)
        return record.start_ms >= self.since_ms and record.backend in self.backends and drawn and bool(record.session)

    def split_at(self, moment_ms: int) -> Split | None:
        return units.split_at(self.splits, moment_ms)

    def keep_sample(self) -> None:
        if (self.sample.halvings, self.sample.size) != (self.row.halvings, self.row.sampled):
            Epoch.objects.filter(pk=self.row.pk).update(halvings=self.sample.halvings, sampled=self.sample.size)

    def measured_until(self, clock: datetime) -> None:
        """Windows up to there are about to be written."""
        if self.row.measured_at is None or clock > self.row.measured_at:
            Epoch.objects.filter(pk=self.row.pk).update(measured_at=clock)

    def split_numbered(self, number: int) -> Split | None:
        return next((split for split in self.splits if split.number == number), None)


@dataclass
class Trials:
    """All that are asked for in one batch."""

    now: datetime
    span_ms: int
    largest_sample: int
    running: dict[Key, Trial] = field(default_factory=dict)
    over: dict[int, Trial] = field(default_factory=dict)
    """By the epoch's id: ended ones that something was still counted for."""

    def of_epoch(self, pk: int) -> Trial:
        for trial in self.running.values():
            if trial.row.pk == pk:
                return trial
        if pk not in self.over:
            self.over[pk] = self._trial(Epoch.objects.prefetch_related("periods").get(pk=pk))
        return self.over[pk]

    def all(self) -> list[Trial]:
        return [*self.running.values(), *self.over.values()]

    def learn(self, facts: Iterable[RouteFacts], last_read: datetime | None) -> None:
        """Take note of which tests are under way; `last_read` is when that was last asked."""
        told = {(each.environment, each.model): each for each in facts if len(each.arms) > 1}
        rows = self._rows(told)
        for key, each in told.items():
            row = rows.pop((*key, each.epoch), None) or self._begin(each)
            if row.ended_at is not None:
                row.resumed = row.resumed or row.forgotten_at is not None
                Epoch.objects.filter(pk=row.pk).update(ended_at=None, forgotten_at=None, resumed=row.resumed)
            self.running[key] = self._trial(row, _learn_split(row, each, last_read))
        _end([row for row in rows.values() if row.ended_at is None], last_read, self.now)

    def _rows(self, told: dict[Key, RouteFacts]) -> dict[tuple[str, str, str], Epoch]:
        wanted = Q(ended_at=None) | Q(name__in=[each.epoch for each in told.values()])
        rows = Epoch.objects.filter(wanted).prefetch_related("periods")
        return {(row.environment, row.model, row.name): row for row in rows}

    def _begin(self, facts: RouteFacts) -> Epoch:
        return Epoch.objects.create(
            environment=facts.environment, model=facts.model, name=facts.epoch, since=facts.since
        )

    def _trial(self, row: Epoch, periods: Iterable[Period] | None = None) -> Trial:
        found = row.periods.all() if periods is None else periods
        sample = Sample(self.largest_sample, row.halvings, row.sampled)
        return Trial(row, [_split(period) for period in found], Counting(self.span_ms), sample)


def _learn_split(row: Epoch, facts: RouteFacts, last_read: datetime | None) -> list[Period]:
    """The epoch's periods, with the one in force now as the last.

    What began after the last look and before the new split was in force belongs to no period: it may have met either.
    """
    periods = list(row.periods.all())
    latest = periods[-1] if periods else None
    if latest is not None and latest.number == facts.period:
        if latest.until is not None:  # it was not told of for a while, and no other has come in between
            latest.until = None
            latest.save(update_fields=["until"])
        return periods
    if latest is not None and latest.until is None:
        latest.until = max(latest.since, last_read or latest.since)
        latest.save(update_fields=["until"])
    if facts.period_since is not None and (latest is None or latest.number < facts.period):
        since = max(facts.period_since, facts.since)
        new = Period(epoch=row, number=facts.period, since=since, arms=dict(facts.arms), shares=dict(facts.shares))
        new.save(force_insert=True)
        periods.append(new)
    return periods


def _end(rows: list[Epoch], last_read: datetime | None, now: datetime) -> None:
    if not rows:
        return
    Epoch.objects.filter(pk__in=[row.pk for row in rows]).update(ended_at=now)
    for period in Period.objects.filter(epoch__in=rows, until=None):
        period.until = max(period.since, last_read or period.since)
        period.save(update_fields=["until"])


def _split(period: Period) -> Split:
    until = None if period.until is None else milliseconds(period.until)
    return Split(period.number, milliseconds(period.since), until, period.arms, period.shares)


def milliseconds(moment: datetime) -> int:
    return int(moment.timestamp() * 1000)
