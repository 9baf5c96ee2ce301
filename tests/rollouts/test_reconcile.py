"""The way of a rollout from request to its end, on memory back ends and with measurements as rows."""

from __future__ import annotations

from typing import Any

import pytest
from django.utils import timezone

from deploypipe.core import audit
from deploypipe.core.models import AuditEntry
from registry import actions as registry_actions
from registry.scoring import Band
from rollouts import actions, reconcile, servers
from rollouts.lifecycle import Cause, Purpose, Status
from rollouts.models import Analysis, Deployment, Rollout
from rollouts.plan import Finding
from rollouts.targets.base import Phase
from tests.rollouts.conftest import ScriptedGate, World, all_on, candidate_of, long_ago, previous_of, verbs_of

ALL_AT_ONCE = [{"setWeight": 100}]


def step_statuses(rollout: Rollout) -> list[str]:
    return list(rollout.steps.values_list("status", flat=True))


# Forward


def test_first_deployment_takes_all_traffic_once_healthy(world: World) -> None:
    rollout = world.run(world.request(world.approved()))
    assert rollout.status == Status.SUCCEEDED
    assert rollout.ended_at is not None
    assert [step.settings for step in rollout.plan] == [{"percent": 100.0}]
    assert world.wire() == all_on(rollout.candidate)
    route = world.route()
    assert (route.stable, route.candidate, route.weight) == (rollout.candidate, None, 0)


def test_canary_goes_step_by_step_to_promoted(world: World) -> None:
    rollout = world.canary()
    assert (rollout.status, rollout.step_index) == (Status.PROGRESSING, 1)
    assert world.wire() == {candidate_of(rollout).name: 1000, previous_of(rollout).name: 9000}
    world.measure_good(rollout)
    world.run(rollout)
    assert rollout.status == Status.SUCCEEDED
    assert step_statuses(rollout) == ["done", "done", "done"]
    assert world.wire() == all_on(rollout.candidate)
    assert world.route().stable == rollout.candidate
    assert verbs_of(rollout) == [
        "rollout.requested", "rollout.qa_passed", "rollout.approved", "rollout.provisioned", "rollout.weight",
        "rollout.step_done", "rollout.step_done", "rollout.weight", "rollout.step_done", "rollout.steps_done",
        "rollout.promoted",
    ]  # fmt: skip
    assert list(audit.verify()) == []


def test_rollout_waits_for_examination_and_approval(world: World) -> None:
    version = world.registered()
    rollout = world.run(world.request(version))
    assert rollout.status == Status.WAITING_QA
    assert not Deployment.objects.exists()
    version.refresh_from_db()
    world.examined(version)
    world.run(rollout)
    assert (rollout.status, rollout.sentence) == (
        Status.WAITING_APPROVAL,
        "Waiting for an approver to say yes to the version.",
    )
    registry_actions.approve(version, actor=world.cast.bo)
    assert world.run(rollout).status == Status.SUCCEEDED


def test_unprotected_environment_asks_for_no_approval(world: World) -> None:
    version = world.examined(world.registered())
    rollout = world.run(world.request(version, environment=world.staging))
    assert rollout.status == Status.SUCCEEDED


def test_blocked_version_cancels_its_rollout_with_the_examinations_words(world: World, gate: ScriptedGate) -> None:
    version = world.registered()
    rollout = world.request(version, [{"setWeight": 10}, {"tasting": {}}])
    version.refresh_from_db()
    world.examined(version, verb="block", score=40, band=Band.POOR)
    world.run(rollout)
    assert (rollout.status, rollout.reason) == (Status.CANCELLED, "Score 40: poor.")
    assert step_statuses(rollout) == ["skipped", "skipped"]
    assert gate.ended == [1]
    assert not Deployment.objects.exists()


