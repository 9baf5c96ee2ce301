"""Servers follow the rows: started, started again, drained, stopped, and found again after the product was down."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from django.utils import timezone

from deploypipe.core.errors import Conflict, RouterError, TargetError
from deploypipe.core.models import AuditEntry
from registry import actions as registry_actions
from registry.models import QARun
from rollouts import servers
from rollouts.lifecycle import Status
from rollouts.models import Deployment, Desired, Rollout, Route
from rollouts.servers import examination_name, live_copy_name
from rollouts.targets.base import Phase
from rollouts.targets.memory import MemoryTarget
from rollouts.traffic.base import TOTAL_WEIGHT, Backend, RouteTable
from tests.rollouts.conftest import Replace, World, all_on, long_ago, previous_of


@pytest.fixture
def stable(world: World) -> Deployment:
    return world.deployment(world.live())


@pytest.fixture
def replaced(world: World, stable: Deployment) -> Deployment:
    """Its successor was promoted, and its time to be warm is over."""
    assert world.run(world.request(world.approved(), [{"setWeight": 100}])).status == Status.SUCCEEDED
    Deployment.objects.filter(pk=stable.pk).update(**long_ago(stop_after=1))
    stable.refresh_from_db()
    return stable


def look(deployment: Deployment, *, seconds: float = 0.0) -> Deployment:
    servers.converge(deployment, timezone.now() + timedelta(seconds=seconds))
    return deployment


# Starting


def test_server_gets_its_command_and_its_key(world: World, stable: Deployment, settings: Any) -> None:
    spec = world.target.spec(stable.name)
    assert spec is not None
    assert str(world.artifact) in spec.command
    assert "{port}" in spec.command
    assert spec.environment == {"TEXTGEN_API_KEY": settings.ENGINE_API_KEY}
    assert settings.ENGINE_API_KEY not in " ".join(spec.command)
    assert spec.ready_timeout == settings.READY_TIMEOUT


@pytest.mark.parametrize("harm", ["changed", "missing", "added", "gone"])
def test_other_bytes_are_never_started(world: World, harm: str) -> None:
    version = world.approved()
    match harm:
        case "changed":
            (world.artifact / "model.json").write_bytes(b"x" * 256)
        case "missing":
            (world.artifact / "model.json").unlink()
        case "added":
            (world.artifact / "more.json").write_text("{}")
        case "gone":
            world.artifact.rename(world.artifact.with_name("elsewhere"))
    deployment = look(servers.deploy(version, world.production))
    assert deployment.phase == Phase.FAILED
    assert deployment.message.startswith("The artifact is not the registered one: ")
    assert world.target.started == []


def test_other_bytes_are_not_started_either_when_a_server_vanished(world: World, stable: Deployment) -> None:
    (world.artifact / "model.json").write_bytes(b"x" * 256)
    world.target.make(stable.name, Phase.ABSENT)
    assert look(stable).phase == Phase.FAILED
    assert world.target.started == [stable.name]


def test_artifact_that_cannot_be_read_is_a_sentence_and_no_crash(world: World, stable: Deployment) -> None:
    type(stable.version).objects.filter(pk=stable.version_id).update(artifact_uri="s3://somewhere/else")
    world.target.make(stable.name, Phase.ABSENT)
    stable = Deployment.objects.get(pk=stable.pk)
    assert "The artifact cannot be read" in look(stable).message


def test_start_is_wanted_until_the_target_was_told(world: World) -> None:
    deployment = servers.deploy(world.approved(), world.production)
    world.target.fail_next(TargetError("Busy."))
    assert look(deployment).start_wanted
    assert deployment.message == "Busy."
    assert not look(deployment).start_wanted
    assert deployment.phase == Phase.READY


def test_names_are_never_given_twice(world: World) -> None:
    long = [registry_actions.create_model(f"a-very-long-name-of-a-model-{n}", actor=world.cast.ana) for n in "ab"]
    names = [servers.deploy(world.approved(model), world.production).name for model in long]
    assert len(set(names)) == 2
    tricky = registry_actions.create_model("x", actor=world.cast.ana)
    other = registry_actions.create_model("x-v1", actor=world.cast.ana)
    elsewhere = type(world.production).objects.create(name="v1-east")
    east = type(world.production).objects.create(name="east")
    first = servers.deploy(world.approved(tricky), elsewhere)
    second = servers.deploy(world.approved(other), east)
    assert first.name == "x-v1-v1-east"
    assert second.name not in (first.name, "")
    longest = type(world.production).objects.create(name="e" * 40)
    model = registry_actions.create_model("m" * 40, actor=world.cast.ana)
    name = servers.deploy(world.approved(model), longest).name
    assert len(name) <= 63
    assert look(Deployment.objects.get(name=name)).phase == Phase.READY


# Living on


def test_stable_server_that_died_is_started_again_with_growing_pauses(world: World, stable: Deployment) -> None:
    pauses = []
    now = timezone.now()
    for _ in range(9):
        world.crash(stable)
        servers.converge(stable, now)
        assert stable.restart_after is not None
        pauses.append((stable.restart_after - now).total_seconds())
        servers.converge(stable, now)
        assert stable.phase == Phase.READY
        world.crash(stable)
        servers.converge(stable, now)
        assert stable.phase == Phase.FAILED
        assert not stable.start_wanted
        now = stable.restart_after
    assert pauses == [1, 2, 4, 8, 16, 32, 60, 60, 60]
    assert AuditEntry.objects.filter(verb="deployment.restarted").count() == 9


def test_server_that_never_lives_is_tried_for_ever(world: World, stable: Deployment) -> None:
    Deployment.objects.filter(pk=stable.pk).update(restarts=5000)
    world.crash(stable)
    assert look(stable).restarts == 5001


def test_candidate_that_died_is_not_started_again(world: World) -> None:
    rollout = world.canary()
    candidate = world.deployment(rollout.version)
    world.crash(candidate)
    assert look(candidate).phase == Phase.FAILED
    assert look(candidate, seconds=100).phase == Phase.FAILED
    assert world.target.started.count(candidate.name) == 1


def test_health_is_shown_anew_after_a_restart_and_under_another_address(world: World, stable: Deployment) -> None:
    assert stable.healthy
    world.crash(stable)
    assert look(stable).healthy is None
    look(stable)
    Deployment.objects.filter(pk=stable.pk).update(healthy=True, address="127.0.0.1:1000")
    assert look(stable).healthy is None


def test_one_servers_fault_keeps_no_other_from_being_looked_after(world: World, stable: Deployment) -> None:
    broken = servers.deploy(world.approved(), world.staging)
    type(world.staging).objects.filter(pk=world.staging.pk).update(target="nowhere")
    world.crash(stable)
    servers.converge_all(timezone.now())
    stable.refresh_from_db()
    broken.refresh_from_db()
    assert stable.phase == Phase.FAILED
    assert broken.phase == Phase.ABSENT


def test_looking_costs_the_same_number_of_queries_however_often(
    world: World, stable: Deployment, django_assert_max_num_queries: Any
) -> None:
    deployment = Deployment.objects.select_related("environment", "version__model").get(pk=stable.pk)
    with django_assert_max_num_queries(3):
        look(deployment)


# Stopping


def test_replaced_version_is_stopped_once_its_time_is_over(world: World, replaced: Deployment) -> None:
    assert servers.stop_idle(timezone.now()) == 1
    assert servers.stop_idle(timezone.now()) == 0
    servers.converge_all(timezone.now())
    replaced.refresh_from_db()
    assert (replaced.desired, replaced.phase) == (Desired.STOPPED, Phase.ABSENT)
    assert replaced.name not in world.target.names()
    assert AuditEntry.objects.filter(verb="deployment.stopped").count() == 1


def test_version_is_kept_as_long_as_it_is_to_be_warm(world: World, replaced: Deployment) -> None:
    Deployment.objects.filter(pk=replaced.pk).update(stop_after=timezone.now() + timedelta(seconds=5))
    assert servers.stop_idle(timezone.now()) == 0
    assert servers.stop_idle(timezone.now() + timedelta(seconds=6)) == 1


def test_streams_are_let_go_on_up_to_the_limit(world: World, replaced: Deployment, settings: Any) -> None:
    world.router.set_active(replaced.name, 1)
    now = timezone.now()
    assert servers.stop_idle(now) == 0
    assert servers.stop_idle(now + timedelta(seconds=settings.DRAIN_LIMIT - 2)) == 0
    assert servers.stop_idle(now + timedelta(seconds=settings.DRAIN_LIMIT + 1)) == 1


def test_streams_that_ended_keep_nothing(world: World, replaced: Deployment) -> None:
    world.router.set_active(replaced.name, 1)
    assert servers.stop_idle(timezone.now()) == 0
    world.router.set_active(replaced.name, 0)
    assert servers.stop_idle(timezone.now()) == 1


def test_what_the_gateway_still_sends_traffic_to_is_not_stopped(world: World, replaced: Deployment) -> None:
    world.router.tamper(
        [RouteTable("production", "textgen", (Backend(replaced.name, replaced.address, TOTAL_WEIGHT),), "0")]
    )
    assert servers.stop_idle(timezone.now() + timedelta(days=1)) == 0


def test_while_the_gateway_is_silent_nothing_is_stopped(world: World, replaced: Deployment) -> None:
    world.router.fail_next(RouterError("No answer."), operation="installed")
    assert servers.stop_idle(timezone.now()) == 0


def test_what_a_route_or_a_rollout_names_is_not_stopped_whatever_the_row_says(world: World) -> None:
    rollout = world.canary()
    Deployment.objects.update(**long_ago(stop_after=3600))
    assert servers.stop_idle(timezone.now()) == 0
    Route.objects.update(candidate=None, weight=0)
    assert servers.stop_idle(timezone.now()) == 0
    Rollout.objects.filter(pk=rollout.pk).update(status=Status.ROLLED_BACK)
    world.router.tamper(())
    assert servers.stop_idle(timezone.now()) == 1
    stable = world.deployment(previous_of(rollout).version)
    assert stable.desired == Desired.RUNNING


def test_what_is_wanted_again_at_that_moment_is_not_stopped(world: World, replaced: Deployment) -> None:
    seen = Deployment.objects.get(pk=replaced.pk)
    servers.deploy(replaced.version, world.production)
    assert not servers._stop(seen)
    seen.refresh_from_db()
    assert (seen.desired, seen.stop_after) == (Desired.RUNNING, None)


# Strays


def test_strays_are_stopped_and_nothing_else(world: World, stable: Deployment) -> None:
    run = QARun.objects.create(version=stable.version, digest="d", policy={}, status="running")
    of_the_run = {examination_name(run.pk, run.attempt), live_copy_name(run.pk, run.attempt)}
    for name in ("somebody-elses", "qa-99999", "qa-99999-0-live", *of_the_run):
        world.target.make(name, Phase.READY)
    servers.stop_strays()
    assert world.target.names() == {stable.name, *of_the_run}


def test_server_that_starts_while_strays_are_looked_for_is_none(world: World, backend: Replace) -> None:
    version = world.approved()

    class Busy(MemoryTarget):
        def names(self) -> set[str]:
            found = super().names()
            if not found:
                look(servers.deploy(version, world.production))
                return super().names()
            return found

    target = Busy()
    backend("target", target)
    servers.stop_strays()
    assert len(target.names()) == 1


def test_target_that_does_not_answer_is_no_reason_to_fall_over(world: World) -> None:
    world.target.make("somebody-elses", Phase.READY)
    world.target.fail_next(TargetError("No answer."))
    servers.stop_strays()
    servers.stop_strays()
    assert world.target.names() == set()


# After the product was down


@pytest.mark.parametrize("phase", [Phase.FAILED, Phase.ABSENT, Phase.STOPPING])
def test_what_ended_with_the_product_is_started_again(world: World, stable: Deployment, phase: Phase) -> None:
    world.target.make(stable.name, phase)
    assert servers.recover() == 1
    stable.refresh_from_db()
    assert (stable.start_wanted, stable.phase, stable.address, stable.healthy) == (True, Phase.ABSENT, "", None)
    assert "ended with the product" in stable.message
    world.target.make(stable.name, Phase.ABSENT if phase is Phase.STOPPING else phase)
    assert look(stable).phase == Phase.READY


def test_what_still_runs_is_left_alone(world: World, stable: Deployment) -> None:
    assert servers.recover() == 0
    stable.refresh_from_db()
    assert (stable.phase, stable.healthy) == (Phase.READY, True)
    assert world.wire() == all_on(stable)


def test_candidate_that_died_while_somebody_was_watching_stays_dead(world: World) -> None:
    rollout = world.canary()
    candidate = world.deployment(rollout.version)
    world.crash(candidate)
    look(candidate)
    assert servers.recover() == 0
    assert world.run(rollout).status == Status.ROLLED_BACK


def test_target_that_does_not_answer_does_not_keep_the_product_from_starting(world: World, stable: Deployment) -> None:
    world.target.fail_next(TargetError("No answer."))
    assert servers.recover() == 0


def test_a_key_that_a_server_prints_into_its_log_is_not_shown(world: World, stable: Deployment, settings: Any) -> None:
    world.target.make(stable.name, Phase.FAILED, f"exited; its log ends: key={settings.ENGINE_API_KEY}")
    look(stable)
    assert stable.message == "exited; its log ends: key=•••"


def test_a_version_that_is_kept_warm_for_a_rollback_is_not_retired(world: World, stable: Deployment) -> None:
    before = stable.version
    newer = world.run(world.request(world.approved(), [{"setWeight": 100}]))
    assert newer.status == Status.SUCCEEDED
    with pytest.raises(Conflict, match="a rollback finds it warm"):
        registry_actions.retire(before, actor=world.cast.cy)
