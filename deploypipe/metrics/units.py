"""How requests become sessions that each count once. Pure: `sources/sessions.py` keeps them in the database.

Every rule reads what the records say, in the order of the log, and never when they were read: any batching of the same
records counts the same. None of them asks for an outcome before it decides whether to count.

- A session belongs to the arm that its first request met. If it meets another one, because the weight grew or a server
  died, it counts for neither from then on.
- Its observation in a period opens with the start of the first request that says something of the model, and takes in
  what ended within `span_ms`, at most `MOST_REQUESTS`. A request belongs to the period in which it began.
- It is counted `span_ms` after it opened, however soon its requests were complete. Users whom a version fails leave,
  and the others ask on: counted when complete, the well-served would come first and a bad version would look good for a
  minute, which is all that the proof of half a point takes at twenty sessions a second.
- `assigned` counts it `span_ms` after its first request began, however quick the answer was: else a slow version would
  seem to be given fewer sessions.
- Each must be remembered as long as it may come back, and a client without cookies is a new one with every request. So
  only a sample counts, of so many at most: whenever there are as many, it is halved, by the sessions' names, and who is
  not in it any more is neither counted nor remembered. Names know nothing of arms and outcomes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from deploypipe.metrics.records import Record
from deploypipe.metrics.windows import MOST_REQUESTS, WHOLE, Feedback, Units
from deploypipe.stats.histogram import bin_of
from deploypipe.stats.samples import Moments

SETTLING_MS = 2_000
"""After a change of the split: sessions that begin so soon after it are not in `assigned`."""
LAG_MS = 2_000
"""What ended so long ago is in the log, whatever the gateway still holds back."""
_NAME_BITS = 32
"""Of a session's name that place it in the sample: its first eight hexadecimal digits."""


@dataclass(frozen=True, slots=True)
class Split:
    """A period as the reader knows it."""

    number: int
    since_ms: int
    until_ms: int | None
    """Beyond this it is not known to have been in force; None while it is."""
    arms: Mapping[str, str]
    """Backend → arm."""
    shares: Mapping[str, float]
    """Arm → share of new sessions."""

    def __contains__(self, moment_ms: int) -> bool:
        return self.since_ms <= moment_ms and (self.until_ms is None or moment_ms < self.until_ms)


@dataclass(slots=True)
class Sample:
    """Which sessions of an epoch count, in the order of the log."""

    largest: int
    halvings: int = 0
    size: int = 0
    """About: after a halving it is taken to be half of what it was."""

    @property
    def end(self) -> str:
        """Names below this are in it."""
        return f"{1 << (_NAME_BITS - self.halvings):0{_NAME_BITS // 4}x}" if self.halvings else "g"

    def __contains__(self, name: str) -> bool:
        return not self.halvings or name < self.end

    def grow(self) -> None:
        """By a session that is in it."""
        self.size += 1
        if self.size >= self.largest and self.halvings < _NAME_BITS:
            self.halvings += 1
            self.size //= 2


def split_at(splits: Iterable[Split], moment_ms: int) -> Split | None:
    """The one in force at that moment; None where it is not known."""
    return next((split for split in splits if moment_ms in split), None)


@dataclass(slots=True)
class Session:
    backend: str
    period: int
    """In which it is counted now."""
    first_backend: str
    first_period: int
    began_ms: int
    """Start of its first request in this epoch."""
    opened_ms: int | None = None
    """Start of the first request of this period that says something of the model."""
    requests: int = 0
    """Of this period's observation."""
    failed: int = 0
    latencies: list[int] = field(default_factory=list)
    """Bins, of those that went well."""
    named: int = 0
    """Requests of this period that are known by name."""
    assigned: bool = False
    """Counted as assigned already, or never to be."""
    counted: bool = False
    """In some period of this epoch."""
    returning: bool = False
    moved: bool = False
    closed: bool = False
    """This period's observation is complete."""
    said: list[str] = field(default_factory=list)
    """Kinds of feedback of which this period's first word was counted."""

    def is_under_way(self, record: Record, split: Split | None, span_ms: int) -> bool:
        """Whether its observation takes this request in: what has begun is ended, also outside of the sample."""
        if self.opened_ms is None or self.closed or split is None or split.number != self.period:
            return False
        return record.ended_ms <= self.opened_ms + span_ms

    def due_ms(self, span_ms: int) -> int | None:
        """When something is to be counted even if no more requests come."""
        pending = []
        if not self.assigned:
            pending.append(self.began_ms + span_ms)
        if self.opened_ms is not None and not self.closed:
            pending.append(self.opened_ms + span_ms)
        return min(pending, default=None)


# What is counted