def test_score_that_came_after_the_request_still_asks_for_watching(world: World) -> None:
    version = world.registered()
    rollout = world.request(version, ALL_AT_ONCE)
    version.refresh_from_db()
    world.examined(version, score=85, band=Band.GOOD)
    registry_actions.approve(version, actor=world.cast.bo)
    world.run(rollout)
    assert rollout.status == Status.CANCELLED
    assert "only by a rollout with an analysis step" in rollout.reason


def test_examination_that_was_given_up_is_said_and_not_waited_for_in_silence(world: World) -> None:
    version = world.registered()
    rollout = world.request(version)
    version.refresh_from_db()
    version.advance("give_up", qa_sentence="No machine could be had.")
    world.run(rollout)
    assert (rollout.status, rollout.problem) == (Status.WAITING_QA, True)
    assert rollout.sentence.startswith("No machine could be had.")


def test_candidate_gets_nothing_before_it_is_healthy(world: World) -> None:
    world.live()
    rollout = world.request(world.approved())
    while reconcile.reconcile(rollout.pk):
        pass
    rollout.refresh_from_db()
    assert rollout.status == Status.PROVISIONING
    assert world.wire() == all_on(rollout.previous)


def test_each_candidate_meets_other_sessions(world: World) -> None:
    first = world.canary()
    salt = world.route().salt
    actions.abort(first, actor=world.cast.cy, reason="Again.")
    world.run(first)
    world.run(world.request(world.approved()))
    assert world.route().salt not in ("0", salt)


# Back


def test_failed_verdict_takes_the_candidate_back(world: World) -> None:
    rollout = world.canary()
    world.measure_bad(rollout)
    world.run(rollout)
    assert (rollout.status, rollout.cause) == (Status.ROLLED_BACK, Cause.VERDICT)
    assert "100 of 500 sessions failed" in rollout.reason
    assert step_statuses(rollout) == ["done", "failed", "skipped"]
    assert world.wire() == all_on(rollout.previous)
    assert world.route().candidate is None
    assert Analysis.objects.get(rollout=rollout).verdict == "fail"
    assert verbs_of(rollout)[-3:] == ["rollout.aborted", "rollout.restore", "rollout.rolled_back"]


def test_failed_verdict_takes_it_back_between_the_judges_steps_too(world: World) -> None:
    rollout = world.canary([{"setWeight": 10}, {"pause": {}}, {"setWeight": 100}])
    world.measure_bad(rollout)
    assert world.run(rollout).cause == Cause.VERDICT


def test_candidate_that_dies_is_taken_back(world: World) -> None:
    rollout = world.canary()
    world.crash(rollout.candidate)
    world.run(rollout)
    assert (rollout.status, rollout.cause) == (Status.ROLLED_BACK, Cause.HEALTH)
    assert "exited by signal SEGV" in rollout.reason
    assert world.wire() == all_on(rollout.previous)


def test_candidate_that_hangs_is_taken_back(world: World) -> None:
    rollout = world.canary()
    Deployment.objects.filter(pk=candidate_of(rollout).pk).update(healthy=False, health_message="It hangs.")
    world.run(rollout)
    assert (rollout.status, rollout.cause) == (Status.ROLLED_BACK, Cause.HEALTH)
    assert "It hangs." in rollout.reason


def test_candidate_that_never_gets_ready_meets_its_deadline(world: World) -> None:
    world.live()
    world.target.ready_at_once = False
    rollout = world.run(world.request(world.approved()))
    assert rollout.status == Status.PROVISIONING
    Rollout.objects.filter(pk=rollout.pk).update(**long_ago(phase_at=601))
    world.run(rollout)
    assert (rollout.status, rollout.cause) == (Status.ROLLED_BACK, Cause.DEADLINE)
    assert rollout.traffic_from is None
    assert world.wire() == all_on(rollout.previous)


