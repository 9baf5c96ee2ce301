"""A version goes into an environment only by an examination that says something of it."""

from __future__ import annotations

from typing import Any

import pytest

from deploypipe.core.errors import Conflict
from registry import actions as registry_actions
from registry import policy_actions
from registry.models import ModelVersion, QARun
from rollouts import plan, reconcile
from rollouts.lifecycle import Status
from rollouts.models import Rollout
from tests.rollouts.conftest import World

CANARY_AT_ONCE: list[dict[str, Any]] = [{"setWeight": 100}]


def strict_production(world: World, **values: Any) -> None:
    policy_actions.save_policy(None, "production", values or {"max_latency_ms": 100}, actor=world.cast.bo)


def examined_for(world: World, environment: str, version: ModelVersion | None = None) -> ModelVersion:
    version = version or world.registered()
    registry_actions.examine(version, actor=world.cast.ana, environment=environment)
    return world.examined(version)


def looked_at(rollout: Rollout) -> Rollout:
    reconcile.reconcile(rollout.pk)
    rollout.refresh_from_db()
    return rollout


def test_version_that_was_examined_by_another_environments_policy_is_not_requested(world: World) -> None:
    strict_production(world, max_latency_ms=100, require_rate_limiting=False)
    version = examined_for(world, "staging")
    with pytest.raises(Conflict) as caught:
        world.request(version)
    assert str(caught.value) == (
        "textgen v1 was examined for staging, and production asks for something else (max_latency_ms 100 instead of "
        "200.0, require_rate_limiting false instead of true): examine it for production."
    )
    assert not Rollout.objects.exists()
    assert world.request(version, environment=world.staging)


def test_examination_by_the_general_policy_is_not_one_for_an_environment_that_has_its_own(world: World) -> None:
    strict_production(world)
    with pytest.raises(Conflict, match="was examined by the general policy, and production asks for something else"):
        world.request(examined_for(world, ""))


def test_approved_version_says_that_its_approval_is_in_the_way(world: World) -> None:
    version = examined_for(world, "staging")
    registry_actions.approve(version, actor=world.cast.bo)
    strict_production(world)
    with pytest.raises(Conflict, match="suspend it, examine it for production, and approve it anew"):
        world.request(version)


def test_general_policy_that_is_changed_afterwards_takes_no_examination_back(world: World) -> None:
    version = examined_for(world, "")
    policy_actions.save_policy(None, "", {"max_latency_ms": 100}, actor=world.cast.bo)
    assert world.request(version)


def test_version_that_has_served_an_environment_may_come_back_to_it(world: World) -> None:
    earlier = world.live()
    world.run(world.request(world.approved(), CANARY_AT_ONCE))
    strict_production(world)
    assert world.request(earlier, CANARY_AT_ONCE)
    with pytest.raises(Conflict, match="was examined by the general policy"):
        world.request(world.approved(), environment=world.production)


def test_what_the_sentence_says_leads_into_the_other_environment(world: World) -> None:
    version = examined_for(world, "staging")
    registry_actions.approve(version, actor=world.cast.bo)
    strict_production(world)
    registry_actions.suspend(version, actor=world.cast.bo, reason="For production.")
    registry_actions.approve(examined_for(world, "production", version), actor=world.cast.bo)
    assert looked_at(world.request(version)).status == Status.PROVISIONING


def test_one_examination_is_enough_where_both_environments_ask_the_same(world: World) -> None:
    strict_production(world)
    policy_actions.save_policy(None, "staging", {"max_latency_ms": 100.0}, actor=world.cast.bo)
    assert looked_at(world.request(examined_for(world, "staging"))).status == Status.WAITING_APPROVAL


def test_policy_that_was_changed_since_does_not_undo_its_own_environments_examination(world: World) -> None:
    version = examined_for(world, "production")
    strict_production(world)
    assert looked_at(world.request(version)).status == Status.WAITING_APPROVAL


def test_rollout_that_asks_for_the_examination_asks_for_its_environments(world: World) -> None:
    strict_production(world)
    version = world.registered()
    rollout = world.request(version)
    run = QARun.objects.get(version=version)
    assert (run.environment, run.policy["max_latency_ms"]) == ("production", 100)
    world.examined(ModelVersion.objects.get(pk=version.pk))
    assert looked_at(rollout).status == Status.WAITING_APPROVAL


def test_rollout_does_not_go_on_by_another_environments_examination(world: World) -> None:
    strict_production(world)
    version = world.registered()
    registry_actions.examine(version, actor=world.cast.ana, environment="staging")
    rollout = world.request(version)  # it may still be examined for production before that one ends
    world.examined(version)
    assert looked_at(rollout).status == Status.WAITING_QA
    assert rollout.problem
    assert rollout.sentence.endswith("(max_latency_ms 100 instead of 200.0): examine it for production.")
    examined_for(world, "production", version)
    assert looked_at(rollout).status == Status.WAITING_APPROVAL
    assert not rollout.problem


def test_examination_for_elsewhere_while_it_waits_for_an_approver_holds_it_too(world: World) -> None:
    strict_production(world)
    version = examined_for(world, "production")
    rollout = looked_at(world.request(version))
    examined_for(world, "staging", version)
    registry_actions.approve(version, actor=world.cast.bo)
    assert looked_at(rollout).status == Status.WAITING_APPROVAL
    assert "examine it for production" in rollout.sentence


@pytest.mark.parametrize("status", [Status.WAITING_QA, Status.WAITING_APPROVAL])
@pytest.mark.parametrize("stage", ["awaiting_approval", "approved"])
def test_plan_holds_with_the_sentence(status: Status, stage: str) -> None:
    snapshot = plan.Snapshot(
        status=status,
        steps=(),
        step_index=0,
        step_seconds=0,
        phase_seconds=0,
        candidate=plan.ServerView(False, False, None, ""),
        stage=stage,
        stage_sentence="97 of 100.",
        weight=0,
        installed_weight=0,
        needs_approval=False,
        examined_elsewhere="Examine it for production.",
    )
    assert plan.decide(snapshot) == plan.Hold("Examine it for production.", problem=True)
