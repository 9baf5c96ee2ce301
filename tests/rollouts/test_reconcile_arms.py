"""An experiment of several candidates, from request to its end, with everything that may go wrong on the way."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from django.db import transaction
from django.utils import timezone

from deploypipe.core import audit
from deploypipe.core.errors import RouterError
from registry import actions as registry_actions
from rollouts import actions, queries, routing, servers
from rollouts.backends import gates
from rollouts.lifecycle import Cause, Purpose, Status
from rollouts.models import Deployment, Rollout, RolloutArm
from rollouts.plan import Finding
from rollouts.targets.base import Phase
from rollouts.traffic.base import Assignment, ForcedRule
from tests.rollouts.conftest import Replace, ScriptedGate, World, all_on, make_world, previous_of, verbs_of
from tests.rollouts.test_reconcile_workers import Fuse, FusedRouter, FusedTarget, beat, play

STEPS: list[dict[str, Any]] = [{"setWeight": 30}, {"tasting": {}}]


def ask(world: World, versions: int = 3, **options: Any) -> Rollout:
    own, *others = [world.approved() for _ in range(versions)]
    return world.request(own, **{"steps": STEPS, "purpose": Purpose.EXPERIMENT, "arms": others, **options})


@pytest.fixture
def running(world: World, gate: ScriptedGate) -> Rollout:
    """Three candidates at 30 %, at their judge."""
    world.live()
    rollout = world.run(ask(world))
    assert (rollout.status, rollout.step_index) == (Status.PROGRESSING, 1), rollout.sentence
    return rollout


def server(rollout: Rollout, position: int) -> Deployment:
    deployment = rollout.arms.get(position=position).deployment
    assert deployment is not None
    return deployment


def split(rollout: Rollout, **shares: int) -> dict[str, int]:
    """`a`, `b`, `c`: of the first, second and third arm."""
    own = {server(rollout, "abc".index(letter) + 1).name: share for letter, share in shares.items()}
    return {**own, previous_of(rollout).name: 10_000 - sum(shares.values())}


# Forward


def test_all_servers_are_well_before_any_of_them_gets_traffic(world: World, gate: ScriptedGate) -> None:
    live = world.live()
    rollout = ask(world)
    world.target.ready_at_once = False
    world.run(rollout)
    names = [server(rollout, position).name for position in (1, 2, 3)]
    for name in names[:2]:
        world.target.make(name, Phase.READY)
    world.run(rollout)
    assert rollout.status == Status.PROVISIONING
    assert "Waiting for the server (candidate-3) to be ready" in rollout.sentence
    assert world.wire() == all_on(world.deployment(live))
    world.target.make(names[2], Phase.READY)
    world.run(rollout)
    assert rollout.step_index == 1
    assert world.wire() == split(rollout, a=999, b=999, c=1000)


def test_parts_share_the_experiments_traffic(world: World, gate: ScriptedGate) -> None:
    world.live()
    rollout = world.run(ask(world, arm_weights=[3, 2, 1]))
    assert world.wire() == split(rollout, a=1500, b=999, c=500)


def test_it_waits_for_every_version_to_be_approved(world: World, gate: ScriptedGate) -> None:
    world.live()
    own, other = world.approved(), world.examined(world.registered())
    rollout = world.run(world.request(own, STEPS, purpose=Purpose.EXPERIMENT, arms=[other]))
    assert rollout.sentence == "Waiting for an approver to say yes to the version (candidate-2)."
    registry_actions.approve(other, actor=world.cast.bo)
    assert world.run(rollout).step_index == 1


def test_it_ends_with_all_traffic_on_stable_and_the_answer_in_its_sentence(
    world: World, running: Rollout, gate: ScriptedGate
) -> None:
    gate.finding = Finding("pass", "candidate-2 is the best: 4.2 stars.")
    world.run(running)
    assert running.status == Status.SUCCEEDED
    assert running.sentence == (
        "The experiment ended; all traffic is on the stable version. candidate-2 is the best: 4.2 stars."
    )
    assert world.wire() == all_on(running.previous)
    assert world.route().stable == running.previous
    servers.stop_idle(timezone.now() + timedelta(seconds=1))
    for position in (1, 2, 3):
        assert server(running, position).desired == "stopped"


def test_routing_and_holdout_hold_as_long_as_the_experiment_does(world: World, gate: ScriptedGate) -> None:
    world.live()
    rule = {"header": "x-beta", "value": "1", "arm": "candidate-2"}
    asked = {"by": "cookie", "name": "uid", "forced": [rule]}
    rollout = world.run(ask(world, routing=asked, holdout_percent=5))
    (table,) = world.router.tables
    assert table.assignment == Assignment("cookie", "uid")
    assert table.forced == (ForcedRule("x-beta", "1", "candidate-2"),)
    assert table.holdout == 500
    named = {"candidate": 1, "candidate-2": 2, "candidate-3": 3}
    stable = previous_of(rollout).name
    assert dict(table.arms) == {arm: server(rollout, p).name for arm, p in named.items()} | {"stable": stable}
    gate.finding = Finding("pass", "Done.")
    world.run(rollout)
    routing.write_all()
    (table,) = world.router.tables
    assert (table.assignment, table.forced, table.holdout, table.arms) == (Assignment(), (), 0, ())


# One leaves


def test_arm_whose_verdict_is_abort_leaves_and_the_others_go_on(
    world: World, running: Rollout, gate: ScriptedGate
) -> None:
    bad = server(running, 2)
    gate.finding = Finding("insufficient_data", "Two go on.", drop=(("candidate-2", "candidate-2 fails more."),))
    world.run(running)
    assert (running.status, running.step_index, running.sentence) == (Status.PROGRESSING, 1, "Two go on.")
    assert world.wire() == split(running, a=999, c=1000)
    assert running.arms.get(position=2).reason == "candidate-2 fails more."
    assert verbs_of(running).count("rollout.arm_dropped") == 1
    assert not queries.is_needed(bad)
    world.router.set_active(bad.name, 1)
    servers.stop_idle(timezone.now())
    bad.refresh_from_db()
    assert bad.desired == "running"  # its streams may end
    world.router.set_active(bad.name, 0)
    servers.stop_idle(timezone.now())
    bad.refresh_from_db()
    assert bad.desired == "stopped"
    assert world.run(running).status == Status.PROGRESSING


@pytest.mark.parametrize("position", [1, 2, 3])
def test_arm_whose_server_dies_leaves_alone_also_the_rollouts_own(
    world: World, running: Rollout, position: int
) -> None:
    world.crash(server(running, position))
    world.run(running)
    assert running.status == Status.PROGRESSING
    arm = running.arms.get(position=position)
    assert (arm.is_on, arm.cause) == (False, Cause.HEALTH)
    shares = {"a": 999, "b": 999, "c": 1000}
    del shares["abc"[position - 1]]
    assert world.wire() == split(running, **shares)


def test_own_version_that_left_is_stopped_while_the_others_go_on(world: World, running: Rollout) -> None:
    actions.drop_arm(running, "candidate", "Rude.", actor=world.cast.cy)
    world.run(running)
    servers.stop_idle(timezone.now())
    assert server(running, 1).desired == "stopped"
    servers.converge_all(timezone.now())
    world.run(running)
    assert (running.status, world.wire()) == (Status.PROGRESSING, split(running, b=999, c=1000))


def test_suspended_version_leaves_alone(world: World, running: Rollout) -> None:
    version = running.arms.get(position=3).version
    registry_actions.suspend(version, actor=world.cast.bo, reason="Licence.")
    world.run(running)
    assert running.status == Status.PROGRESSING
    assert world.wire() == split(running, a=999, b=999)


def test_last_arm_that_fails_turns_the_rollout_back(world: World, running: Rollout, gate: ScriptedGate) -> None:
    words = tuple((lane.arm, f"{lane.arm} fails more.") for lane in running.lanes)
    gate.finding = Finding("insufficient_data", "None is left.", drop=words)
    world.run(running)
    assert (running.status, running.cause) == (Status.ROLLED_BACK, Cause.VERDICT)
    assert running.reason == "candidate-3 fails more."
    assert world.wire() == all_on(running.previous)


def test_abort_takes_all_of_them_off(world: World, running: Rollout) -> None:
    actions.abort(running, actor=world.cast.cy, reason="Enough.")
    world.run(running)
    assert running.status == Status.ROLLED_BACK
    assert world.wire() == all_on(running.previous)
    servers.stop_idle(timezone.now() + timedelta(seconds=1))
    assert {server(running, position).desired for position in (1, 2, 3)} == {"stopped"}
    assert world.route().rollout is None


def test_arm_that_does_not_start_leaves_before_there_is_traffic(world: World, gate: ScriptedGate) -> None:
    world.live()
    rollout = ask(world)
    world.target.ready_at_once = False
    world.run(rollout)
    world.target.make(server(rollout, 1).name, Phase.READY)
    world.target.make(server(rollout, 2).name, Phase.FAILED)
    world.target.make(server(rollout, 3).name, Phase.READY)
    world.run(rollout)
    assert (rollout.status, rollout.step_index) == (Status.PROGRESSING, 1)
    assert world.wire() == split(rollout, a=999, c=1000)


def test_refused_arm_leaves_while_the_rollout_still_waits(world: World, gate: ScriptedGate) -> None:
    world.live()
    own, other = world.approved(), world.examined(world.registered())
    rollout = world.run(world.request(own, STEPS, purpose=Purpose.EXPERIMENT, arms=[other]))
    registry_actions.refuse(other, actor=world.cast.bo, note="No.")
    world.run(rollout)
    assert rollout.step_index == 1
    assert not Deployment.objects.filter(version=other).exists()
    assert world.wire() == split(rollout, a=1500)


# Servers and gateway that fail for a while


def test_share_of_an_arm_that_restarts_goes_to_stable_and_comes_back(world: World, running: Rollout) -> None:
    world.target.ready_at_once = False
    world.target.make(server(running, 2).name, Phase.FAILED)
    assert servers.recover() == 1
    routing.write_all()
    assert world.wire() == split(running, a=999, c=1000)
    world.run(running)
    assert "Waiting until candidate-2 is known to be healthy" in running.sentence
    world.target.make(server(running, 2).name, Phase.READY)
    world.run(running)
    routing.write_all()
    assert world.wire() == split(running, a=999, b=999, c=1000)


def test_candidates_share_all_traffic_while_stable_is_gone(world: World, running: Rollout) -> None:
    world.target.ready_at_once = False
    world.crash(running.previous)
    servers.converge_all(timezone.now())
    routing.write_all()
    names = [server(running, position).name for position in (1, 2, 3)]
    assert world.wire() == dict(zip(names, (3333, 3333, 3334), strict=True))


def test_arm_whose_leave_cannot_be_written_is_said_and_leaves_later(world: World, running: Rollout) -> None:
    before = world.wire()
    for _ in range(50):
        world.router.fail_next(RouterError("No space left on device."))
    actions.drop_arm(running, "candidate-2", "Rude.", actor=world.cast.cy)
    world.run(running)
    assert (running.sentence, running.problem) == ("No space left on device.", True)
    assert world.wire() == before
    world.router._failures.clear()
    world.run(running)
    assert world.wire() == split(running, a=999, c=1000)


def test_edited_split_among_the_arms_is_put_right(world: World, running: Rollout) -> None:
    (table,) = world.router.tables
    names = {server(running, 1).name: server(running, 2).name, server(running, 2).name: server(running, 1).name}
    swapped = tuple((names.get(name, name), width) for name, width in table.cuts)
    world.router.tamper([replace(table, cuts=swapped)])
    routing.write_all()
    assert world.router.tables == (table,)


# A crash after every side effect


class Jury:
    """Takes the second arm off at its first look, and ends when that is done."""

    def check(self, settings: Any) -> dict[str, str]:
        return {}

    def title(self, settings: Any) -> str:
        return "Jury"

    def watch(self, settings: Any) -> dict[str, Any]:
        return {}

    def judge(self, rollout: Rollout, step_index: int, *, now: datetime, seconds: float) -> Finding:
        if RolloutArm.objects.filter(rollout=rollout, position=2, dropped_at=None).exists():
            return Finding("insufficient_data", "One leaves.", drop=(("candidate-2", "Worse."),))
        return Finding("pass", "candidate wins.")

    def end(self, rollout: Rollout, step_index: int, *, now: datetime) -> None:
        raise AssertionError("It came to its own end.")


STORY = [
    "rollout.requested", "rollout.qa_passed", "rollout.approved", "rollout.provisioned", "rollout.weight",
    "rollout.step_done", "rollout.arm_dropped", "rollout.step_done", "rollout.conclude", "rollout.weight",
    "rollout.concluded",
]  # fmt: skip


@pytest.fixture
def fuse() -> Fuse:
    return Fuse()


@pytest.fixture
def fused(db: None, artifact: Path, backend: Replace, fuse: Fuse) -> Iterable[World]:
    target, router = FusedTarget(fuse), FusedRouter(fuse)
    backend("target", target)
    backend("router", router)
    gates.register("jury")(Jury())
    yield make_world(artifact, target, router)
    gates.unregister("jury")


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_crash_at_any_side_effect_of_a_comparison_is_made_good(fused: World, fuse: Fuse, after: bool) -> None:
    fused.live()
    own, *others = [fused.approved() for _ in range(3)]
    names = [f"textgen-v{version.number}-production" for version in (own, *others)]

    def story(at: int | None) -> int:
        steps = [{"setWeight": 30}, {"jury": {}}]
        rollout = fused.request(own, steps, purpose=Purpose.EXPERIMENT, arms=others)
        fuse.set(at, after=after)
        play(fused, rollout, lambda _: None)
        calls = fuse.calls
        fuse.set(None)
        beat(fused, rollout)
        assert rollout.status == Status.SUCCEEDED, f"killed at {at}: {rollout.sentence}"
        assert rollout.sentence.endswith("candidate wins.")
        assert verbs_of(rollout) == STORY, f"killed at {at}"
        assert fused.wire() == all_on(rollout.previous)
        assert [fused.target.started.count(name) for name in names] == [1, 1, 1], f"killed at {at}"
        beat(fused, rollout)
        assert not set(names) & fused.target.names(), f"killed at {at}"
        assert list(audit.verify()) == []
        return calls

    def again(at: int | None) -> int:
        before = transaction.savepoint()
        kept = dict(fused.target._servers), list(fused.target.started), fused.router.tables
        calls = story(at)
        transaction.savepoint_rollback(before)
        fused.target._servers, fused.target.started = dict(kept[0]), list(kept[1])
        fused.router.tamper(kept[2])
        return calls

    calls = again(None)
    assert calls > 5
    for at in range(calls):
        again(at)