@dataclass(slots=True)
class Words:
    """`windows.Feedback` while it is being counted."""

    ratings: dict[int, int] = field(default_factory=dict)
    known: int = 0
    converted: int = 0
    cost: Moments = field(default_factory=Moments)
    custom: dict[str, Moments] = field(default_factory=dict)

    def frozen(self) -> Feedback:
        return Feedback(self.ratings, (self.known, self.converted), self.cost, self.custom)


@dataclass(slots=True)
class Readings:
    """`windows.Units` while they are being counted."""

    sessions: int = 0
    failed: int = 0
    first_latency: dict[int, int] = field(default_factory=dict)
    whole: dict[tuple[int, int], int] = field(default_factory=dict)
    whole_latency: dict[int, int] = field(default_factory=dict)
    words: Words = field(default_factory=Words)

    def first(self, failed: bool, latency: int | None) -> None:
        self.sessions += 1
        self.failed += failed
        if latency is not None:
            self.first_latency[latency] = self.first_latency.get(latency, 0) + 1

    def add_whole(self, requests: int, failed: int, latencies: list[int]) -> None:
        self.whole[requests, failed] = self.whole.get((requests, failed), 0) + 1
        for latency in latencies:
            self.whole_latency[latency] = self.whole_latency.get(latency, 0) + WHOLE // len(latencies)

    def frozen(self) -> Units:
        return Units(
            (self.sessions, self.failed), self.first_latency, self.whole, self.whole_latency, self.words.frozen()
        )


@dataclass(slots=True)
class Tally:
    """Of one arm in one period, in one batch."""

    assigned: int = 0
    fresh: Readings = field(default_factory=Readings)
    returning: Readings = field(default_factory=Readings)
    words: Words = field(default_factory=Words)
    """Every one that came."""


@dataclass(slots=True)
class Counting:
    """What one batch of records adds to an epoch."""

    span_ms: int
    tallies: dict[tuple[str, int], Tally] = field(default_factory=dict)
    """(backend, period) → what is counted for it."""
    named: list[Record] = field(default_factory=list)
    """Requests that feedback may name: the first few of each session."""

    def of(self, backend: str, period: int) -> Tally:
        return self.tallies.setdefault((backend, period), Tally())

    def readings(self, session: Session) -> Readings:
        tally = self.of(session.backend, session.period)
        return tally.returning if session.returning else tally.fresh


# The rules


def meet(
    known: Session | None, record: Record, split: Split | None, counting: Counting, *, resumed: bool = False
) -> Session:
    """The session after one more of its requests; `split` is what was in force when that began, if it is known.
    `resumed`: who was counted before has been forgotten, so nobody is fresh."""
    session = known or _begin(record, split, counted=resumed)
    if session.moved:
        return session
    if record.backend != session.backend:
        close(session, counting)
        session.backend, session.moved = record.backend, True
        return session
    if split is None or split.number < session.period:
        return session
    if split.number > session.period:
        close(session, counting)
        _return(session, split.number)
    if session.named < MOST_REQUESTS:
        session.named += 1
        counting.named.append(record)
    if not session.closed and record.judges:
        _observe(session, record, counting)
    return session


def _begin(record: Record, split: Split | None, *, counted: bool) -> Session:
    period = split.number if split else 0
    fair = split is not None and record.start_ms >= split.since_ms + SETTLING_MS and not counted
    return Session(
        record.backend,
        period,
        record.backend,
        period,
        record.start_ms,
        assigned=not fair,
        counted=counted,
        returning=counted,
    )


def _return(session: Session, period: int) -> None:
    session.period = period
    session.returning = session.counted
    session.opened_ms, session.requests, session.failed, session.latencies = None, 0, 0, []
    session.named, session.closed, session.said = 0, False, []


def _observe(session: Session, record: Record, counting: Counting) -> None:
    failed = record.error is not None
    latency = None if failed or record.first_ms is None else bin_of(record.first_ms)
    if session.opened_ms is None:
        session.opened_ms, session.counted = record.start_ms, True
        counting.readings(session).first(failed, latency)
    elif record.ended_ms > session.opened_ms + counting.span_ms or session.requests == MOST_REQUESTS:
        return
    session.requests += 1
    session.failed += failed
    if latency is not None:
        session.latencies.append(latency)


def pass_time(session: Session, clock_ms: int, counting: Counting) -> None:
    """Count what waited for time alone. Every request that ended before `clock_ms` must have been met."""
    if not session.assigned and session.began_ms + counting.span_ms <= clock_ms:
        session.assigned = True
        counting.of(session.first_backend, session.first_period).assigned += 1
    if session.opened_ms is not None and session.opened_ms + counting.span_ms <= clock_ms:
        close(session, counting)


def close(session: Session, counting: Counting) -> None:
    """End its observation in this period, if there is one."""
    if session.opened_ms is None or session.closed:
        return
    session.closed = True
    counting.readings(session).add_whole(session.requests, session.failed, session.latencies)
