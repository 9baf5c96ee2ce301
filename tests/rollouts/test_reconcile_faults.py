"""The outside world fails while a rollout is under way: traffic stays where it is well, and nothing is stuck after."""

from __future__ import annotations

from typing import Any

import pytest
from django.utils import timezone

from deploypipe.core import audit
from deploypipe.core.errors import RouterError, TargetError
from rollouts import actions, reconcile, routing, servers
from rollouts.backends import targets
from rollouts.lifecycle import Cause, Status
from rollouts.models import Deployment, Rollout, Route
from rollouts.plan import ROUTE_DEADLINE
from rollouts.targets.base import Observation, Phase
from rollouts.targets.memory import MemoryTarget
from rollouts.traffic.base import TOTAL_WEIGHT, Backend, RouteTable
from rollouts.traffic.memory import MemoryRouter
from tests.rollouts.conftest import Replace, World, all_on, candidate_of, long_ago, previous_of

FULL = "The gateway's files could not be written: no space left on device. The old routes stay in force."


def break_writes(router: MemoryRouter, times: int = 50) -> None:
    for _ in range(times):
        router.fail_next(RouterError(FULL))


def mend(router: MemoryRouter) -> None:
    router._failures.clear()


# The stable version


def test_stable_version_that_dies_hands_all_traffic_to_the_healthy_candidate_and_gets_its_share_back(
    world: World,
) -> None:
    rollout = world.canary([{"setWeight": 10}, {"pause": {"seconds": 1}}, {"setWeight": 100}])
    world.target.ready_at_once = False
    world.crash(rollout.previous)
    servers.converge_all(timezone.now())
    routing.write_all()
    assert world.wire() == all_on(rollout.candidate)
    Rollout.objects.filter(pk=rollout.pk).update(**long_ago(step_at=60))
    world.run(rollout)
    assert (rollout.step_index, rollout.problem) == (1, True)
    assert "Waiting until the stable version is ready again" in rollout.sentence
    world.target.make(previous_of(rollout).name, Phase.READY)
    servers.converge_all(timezone.now())
    routing.write_all()
    assert world.wire() == {candidate_of(rollout).name: 1000, previous_of(rollout).name: 9000}
    assert world.run(rollout).status == Status.SUCCEEDED


def test_stable_version_that_dies_while_a_weight_is_awaited_is_nothing_against_the_candidate(world: World) -> None:
    rollout = world.canary([{"setWeight": 10}, {"pause": {}}])
    Rollout.objects.filter(pk=rollout.pk).update(step_index=0)
    Route.objects.update(**long_ago(changed_at=ROUTE_DEADLINE + 60))
    world.target.ready_at_once = False
    world.crash(rollout.previous)
    world.run(rollout)
    assert rollout.status == Status.PROGRESSING
    assert "Waiting until the stable version is ready again" in rollout.sentence


def test_bad_candidate_keeps_its_traffic_while_nothing_else_can_take_it(world: World) -> None:
    rollout = world.canary()
    world.target.ready_at_once = False
    world.crash(rollout.previous)
    world.measure_bad(rollout)
    world.run(rollout)
    assert (rollout.status, rollout.problem) == (Status.ROLLING_BACK, True)
    routing.write_all()
    assert world.wire() == all_on(rollout.candidate)
    world.target.make(previous_of(rollout).name, Phase.READY)
    world.run(rollout)
    assert rollout.status == Status.ROLLED_BACK
    assert world.wire() == all_on(rollout.previous)


# The candidate


def test_candidate_that_restarts_gets_no_traffic_and_is_not_blamed(world: World) -> None:
    """As after a restart of the product: what ended while nobody was watching."""
    rollout = world.canary()
    world.target.ready_at_once = False
    world.target.make(candidate_of(rollout).name, Phase.FAILED)
    assert servers.recover() == 1
    world.measure_good(rollout)
    world.run(rollout)
    assert (rollout.status, rollout.step_index) == (Status.PROGRESSING, 1)
    assert "until the candidate is known to be healthy" in rollout.sentence
    routing.write_all()
    assert world.wire() == all_on(rollout.previous)
    world.target.make(candidate_of(rollout).name, Phase.READY)
    world.run(rollout)
    assert rollout.status == Status.SUCCEEDED


