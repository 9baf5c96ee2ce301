"""One examination from its row to its verdict; and what becomes of it when workers die."""

from __future__ import annotations

import json
import logging
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.db import connection
from django.utils import timezone

from deploypipe.core import audit, events
from deploypipe.core.errors import TargetError
from deploypipe.core.models import AuditEntry
from registry import actions, hooks, qa_runs
from registry.events import QAProgressed, VersionChanged
from registry.lifecycle import RunStatus, Stage
from registry.models import ModelVersion, QAResult, QARun, RegisteredModel
from registry.qa.base import Hardware, RunningServer
from registry.qa.catalogue import all_checks
from registry.qa.policy import Load, Policy
from registry.scoring import Status
from tests.conftest import Cast
from tests.registry.faulty_engine import Engine, running_engine
from tests.registry.recorder import recording
from tests.registry.steps import fresh

QUICK = Policy(max_latency_ms=450, load=Load(requests_per_second=100, seconds=0.25, warm_up_requests=2, max_tokens=20))
AGO = timedelta(seconds=1)

Serve = Callable[[ModelVersion, QARun], Any]


@dataclass
class OneServer:
    """Hosts the candidate as the test says, and nothing else."""

    serve: Serve

    def candidate(self, version: ModelVersion, run: QARun) -> Any:
        return self.serve(version, run)

    def live(self, version: ModelVersion, run: QARun) -> Any:
        return None

    def hardware(self, version: ModelVersion, run: QARun) -> Hardware | None:
        return None


@pytest.fixture
def host() -> Iterator[Callable[[Serve | None], None]]:
    """Gives registry a place to run versions, or none."""
    before = hooks.host()
    yield lambda serve: hooks.provide_host(OneServer(serve) if serve else None)
    hooks.provide_host(before)


@pytest.fixture
def engine() -> Iterator[Engine]:
    with running_engine() as engine:
        yield engine


@pytest.fixture
def run(model: RegisteredModel, cast: Cast, artifact: Path) -> QARun:
    version = actions.register(model, actor=cast.ana, artifact_uri=artifact.as_uri(), engine="textgen")
    return actions.examine(version, actor=cast.ana, policy=QUICK)


def serving(engine: Engine) -> Serve:
    @contextmanager
    def serve(version: ModelVersion, run: QARun) -> Iterator[RunningServer]:
        yield replace(engine.running, pid=os.getpid())

    return serve


def never(version: ModelVersion, run: QARun) -> Any:
    raise AssertionError("no server may be started")


def failing(message: str) -> Serve:
    def fail(version: ModelVersion, run: QARun) -> Any:
        raise TargetError(message)

    return fail


def now(run: QARun) -> QARun:
    return QARun.objects.select_related("version__model").get(pk=run.pk)


def left_behind(run: QARun, *, attempt: int = 1) -> None:
    """As a worker leaves it that was killed."""
    QARun.objects.filter(pk=run.pk).update(status=RunStatus.RUNNING, attempt=attempt, lease_until=timezone.now() - AGO)


# --- Verdicts ---------------------------------------------------------------------------------------------------------


def test_faultless_version_awaits_its_approval(run: QARun, host: Any, engine: Engine, settings: Any) -> None:
    host(serving(engine))
    assert qa_runs.run(run.pk)
    ended = now(run)
    assert (ended.status, ended.score, ended.band, ended.blocked) == (RunStatus.FINISHED, 100, "excellent", False)
    assert ended.finished_at
    assert ended.results.count() == ended.planned_checks == len(all_checks())
    assert {result.attempt for result in ended.results.all()} == {1}
    version = fresh(run.version)
    assert (version.stage, version.score, version.needs_override) == (Stage.AWAITING_APPROVAL, 100, False)
    assert version.qa_sentence == ended.sentence == "100 of 100 (excellent): may be approved."
    entry = AuditEntry.objects.first()
    assert entry
    assert (entry.actor, entry.verb, entry.reason) == (audit.SYSTEM, "version.examined", ended.sentence)
    assert entry.after == {
        "stage": "awaiting_approval", "score": 100.0, "qa_run": run.pk, "digest": run.digest,
    }  # fmt: skip
    assert engine.running.api_key not in json.dumps(list(ended.results.values()), default=str)


