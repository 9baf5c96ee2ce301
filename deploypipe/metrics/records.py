"""The gateway's per-request records: one JSON line each, read by byte offset, each counted exactly once.

Decisions are computed from these, because no model server exports a counter of failed requests. What a line says is
defined by `RECORD` in `rollouts/traffic/envoy_lua.py`.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from functools import cached_property
from pathlib import Path
from typing import Any

from deploypipe.stats.histogram import Histogram

BATCH_BYTES = 4 * 1024 * 1024
_LISTINGS = 10


class ErrorClass(StrEnum):
    """How a model fails a request that was the model's to answer."""

    HTTP_5XX = "http_5xx"
    STREAM_ERROR = "stream_error"  # an error event inside a stream that began with 200
    TRANSPORT = "transport"  # no connection, cut off, timed out
    EMPTY = "empty"  # a stream with 200 and not one event


# Envoy's %RESPONSE_FLAGS%. The upstream cannot be reached, or it cut off, refused or stalled the exchange.
_UNREACHABLE = frozenset(["UF", "UH", "UO", "DF", "NC"])
_CUT_OFF = frozenset(["UC", "UR", "LR", "UPE", "UT", "SI", "DT", "UMSDR", "URX"])
_CLIENT_LEFT = frozenset(["DC", "DR", "DPE"])


@dataclass(frozen=True, slots=True)
class Record:
    start_ms: int
    """Since the epoch."""
    request_id: str
    environment: str
    """Empty, like `model`, where the path named no route."""
    model: str
    backend: str
    """Empty where no version answered."""
    session: str
    """A digest, never the id itself."""
    bucket: int | None
    method: str
    path: str
    """Without the query string."""
    status: int
    """0 when the client left before there was one."""
    flags: frozenset[str]
    duration_ms: float
    bytes_sent: int
    first_ms: float | None
    """Of a stream, until its first event; of any other answer, until its headers."""
    events: int | None
    """None unless the answer is a stream that could be read."""
    stream_error: bool
    complete: bool
    """The stream said `[DONE]`."""
    group: str = ""
    """Why it went to this backend: empty where chance decided, "holdout" or "forced"."""

    @property
    def ended_ms(self) -> int:
        return self.start_ms + int(self.duration_ms)

    @property
    def at(self) -> datetime:
        return datetime.fromtimestamp(self.start_ms / 1000, UTC)

    @property
    def error(self) -> ErrorClass | None:
        if self.stream_error:
            return ErrorClass.STREAM_ERROR
        if self.flags & (_UNREACHABLE | _CUT_OFF):
            return ErrorClass.TRANSPORT
        if self.is_clients_doing:
            return None
        if self.status == 0:
            return ErrorClass.TRANSPORT
        if self.status >= 500:
            return ErrorClass.HTTP_5XX
        if self.status == 200 and self.events == 0 and self.method != "HEAD":
            return ErrorClass.EMPTY
        return None

    @property
    def is_clients_doing(self) -> bool:
        """The client asked for something wrong, or left; says nothing of the model, unless that had failed before."""
        return bool(self.flags & _CLIENT_LEFT) or 400 <= self.status < 500

    @property
    def judges(self) -> bool:
        """Whether it says something of the model."""
        return self.error is not None or not self.is_clients_doing


def parse_line(line: bytes) -> Record | None:
    """None for whatever is not a record."""
    try:
        return _record(json.loads(line))
    except (ValueError, TypeError, LookupError, OverflowError, RecursionError):
        return None


def _record(said: Mapping[str, Any]) -> Record:
    events = _count(said["events"])
    return Record(
        start_ms=int(said["start_ms"]),
        request_id=_text(said["request_id"]),
        environment=_text(said["environment"]),
        model=_text(said["model"]),
        backend=_text(said["backend"]),
        session=_text(said["session"]),
        bucket=_count(said["bucket"]),
        method=_text(said["method"]),
        path=_text(said["path"]),
        status=_count(said["status"]) or 0,
        flags=frozenset(_text(said["flags"]).split(",")) - {"-", ""},
        duration_ms=_duration(said),
        bytes_sent=_count(said["bytes"]) or 0,
        first_ms=_thousandth(said["headers_us"]) if events is None else _milliseconds(said["first_ms"]),
        events=events,
        stream_error=said["stream_error"] is True,
        complete=said["complete"] is True,
        group=_text(said.get("group")),  # gateways of before there were groups do not say
    )


def _duration(said: Mapping[str, Any]) -> float:
    """Microseconds are not there when the exchange was cut off."""
    fine = _thousandth(said["duration_us"])
    return fine if fine is not None else _milliseconds(said["duration_ms"]) or 0.0


def _text(value: object) -> str:
    if value is not None and not isinstance(value, str):
        raise TypeError(value)
    return value or ""