def test_candidate_that_cannot_be_started_is_given_up_at_once(world: World) -> None:
    world.live()
    version = world.approved()
    (world.artifact / "model.json").write_bytes(b"other bytes")
    rollout = world.run(world.request(version))
    assert (rollout.status, rollout.cause) == (Status.ROLLED_BACK, Cause.HEALTH)
    assert "The artifact is not the registered one: model.json" in rollout.reason
    assert world.target.started.count(candidate_of(rollout).name) == 0


def test_first_deployment_that_fails_leaves_nothing_on_the_route(world: World) -> None:
    world.target.ready_at_once = False
    rollout = world.run(world.request(world.approved()))
    world.crash(rollout.candidate)
    world.run(rollout)
    assert rollout.status == Status.ROLLED_BACK
    assert world.wire() == {}
    assert world.route().stable is None


@pytest.mark.parametrize("step", [{"pause": {}}, {"approval": {}}, {"analysis": {}}, {"tasting": {}}])
def test_person_turns_back_from_every_step(world: World, gate: ScriptedGate, step: dict[str, Any]) -> None:
    rollout = world.canary([{"setWeight": 10}, step, {"setWeight": 100}])
    actions.abort(rollout, actor=world.cast.cy, reason="Bad.")
    world.run(rollout)
    assert (rollout.status, rollout.cause) == (Status.ROLLED_BACK, Cause.PERSON)
    assert world.wire() == all_on(rollout.previous)


def test_approval_withdrawn_turns_back(world: World) -> None:
    rollout = world.canary()
    registry_actions.suspend(rollout.version, actor=world.cast.bo, reason="It drifts.")
    world.run(rollout)
    assert (rollout.status, rollout.cause) == (Status.ROLLED_BACK, Cause.APPROVAL)
    assert "textgen v2 is suspended." in rollout.reason


def test_without_automatic_rollback_it_holds_and_says_so(world: World) -> None:
    rollout = world.canary(rollback_on_failure=False)
    world.measure_bad(rollout)
    world.run(rollout)
    assert (rollout.status, rollout.problem) == (Status.PROGRESSING, True)
    assert "Automatic rollback is off" in rollout.sentence
    actions.abort(rollout, actor=world.cast.cy, reason="Indeed.")
    assert world.run(rollout).status == Status.ROLLED_BACK


# Persons


def test_pause_stops_progress_but_not_health(world: World) -> None:
    rollout = world.canary()
    actions.pause(rollout, actor=world.cast.cy)
    world.measure_good(rollout)
    world.run(rollout)
    assert (rollout.step_index, rollout.sentence) == (1, "Paused by a person.")
    world.crash(rollout.candidate)
    world.run(rollout)
    assert (rollout.status, rollout.is_paused) == (Status.ROLLED_BACK, False)


def test_timed_wait_does_not_count_the_time_paused(world: World) -> None:
    rollout = world.canary([{"setWeight": 10}, {"pause": {"seconds": 30}}, {"pause": {}}])
    Rollout.objects.filter(pk=rollout.pk).update(**long_ago(step_at=60), paused_seconds=40)
    assert world.run(rollout).step_index == 1
    Rollout.objects.filter(pk=rollout.pk).update(paused_seconds=20)
    assert world.run(rollout).step_index == 2
    assert rollout.paused_seconds == 0


def test_person_goes_on_past_a_step(world: World) -> None:
    rollout = world.canary([{"setWeight": 10}, {"analysis": {}}, {"pause": {}}])
    actions.promote(rollout, actor=world.cast.cy, reason="No traffic at night.")
    world.run(rollout)
    assert (rollout.step_index, rollout.promote) == (2, "")
    assert step_statuses(rollout) == ["done", "skipped", "active"]
    assert "rollout.step_skipped" in verbs_of(rollout)


def test_person_goes_to_the_end(world: World, gate: ScriptedGate) -> None:
    rollout = world.canary([{"setWeight": 10}, {"tasting": {}}, {"setWeight": 50}, {"tasting": {}}])
    actions.promote(rollout, actor=world.cast.cy, full=True, reason="It is well known.")
    world.run(rollout)
    assert rollout.status == Status.SUCCEEDED
    assert step_statuses(rollout) == ["done", "skipped", "skipped", "skipped"]
    assert gate.ended == [1, 3]