def test_server_is_warmed_up_before_it_is_examined(run: QARun, host: Any) -> None:
    @contextmanager
    def serve(version: ModelVersion, run: QARun) -> Iterator[RunningServer]:
        yield recorder.running

    with recording() as recorder:
        host(serve)
        qa_runs.run(run.pk)
    assert recorder.bodies[0]["logprobs"] == 1


def test_open_server_is_blocked_with_that_reason(run: QARun, host: Any, engine: Engine) -> None:
    engine.faults = {"open"}
    host(serving(engine))
    qa_runs.run(run.pk)
    failed = now(run).results.get(status=Status.FAILED)
    assert (failed.name, failed.required) == ("security.key_required", True)
    assert fresh(run.version).stage == Stage.BLOCKED
    assert failed.reason in fresh(run.version).qa_sentence


def test_other_bytes_are_blocked_without_starting_a_server(run: QARun, host: Any, artifact: Path) -> None:
    (artifact / "model.json").write_text("other bytes")
    host(never)
    qa_runs.run(run.pk)
    version = fresh(run.version)
    assert version.stage == Stage.BLOCKED
    assert version.qa_sentence.startswith("Blocked: ")
    assert "model.json" in version.qa_sentence
    asked = [result for result in now(run).results.all() if result.status == Status.NOT_CHECKED]
    assert asked
    assert all(result.reason.startswith("The server was not started: ") for result in asked)


def test_server_that_does_not_start_blocks_with_the_sentence(run: QARun, host: Any) -> None:
    host(failing("The server did not start: out of memory."))
    qa_runs.run(run.pk)
    assert fresh(run.version).stage == Stage.BLOCKED
    assert "The server did not start: out of memory." in fresh(run.version).qa_sentence


def test_without_a_place_to_run_it_nothing_passes(run: QARun, host: Any) -> None:
    host(None)
    qa_runs.run(run.pk)
    assert fresh(run.version).stage == Stage.BLOCKED
    assert "No target is set up to run the version on." in fresh(run.version).qa_sentence


def test_key_in_a_server_log_is_kept_nowhere(run: QARun, host: Any, settings: Any) -> None:
    key = settings.ENGINE_API_KEY
    host(failing(f"The server did not start: no such option: --key {key}"))
    qa_runs.run(run.pk)
    written = [
        list(QAResult.objects.values()), list(QARun.objects.values()), list(ModelVersion.objects.values()),
        list(AuditEntry.objects.values()),
    ]  # fmt: skip
    assert key not in str(written)
    assert "no such option: --key •••" in fresh(run.version).qa_sentence


def test_second_examination_forgets_the_first(run: QARun, host: Any, cast: Cast) -> None:
    host(failing("It is too warm."))
    qa_runs.run(run.pk)
    second = actions.examine(fresh(run.version), actor=cast.ana)
    host(failing("It is too cold."))
    qa_runs.run(second.pk)
    assert "too cold" in fresh(run.version).qa_sentence
    assert now(run).results.exists()


def test_progress_is_told(run: QARun, host: Any, django_capture_on_commit_callbacks: Any) -> None:
    told: list[Any] = []
    host(None)
    for kind in (QAProgressed, VersionChanged):
        events.subscribe(kind, told.append)
    try:
        with django_capture_on_commit_callbacks(execute=True):
            qa_runs.run(run.pk)
    finally:
        for kind in (QAProgressed, VersionChanged):
            events.unsubscribe(kind, told.append)
    progressed = QAProgressed(run.pk, run.version_id)
    begun = [check for check in all_checks() if not check.needs_server]
    # Its begin, each check that is begun, each result, its end.
    assert told.count(progressed) == len(begun) + len(all_checks()) + 2
    assert told[-1] == VersionChanged(run.version_id, "blocked")


