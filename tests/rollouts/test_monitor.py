"""Which measurements belong to a rollout and to a step of it."""

from __future__ import annotations

from datetime import timedelta

import pytest
from django.utils import timezone

from deploypipe.metrics.models import RecordCursor
from deploypipe.metrics.models import Window as StoredWindow
from deploypipe.stats.counts import ArmCounts, Window
from registry import actions as registry_actions
from rollouts import monitor
from rollouts.lifecycle import Status
from rollouts.models import Rollout
from rollouts.strategy import Step
from tests.rollouts.conftest import World, candidate_of, long_ago, previous_of


def test_windows_are_of_both_arms_batch_by_batch(world: World) -> None:
    rollout = world.canary()
    world.measure(rollout, candidate=(10, 1), stable=(90, 2))
    world.measure(rollout, stable=(80, 0))
    last = world.measure(rollout, candidate=(5, 0))
    seen = monitor.measurements(rollout, rollout.traffic_from)
    assert seen.windows == (
        Window(ArmCounts(90, 2), ArmCounts(10, 1)),
        Window(ArmCounts(80, 0), ArmCounts()),
        Window(ArmCounts(), ArmCounts(5, 0)),
    )
    assert seen.last == StoredWindow.objects.get(batch=last).pk


def test_requests_that_began_before_do_not_count_and_the_batch_is_left_out_whole(world: World) -> None:
    rollout = world.canary()
    world.measure(rollout, candidate=(10, 0), stable=(90, 0))
    batch = world.measure(rollout, candidate=(20, 0), stable=(80, 0))
    StoredWindow.objects.filter(batch=batch, backend=previous_of(rollout).name).update(**long_ago(first_at=60))
    seen = monitor.measurements(rollout, rollout.traffic_from)
    assert seen.windows == (Window(ArmCounts(90), ArmCounts(10)),)


def test_measurements_of_other_models_environments_and_versions_are_not_mixed_in(world: World) -> None:
    rollout = world.canary()
    other_model = registry_actions.create_model("other", actor=world.cast.ana)
    world.live(other_model)
    other = world.run(world.request(world.approved(other_model)))
    world.measure(rollout, candidate=(10, 0), stable=(90, 0))
    world.measure(other, candidate=(7, 7), stable=(3, 3))
    elsewhere = StoredWindow.objects.get(backend=candidate_of(rollout).name)
    for batch, changes in enumerate(({"environment": "staging"}, {"backend": "textgen-v9-production"}), 100):
        StoredWindow.objects.create(
            **{
                "environment": elsewhere.environment, "model": elsewhere.model, "backend": elsewhere.backend,
                "first_at": elsewhere.first_at, "last_at": elsewhere.last_at, "taken_at": elsewhere.taken_at,
                "requests": 1000, "errors": 1000, "batch": batch, **changes,
            }
        )  # fmt: skip
    assert monitor.measurements(rollout, rollout.traffic_from).windows == (Window(ArmCounts(90), ArmCounts(10)),)
    assert monitor.measurements(other, other.traffic_from).windows == (Window(ArmCounts(3, 3), ArmCounts(7, 7)),)


def test_two_models_are_judged_each_by_its_own(world: World) -> None:
    rollout = world.canary()
    other_model = registry_actions.create_model("other", actor=world.cast.ana)
    world.live(other_model)
    other = world.run(world.request(world.approved(other_model)))
    world.measure_good(rollout)
    world.measure_bad(other)
    assert world.run(rollout).status == Status.SUCCEEDED
    assert world.run(other).status == Status.ROLLED_BACK


def test_before_there_is_traffic_there_is_nothing_to_look_at(world: World) -> None:
    rollout = world.request(world.approved())
    assert monitor.look(rollout, timezone.now()) == monitor.Look()
    assert monitor.measurements(rollout, None).windows == ()


def test_what_was_measured_at_one_weight_does_not_vouch_for_the_next(world: World) -> None:
    rollout = world.canary([{"setWeight": 10}, {"analysis": {}}, {"setWeight": 50}, {"analysis": {}}])
    world.measure_good(rollout)
    world.run(rollout)
    assert (rollout.status, rollout.step_index) == (Status.PROGRESSING, 3)
    assert "no request has reached the candidate in this step" in rollout.sentence
    look = monitor.look(rollout, timezone.now())
    assert look.step is not None
    assert look.step.verdict == "insufficient_data"
    world.measure_good(rollout)
    assert world.run(rollout).status == Status.SUCCEEDED


def test_guard_counts_the_whole_rollout(world: World) -> None:
    rollout = world.canary()
    world.measure_bad(rollout)
    Rollout.objects.filter(pk=rollout.pk).update(step_at=timezone.now() + timedelta(seconds=1))
    rollout.refresh_from_db()
    look = monitor.look(rollout, timezone.now())
    assert look.guard is not None
    assert look.guard.verdict == "fail"


@pytest.mark.parametrize(
    ("age", "words"),
    [(None, "have not been read yet"), (16, "were last read 16 s ago"), (1, None)],
)
def test_records_that_nobody_reads_are_a_problem_of_the_provider(
    world: World, age: float | None, words: str | None
) -> None:
    if age is not None:
        world.read_records(timezone.now() - timedelta(seconds=age))
    problem = monitor.provider_problem(timezone.now())
    assert (problem is None) if words is None else (problem is not None and words in problem)


def test_cursor_that_was_made_and_never_moved_is_one_too(world: World) -> None:
    RecordCursor.objects.create(name="gateway")
    assert monitor.provider_problem(timezone.now()) == "the gateway's records have not been read yet."


def test_provider_problem_is_no_verdict_against_the_model(world: World) -> None:
    rollout = world.canary()
    world.measure_bad(rollout)
    world.read_records(timezone.now() - timedelta(seconds=60))
    look = monitor.look(rollout, timezone.now())
    assert look.guard is not None
    assert look.step is not None
    assert {look.guard.verdict, look.step.verdict} == {"provider_error"}


def test_with_all_traffic_on_the_candidate_only_the_limit_can_judge(world: World) -> None:
    rollout = world.canary([{"setWeight": 10}, {"analysis": {}}, {"setWeight": 100}, {"analysis": {}}])
    world.measure_good(rollout)
    world.run(rollout)
    assert rollout.step_index == 3
    world.measure(rollout, candidate=(5_000, 5))
    world.run(rollout)
    assert rollout.status == Status.SUCCEEDED
    assert rollout.analyses.order_by("-pk")[0].detail["decided_by"] == "below_limit"


def test_settings_are_those_of_the_step_else_of_the_first_judge_else_the_defaults() -> None:
    strict = Step("analysis", {"max_error_increase_points": 0.1, "on_timeout": "hold"})
    loose = Step("analysis", {"max_error_increase_points": 3})
    ten = Step("setWeight", {"percent": 10})
    assert monitor.settings_of((ten, strict, loose), loose).max_error_increase_points == 3
    assert monitor.settings_of((ten, strict, loose), ten).max_error_increase_points == 0.1
    assert monitor.settings_of((ten, strict, loose), None).max_error_increase_points == 0.1
    assert monitor.settings_of((ten,), ten).max_error_increase_points == 0.5
