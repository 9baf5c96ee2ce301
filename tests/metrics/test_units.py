"""The rules by which requests become sessions, held against a slow telling of the same rules."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st

from deploypipe.metrics import units
from deploypipe.metrics.records import Record, parse_line
from deploypipe.metrics.units import SETTLING_MS, Counting, Session, Split
from deploypipe.metrics.windows import CANDIDATE, MOST_REQUESTS, STABLE, WHOLE
from tests.metrics.test_records import USUAL
from tests.metrics.world import FAILED, LEFT

SPAN_MS = 60_000
ARMS = {"v1": STABLE, "v2": CANDIDATE}
SPLITS = [
    Split(2, 0, 100_000, ARMS, {STABLE: 0.9, CANDIDATE: 0.1}),
    Split(4, 101_000, 200_000, ARMS, {STABLE: 0.5, CANDIDATE: 0.5}),
    Split(6, 200_000, None, ARMS, {STABLE: 0.2, CANDIDATE: 0.8}),
]


def record(session: str, backend: str, start_ms: int, took_ms: int, outcome: dict[str, object]) -> Record:
    said = {**USUAL, "session": session, "backend": backend, "start_ms": str(start_ms), "duration_us": took_ms * 1000}
    parsed = parse_line(json.dumps({**said, **outcome}).encode())
    assert parsed is not None
    return parsed


requests = st.builds(
    record,
    st.sampled_from("abcd"),
    st.sampled_from(["v1", "v1", "v1", "v2"]),
    st.integers(0, 400_000) | st.integers(3_000, 30_000) | st.integers(60_000, 110_000),
    st.sampled_from([50, 5_000, 70_000]),
    st.sampled_from([{}, {}, FAILED, LEFT]),
)
logs = st.lists(requests, max_size=60).map(lambda records: sorted(records, key=lambda each: each.ended_ms))


def counted(log: list[Record], cuts: list[int]) -> Counting:
    """In batches that end before these places; time passes after each."""
    counting = Counting(SPAN_MS)
    sessions: dict[str, Session] = {}
    for begin, end in zip([0, *cuts], [*cuts, len(log)], strict=True):
        for each in log[begin:end]:
            known = sessions.get(each.session)
            sessions[each.session] = units.meet(known, each, units.split_at(SPLITS, each.start_ms), counting)
        clock = log[end - 1].ended_ms if end else 0
        for session in sessions.values():
            due = session.due_ms(SPAN_MS)
            if due is not None and due <= clock:
                units.pass_time(session, clock, counting)
    for session in sessions.values():
        units.pass_time(session, 10**9, counting)
        assert session.due_ms(SPAN_MS) is None
    return counting


@given(logs, st.data())
def test_any_batching_counts_the_same(log: list[Record], data: st.DataObject) -> None:
    cuts = sorted(data.draw(st.lists(st.integers(0, len(log)), max_size=10)))
    assert counted(log, cuts).tallies == counted(log, []).tallies


@dataclass(frozen=True)
class Told:
    """Of one session in one period."""

    backend: str
    period: int
    returning: bool
    failed_first: bool
    requests: int
    failed: int


def told(log: list[Record]) -> list[Told]:
    """All of a session's requests at once."""
    found = []
    for name in {each.session for each in log}:
        mine = [each for each in log if each.session == name]
        moved = next((i for i, each in enumerate(mine) if each.backend != mine[0].backend), len(mine))
        counted_before = False
        for period in (2, 4, 6):
            observed: list[Record] = []
            for each in mine[:moved]:
                split = units.split_at(SPLITS, each.start_ms)
                number = split.number if split else 0
                later = any(_number(other) > period for other in mine[: mine.index(each)])
                in_time = not observed or each.ended_ms <= observed[0].start_ms + SPAN_MS
                judges = each.error is not None or not each.is_clients_doing
                if number == period and not later and in_time and judges and len(observed) < MOST_REQUESTS:
                    observed.append(each)
            if observed:
                failures = [each.error is not None for each in observed]
                found.append(Told(mine[0].backend, period, counted_before, failures[0], len(failures), sum(failures)))
                counted_before = True
    return found


def _number(record: Record) -> int:
    split = units.split_at(SPLITS, record.start_ms)
    return split.number if split else 0


@given(logs)
def test_sessions_are_what_a_slow_telling_of_the_rules_says(log: list[Record]) -> None:
    # Equal records cannot be told apart by the slow one.
    log = [each for i, each in enumerate(log) if each not in log[:i]]
    counting = counted(log, [])
    expected = told(log)
    for (backend, period), tally in counting.tallies.items():
        for returning, readings in ((False, tally.fresh), (True, tally.returning)):
            mine = [t for t in expected if (t.backend, t.period, t.returning) == (backend, period, returning)]
            assert (readings.sessions, readings.failed) == (len(mine), sum(t.failed_first for t in mine))
            assert readings.whole == Counter((t.requests, t.failed) for t in mine)
    assert len(expected) == sum(t.fresh.sessions + t.returning.sessions for t in counting.tallies.values())


@given(logs)
def test_no_session_counts_twice(log: list[Record]) -> None:
    tallies = counted(log, []).tallies
    sessions = len({each.session for each in log})
    assert sum(tally.fresh.sessions for tally in tallies.values()) <= sessions
    assert sum(tally.assigned for tally in tallies.values()) <= sessions
    for period in (2, 4, 6):
        of_period = [tally for (_, number), tally in tallies.items() if number == period]
        assert sum(tally.fresh.sessions + tally.returning.sessions for tally in of_period) <= sessions


@given(logs)
def test_whole_readings_are_of_the_sessions_of_first_readings(log: list[Record]) -> None:
    for tally in counted(log, []).tallies.values():
        for readings in (tally.fresh, tally.returning):
            assert sum(readings.whole.values()) == readings.sessions
            assert sum(readings.whole_latency.values()) % WHOLE == 0
            with_latency = sum(readings.whole_latency.values()) // WHOLE
            assert with_latency == sum(count for (n, failed), count in readings.whole.items() if failed < n)


@given(logs)
def test_assigned_are_those_whose_first_request_began_well_within_a_known_split(log: list[Record]) -> None:
    first = {each.session: each for each in reversed(log)}
    fair = [
        each
        for each in first.values()
        if (split := units.split_at(SPLITS, each.start_ms)) and each.start_ms >= split.since_ms + SETTLING_MS
    ]
    expected = Counter((each.backend, _number(each)) for each in fair)
    assert {k: tally.assigned for k, tally in counted(log, []).tallies.items() if tally.assigned} == expected
