"""The gateway's records become windows in the database: each line once, whoever reads and whenever they die."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from django.db import DatabaseError, connections
from django.db.models import Sum

from deploypipe.metrics.models import RecordCursor, Window
from deploypipe.metrics.records import read_new, rotate
from deploypipe.metrics.sources import gateway
from tests.metrics.test_records import USUAL


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "access.log"


def write(log: Path, *changes: dict[str, Any], count: int = 1) -> None:
    with log.open("a") as file:
        for change in changes or ({},):
            file.write((json.dumps({**USUAL, **change}) + "\n") * count)


def counted(field: str = "requests") -> int:
    found: int = Window.objects.aggregate(found=Sum(field))["found"] or 0
    return found


@pytest.mark.django_db
def test_each_arm_gets_one_window_per_batch(log: Path) -> None:
    write(log, {}, {"status": 500, "events": None}, {"stream_error": True}, {"status": 400, "events": None})
    write(log, {"backend": "textgen-1", "session": "other"}, {"environment": "staging"})
    assert gateway.read(log) == [1]
    arms = {(w.environment, w.backend): w for w in Window.objects.all()}
    assert set(arms) == {("production", "textgen-2"), ("production", "textgen-1"), ("staging", "textgen-2")}
    window = arms["production", "textgen-2"]
    assert (window.requests, window.errors, window.client_errors, window.sessions) == (3, 2, 1, 1)
    assert window.error_classes == {"http_5xx": 1, "stream_error": 1}
    assert sum(window.first_ms.values()) == 1
    assert {w.batch for w in arms.values()} == {1}


@pytest.mark.django_db
def test_windows_know_when_their_own_requests_began(log: Path) -> None:
    """A long request of another model must not date this model's measurements back."""
    write(log, {"model": "other", "start_ms": "1000"}, {"start_ms": "61000"}, {"start_ms": "62000"})
    gateway.read(log)
    window = Window.objects.get(model="textgen")
    assert window.first_at == datetime(1970, 1, 1, 0, 1, 1, tzinfo=UTC)
    assert window.last_at == datetime(1970, 1, 1, 0, 1, 2, tzinfo=UTC)


@pytest.mark.django_db
def test_what_was_read_is_not_read_again(log: Path) -> None:
    write(log, count=3)
    assert gateway.read(log) == [1]
    assert gateway.read(log) == []
    write(log, count=2)
    assert gateway.read(log) == [3]
    assert counted() == 5
    assert RecordCursor.objects.get().records == 5


@pytest.mark.django_db
def test_reading_without_anything_new_still_shows_that_somebody_reads(log: Path) -> None:
    gateway.read(log)
    before = RecordCursor.objects.get().read_at
    gateway.read(log)
    after = RecordCursor.objects.get().read_at
    assert before is not None
    assert after is not None
    assert after > before


@pytest.mark.django_db
def test_lines_that_are_no_records_are_counted_as_that(log: Path, caplog: pytest.LogCaptureFixture) -> None:
    write(log)
    with log.open("a") as file:
        file.write("not JSON\n{}\n")
    write(log)
    gateway.read(log)
    assert counted() == 2
    assert RecordCursor.objects.get().garbage == 2
    assert "2 lines" in caplog.text


@pytest.mark.django_db
def test_half_a_line_waits_for_its_other_half(log: Path) -> None:
    line = json.dumps(USUAL) + "\n"
    log.write_text(line[:40])
    gateway.read(log)
    assert counted() == 0
    with log.open("a") as file:
        file.write(line[40:])
    gateway.read(log)
    assert counted() == 1
    assert RecordCursor.objects.get().garbage == 0


@pytest.mark.django_db
def test_rotation_loses_and_doubles_nothing(log: Path) -> None:
    write(log, count=3)
    gateway.read(log)
    write(log, count=2)
    assert rotate(log, log.touch, limit_bytes=1)
    write(log, count=4)
    gateway.read(log)
    assert counted() == 9
    assert rotate(log, log.touch, limit_bytes=1)
    gateway.read(log)
    write(log)
    gateway.read(log)
    assert counted() == 10


@pytest.mark.django_db
def test_log_that_was_replaced_before_its_end_was_read_is_said(log: Path, caplog: pytest.LogCaptureFixture) -> None:
    write(log, count=3)
    gateway.read(log)
    log.rename(log.with_name("taken-away"))
    write(log, count=2)
    gateway.read(log)
    assert "some requests were not counted" in caplog.text
    assert counted() == 5


@pytest.mark.django_db
def test_much_at_once_is_read_in_several_batches(log: Path) -> None:
    line = json.dumps(USUAL) + "\n"
    lines = 4 * 1024 * 1024 // len(line) + 100
    log.write_text(line * lines)
    assert gateway.read(log) == [1, 2]
    assert counted() == lines


class PowerCut(BaseException):
    pass


@pytest.mark.django_db
@pytest.mark.parametrize("table", ["metrics_window", "metrics_recordcursor"])
@pytest.mark.parametrize("error", [PowerCut, DatabaseError])
def test_crash_between_cursor_and_windows_loses_and_doubles_nothing(
    log: Path, table: str, error: type[BaseException]
) -> None:
    write(log, count=3)
    gateway.read(log)
    write(log, count=2)

    def cut(execute: Callable[..., Any], sql: str, params: Any, many: bool, context: Any) -> Any:
        result = execute(sql, params, many, context)
        if sql.startswith(("INSERT", "UPDATE")) and table in sql:
            raise error("the power fails")
        return result

    with pytest.raises(error), connections["default"].execute_wrapper(cut):
        gateway.read(log)
    assert counted() == 3
    gateway.read(log)
    assert counted() == 5
    assert RecordCursor.objects.get().records == 5


@pytest.mark.django_db
def test_second_reader_of_the_same_lines_counts_nothing(log: Path) -> None:
    """Both have read the file; only one of them may move the cursor."""
    write(log, count=3)
    cursor, _ = RecordCursor.objects.get_or_create(name=gateway.CURSOR)
    stale = RecordCursor.objects.get(pk=cursor.pk)
    gateway.read(log)
    batch = read_new(log, None)
    assert not gateway._store(stale, batch, None, datetime.now(UTC))
    assert counted() == 3


@pytest.fixture
def closing() -> Iterator[None]:
    yield
    connections.close_all()


@pytest.mark.django_db(transaction=True)
def test_readers_at_once_count_each_line_once(log: Path, closing: None) -> None:
    write(log, count=50)
    ended = threading.Event()
    faults: list[BaseException] = []

    def read() -> None:
        try:
            while not ended.is_set():
                gateway.read(log)
            gateway.read(log)
        except BaseException as error:
            faults.append(error)
        finally:
            connections.close_all()

    readers = [threading.Thread(target=read) for _ in range(3)]
    for reader in readers:
        reader.start()
    for _ in range(10):
        write(log, count=20)
    rotate(log, log.touch, limit_bytes=1)
    for _ in range(10):
        write(log, count=20)
    ended.set()
    for reader in readers:
        reader.join(30)
    assert not faults
    assert counted() == 450
    assert RecordCursor.objects.get().records == 450