@pytest.mark.django_db(transaction=True)
def test_what_runs_now_is_kept_as_long_as_it_runs(run: QARun, host: Any, engine: Engine) -> None:
    seen: set[str] = set()
    done: set[str] = set()

    def look(event: Any) -> None:
        row = now(run)
        under_way = {one["name"] for one in row.under_way}
        seen.update(under_way)
        done.update(row.results.values_list("name", flat=True))
        assert not under_way & done

    host(serving(engine))
    events.subscribe(QAProgressed, look)
    try:
        qa_runs.run(run.pk)
    finally:
        events.unsubscribe(QAProgressed, look)
    assert {"compatibility.digest", "compatibility.generation", "security.key_required"} <= seen
    assert now(run).under_way == []


# --- Who carries it out -----------------------------------------------------------------------------------------------


def test_queued_one_is_due_and_an_ended_one_is_not(run: QARun, host: Any) -> None:
    host(None)
    assert qa_runs.due(timezone.now()) == [run.pk]
    assert qa_runs.run(run.pk)
    assert qa_runs.due(timezone.now()) == []
    assert not qa_runs.run(run.pk)


def test_one_that_is_under_way_is_left_alone(run: QARun, host: Any) -> None:
    host(never)
    QARun.objects.filter(pk=run.pk).update(
        status=RunStatus.RUNNING, attempt=1, lease_until=timezone.now() + qa_runs.LEASE
    )
    assert qa_runs.due(timezone.now()) == []
    assert not qa_runs.run(run.pk)
    assert now(run).attempt == 1


def test_one_of_a_worker_that_was_killed_is_taken_over(run: QARun, host: Any) -> None:
    left_behind(run)
    QAResult.objects.create(run=run, name="security.old", label="Old", category="security", status=Status.PASSED)
    host(None)
    assert qa_runs.due(timezone.now()) == [run.pk]
    assert qa_runs.run(run.pk)
    ended = now(run)
    assert (ended.status, ended.attempt) == (RunStatus.FINISHED, 2)
    assert {result.attempt for result in ended.results.all()} == {2}


def test_one_that_was_begun_three_times_is_given_up(run: QARun, host: Any) -> None:
    left_behind(run, attempt=qa_runs.MOST_ATTEMPTS)
    host(never)
    assert qa_runs.run(run.pk)
    ended = now(run)
    assert (ended.status, ended.attempt) == (RunStatus.ERROR, 4)
    assert ended.sentence == "The examination was begun 3 times and never ended; see the worker's log."
    version = fresh(run.version)
    assert (version.stage, version.qa_sentence) == (Stage.REGISTERED, ended.sentence)
    entry = AuditEntry.objects.first()
    assert entry
    assert entry.verb == "version.examination_failed"


def test_version_can_be_examined_again_after_it_was_given_up(run: QARun, host: Any, cast: Cast) -> None:
    left_behind(run, attempt=qa_runs.MOST_ATTEMPTS)
    qa_runs.run(run.pk)
    assert actions.examine(fresh(run.version), actor=cast.ana).pk != run.pk


def test_fault_of_our_own_gives_it_up_with_the_sentence(
    run: QARun, host: Any, settings: Any, caplog: pytest.LogCaptureFixture
) -> None:
    QARun.objects.filter(pk=run.pk).update(policy={"load": {"prompt_words": [[settings.ENGINE_API_KEY, 1]]}})
    with caplog.at_level(logging.CRITICAL, logger="registry.qa_runs"):
        assert qa_runs.run(run.pk)
    assert now(run).status == RunStatus.ERROR
    assert now(run).sentence.startswith("The examination could not be carried out: ValueError: ")
    assert settings.ENGINE_API_KEY not in now(run).sentence
    assert fresh(run.version).stage == Stage.REGISTERED