def _milliseconds(value: object) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or value < 0:
        raise ValueError(value)
    return float(value)


def _thousandth(value: object) -> float | None:
    number = _milliseconds(value)
    return None if number is None else number / 1000


def _count(value: object) -> int | None:
    number = _milliseconds(value)
    return None if number is None else int(number)


@dataclass
class Counts:
    """Sufficient statistics of one arm."""

    requests: int = 0
    errors: dict[ErrorClass, int] = field(default_factory=dict)
    client_errors: int = 0
    """Requests that ended through the client's doing: no success and no error of the model."""
    first_ms: Histogram = field(default_factory=Histogram)
    """Of all that were answered without an error, also where the client then left: those were the slow ones."""
    duration_ms: Histogram = field(default_factory=Histogram)
    """Of those that went well."""
    events: int = 0
    sessions: set[str] = field(default_factory=set)

    @property
    def failed(self) -> int:
        return sum(self.errors.values())

    @property
    def judged(self) -> int:
        """The requests that say something of the model: the denominator of its error rate."""
        return self.requests - self.client_errors

    def add(self, record: Record) -> None:
        self.requests += 1
        self.events += record.events or 0
        if record.session:
            self.sessions.add(record.session)
        if record.error is not None:
            self.errors[record.error] = self.errors.get(record.error, 0) + 1
            return
        if record.first_ms is not None and record.status < 400:
            self.first_ms.add(record.first_ms)
        if record.is_clients_doing:
            self.client_errors += 1
        else:
            self.duration_ms.add(record.duration_ms)

    def merge(self, other: Counts) -> Counts:
        """Both together, as a new one."""
        kinds = {**self.errors, **other.errors}
        return Counts(
            requests=self.requests + other.requests,
            errors={kind: self.errors.get(kind, 0) + other.errors.get(kind, 0) for kind in kinds},
            client_errors=self.client_errors + other.client_errors,
            first_ms=self.first_ms.merge(other.first_ms),
            duration_ms=self.duration_ms.merge(other.duration_ms),
            events=self.events + other.events,
            sessions=self.sessions | other.sessions,
        )

    def to_json(self) -> dict[str, Any]:
        return {
            "requests": self.requests,
            "errors": {kind.value: count for kind, count in sorted(self.errors.items())},
            "client_errors": self.client_errors,
            "first_ms": self.first_ms.to_json(),
            "duration_ms": self.duration_ms.to_json(),
            "events": self.events,
            "sessions": sorted(self.sessions),
        }

    @classmethod
    def from_json(cls, said: Mapping[str, Any]) -> Counts:
        return cls(
            requests=said["requests"],
            errors={ErrorClass(kind): count for kind, count in said["errors"].items()},
            client_errors=said["client_errors"],
            first_ms=Histogram.from_json(said["first_ms"]),
            duration_ms=Histogram.from_json(said["duration_ms"]),
            events=said["events"],
            sessions=set(said["sessions"]),
        )


# Reading


@dataclass(frozen=True)
class Cursor:
    """Up to where the records were counted. Store it in the transaction that stores the counts."""

    inode: int
    device: int
    offset: int


Arm = tuple[str, str, str]
"""Environment, model, backend."""


@dataclass
class Batch:
    cursor: Cursor | None
    """None while there is no file."""
    records: list[Record] = field(default_factory=list)
    """Of requests for a route, in the order in which they ended."""
    unrouted: int = 0
    """Requests for a path at which no model is served."""
    garbage: int = 0
    """Lines that are no record."""
    first: datetime | None = None
    """When the first request began, and when the last one did."""
    last: datetime | None = None
    ended_ms: int | None = None
    """When the last request ended."""
    more: bool = False
    """There is more to read: ask again at once."""
    lost: bool = False
    """The file that the cursor was in is gone: what it still held was never counted."""

    def add(self, record: Record) -> None:
        self.first = record.at if self.first is None else min(self.first, record.at)
        self.last = record.at if self.last is None else max(self.last, record.at)
        self.ended_ms = max(self.ended_ms or 0, record.ended_ms)
        if record.model:
            self.records.append(record)
        else:
            self.unrouted += 1

    @cached_property
    def counts(self) -> dict[Arm, Counts]:
        found: dict[Arm, Counts] = {}
        for record in self.records:
            arm = (record.environment, record.model, record.backend)
            found.setdefault(arm, Counts()).add(record)
        return found


@dataclass(frozen=True)
class Lines:
    """What `read_lines` found: the whole lines after a cursor."""

    lines: list[bytes]
    cursor: Cursor | None
    more: bool
    lost: bool