def test_candidate_that_vanishes_is_started_again_before_anything_goes_on(world: World) -> None:
    rollout = world.canary([{"setWeight": 10}, {"pause": {"seconds": 1}}, {"pause": {}}])
    Rollout.objects.filter(pk=rollout.pk).update(**long_ago(step_at=60))
    world.target.ready_at_once = False
    world.target.make(candidate_of(rollout).name, Phase.ABSENT)
    world.run(rollout)
    assert (rollout.step_index, rollout.problem) == (1, True)
    world.crash(rollout.candidate)
    assert world.run(rollout).cause == Cause.HEALTH


# The gateway


def test_weight_that_cannot_be_written_is_said_and_the_old_table_stays_in_force(world: World) -> None:
    world.live()
    rollout = world.request(world.approved(), [{"setWeight": 10}, {"pause": {}}])
    before = world.router.tables
    break_writes(world.router)
    world.run(rollout)
    assert (rollout.status, rollout.problem, rollout.sentence) == (Status.PROGRESSING, True, FULL)
    assert world.router.tables == before
    # However long it lasts, it is not the candidate's fault.
    Route.objects.update(**long_ago(changed_at=3600))
    world.run(rollout)
    assert (rollout.status, rollout.sentence) == (Status.PROGRESSING, FULL)
    mend(world.router)
    world.run(rollout)
    assert (rollout.step_index, rollout.problem) == (1, False)
    assert world.wire() == {candidate_of(rollout).name: 1000, previous_of(rollout).name: 9000}


def test_one_failed_write_is_mended_within_the_same_pass(world: World) -> None:
    world.live()
    rollout = world.request(world.approved(), [{"setWeight": 10}, {"pause": {}}])
    world.router.fail_next(RouterError(FULL))
    assert world.run(rollout).step_index == 1


def test_way_back_that_cannot_be_written_goes_on_when_it_can(world: World) -> None:
    rollout = world.canary()
    break_writes(world.router)
    actions.abort(rollout, actor=world.cast.cy, reason="Bad.")
    world.run(rollout)
    assert (rollout.status, rollout.problem, rollout.sentence) == (Status.ROLLING_BACK, True, FULL)
    mend(world.router)
    world.run(rollout)
    assert rollout.status == Status.ROLLED_BACK
    assert world.wire() == all_on(rollout.previous)


class Last(MemoryRouter):
    """Refuses the write that comes after the whole weight is in force."""

    def write(self, routes: Any) -> str:
        candidates = {b.name for table in self.tables for b in table.backends if b.weight == TOTAL_WEIGHT}
        if "textgen-v2-production" in candidates:
            raise RouterError(FULL)
        return super().write(routes)


def test_promotion_whose_last_write_fails_is_one_all_the_same(world: World, backend: Replace) -> None:
    """All traffic was on it before: what is left to write changes nothing for anybody."""
    world.router = Last()
    backend("router", world.router)
    rollout = world.canary()
    actions.promote(rollout, actor=world.cast.cy, full=True, reason="Now.")
    world.run(rollout)
    assert (rollout.status, rollout.problem) == (Status.SUCCEEDED, False)
    assert "becomes the stable version" in rollout.sentence
    assert world.wire() == all_on(rollout.candidate)


class Silent(MemoryRouter):
    """Takes what is written and does not say what is in force."""

    silent = False

    def installed(self) -> Any:
        if self.silent:
            raise RouterError("The gateway does not answer.")
        return super().installed()


def test_silent_gateway_holds_and_what_was_written_meanwhile_gets_its_time(world: World, backend: Replace) -> None:
    router = Silent()
    backend("router", router)
    world.router = router
    world.live()
    rollout = world.request(world.approved(), [{"setWeight": 10}, {"pause": {}}])
    router.silent = True
    world.run(rollout)
    assert (rollout.status, rollout.problem) == (Status.PROGRESSING, True)
    assert rollout.sentence == "Waiting with 10 %: the gateway does not answer."
    Rollout.objects.filter(pk=rollout.pk).update(**long_ago(step_at=3600))
    world.run(rollout)
    router.silent = False
    world.run(rollout)
    assert (rollout.status, rollout.step_index) == (Status.PROGRESSING, 1)