def test_more_examinations_than_there_is_room_for_wait(
    run: QARun, host: Any, cast: Cast, artifact: Path, settings: Any
) -> None:
    settings.EXAMINATIONS_AT_ONCE = 1
    host(None)
    other = actions.register(run.version.model, actor=cast.ana, artifact_uri=str(artifact), engine="vllm")
    second = actions.examine(other, actor=cast.ana)
    assert qa_runs.due(timezone.now()) == [run.pk]
    QARun.objects.filter(pk=run.pk).update(
        status=RunStatus.RUNNING, attempt=1, lease_until=timezone.now() + qa_runs.LEASE
    )
    assert qa_runs.due(timezone.now()) == []
    assert not qa_runs.run(second.pk)
    left_behind(run)
    assert qa_runs.due(timezone.now()) == [run.pk]
    assert qa_runs.run(second.pk)


# --- Two workers ------------------------------------------------------------------------------------------------------


class Gate:
    """A host whose first server is not ready until the test says so."""

    def __init__(self) -> None:
        self.entered, self.open = threading.Event(), threading.Event()
        self.left: list[int] = []

    def __call__(self, version: ModelVersion, run: QARun) -> Any:
        try:
            if run.attempt == 1:
                self.entered.set()
                assert self.open.wait(20)
            raise TargetError(f"Attempt {run.attempt} got no server.")
        finally:
            self.left.append(run.attempt)


@contextmanager
def worker(run: QARun, **more: Any) -> Iterator[threading.Thread]:
    def work() -> None:
        try:
            qa_runs.run(run.pk, **more)
        finally:
            connection.close()

    thread = threading.Thread(target=work)
    thread.start()
    yield thread
    thread.join(20)
    assert not thread.is_alive()


@pytest.mark.django_db(transaction=True)
def test_worker_that_was_given_up_for_dead_cannot_write_any_more(
    run: QARun, host: Any, caplog: pytest.LogCaptureFixture
) -> None:
    gate = Gate()
    host(gate)
    with caplog.at_level(logging.WARNING, logger="registry.qa_runs"), worker(run):
        assert gate.entered.wait(20)
        QARun.objects.filter(pk=run.pk).update(lease_until=timezone.now() - AGO)
        assert qa_runs.run(run.pk)
        first = list(QAResult.objects.order_by("pk").values())
        gate.open.set()
    assert "was taken over by another worker" in caplog.text
    assert list(QAResult.objects.order_by("pk").values()) == first
    assert {result["attempt"] for result in first} == {2}
    assert "Attempt 2 got no server." in now(run).sentence
    assert AuditEntry.objects.filter(verb="version.examined").count() == 1
    assert AuditEntry.objects.filter(verb="version.examination_failed").count() == 0
    assert gate.left == [2, 1]


@pytest.mark.django_db(transaction=True)
def test_worker_that_lives_keeps_its_lease(run: QARun, host: Any) -> None:
    gate = Gate()
    host(gate)
    with worker(run, heartbeat_seconds=0.01):
        assert gate.entered.wait(20)
        QARun.objects.filter(pk=run.pk).update(lease_until=timezone.now() - AGO)
        limit = timezone.now() + timedelta(seconds=20)
        while qa_runs.due(timezone.now()):
            assert timezone.now() < limit
        assert not qa_runs.run(run.pk)
        gate.open.set()
    assert (now(run).status, now(run).attempt) == (RunStatus.FINISHED, 1)


@pytest.mark.django_db(transaction=True)
def test_of_two_workers_at_once_one_examines(run: QARun, host: Any) -> None:
    host(None)
    begin, did = threading.Barrier(2), list[bool]()

    def work() -> None:
        begin.wait()
        try:
            did.append(qa_runs.run(run.pk))
        finally:
            connection.close()

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(did) == [False, True]
    assert now(run).attempt == 1
