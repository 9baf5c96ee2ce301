"""Which measurements belong to a rollout and to a step of it, and what is kept of them between two looks."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from deploypipe.metrics.models import RecordCursor
from deploypipe.metrics.models import Window as StoredWindow
from registry import actions as registry_actions
from rollouts import analysis, monitor
from rollouts.analysis import AnalysisSettings, ArmTotals, Inquiry, Totals
from rollouts.lifecycle import Status
from rollouts.models import Analysis, JudgeProgress, Rollout
from rollouts.strategy import Step
from tests.rollouts.conftest import World, candidate_of, long_ago, previous_of


def whole(rollout: Rollout) -> Inquiry:
    """Of the whole rollout, as the next look reads it."""
    assert rollout.traffic_from is not None
    plan = analysis.rollout_plan(AnalysisSettings())
    return monitor.answered(rollout, monitor.WHOLE_ROLLOUT, rollout.traffic_from, plan).known


def seen(rollout: Rollout) -> Totals:
    return whole(rollout).totals


def totals(stable: tuple[int, int], candidate: tuple[int, int]) -> Totals:
    """Requests and errors of each arm, a session each."""
    return Totals(ArmTotals(*stable, stable[0]), ArmTotals(*candidate, candidate[0]))


def test_windows_are_of_both_arms(world: World) -> None:
    rollout = world.canary()
    world.measure(rollout, candidate=(10, 1), stable=(90, 2))
    world.measure(rollout, stable=(80, 0))
    last = world.measure(rollout, candidate=(5, 0))
    known = whole(rollout)
    assert known.totals == totals((170, 2), (15, 1))
    assert known.windows == 3
    kept = JudgeProgress.objects.get(rollout=rollout, question=monitor.WHOLE_ROLLOUT)
    assert kept.last_window == StoredWindow.objects.get(batch=last).pk


def test_requests_that_began_before_do_not_count_and_the_batch_is_left_out_whole(world: World) -> None:
    rollout = world.canary()
    world.measure(rollout, candidate=(10, 0), stable=(90, 0))
    batch = world.measure(rollout, candidate=(20, 0), stable=(80, 0))
    StoredWindow.objects.filter(batch=batch, backend=previous_of(rollout).name).update(**long_ago(first_at=60))
    assert seen(rollout) == totals((90, 0), (10, 0))


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
    assert seen(rollout) == totals((90, 0), (10, 0))
    assert seen(other) == totals((3, 3), (7, 7))


def test_requests_that_chance_has_not_assigned_do_not_count(world: World) -> None:
    rollout = world.canary()
    batch = world.measure(rollout, candidate=(10, 10), stable=(90, 0))
    StoredWindow.objects.filter(batch=batch, backend=candidate_of(rollout).name).update(group="forced")
    assert seen(rollout).candidate.requests == 0


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
    assert not JudgeProgress.objects.exists()


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


# What is kept


def a_little_more(world: World, rollout: Rollout, number: int) -> None:
    world.measure(rollout, candidate=(7, number % 3 == 0), stable=(60, number % 5 == 0))


def test_look_by_look_is_the_same_to_the_last_bit_as_all_at_once(world: World) -> None:
    rollout = world.canary()
    for number in range(12):
        a_little_more(world, rollout, number)
        monitor.look(rollout, timezone.now())
    kept = {one.question: one.state for one in JudgeProgress.objects.filter(rollout=rollout)}
    assert set(kept) == {"rollout", "step 1"}
    JudgeProgress.objects.all().delete()
    monitor.look(rollout, timezone.now())
    assert {one.question: one.state for one in JudgeProgress.objects.filter(rollout=rollout)} == kept


def test_look_reads_only_the_windows_that_are_new(world: World) -> None:
    rollout = world.canary()
    for number in range(40):
        a_little_more(world, rollout, number)
    monitor.look(rollout, timezone.now())
    a_little_more(world, rollout, 41)
    newest = StoredWindow.objects.order_by("-pk")[1].pk
    with CaptureQueriesContext(connection) as asked:
        monitor.look(rollout, timezone.now())
    reads = [query["sql"] for query in asked if "first_ms" in query["sql"]]
    assert reads
    assert all(f'"id" > {newest - 1}' in sql for sql in reads)
    assert whole(rollout).windows == 41


def test_look_without_anything_new_writes_nothing(world: World) -> None:
    rollout = world.canary()
    a_little_more(world, rollout, 1)
    now = timezone.now()
    first = monitor.look(rollout, now)
    with CaptureQueriesContext(connection) as asked:
        assert monitor.look(rollout, now) == first
    reads = ("SELECT", "DECLARE")  # the latter a cursor of the server's
    assert [query["sql"] for query in asked if not query["sql"].startswith(reads)] == []
    assert Analysis.objects.filter(rollout=rollout).count() == 1


def spoilt(progress: JudgeProgress) -> None:
    progress.state = {"evaluation": "of another kind"}


def of_older_code(progress: JudgeProgress) -> None:
    progress.state = {**progress.state, "code_version": "older"}


def of_another_step(progress: JudgeProgress) -> None:
    progress.since -= timedelta(seconds=5)


@pytest.mark.parametrize("change", [spoilt, of_older_code, of_another_step])
def test_what_was_kept_of_something_else_is_not_gone_on_with(
    world: World, change: Callable[[JudgeProgress], None]
) -> None:
    rollout = world.canary()
    for number in range(6):
        a_little_more(world, rollout, number)
    before = whole(rollout)
    progress = JudgeProgress.objects.get(rollout=rollout, question=monitor.WHOLE_ROLLOUT)
    change(progress)
    progress.save()
    assert whole(rollout) == before


def test_other_settings_ask_another_question(world: World) -> None:
    rollout = world.canary()
    for number in range(6):
        a_little_more(world, rollout, number)
    whole(rollout)
    assert rollout.traffic_from is not None
    strict = analysis.rollout_plan(AnalysisSettings(alpha=0.01))
    again = monitor.answered(rollout, monitor.WHOLE_ROLLOUT, rollout.traffic_from, strict).known
    assert again.plan == strict
    assert again.windows == 6


# What it can trust


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


def test_records_that_are_read_but_far_behind_say_nothing_about_now(world: World) -> None:
    """After an outage there is much to read: what comes first in the file is no reason to decide without the rest."""
    now = timezone.now()
    RecordCursor.objects.create(name="gateway", read_at=now, clock=now - timedelta(seconds=40))
    problem = monitor.provider_problem(now)
    assert problem == "the gateway's records have been read up to 40 s ago; the rest is being read."
    RecordCursor.objects.update(clock=now - timedelta(seconds=2))
    assert monitor.provider_problem(now) is None


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
    assert rollout.analyses.order_by("-pk")[0].detail["decided_by"] == "error_rate_limit"


def test_settings_are_those_of_the_step_else_of_the_first_judge_else_the_defaults() -> None:
    strict = Step("analysis", {"max_error_increase_points": 0.1, "on_timeout": "hold"})
    loose = Step("analysis", {"max_error_increase_points": 3})
    ten = Step("setWeight", {"percent": 10})
    assert monitor.settings_of((ten, strict, loose), loose).max_error_increase_points == 3
    assert monitor.settings_of((ten, strict, loose), ten).max_error_increase_points == 0.1
    assert monitor.settings_of((ten, strict, loose), None).max_error_increase_points == 0.1
    assert monitor.settings_of((ten,), ten).max_error_increase_points == 0.5