def test_silent_gateway_does_not_keep_a_bad_candidate_in_traffic(world: World, backend: Replace) -> None:
    router = Silent()
    backend("router", router)
    world.router = router
    rollout = world.canary()
    router.silent = True
    world.crash(rollout.candidate)
    world.run(rollout)
    assert (rollout.status, rollout.problem) == (Status.ROLLING_BACK, True)
    router.silent = False
    assert world.wire() == all_on(rollout.previous)
    assert world.run(rollout).status == Status.ROLLED_BACK


class Deaf(MemoryRouter):
    """Takes what is written and puts nothing of it into force."""

    deaf = False

    def write(self, routes: Any) -> str:
        return "taken" if self.deaf else super().write(routes)


def test_gateway_that_does_not_put_a_weight_into_force_turns_it_back(world: World, backend: Replace) -> None:
    router = Deaf()
    backend("router", router)
    world.router = router
    world.live()
    rollout = world.request(world.approved(), [{"setWeight": 10}, {"pause": {}}])
    router.deaf = True
    world.run(rollout)
    assert rollout.sentence == "10 % is written; waiting for the gateway to put it into force."
    Route.objects.update(**long_ago(changed_at=ROUTE_DEADLINE + 1))
    world.run(rollout)
    assert (rollout.status, rollout.cause) == (Status.ROLLED_BACK, Cause.DEADLINE)


def test_edited_data_plane_is_put_right(world: World) -> None:
    rollout = world.canary([{"setWeight": 10}, {"setWeight": 20}, {"pause": {}}])
    tampered = [
        RouteTable(t.environment, t.model, tuple(Backend(b.name, b.address, 5000) for b in t.backends), t.salt)
        for t in world.router.tables
    ]
    world.router.tamper(tampered)
    reconcile.reconcile(rollout.pk)
    assert world.wire() == {candidate_of(rollout).name: 2000, previous_of(rollout).name: 8000}


# The target


def test_target_that_does_not_answer_takes_nothing_from_a_server_that_serves(world: World) -> None:
    rollout = world.canary()
    for _ in range(4):
        world.target.fail_next(TargetError("The machine does not answer."))
    servers.converge_all(timezone.now())
    reconcile.reconcile(rollout.pk)
    rollout.refresh_from_db()
    assert rollout.status == Status.PROGRESSING
    deployment = world.deployment(rollout.version)
    assert (deployment.phase, deployment.healthy, bool(deployment.address)) == (Phase.READY, True, True)
    routing.write_all()
    assert world.wire() == {candidate_of(rollout).name: 1000, previous_of(rollout).name: 9000}


class Strange(MemoryTarget):
    error: Exception | None = None

    def observe(self, name: str) -> Observation:
        if self.error is not None:
            raise self.error
        return super().observe(name)


def test_fault_of_ours_is_said_and_wedges_nothing(world: World, backend: Replace) -> None:
    target = Strange()
    backend("target", target)
    world.target = target
    rollout = world.canary()
    target.error = ValueError("a bug")
    reconcile.reconcile(rollout.pk)
    rollout.refresh_from_db()
    assert rollout.sentence == "The next step failed and is tried again: ValueError: a bug"
    assert rollout.problem
    assert rollout.lease_until is None
    servers.converge_all(timezone.now())
    target.error = None
    world.measure_good(rollout)
    assert world.run(rollout).status == Status.SUCCEEDED
    assert list(audit.verify()) == []


@pytest.mark.parametrize("permanent", [True, False])
def test_server_that_the_target_refuses_to_start(world: World, permanent: bool) -> None:
    world.live()
    rollout = world.request(world.approved())

    class Refusing(MemoryTarget):
        refusing = True

        def apply(self, spec: Any) -> None:
            if self.refusing:
                raise TargetError("There is no room.", permanent=permanent)
            super().apply(spec)

    target = Refusing()
    target._servers = world.target._servers
    targets.replace("local", target)
    world.run(rollout)
    if permanent:
        assert (rollout.status, rollout.cause) == (Status.ROLLED_BACK, Cause.HEALTH)
        assert "There is no room." in rollout.reason
    else:
        assert rollout.status == Status.PROVISIONING
        assert "There is no room." in rollout.sentence
        target.refusing = False
        assert world.run(rollout).step_index == 1
    assert Deployment.objects.get(version=previous_of(rollout).version).phase == Phase.READY
