"""Who watches the candidates while another app's judge looks at them, and where there are several."""

from __future__ import annotations

from typing import Any

import pytest
from django.utils import timezone

from rollouts import monitor
from rollouts.lifecycle import Cause, Purpose, Status
from rollouts.models import Deployment, JudgeProgress, Rollout
from rollouts.plan import Finding
from rollouts.strategy import Step
from tests.rollouts.conftest import ScriptedGate, World, all_on, previous_of

TASTING: list[dict[str, Any]] = [{"setWeight": 30}, {"tasting": {}}]
WAITING: list[dict[str, Any]] = [{"setWeight": 30}, {"pause": {}}]
OVER = Finding("insufficient_data", "The time is over.", timed_out=True)


def compare(world: World, steps: list[dict[str, Any]]) -> Rollout:
    """Three candidates with a tenth of the traffic each."""
    world.live()
    own, *others = [world.approved() for _ in range(3)]
    rollout = world.run(world.request(own, steps, purpose=Purpose.EXPERIMENT, arms=others))
    assert (rollout.status, rollout.step_index) == (Status.PROGRESSING, 1), rollout.sentence
    return rollout


def server(rollout: Rollout, position: int) -> Deployment:
    deployment = rollout.arms.get(position=position).deployment
    assert deployment is not None
    return deployment


def measure(
    world: World, rollout: Rollout, first: tuple[int, int], second: tuple[int, int], third: tuple[int, int]
) -> None:
    others = {server(rollout, 2): second, server(rollout, 3): third}
    world.measure(rollout, stable=(4_500, 4), candidate=first, others=others)


# Another judge


def test_gates_own_criteria_decide_while_it_looks_and_nobody_asks_the_same_again(
    world: World, gate: ScriptedGate
) -> None:
    """Bad by any watch, but this experiment may want to know how bad: only its own judge may end it."""
    rollout = world.canary(TASTING)
    world.measure_bad(rollout)
    world.run(rollout)
    assert (rollout.status, rollout.sentence) == (Status.PROGRESSING, "Nothing is known yet.")
    assert not JudgeProgress.objects.exists()
    gate.finding = Finding("fail", "Worse than it may be.")
    world.run(rollout)
    assert (rollout.status, rollout.reason) == (Status.ROLLED_BACK, "Worse than it may be.")


def test_strategys_own_judge_goes_on_watching_beside_the_gate(world: World, gate: ScriptedGate) -> None:
    judge = {"analysis": {"max_error_increase_points": 50, "max_error_rate_percent": None, "min_requests": 1}}
    rollout = world.canary([{"setWeight": 30}, judge, {"tasting": {}}])
    world.measure(rollout, candidate=(500, 0), stable=(500, 0))
    world.run(rollout)
    assert rollout.step_index == 2
    for _ in range(20):
        world.measure(rollout, candidate=(500, 450), stable=(4_500, 4))
    world.run(rollout)
    assert (rollout.status, rollout.cause) == (Status.ROLLED_BACK, Cause.VERDICT)


def test_gate_whose_time_is_over_watches_no_longer(world: World, gate: ScriptedGate) -> None:
    rollout = world.canary([{"setWeight": 30}, {"tasting": {"on_timeout": "hold"}}])
    gate.finding = OVER
    world.run(rollout)
    assert rollout.sentence == "The time is over. A person must decide."
    world.measure_bad(rollout)
    world.run(rollout)
    assert (rollout.status, rollout.cause) == (Status.ROLLED_BACK, Cause.VERDICT)


@pytest.mark.parametrize(
    ("failed", "status"), [(25, Status.PROGRESSING), (100, Status.ROLLED_BACK)], ids=["within 7 points", "beyond"]
)
def test_before_its_gate_a_rollout_is_watched_by_what_that_allows(
    world: World, gate: ScriptedGate, failed: int, status: Status
) -> None:
    rollout = world.canary([{"setWeight": 30}, {"pause": {}}, {"tasting": {}}])
    for _ in range(4):
        world.measure(rollout, candidate=(1_000, failed), stable=(4_500, 4))
    assert world.run(rollout).status == status


def test_settings_are_the_gates_where_the_strategy_has_no_judge(gate: ScriptedGate) -> None:
    ten, tasting = Step("setWeight", {"percent": 10}), Step("tasting", {})
    judge = Step("analysis", {"max_error_increase_points": 3})
    assert monitor.settings_of((ten, tasting), ten).max_error_increase_points == 7
    assert monitor.settings_of((ten, tasting, judge), tasting).max_error_increase_points == 3


# Several candidates


def test_of_several_the_one_that_does_harm_leaves_and_is_named(world: World) -> None:
    rollout = compare(world, WAITING)
    measure(world, rollout, (500, 1), (500, 100), (500, 0))
    world.run(rollout)
    arms = {arm.name: arm for arm in rollout.arms.all()}
    assert rollout.status == Status.PROGRESSING
    assert [name for name, arm in arms.items() if not arm.is_on] == ["candidate-2"]
    assert arms["candidate-2"].cause == Cause.VERDICT
    assert arms["candidate-2"].reason.startswith(
        "Candidate-2: Candidate 100 of 500 sessions failed (20 %), stable 4 of"
    )


def test_of_several_the_rollouts_own_leaves_as_the_others_do(world: World) -> None:
    rollout = compare(world, WAITING)
    measure(world, rollout, (500, 100), (500, 0), (500, 1))
    world.run(rollout)
    assert [arm.name for arm in rollout.arms.all() if not arm.is_on] == ["candidate"]
    assert rollout.status == Status.PROGRESSING


def test_when_all_of_several_do_harm_everything_goes_back(world: World) -> None:
    rollout = compare(world, WAITING)
    measure(world, rollout, (500, 100), (500, 90), (500, 80))
    world.run(rollout)
    assert (rollout.status, rollout.cause) == (Status.ROLLED_BACK, Cause.VERDICT)
    assert world.wire() == all_on(previous_of(rollout))


def test_each_of_several_has_its_part_of_alpha_and_its_own_progress(world: World) -> None:
    rollout = compare(world, WAITING)
    measure(world, rollout, (500, 1), (500, 2), (500, 3))
    look = monitor.look(rollout, timezone.now())
    assert look.guard is not None
    assert (look.guard.verdict, look.guard.drop) == ("insufficient_data", ())
    kept = {one.question: one.state["evaluation"]["plan"] for one in JudgeProgress.objects.all()}
    assert set(kept) == {"rollout candidate", "rollout candidate-2", "rollout candidate-3"}
    assert {(plan["arms"], plan["alpha"]) for plan in kept.values()} == {(3, 0.05)}


def test_without_measurements_none_of_several_is_judged(world: World) -> None:
    rollout = compare(world, WAITING)
    measure(world, rollout, (500, 100), (500, 100), (500, 100))
    look = monitor.look(rollout, timezone.now() + 2 * monitor.STALE_AFTER)
    assert look.guard is not None
    assert (look.guard.verdict, look.guard.drop) == ("provider_error", ())


def test_while_their_experiment_judges_several_nobody_else_does(world: World, gate: ScriptedGate) -> None:
    rollout = compare(world, TASTING)
    measure(world, rollout, (500, 100), (500, 100), (500, 0))
    world.run(rollout)
    assert all(arm.is_on for arm in rollout.arms.all())
    gate.finding = Finding("insufficient_data", "Two go on.", drop=(("candidate-2", "Candidate-2 is worse."),))
    world.run(rollout)
    assert [arm.name for arm in rollout.arms.all() if not arm.is_on] == ["candidate-2"]
