"""The gateway's records: what each says of the model, and that each is counted exactly once."""

import json
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deploypipe.metrics.records import Counts, Cursor, ErrorClass, parse_line, read_new, rotate

USUAL = {
    "start_ms": "1760000000123",
    "request_id": "r1",
    "environment": "production",
    "model": "textgen",
    "backend": "textgen-2",
    "session": "0123456789abcdef",
    "bucket": 42,
    "method": "POST",
    "path": "/v1/completions",
    "status": 200,
    "flags": "-",
    "duration_us": 250_500,
    "duration_ms": 250,
    "headers_us": 1_500,
    "bytes": 900,
    "first_ms": 55.5,
    "events": 6,
    "stream_error": False,
    "complete": True,
}
PLAIN = {"first_ms": None, "events": None, "stream_error": None, "complete": None}
ARM = ("production", "textgen", "textgen-2")


def line(**changes):
    return json.dumps({**USUAL, **changes}).encode() + b"\n"


def record(**changes):
    parsed = parse_line(line(**changes))
    assert parsed is not None
    return parsed


# One record


def test_record_of_a_stream():
    parsed = record()
    assert parsed.at == datetime(2025, 10, 9, 8, 53, 20, 123_000, UTC)
    assert (parsed.duration_ms, parsed.first_ms, parsed.events) == (250.5, 55.5, 6)
    assert parsed.flags == frozenset()
    assert parsed.complete


def test_first_ms_of_an_answer_that_is_no_stream_is_the_time_of_its_headers():
    assert record(**PLAIN).first_ms == 1.5


def test_duration_of_a_cut_off_exchange_is_known_to_the_millisecond():
    assert record(duration_us=None).duration_ms == 250


GARBAGE = [
    b"",
    b"\n",
    b"not json",
    b"[]",
    b"{}",
    b"null",
    b"7",
    b'{"start_ms": "1"}',
    b"\xff\xfe",
    b"[" * 100_000,
    line()[:-20],
    line(start_ms="soon"),
    line(start_ms=None),
    line(status="200"),
    line(status=True),
    line(duration_us=-1),
    line(duration_us=float("nan")),
    line(first_ms=float("inf")),
    line(model=7),
    line(flags=["DC"]),
    line(events="many"),
    line(start_ms="9" * 5_000),
]


@pytest.mark.parametrize("garbage", GARBAGE)
def test_garbage_is_no_record_and_raises_nothing(garbage):
    assert parse_line(garbage) is None


@given(st.binary())
def test_no_bytes_raise(data):
    assert parse_line(data) is None


@given(
    st.dictionaries(
        st.sampled_from(sorted(USUAL)), st.none() | st.booleans() | st.floats() | st.text() | st.lists(st.none())
    )
)
def test_no_json_raises(changes):
    parse_line(line(**changes))


VERDICTS = {
    "a good stream": ({}, None, False),
    "a good answer": (PLAIN, None, False),
    "server error": ({**PLAIN, "status": 500}, ErrorClass.HTTP_5XX, False),
    "error inside the stream": ({"stream_error": True}, ErrorClass.STREAM_ERROR, False),
    "no connection": ({**PLAIN, "status": 503, "flags": "UF,URX"}, ErrorClass.TRANSPORT, False),
    "cut off in the stream": ({"flags": "UC", "complete": False}, ErrorClass.TRANSPORT, False),
    "stalled": ({"flags": "SI", "complete": False}, ErrorClass.TRANSPORT, False),
    "no answer and nobody says why": ({**PLAIN, "status": 0}, ErrorClass.TRANSPORT, False),
    "no event": ({"events": 0, "first_ms": None, "complete": False}, ErrorClass.EMPTY, False),
    "no event but only the headers were asked for": ({"events": 0, "first_ms": None, "method": "HEAD"}, None, False),
    "bad request": ({**PLAIN, "status": 400}, None, True),
    "too many requests": ({**PLAIN, "status": 429}, None, True),
    "client left": ({"flags": "DC", "complete": False}, None, True),
    "client left before any answer": ({**PLAIN, "status": 0, "flags": "DC"}, None, True),
    "client left before the first event": ({"flags": "DC", "events": 0, "first_ms": None}, None, True),
    "client left after the stream had failed": ({"flags": "DC", "stream_error": True}, ErrorClass.STREAM_ERROR, False),
}