def test_person_who_goes_to_the_end_does_not_overrule_health(world: World) -> None:
    rollout = world.canary()
    actions.promote(rollout, actor=world.cast.cy, full=True, reason="It is well known.")
    world.crash(rollout.candidate)
    assert world.run(rollout).status == Status.ROLLED_BACK


def test_approval_step_waits_for_an_approver(world: World) -> None:
    rollout = world.canary([{"setWeight": 10}, {"approval": {}}, {"setWeight": 100}])
    assert rollout.sentence == "Waiting for an approver to let this step pass."
    actions.approve_step(rollout, actor=world.cast.bo)
    assert world.run(rollout).status == Status.SUCCEEDED


# Gates


TASTING = [{"setWeight": 10}, {"tasting": {}}, {"setWeight": 100}]


def test_gate_lets_pass_and_takes_back(world: World, gate: ScriptedGate) -> None:
    rollout = world.canary(TASTING)
    assert (rollout.step_index, rollout.sentence) == (1, "Nothing is known yet.")
    gate.finding = Finding("provider_error", "The tongue is numb.")
    world.run(rollout)
    assert (rollout.step_index, rollout.problem) == (1, True)
    gate.finding = Finding("pass", "Sweet.")
    assert world.run(rollout).status == Status.SUCCEEDED
    assert gate.ended == []
    gate.finding = Finding("fail", "Bitter.")
    second = world.run(world.request(world.approved(), TASTING))
    assert (second.status, second.cause, second.reason) == (Status.ROLLED_BACK, Cause.VERDICT, "Bitter.")


def test_gate_that_fails_turns_back_also_while_paused(world: World, gate: ScriptedGate) -> None:
    rollout = world.canary(TASTING)
    actions.pause(rollout, actor=world.cast.cy)
    gate.finding = Finding("fail", "Bitter.")
    assert world.run(rollout).status == Status.ROLLED_BACK


def test_gate_of_a_step_that_a_person_skips_is_told(world: World, gate: ScriptedGate) -> None:
    rollout = world.canary([*TASTING[:2], {"tasting": {}}])
    actions.promote(rollout, actor=world.cast.cy, reason="Go on.")
    world.run(rollout)
    assert (rollout.step_index, gate.ended) == (2, [1])


def test_fault_in_a_gate_is_said_on_the_rollout_and_does_not_wedge_it(world: World, gate: ScriptedGate) -> None:
    rollout = world.canary(TASTING)
    gate.error = ZeroDivisionError("division by zero")
    world.run(rollout)
    assert rollout.problem
    assert rollout.sentence == "The next step failed and is tried again: ZeroDivisionError: division by zero"
    gate.error, gate.finding = None, Finding("pass", "Sweet.")
    assert world.run(rollout).status == Status.SUCCEEDED


@pytest.mark.parametrize(("verdict", "status"), [("pass", Status.SUCCEEDED), ("fail", Status.ROLLED_BACK)])
def test_experiment_on_its_own_ends_with_traffic_back(
    world: World, gate: ScriptedGate, verdict: str, status: Status
) -> None:
    world.live()
    rollout = world.request(
        world.approved(), [{"setWeight": 50}, {"tasting": {}}], purpose=Purpose.EXPERIMENT, actor=world.cast.ana
    )
    world.run(rollout)
    assert world.wire() == {candidate_of(rollout).name: 5000, previous_of(rollout).name: 5000}
    gate.finding = Finding(verdict, "So it is.")
    world.run(rollout)
    assert rollout.status == status
    assert world.wire() == all_on(rollout.previous)
    assert world.route().stable == rollout.previous
    assert world.deployment(rollout.version).stop_after is not None
    assert world.deployment(previous_of(rollout).version).stop_after is None


# The judge


