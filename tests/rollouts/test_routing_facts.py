"""What the reader of records is told of a route: which arms share its traffic, what each is promised, since when."""

from __future__ import annotations

from typing import Any

import pytest
from django.utils import timezone

from deploypipe.core.errors import RouterError
from deploypipe.metrics.facts import RouteFacts
from registry import actions as registry_actions
from rollouts import actions, routing, servers
from rollouts.lifecycle import Purpose
from rollouts.models import Deployment, Rollout, Route
from rollouts.targets.base import Phase
from tests.rollouts.conftest import ScriptedGate, World, candidate_of, previous_of


def told() -> RouteFacts:
    (facts,) = routing.facts()
    return facts


@pytest.fixture
def canary(world: World) -> Rollout:
    """At 10 %."""
    return world.canary([{"setWeight": 10}, {"pause": {}}, {"setWeight": 50}, {"pause": {}}])


def test_route_without_a_candidate_is_not_told_of(world: World) -> None:
    world.live()
    assert routing.facts() == []


def test_arms_shares_and_since_when(world: World, canary: Rollout) -> None:
    before = timezone.now()
    facts = told()
    route = world.route()
    assert (facts.environment, facts.model, facts.epoch) == ("production", "textgen", route.salt)
    assert facts.arms == {candidate_of(canary).name: "candidate", previous_of(canary).name: "stable"}
    assert facts.shares == {"candidate": 0.1, "stable": 0.9}
    assert facts.period_since is not None
    assert facts.since <= facts.period_since <= before


def test_three_candidates_are_three_arms_and_those_held_out_change_no_share(world: World, gate: ScriptedGate) -> None:
    world.live()
    own, *others = [world.approved() for _ in range(3)]
    asked: dict[str, Any] = {"purpose": Purpose.EXPERIMENT, "arms": others, "holdout_percent": 20}
    rollout = world.run(world.request(own, [{"setWeight": 30}, {"tasting": {}}], **asked))
    facts = told()
    assert set(facts.arms.values()) == {"candidate", "candidate-2", "candidate-3", "stable"}
    assert facts.shares == {"candidate": 0.0999, "candidate-2": 0.0999, "candidate-3": 0.1, "stable": 0.7002}
    before = facts.period
    actions.drop_arm(rollout, "candidate-2", "Rude.")
    world.run(rollout)
    routing.write_all()
    facts = told()
    assert set(facts.arms.values()) == {"candidate", "candidate-3", "stable"}
    assert facts.shares == {"candidate": 0.0999, "candidate-3": 0.1, "stable": 0.8001}
    assert facts.period > before
    assert facts.epoch == world.route().salt


def test_period_changes_with_the_split_and_with_nothing_else(world: World, canary: Rollout) -> None:
    first = told()
    routing.write_all()
    Deployment.objects.filter(pk=candidate_of(canary).pk).update(address="127.0.0.1:1234")
    routing.write_all()
    assert told() == first
    actions.promote(canary, actor=world.cast.cy)
    world.run(canary)
    later = told()
    assert later.shares == {"candidate": 0.5, "stable": 0.5}
    assert (later.period > first.period, later.epoch, later.since) == (True, first.epoch, first.since)


def test_new_candidate_is_a_new_epoch(world: World, canary: Rollout) -> None:
    first = told()
    actions.abort(canary, actor=world.cast.cy, reason="Enough.")
    world.run(canary)
    assert routing.facts() == []
    world.run(world.request(world.approved(), [{"setWeight": 10}, {"pause": {}}]))
    later = told()
    assert later.epoch != first.epoch
    assert later.since > first.since
    assert later.period > first.period


def test_server_that_cannot_answer_makes_another_period_in_which_nothing_is_promised(
    world: World, canary: Rollout
) -> None:
    first = told()
    world.target.ready_at_once = False
    world.crash(canary.previous)
    servers.converge_all(timezone.now())
    # The gateway does not know of it yet.
    assert (told().period, told().period_since, told().shares) == (first.period, None, {})
    routing.write_all()
    assert (told().shares, told().period > first.period) == ({}, True)
    assert told().arms == first.arms
    world.target.make(previous_of(canary).name, Phase.READY)
    servers.converge_all(timezone.now())
    routing.write_all()
    back = told()
    assert back.shares == first.shares
    assert back.period > first.period + 1


def test_row_that_the_gateway_has_not_taken_yet_promises_nothing(world: World, canary: Rollout) -> None:
    first = told()
    Route.objects.update(weight=5000)
    assert (told().period, told().period_since, told().shares) == (first.period, None, {})
    for _ in range(2):
        world.router.fail_next(RouterError("Disk full."))
        with pytest.raises(RouterError):
            routing.write_all()
        assert (told().period, told().period_since, told().shares) == (first.period + 1, None, {})
    routing.write_all()
    assert (told().period, told().shares) == (first.period + 2, {"candidate": 0.5, "stable": 0.5})
    assert told().period_since is not None


def test_gateway_that_took_it_and_does_not_answer_is_asked_again(world: World, canary: Rollout) -> None:
    Route.objects.update(weight=5000)
    world.router.fail_next(RouterError("It does not answer."), operation="installed")
    routing.write_all()
    assert told().period_since is None
    routing.write_all()
    assert told().period_since is not None


def test_facts_cost_the_same_for_many_routes(world: World, canary: Rollout, django_assert_max_num_queries: Any) -> None:
    for name in ("second", "third"):
        model = registry_actions.create_model(name, actor=world.cast.ana)
        world.live(model)
        world.run(world.request(world.approved(model), [{"setWeight": 10}, {"pause": {}}]))
    with django_assert_max_num_queries(3):
        assert len(routing.facts()) == 3
