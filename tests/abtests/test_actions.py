from __future__ import annotations

from typing import Any

import pytest

from abtests import actions
from abtests.lifecycle import Status
from abtests.models import Experiment
from deploypipe.core.errors import Conflict, Forbidden, IllegalTransition, Invalid
from deploypipe.core.models import AuditEntry
from rollouts import actions as rollout_actions
from rollouts.lifecycle import Purpose
from rollouts.lifecycle import Status as RolloutStatus
from rollouts.models import Environment, Rollout
from tests.abtests.world import World


def start(world: World, **said: Any) -> Experiment:
    return actions.start(world.candidate, world.environment, **{"actor": world.cast.ana, **said})


def fresh(experiment: Experiment) -> Experiment:
    return Experiment.objects.get(pk=experiment.pk)


def test_experiment_is_a_rollout_whose_answer_is_wanted(world: World) -> None:
    experiment = fresh(start(world, traffic_percent=20, settings={"min_requests": 500}, name="Is it better?"))
    assert (experiment.name, experiment.status, experiment.stands_alone) == ("Is it better?", Status.DRAFT, True)
    assert experiment.rollout.purpose == Purpose.EXPERIMENT
    assert [step.kind for step in experiment.rollout.plan] == ["setWeight", "experiment"]
    assert experiment.rollout.plan[0].settings == {"percent": 20.0}
    assert experiment.settings == {"min_requests": 500, "auto_promote": True, "auto_rollback": True}
    entry = AuditEntry.objects.get(verb="experiment.requested")
    assert (entry.actor, entry.after) == ("ana", {"settings": {"min_requests": 500}, "traffic_percent": 20})


def test_experiment_has_a_name_without_being_given_one(world: World) -> None:
    assert start(world).name == "textgen v2 in production"


@pytest.mark.parametrize("name", ["bo", "dee", "eve"])
def test_starting_is_for_engineers_and_operators(name: str, world: World) -> None:
    with pytest.raises(Forbidden):
        start(world, actor=getattr(world.cast, name))
    start(world, actor=world.cast.cy)


@pytest.mark.parametrize("percent", [0, 100, -1, 101, float("nan"), float("inf"), True, 33.333])
def test_share_of_traffic_must_leave_some_for_both(percent: float, world: World) -> None:
    with pytest.raises(Invalid) as refused:
        start(world, traffic_percent=percent)
    assert set(refused.value.fields) == {"traffic_percent"}
    assert not Rollout.objects.exists()


@pytest.mark.parametrize(
    ("given", "field"),
    [
        ({"alpha": 2}, "settings.alpha"),
        ({"min_requests": "many"}, "settings.min_requests"),
        ({"colour": "red"}, "settings.colour"),
        ({"goals": []}, "settings.goals"),
        ({"goals": "all"}, "settings.goals"),
        ({"guardrails": [{"metric": "beauty", "limit": 1}]}, "settings.guardrails"),
    ],
)
def test_wrong_settings_are_named(given: dict[str, Any], field: str, world: World) -> None:
    with pytest.raises(Invalid) as refused:
        start(world, settings=given)
    assert set(refused.value.fields) == {field}
    assert not Experiment.objects.exists()


def test_every_wrong_field_is_named_at_once(world: World) -> None:
    with pytest.raises(Invalid) as refused:
        start(world, traffic_percent=0, name="x" * 101, settings={"alpha": 2})
    assert set(refused.value.fields) == {"traffic_percent", "name", "settings.alpha"}


def test_live_version_is_not_compared_with_itself(world: World) -> None:
    with pytest.raises(Conflict, match="is the stable version of production already"):
        actions.start(world.live, world.environment, actor=world.cast.ana)


def test_where_nothing_is_live_there_is_nothing_to_compare_with(world: World) -> None:
    with pytest.raises(Conflict, match="nothing to compare with"):
        actions.start(world.candidate, Environment.objects.get(name="canary"), actor=world.cast.ana)


def test_one_at_a_time_in_one_environment(world: World) -> None:
    start(world)
    with pytest.raises(Conflict, match="is under way"):
        start(world)
    assert Experiment.objects.count() == 1


# --- Stop -------------------------------------------------------------------------------------------------------------


def test_stopping_gives_the_traffic_back(world: World) -> None:
    experiment = start(world)
    world.reaches_its_experiment(experiment.rollout)
    experiment = fresh(experiment)
    actions.stop(experiment, actor=world.cast.cy, reason="It is rude.")
    stopped = fresh(experiment)
    assert (stopped.status, stopped.sentence) == (Status.STOPPED, "It is rude.")
    assert stopped.ended_at
    assert stopped.rollout.status == RolloutStatus.ROLLING_BACK
    entry = AuditEntry.objects.get(verb="experiment.stopped")
    assert (entry.actor, entry.before, entry.after, entry.reason) == (
        "cy", {"status": "draft"}, {"status": "stopped"}, "It is rude.",
    )  # fmt: skip


def test_stopping_before_it_began_cancels_its_rollout(world: World) -> None:
    experiment = start(world)
    actions.stop(experiment, actor=world.cast.ana, reason="Changed my mind.")
    assert fresh(experiment).rollout.status == RolloutStatus.CANCELLED
    start(world)


@pytest.mark.parametrize("name", ["bo", "dee", "eve"])
def test_stopping_is_for_engineers_and_operators(name: str, world: World) -> None:
    experiment = start(world)
    with pytest.raises(Forbidden):
        actions.stop(experiment, actor=getattr(world.cast, name), reason="x")


@pytest.mark.parametrize("reason", ["", " \n"])
def test_stopping_needs_a_reason(reason: str, world: World) -> None:
    experiment = start(world)
    with pytest.raises(Invalid) as refused:
        actions.stop(experiment, actor=world.cast.ana, reason=reason)
    assert set(refused.value.fields) == {"reason"}
    assert fresh(experiment).status == Status.DRAFT


def test_ended_experiment_is_not_stopped_again(world: World) -> None:
    experiment = start(world)
    actions.stop(experiment, actor=world.cast.ana, reason="x")
    with pytest.raises(IllegalTransition, match="it has ended"):
        actions.stop(fresh(experiment), actor=world.cast.ana, reason="x")


def test_experiment_of_a_promotion_is_ended_by_its_rollout_only(world: World) -> None:
    rollout = world.rollout({})
    with pytest.raises(Conflict, match=f"It belongs to rollout {rollout.pk}"):
        actions.stop(Experiment.objects.get(), actor=world.cast.cy, reason="x")


# --- With its rollout -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("begun", [True, False])
def test_experiment_ends_with_its_rollout(begun: bool, world: World) -> None:
    experiment = start(world)
    if begun:
        world.reaches_its_experiment(experiment.rollout)
    rollout_actions.abort(Rollout.objects.get(), actor=world.cast.cy, reason="Not today.")
    stopped = fresh(experiment)
    assert (stopped.status, stopped.sentence) == (Status.STOPPED, "Not today.")
    assert stopped.ended_at
