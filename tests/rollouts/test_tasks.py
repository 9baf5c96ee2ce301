"""What beat asks for every second: what is due, and one thing done for each."""

from __future__ import annotations

import json
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.utils import timezone

from deploypipe.celery import app
from deploypipe.core.errors import RouterError
from deploypipe.metrics.measured import measured
from deploypipe.metrics.models import RecordCursor, Window
from rollouts import routing, tasks
from rollouts.lifecycle import Purpose, Status
from rollouts.models import Deployment, Rollout
from rollouts.targets.base import Phase
from tests.metrics.test_records import USUAL
from tests.rollouts.conftest import ScriptedGate, World, all_on


@pytest.fixture
def eager() -> Any:
    """Tasks that tasks ask for are carried out at once, as a worker would a moment later."""
    app.conf.task_always_eager = True
    yield
    app.conf.task_always_eager = False


@pytest.fixture
def records(settings: Any, tmp_path: Path) -> Path:
    log = tmp_path / "access.log"
    settings.GATEWAY_RECORDS = log
    return log


def test_records_become_windows(db: None, records: Path) -> None:
    records.write_text(json.dumps(USUAL) + "\n")
    tasks.read_records()
    assert Window.objects.get().requests == 1
    assert RecordCursor.objects.get().read_at is not None


def test_beat_asks_for_tasks_that_there_are() -> None:
    app.loader.import_default_modules()
    asked = {entry["task"] for entry in app.conf.beat_schedule.values()}
    assert asked >= {"rollouts.tasks.read_records", "rollouts.tasks.forget_windows"}
    assert asked <= set(app.tasks)


def test_windows_of_long_ago_are_forgotten_after_the_days_of_the_settings(
    db: None, records: Path, settings: Any
) -> None:
    records.write_text(json.dumps(USUAL) + "\n")
    tasks.read_records()
    Window.objects.update(taken_at=timezone.now() - timedelta(days=9))
    settings.WINDOWS_DAYS = 10
    tasks.forget_windows()
    assert Window.objects.count() == 1
    settings.WINDOWS_DAYS = 8
    tasks.forget_windows()
    assert Window.objects.count() == 0


def test_records_that_are_not_there_yet_are_no_fault(db: None, records: Path) -> None:
    tasks.read_records()
    assert not Window.objects.exists()
    assert RecordCursor.objects.get().read_at is not None


def test_records_are_told_which_arm_was_promised_which_share(world: World, gate: ScriptedGate, records: Path) -> None:
    world.live()
    own, other = world.approved(), world.approved()
    steps = [{"setWeight": 20}, {"tasting": {}}]
    rollout = world.run(world.request(own, steps, purpose=Purpose.EXPERIMENT, arms=[other]))
    tasks.read_records()
    (facts,) = routing.facts()
    started = int(timezone.now().timestamp() * 1000) + 1
    lines = [
        {**USUAL, "backend": name, "session": f"{place:016x}", "start_ms": str(started), "group": None}
        for place, name in enumerate(facts.arms)
    ]
    forced = {**lines[0], "session": "f" * 16, "group": "forced"}
    records.write_text("".join(json.dumps(line) + "\n" for line in [*lines, forced]))
    tasks.read_records()
    assert rollout.traffic_from is not None
    (window,) = measured("production", "textgen", facts.arms, rollout.traffic_from)
    assert window.shares == {"candidate": 0.1, "candidate-2": 0.1, "stable": 0.8}
    assert window.period == facts.period
    assert {arm: window.arm(arm).requests for arm in window.arms} == dict.fromkeys(facts.arms.values(), 1)


def test_beat_brings_a_rollout_to_its_end(world: World, eager: None) -> None:
    rollout = world.request(world.approved())
    for _ in range(5):
        tasks.servers_due()
        world.check_health()
        tasks.rollouts_due()
    rollout.refresh_from_db()
    assert rollout.status == Status.SUCCEEDED
    assert world.wire() == all_on(rollout.candidate)


def test_every_active_rollout_gets_its_turn_although_the_gateway_fails(world: World, eager: None) -> None:
    first = world.request(world.approved())
    second = world.request(world.registered(), environment=world.staging)
    world.router.fail_next(RouterError("Disk full."))
    tasks.rollouts_due()
    assert list(Rollout.objects.filter(fence__gt=0).order_by("pk")) == [first, second]


def test_traffic_leaves_a_server_that_died_at_once(world: World) -> None:
    rollout = world.canary([{"setWeight": 10}, {"pause": {}}])
    world.crash(rollout.previous)
    world.target.ready_at_once = False
    tasks.servers_due()
    assert world.wire() == all_on(rollout.candidate)


def test_edited_data_plane_is_written_anew_within_a_beat(world: World) -> None:
    version = world.live()
    world.router.tamper(())
    tasks.rollouts_due()
    assert world.wire() == all_on(world.deployment(version))


def test_health_is_asked_of_each_server_that_is_due(world: World, eager: None) -> None:
    version = world.live()
    Deployment.objects.update(checked_at=None)
    tasks.health_due()
    deployment = world.deployment(version)
    assert deployment.checked_at is not None
    assert deployment.health_failures == 1  # nobody listens at a memory server's address


def test_late_or_repeated_message_is_harmless(world: World) -> None:
    rollout = world.run(world.request(world.approved()))
    fence = rollout.fence
    tasks.bring_forward(rollout.pk)
    tasks.bring_forward(rollout.pk + 1000)
    rollout.refresh_from_db()
    assert (rollout.status, rollout.sentence != "", rollout.fence) == (Status.SUCCEEDED, True, fence)


def test_idle_servers_and_strays_are_ended(world: World) -> None:
    world.live()
    old = Deployment.objects.get()
    world.run(world.request(world.approved(), [{"setWeight": 100}]))
    world.target.make("somebody-elses", Phase.READY)
    Deployment.objects.filter(pk=old.pk).update(stop_after=old.created_at)
    tasks.servers_due()
    tasks.servers_due()
    assert old.name not in world.target.names()
    assert "somebody-elses" not in world.target.names()
