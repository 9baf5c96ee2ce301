"""What beat asks for every second: what is due, and one thing done for each."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from deploypipe.celery import app
from deploypipe.core.errors import RouterError
from deploypipe.metrics.models import RecordCursor, Window
from rollouts import tasks
from rollouts.lifecycle import Status
from rollouts.models import Deployment, Rollout
from rollouts.targets.base import Phase
from tests.metrics.test_records import USUAL
from tests.rollouts.conftest import World, all_on


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


def test_records_that_are_not_there_yet_are_no_fault(db: None, records: Path) -> None:
    tasks.read_records()
    assert not Window.objects.exists()
    assert RecordCursor.objects.get().read_at is not None


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