def test_same_windows_are_not_judged_twice(world: World) -> None:
    rollout = world.canary()
    world.measure(rollout, candidate=(10, 0), stable=(90, 0))
    for _ in range(5):
        reconcile.reconcile(rollout.pk)
    assert Analysis.objects.filter(rollout=rollout).count() == 1
    world.measure(rollout, candidate=(10, 0), stable=(90, 0))
    for _ in range(5):
        reconcile.reconcile(rollout.pk)
    assert Analysis.objects.filter(rollout=rollout).count() == 2
    seen = [analysis.detail["step"]["candidate"]["requests"] for analysis in rollout.analyses.order_by("pk")]
    assert seen == [10, 20]


def test_without_measurements_nothing_passes(world: World) -> None:
    rollout = world.canary()
    world.read_records()
    world.run(rollout)
    assert rollout.step_index == 1
    assert "no request has reached the candidate" in rollout.sentence


def test_records_that_are_not_read_hold_and_never_abort(world: World) -> None:
    rollout = world.canary()
    Rollout.objects.filter(pk=rollout.pk).update(**long_ago(step_at=99_999))
    world.read_records(long_ago(at=60)["at"])
    world.run(rollout)
    assert (rollout.status, rollout.step_index, rollout.problem) == (Status.PROGRESSING, 1, True)
    assert "were last read 60 s ago" in rollout.sentence


def test_judge_that_does_not_decide_in_its_time_turns_back(world: World) -> None:
    rollout = world.canary()
    world.read_records()
    Rollout.objects.filter(pk=rollout.pk).update(**long_ago(step_at=1801))
    world.run(rollout)
    assert (rollout.status, rollout.cause) == (Status.ROLLED_BACK, Cause.DEADLINE)


# After the end


def promoted(world: World) -> Rollout:
    world.live()
    rollout = world.run(world.request(world.approved(), ALL_AT_ONCE))
    assert rollout.status == Status.SUCCEEDED
    return rollout


def test_replaced_version_stays_warm(world: World) -> None:
    rollout = promoted(world)
    old = world.deployment(previous_of(rollout).version)
    assert old.stop_after is not None
    assert (old.stop_after - timezone.now()).total_seconds() == pytest.approx(600, abs=5)
    table = next(t for t in world.router.tables if t.key == "production/textgen")
    assert {b.name: b.weight for b in table.backends} == {candidate_of(rollout).name: 10_000, old.name: 0}


def test_rollback_to_a_warm_version_is_one_write(world: World) -> None:
    rollout = promoted(world)
    started = list(world.target.started)
    actions.rollback(rollout, actor=world.cast.cy, reason="Users complain.")
    world.run(rollout)
    assert (rollout.status, rollout.reason) == (Status.ROLLED_BACK, "Users complain.")
    assert world.wire() == all_on(rollout.previous)
    assert world.target.started == started
    assert world.deployment(previous_of(rollout).version).stop_after is None
    assert world.deployment(rollout.version).stop_after is not None
    assert verbs_of(rollout)[-3:] == ["rollout.rollback", "rollout.restore", "rollout.rolled_back"]


def test_rollback_to_a_stopped_version_starts_it_first(world: World) -> None:
    rollout = stopped_previous(world)
    world.target.ready_at_once = False
    actions.rollback(rollout, actor=world.cast.cy, reason="Users complain.")
    world.run(rollout)
    assert (rollout.status, rollout.problem) == (Status.ROLLING_BACK, True)
    assert "Waiting for the previous version" in rollout.sentence
    assert world.wire() == all_on(rollout.candidate)
    world.target.make(previous_of(rollout).name, Phase.READY)
    world.run(rollout)
    assert rollout.status == Status.ROLLED_BACK
    assert world.wire() == all_on(rollout.previous)