def read_new(path: Path, cursor: Cursor | None, *, limit: int = BATCH_BYTES) -> Batch:
    """Count the lines after `cursor`, about `limit` bytes of them; None begins with the oldest file there is."""
    found = read_lines(path, cursor, limit=limit)
    batch = Batch(cursor=found.cursor, more=found.more, lost=found.lost)
    for line in found.lines:
        record = parse_line(line)
        if record is None:
            batch.garbage += 1
        else:
            batch.add(record)
    return batch


def read_lines(path: Path, cursor: Cursor | None, *, limit: int = BATCH_BYTES) -> Lines:
    """A rotated file is read to its end before the next: the writer makes the new one only when it has left the old."""
    files = _files(path)
    lost = False
    if cursor is not None:
        behind = [index for index, file in enumerate(files) if file.is_at(cursor)]
        lost = not behind and bool(files)
        # Of the older ones it cannot be known which were counted, and twice is worse than never.
        files = files[behind[0] :] if behind else files[-1:]
    lines: list[bytes] = []
    for index, file in enumerate(files):
        is_last = index == len(files) - 1
        offset = cursor.offset if cursor is not None and file.is_at(cursor) else 0
        found, offset, at_end = _read(file, offset, limit, finished=not is_last)
        if found is None:
            return Lines(lines, cursor, more=True, lost=False)  # rotated in this moment: the next look sees it
        lines += found
        limit -= sum(map(len, found))
        cursor = Cursor(file.inode, file.device, offset)
        if not at_end or limit <= 0:
            return Lines(lines, cursor, more=not (at_end and is_last), lost=lost)
    return Lines(lines, cursor, more=False, lost=lost)


@dataclass(frozen=True)
class _File:
    path: Path
    inode: int
    device: int

    def is_at(self, cursor: Cursor) -> bool:
        return (self.inode, self.device) == (cursor.inode, cursor.device)


def _files(path: Path) -> list[_File]:
    """Oldest first: `path.3`, `path.2`, `path.1`, `path`. Seen twice the same, so no rotation is going on."""
    files = _listing(path)
    for _ in range(_LISTINGS):
        again = _listing(path)
        if again == files:
            break
        files = again
    return files


def _listing(path: Path) -> list[_File]:
    generations = {0: path}
    if path.parent.is_dir():
        for name in os.listdir(path.parent):
            suffix = name.removeprefix(f"{path.name}.")
            if suffix != name and suffix.isascii() and suffix.isdigit():
                generations[int(suffix)] = path.parent / name
    files = []
    for _, file in sorted(generations.items(), reverse=True):
        try:
            found = file.stat()
        except FileNotFoundError:
            continue
        files.append(_File(file, found.st_ino, found.st_dev))
    return files


def _read(file: _File, offset: int, limit: int, *, finished: bool) -> tuple[list[bytes] | None, int, bool]:
    """The lines, where they end, and whether that is the end of the file. No lines at all if it is another file now."""
    try:
        stream = file.path.open("rb")
    except FileNotFoundError:
        return None, offset, False
    with stream:
        found = os.fstat(stream.fileno())
        if (found.st_ino, found.st_dev) != (file.inode, file.device):
            return None, offset, False
        if found.st_size < offset:
            offset = 0  # somebody emptied it
        stream.seek(offset)
        content = stream.read(limit)
        if b"\n" not in content and len(content) == limit:
            content += stream.readline()
        at_end = not stream.read(1)
    return _whole_lines(content, offset, at_end, finished=finished)


def _whole_lines(content: bytes, offset: int, at_end: bool, *, finished: bool) -> tuple[list[bytes], int, bool]:
    whole, newline, rest = content.rpartition(b"\n")
    lines = whole.split(b"\n") if newline else []
    if rest and finished and at_end:
        # The writer died within this line. It is garbage, but it is behind us.
        return [*lines, rest], offset + len(content), True
    return lines, offset + len(content) - len(rest), at_end


def rotate(path: Path, reopen: Callable[[], None], *, limit_bytes: int = 64 * 1024 * 1024, keep: int = 5) -> bool:
    """Rename a log that has grown beyond the limit and let its writer begin a new one; whether that was so.

    `keep` renamed files stay. Read before you rotate: what is dropped unread is not counted.
    """
    if not path.exists():
        if _generation(path, 1).exists():
            reopen()  # somebody was killed between renaming and this
        return False
    if path.stat().st_size < limit_bytes:
        return False
    for number in reversed(range(1, keep)):
        if _generation(path, number).exists():
            os.replace(_generation(path, number), _generation(path, number + 1))
    os.replace(path, _generation(path, 1))
    reopen()
    return True


def _generation(path: Path, number: int) -> Path:
    return path.with_name(f"{path.name}.{number}")


def total(counts: Iterable[Counts]) -> Counts:
    result = Counts()
    for each in counts:
        result = result.merge(each)
    return result