@pytest.mark.parametrize(("changes", "error", "client"), VERDICTS.values(), ids=VERDICTS.keys())
def test_who_is_to_blame(changes, error, client):
    parsed = record(**changes)
    assert parsed.error == error
    counts = Counts()
    counts.add(parsed)
    assert counts.errors == ({error: 1} if error else {})
    assert counts.client_errors == int(client)
    assert counts.judged == 1 - int(client)


# Counts


def counts_of(*changes):
    counts = Counts()
    for change in changes:
        counts.add(record(**change))
    return counts


def test_latencies_are_those_of_answers_that_went_well():
    counts = counts_of({}, {"status": 500}, {"stream_error": True}, {"status": 400, **PLAIN})
    assert counts.first_ms.total == 1
    assert counts.duration_ms.total == 1


def test_first_event_counts_also_where_the_client_then_left():
    counts = counts_of({"flags": "DC"})
    assert counts.first_ms.total == 1
    assert counts.duration_ms.total == 0


def test_sessions_are_counted_once():
    assert counts_of({}, {}, {"session": "other"}).sessions == {"0123456789abcdef", "other"}


def test_merged_counts_are_as_if_counted_together():
    left, right = [{}, {"status": 500}], [{"status": 502, "session": "b"}, {"stream_error": True}, {"flags": "DC"}]
    merged = counts_of(*left).merge(counts_of(*right))
    assert merged == counts_of(*left, *right)
    assert merged.failed == 3


def test_counts_survive_json():
    before = counts_of({}, {"status": 500}, {"flags": "DC"})
    assert Counts.from_json(json.loads(json.dumps(before.to_json()))) == before


# Reading


@pytest.fixture
def log(tmp_path):
    return tmp_path / "access.log"


def append(path, *lines):
    with path.open("ab") as stream:
        stream.write(b"".join(lines))


def requests(batch):
    return sum(counts.requests for counts in batch.counts.values())


def test_no_file_is_no_record(log):
    batch = read_new(log, None)
    assert (batch.cursor, batch.counts, batch.more) == (None, {}, False)


def test_records_are_counted_per_arm(log):
    append(log, line(), line(), line(backend="textgen-1"), line(environment=None, model=None, backend=None, status=404))
    batch = read_new(log, None)
    assert {arm: counts.requests for arm, counts in batch.counts.items()} == {ARM: 2, (*ARM[:2], "textgen-1"): 1}
    assert batch.unrouted == 1


def test_each_line_is_counted_once(log):
    append(log, line(), line())
    first = read_new(log, None)
    append(log, line())
    second = read_new(log, first.cursor)
    assert (requests(first), requests(second), requests(read_new(log, second.cursor))) == (2, 1, 0)


def test_half_written_line_waits_for_its_end(log):
    append(log, line(), line()[:30])
    first = read_new(log, None)
    append(log, line()[30:])
    assert (requests(first), first.garbage) == (1, 0)
    second = read_new(log, first.cursor)
    assert (requests(second), second.garbage) == (1, 0)


def test_garbage_is_counted_as_garbage(log):
    append(log, line(), b"oops\n", line())
    batch = read_new(log, None)
    assert (requests(batch), batch.garbage) == (2, 1)


def test_first_and_last_time_of_the_batch(log):
    append(log, line(start_ms="2000"), line(start_ms="1000"), line(start_ms="3000"))
    batch = read_new(log, None)
    assert (batch.first, batch.last) == (datetime.fromtimestamp(1, UTC), datetime.fromtimestamp(3, UTC))


def test_much_is_read_in_bounded_pieces(log):
    append(log, *[line()] * 100)
    batch = read_new(log, None, limit=10 * len(line()))
    sizes = [requests(batch)]
    while batch.more:
        batch = read_new(log, batch.cursor, limit=10 * len(line()))
        sizes.append(requests(batch))
    assert sum(sizes) == 100
    assert max(sizes) == 10


def test_line_longer_than_the_limit_does_not_stop_the_reading(log):
    append(log, b"x" * 5_000 + b"\n", line())
    first = read_new(log, None, limit=1_000)
    second = read_new(log, first.cursor, limit=1_000)
    assert (first.garbage, requests(second)) == (1, 1)


def test_rotated_file_is_finished_before_the_new_one(log):
    append(log, line(request_id="1"))
    cursor = read_new(log, None).cursor
    append(log, line(request_id="2"))
    log.rename(log.with_name("access.log.1"))
    append(log, line(request_id="3"))
    batch = read_new(log, cursor)
    assert requests(batch) == 2
    assert requests(read_new(log, batch.cursor)) == 0