def stopped_previous(world: World) -> Rollout:
    rollout = promoted(world)
    Deployment.objects.filter(pk=previous_of(rollout).pk).update(**long_ago(stop_after=1))
    assert servers.stop_idle(timezone.now()) == 1
    servers.converge_all(timezone.now())
    assert world.deployment(previous_of(rollout).version).phase == Phase.ABSENT
    return rollout


def test_rollback_that_cannot_be_done_is_given_up_and_frees_the_way(world: World) -> None:
    rollout = stopped_previous(world)
    (world.artifact / "model.json").write_bytes(b"other bytes")
    actions.rollback(rollout, actor=world.cast.cy, reason="Users complain.")
    world.run(rollout)
    assert rollout.status == Status.ROLLING_BACK
    assert "The artifact is not the registered one" in rollout.sentence
    Rollout.objects.filter(pk=rollout.pk).update(**long_ago(phase_at=601))
    world.run(rollout)
    assert (rollout.status, rollout.problem) == (Status.SUCCEEDED, True)
    assert "The rollback was given up" in rollout.sentence
    assert world.wire() == all_on(rollout.candidate)
    assert world.deployment(previous_of(rollout).version).stop_after is not None
    assert world.request(world.approved())


def test_previous_version_that_dies_on_the_way_back_is_started_again(world: World) -> None:
    rollout = stopped_previous(world)
    world.target.ready_at_once = False
    actions.rollback(rollout, actor=world.cast.cy, reason="Users complain.")
    world.run(rollout)
    world.crash(rollout.previous)
    reconcile.reconcile(rollout.pk)
    world.target.ready_at_once = True
    assert world.run(rollout).status == Status.ROLLED_BACK
    assert AuditEntry.objects.filter(verb="deployment.restarted").count() == 1


def test_same_version_is_rolled_out_again_after_it_was_taken_back(world: World) -> None:
    rollout = world.canary()
    world.crash(rollout.candidate)
    world.run(rollout)
    again = world.run(world.request(rollout.version))
    assert (again.status, again.step_index) == (Status.PROGRESSING, 1)
    assert again.candidate == rollout.candidate
    deployment = world.deployment(rollout.version)
    assert (deployment.stop_after, deployment.desired) == (None, "running")
    assert world.target.started.count(deployment.name) == 2


def test_server_that_still_runs_is_used_again(world: World) -> None:
    rollout = world.canary()
    actions.abort(rollout, actor=world.cast.cy, reason="Wait.")
    world.run(rollout)
    again = world.run(world.request(rollout.version))
    assert again.step_index == 1
    assert world.target.started.count(candidate_of(again).name) == 1
    assert servers.stop_idle(timezone.now()) == 0


def test_server_that_was_being_stopped_is_started_anew_for_the_next_rollout(world: World) -> None:
    rollout = world.canary()
    actions.abort(rollout, actor=world.cast.cy, reason="Wait.")
    world.run(rollout)
    assert servers.stop_idle(timezone.now()) == 1
    world.target.make(candidate_of(rollout).name, Phase.STOPPING)
    again = world.run(world.request(rollout.version))
    assert again.status == Status.PROVISIONING
    assert "started again once it has ended" in again.sentence
    world.target.make(candidate_of(again).name, Phase.ABSENT)
    assert world.run(again).step_index == 1


def test_withdrawn_from_production_and_back_again_every_row_is_consistent(world: World) -> None:
    """v1 → v2 → back to v1 → v2 again → v3: one deployment row per version, and only what is needed is kept."""
    world.live()
    second = world.approved()
    rollout = world.run(world.request(second, ALL_AT_ONCE))
    actions.rollback(rollout, actor=world.cast.cy, reason="Users complain.")
    world.run(rollout)
    world.run(world.request(second, ALL_AT_ONCE))
    third = world.run(world.request(world.approved(), ALL_AT_ONCE))
    assert third.status == Status.SUCCEEDED
    kept = {d.version.number: d.stop_after is None for d in Deployment.objects.select_related("version")}
    assert kept == {1: False, 2: False, 3: True}
    assert list(audit.verify()) == []