def test_writer_may_go_on_in_the_renamed_file_until_it_reopens(log):
    append(log, line())
    cursor = read_new(log, None).cursor
    rotated = log.with_name("access.log.1")
    log.rename(rotated)
    append(rotated, line(), line()[:9])
    batch = read_new(log, cursor)
    assert (requests(batch), batch.garbage, batch.lost) == (1, 0, False)
    append(rotated, line()[9:])
    append(log, line())
    assert requests(read_new(log, batch.cursor)) == 2


def test_reader_that_fell_two_rotations_behind_catches_up(log):
    append(log, line())
    cursor = read_new(log, None).cursor
    for _ in range(2):
        append(log, line())
        assert rotate(log, lambda: None, limit_bytes=1)
    append(log, line())
    batch = read_new(log, cursor)
    assert (requests(batch), batch.lost) == (3, False)


def test_half_a_line_at_the_end_of_a_rotated_file_is_garbage(log):
    """The writer was killed within it."""
    append(log, line(), line()[:30])
    log.rename(log.with_name("access.log.1"))
    append(log, line())
    batch = read_new(log, None)
    assert (requests(batch), batch.garbage) == (2, 1)
    assert read_new(log, batch.cursor).garbage == 0


def test_emptied_file_is_read_from_its_start(log):
    append(log, line(), line())
    cursor = read_new(log, None).cursor
    log.write_bytes(line())
    assert requests(read_new(log, cursor)) == 1


def test_file_that_is_gone_is_said_and_older_ones_are_not_counted_again(log):
    append(log.with_name("access.log.1"), line())
    append(log, line())
    batch = read_new(log, Cursor(inode=1, device=1, offset=10))
    assert (requests(batch), batch.lost) == (1, True)


# Rotation


def test_small_file_is_not_rotated(log):
    append(log, line())
    assert not rotate(log, lambda: pytest.fail("nothing to reopen"), limit_bytes=10_000)


def test_only_so_many_old_files_are_kept(log):
    reopened = []
    for number in range(5):
        append(log, line(request_id=str(number)))
        assert rotate(log, lambda: reopened.append(1), limit_bytes=1, keep=3)
    assert sorted(file.name for file in log.parent.iterdir()) == ["access.log.1", "access.log.2", "access.log.3"]
    assert b'"request_id": "4"' in log.with_name("access.log.1").read_bytes()
    assert len(reopened) == 5


def test_rotation_that_was_interrupted_is_completed(log):
    append(log.with_name("access.log.1"), line())
    reopened = []
    assert not rotate(log, lambda: reopened.append(1))
    assert reopened


pieces = st.lists(
    st.one_of(
        st.integers(1, 400),  # append so many bytes of what is still to be written
        st.sampled_from(["rotate", "read", "restart"]),
    ),
    max_size=40,
)


@settings(deadline=None, max_examples=60)
@given(pieces, st.sampled_from([50, 700, 4_000_000]), st.integers(1, 20))
def test_any_chunking_of_appends_counts_each_line_exactly_once(steps, limit, count):
    """The writer appends pieces of any size; the log is rotated and read at any moment."""
    with TemporaryDirectory() as directory:
        log = Path(directory) / "access.log"
        written = Written(log, b"".join(line(request_id=str(n), session=f"s{n}") for n in range(count)))
        seen = Seen(log, limit)
        for step in steps:
            if isinstance(step, int):
                written.append(step)
            elif step == "rotate":
                written.rotate()
            else:
                seen.read()
        written.append(1_000_000)
        seen.read_all()
        assert seen.requests == count
        assert seen.sessions == {f"s{n}" for n in range(count)}
        assert seen.garbage == 0


class Written:
    """Envoy as a writer: whole lines may be cut anywhere, but a file is only left at the end of a line."""

    def __init__(self, log, content):
        self.log, self.content = log, content

    def append(self, size):
        append(self.log, self.content[:size])
        self.content = self.content[size:]

    def rotate(self):
        if self.log.exists() and not self.log.read_bytes().endswith(b"\n"):
            self.append(self.content.index(b"\n") + 1 if b"\n" in self.content else 0)
        rotate(self.log, lambda: None, limit_bytes=1, keep=50)


class Seen:
    def __init__(self, log, limit):
        self.log, self.limit = log, limit
        self.cursor, self.requests, self.garbage, self.sessions = None, 0, 0, set()

    def read(self):
        batch = read_new(self.log, self.cursor, limit=self.limit)
        self.cursor = batch.cursor
        self.garbage += batch.garbage
        for counts in batch.counts.values():
            self.requests += counts.requests
            self.sessions |= counts.sessions
        return batch.more

    def read_all(self):
        while self.read():
            pass
