"""Asking for a rollout, and what a person may do to one that is under way: per verb, per role, per illegal state."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.db import transaction

from deploypipe.core import audit
from deploypipe.core.errors import ConcurrentChange, Conflict, Forbidden, FourEyes, IllegalTransition, Invalid
from deploypipe.core.models import AuditEntry
from registry import actions as registry_actions
from registry.scoring import Band
from rollouts import actions
from rollouts.lifecycle import ACTIVE, ENDED, Cause, Purpose, Status
from rollouts.models import Rollout, Strategy
from tests.rollouts.conftest import CANARY, ScriptedGate, World, all_on, long_ago, verbs_of

ALL_AT_ONCE = [{"setWeight": 100}]
WITH_PERSON = [{"setWeight": 10}, {"pause": {}}, {"approval": {}}, {"analysis": {}}, {"setWeight": 100}]


def last_entry(rollout: Rollout) -> AuditEntry:
    entry = AuditEntry.objects.filter(object_type="rollouts.rollout", object_id=str(rollout.pk)).first()
    assert entry is not None
    return entry


def put(rollout: Rollout, status: Status, **changes: Any) -> Rollout:
    """As if it had come that far."""
    Rollout.objects.filter(pk=rollout.pk).update(status=status, **changes)
    rollout.refresh_from_db()
    return rollout


# Asking


def test_request_waits_for_what_is_still_to_come(world: World) -> None:
    version = world.registered()
    rollout = world.request(version, note="Faster.")
    assert rollout.status == Status.WAITING_QA
    assert rollout.digest == version.digest
    assert [step.kind for step in rollout.plan] == ["setWeight", "analysis", "setWeight"]
    version.refresh_from_db()
    assert version.stage == "examining"
    entry = last_entry(rollout)
    assert (entry.actor, entry.verb, entry.reason) == ("cy", "rollout.requested", "Faster.")
    assert entry.after["digest"] == version.digest


@pytest.mark.parametrize("who", ["bo", "dee", "eve"])
def test_request_needs_a_role(world: World, who: str) -> None:
    with pytest.raises(Forbidden):
        world.request(world.approved(), actor=getattr(world.cast, who))
    assert not Rollout.objects.exists()


@pytest.mark.parametrize("who", ["ana", "cy"])
def test_engineers_and_operators_may_request(world: World, who: str) -> None:
    assert world.request(world.approved(), actor=getattr(world.cast, who)).requested_by == getattr(world.cast, who)


@pytest.mark.parametrize("verb", ["block", "refuse", "retire", "suspend"])
def test_version_that_may_not_be_deployed_is_not_requested(world: World, verb: str) -> None:
    version = world.registered()
    if verb == "block":
        world.examined(version, verb="block", score=40, band=Band.POOR)
    elif verb == "refuse":
        registry_actions.refuse(world.examined(version), actor=world.cast.bo, note="Too slow.")
    else:
        world.examined(version)
        registry_actions.approve(version, actor=world.cast.bo)
        actor = world.cast.ana if verb == "retire" else world.cast.bo
        getattr(registry_actions, verb)(version, actor=actor, reason="It drifts.")
    with pytest.raises(IllegalTransition, match="may not be deployed"):
        world.request(version)


@pytest.mark.parametrize("steps", [None, []])
def test_request_without_steps_says_what_is_missing(world: World, steps: Any) -> None:
    with pytest.raises(Invalid) as caught:
        actions.request(world.approved(), world.production, actor=world.cast.cy, steps=steps)
    assert "at least one step" in caught.value.fields["steps"]


def test_request_by_a_strategys_name_keeps_its_steps_and_its_name(world: World) -> None:
    strategy = Strategy.objects.get(name="canary")
    rollout = actions.request(world.approved(), world.production, actor=world.cast.cy, strategy=strategy)
    assert rollout.strategy == "canary"
    assert [step.to_json() for step in rollout.plan] == strategy.steps


def test_faults_of_a_gates_settings_name_their_place(world: World, gate: ScriptedGate) -> None:
    with pytest.raises(Invalid) as caught:
        world.request(world.approved(), [{"setWeight": 10}, {"tasting": {"speed": 3}}])
    assert caught.value.fields == {"steps[1].tasting.speed": "is not known here; there is: taste"}


@pytest.mark.parametrize(("score", "band"), [(85, Band.GOOD), (70, Band.CAUTION)])
def test_score_that_asks_for_watching_needs_an_analysis_step(world: World, score: float, band: Band) -> None:
    version = world.examined(world.registered(), score=score, band=band)
    with pytest.raises(Invalid, match="only by a rollout that watches it") as caught:
        world.request(version, ALL_AT_ONCE)
    assert "analysis step" in caught.value.fields["steps"]
    assert world.request(version, CANARY)


def test_one_active_rollout_per_model_and_environment(world: World) -> None:
    first = world.request(world.registered())
    with pytest.raises(Conflict, match=rf"Rollout {first.pk} of textgen v1 is under way for textgen in production"):
        world.request(world.registered())
    assert Rollout.objects.count() == 1


def test_other_models_and_other_environments_are_not_in_the_way(world: World) -> None:
    other = registry_actions.create_model("other", actor=world.cast.ana)
    version = world.registered()
    world.request(version)
    world.request(version, environment=world.staging)
    world.request(world.registered(other))
    assert Rollout.objects.active().count() == 3


@pytest.mark.parametrize("status", sorted(ENDED))
def test_ended_rollout_is_not_in_the_way(world: World, status: Status) -> None:
    put(world.request(world.registered()), status)
    assert world.request(world.registered())


def test_same_request_key_gives_the_same_rollout(world: World) -> None:
    version = world.approved()
    first = world.request(version, request_key="k1")
    assert world.request(version, request_key="k1") == first
    put(first, Status.CANCELLED)
    assert world.request(version, request_key="k1") == first
    assert world.request(version, request_key="k2") != first
    assert AuditEntry.objects.filter(verb="rollout.requested").count() == 2


def test_request_key_opens_no_door_to_who_may_not_request(world: World) -> None:
    version = world.approved()
    world.request(version, request_key="k1")
    with pytest.raises(Forbidden):
        world.request(version, request_key="k1", actor=world.cast.dee)


def test_stable_version_is_not_rolled_out_again(world: World) -> None:
    version = world.live()
    with pytest.raises(Conflict, match="is the stable version of production already"):
        world.request(version)


def test_experiment_needs_something_to_compare_with(world: World) -> None:
    with pytest.raises(Conflict, match="nothing to compare with"):
        world.request(world.approved(), purpose=Purpose.EXPERIMENT)


# Pause and resume


def test_pause_and_resume_say_who_and_do_not_change_the_phase(world: World) -> None:
    rollout = world.canary()
    actions.pause(rollout, actor=world.cast.cy, reason="Let me look.")
    assert (rollout.status, rollout.is_paused, rollout.paused_by) == (Status.PROGRESSING, True, world.cast.cy)
    assert last_entry(rollout).reason == "Let me look."
    Rollout.objects.filter(pk=rollout.pk).update(**long_ago(paused_at=50, step_at=60))
    rollout.refresh_from_db()
    actions.resume(rollout, actor=world.cast.cy)
    assert (rollout.status, rollout.is_paused, rollout.paused_by) == (Status.PROGRESSING, False, None)
    assert rollout.paused_seconds == pytest.approx(50, abs=1)
    assert verbs_of(rollout)[-2:] == ["rollout.paused", "rollout.resumed"]


def test_time_paused_does_not_count(world: World) -> None:
    rollout = world.canary()
    now = rollout.step_at
    Rollout.objects.filter(pk=rollout.pk).update(paused_seconds=25.0)
    rollout.refresh_from_db()
    rollout.paused_at = None
    later = now.replace(year=now.year + 1)
    seconds = (later - now).total_seconds()
    assert rollout.seconds_since(now, later) == seconds - 25
    rollout.paused_at = now
    assert rollout.seconds_since(now, later) == 0


def test_pausing_twice_and_resuming_twice_are_refused(world: World) -> None:
    rollout = world.canary()
    with pytest.raises(IllegalTransition, match="is not paused"):
        actions.resume(rollout, actor=world.cast.cy)
    actions.pause(rollout, actor=world.cast.cy)
    with pytest.raises(IllegalTransition, match="is paused already"):
        actions.pause(rollout, actor=world.cast.cy)


def test_pause_of_a_page_that_is_out_of_date_is_refused(world: World) -> None:
    rollout = world.canary()
    stale = Rollout.objects.get(pk=rollout.pk)
    actions.pause(rollout, actor=world.cast.cy)
    with pytest.raises(ConcurrentChange):
        actions.pause(stale, actor=world.cast.cy)


# Promote


def test_promote_passes_a_wait_without_a_reason(world: World) -> None:
    rollout = world.canary(WITH_PERSON)
    actions.promote(rollout, actor=world.cast.cy)
    assert rollout.promote == "step"
    assert last_entry(rollout).verb == "rollout.promote_step"


def test_promote_past_a_judge_needs_a_reason(world: World) -> None:
    rollout = world.canary()
    with pytest.raises(Invalid) as caught:
        actions.promote(rollout, actor=world.cast.cy, reason="  ")
    assert "why it may go on" in caught.value.fields["reason"]
    actions.promote(rollout, actor=world.cast.cy, reason="There is no traffic at night.")
    assert last_entry(rollout).reason == "There is no traffic at night."


def test_promote_to_the_end_past_a_judge_needs_a_reason_too(world: World) -> None:
    rollout = world.canary([{"setWeight": 10}, {"pause": {}}, {"analysis": {}}, {"setWeight": 100}])
    actions.promote(rollout, actor=world.cast.cy)
    with pytest.raises(Invalid):
        actions.promote(rollout, actor=world.cast.cy, full=True)
    actions.promote(rollout, actor=world.cast.cy, full=True, reason="It is well known.")
    assert rollout.promote == "full"


def test_operator_does_not_promote_past_an_approval(world: World) -> None:
    rollout = world.canary([{"setWeight": 10}, {"approval": {}}, {"setWeight": 100}])
    for full in (False, True):
        with pytest.raises(IllegalTransition, match="by approving it"):
            actions.promote(rollout, actor=world.cast.cy, full=full, reason="Please.")


def test_whoever_requested_does_not_promote_past_an_approval_whatever_their_roles(world: World) -> None:
    root = User.objects.create_superuser("root")
    rollout = world.canary([{"setWeight": 10}, {"approval": {}}, {"setWeight": 100}], actor=root)
    with pytest.raises(FourEyes):
        actions.promote(rollout, actor=root, full=True, reason="I am root.")
    with pytest.raises(FourEyes):
        actions.approve_step(rollout, actor=root)
    other = User.objects.create_superuser("other")
    actions.promote(rollout, actor=other, full=True, reason="I looked at it.")
    assert rollout.promote == "full"


def test_approved_step_is_no_hindrance_to_promoting(world: World) -> None:
    rollout = world.canary([{"setWeight": 10}, {"approval": {}}, {"setWeight": 100}])
    actions.approve_step(rollout, actor=world.cast.bo)
    actions.promote(rollout, actor=world.cast.cy, full=True, reason="Now.")
    assert rollout.promote == "full"


def test_promote_resumes_a_paused_rollout(world: World) -> None:
    rollout = world.canary(WITH_PERSON)
    actions.pause(rollout, actor=world.cast.cy)
    actions.promote(rollout, actor=world.cast.cy)
    assert (rollout.is_paused, rollout.promote) == (False, "step")


def test_promote_of_a_step_that_is_over_is_refused(world: World) -> None:
    rollout = world.canary(WITH_PERSON)
    stale = Rollout.objects.get(pk=rollout.pk)
    Rollout.objects.filter(pk=rollout.pk).update(step_index=2)
    with pytest.raises(ConcurrentChange):
        actions.promote(stale, actor=world.cast.cy)


# Approve a step


def test_approval_is_bound_to_step_and_digest(world: World) -> None:
    rollout = world.canary([{"setWeight": 10}, {"approval": {}}, {"setWeight": 100}])
    actions.approve_step(rollout, actor=world.cast.bo, note="Looks good.")
    assert rollout.steps.get(index=1).approved_by == world.cast.bo
    entry = last_entry(rollout)
    assert (entry.actor, entry.verb, entry.reason) == ("bo", "rollout.step_approved", "Looks good.")
    assert entry.after == {"step": 1, "digest": rollout.digest}
    with pytest.raises(IllegalTransition, match="approved already"):
        actions.approve_step(rollout, actor=world.cast.bo)


def test_approval_where_none_is_waited_for_is_refused(world: World) -> None:
    rollout = world.canary()
    with pytest.raises(IllegalTransition, match="not waiting for an approval"):
        actions.approve_step(rollout, actor=world.cast.bo)


# Abort and rollback


def test_abort_turns_back_and_keeps_who_and_why(world: World) -> None:
    rollout = world.canary()
    actions.abort(rollout, actor=world.cast.cy, reason="Users complain.")
    rollout.refresh_from_db()
    assert (rollout.status, rollout.cause, rollout.reason) == (Status.ROLLING_BACK, Cause.PERSON, "Users complain.")
    entry = last_entry(rollout)
    assert (entry.actor, entry.verb, entry.before) == ("cy", "rollout.aborted", {"status": "progressing"})
    assert [step.status for step in rollout.steps.all()] == ["done", "failed", "skipped"]


@pytest.mark.parametrize("status", [Status.WAITING_QA, Status.WAITING_APPROVAL])
def test_abort_before_anything_runs_cancels(world: World, status: Status) -> None:
    rollout = put(world.request(world.registered()), status)
    actions.abort(rollout, actor=world.cast.cy, reason="Not today.")
    rollout.refresh_from_db()
    assert rollout.status == Status.CANCELLED
    assert rollout.ended_at is not None
    assert {step.status for step in rollout.steps.all()} == {"skipped"}


@pytest.mark.parametrize("verb", ["abort", "rollback"])
def test_turning_back_needs_a_reason(world: World, verb: str) -> None:
    rollout = world.canary()
    with pytest.raises(Invalid) as caught:
        getattr(actions, verb)(rollout, actor=world.cast.cy, reason=" ")
    assert caught.value.fields == {"reason": "say what you saw"}


def test_abort_tells_the_gates_of_this_step_and_of_those_to_come(world: World, gate: ScriptedGate) -> None:
    steps = [{"setWeight": 10}, {"tasting": {}}, {"pause": {}}, {"tasting": {}}, {"setWeight": 100}]
    rollout = world.canary(steps)
    assert rollout.step_index == 1
    actions.abort(rollout, actor=world.cast.cy, reason="Bitter.")
    assert gate.ended == [1, 3]


def test_abort_before_the_first_step_tells_the_gates(world: World, gate: ScriptedGate) -> None:
    rollout = world.request(world.registered(), [{"setWeight": 10}, {"tasting": {}}])
    actions.abort(rollout, actor=world.cast.cy, reason="Not today.")
    assert gate.ended == [1]


def test_rollback_of_a_rollout_under_way_is_an_abort(world: World) -> None:
    rollout = world.canary()
    actions.rollback(rollout, actor=world.cast.cy, reason="Users complain.")
    rollout.refresh_from_db()
    assert rollout.status == Status.ROLLING_BACK
    assert last_entry(rollout).verb == "rollout.aborted"


def test_rollback_of_a_first_deployment_has_nothing_to_go_back_to(world: World) -> None:
    rollout = world.run(world.request(world.approved()))
    with pytest.raises(Conflict, match="was the first version in production"):
        actions.rollback(rollout, actor=world.cast.cy, reason="Users complain.")


def test_rollback_of_what_is_not_stable_any_more_is_refused(world: World) -> None:
    world.live()
    second = world.run(world.request(world.approved(), ALL_AT_ONCE))
    world.run(world.request(world.approved(), ALL_AT_ONCE))
    with pytest.raises(Conflict, match="v2 is not the stable version of production: nothing to take back"):
        actions.rollback(second, actor=world.cast.cy, reason="Users complain.")


def test_rollback_while_another_rollout_is_under_way_is_refused(world: World) -> None:
    world.live()
    second = world.run(world.request(world.approved(), ALL_AT_ONCE))
    world.run(world.request(world.approved()))
    with pytest.raises(Conflict, match="Another rollout of textgen is under way in production: abort that one first"):
        actions.rollback(second, actor=world.cast.cy, reason="Users complain.")
    second.refresh_from_db()
    assert second.status == Status.SUCCEEDED
    assert world.wire().keys() >= all_on(second.candidate).keys()


# Per role and per illegal state


def _verbs(world: World) -> dict[str, Callable[[Rollout, User], object]]:
    return {
        "pause": lambda rollout, actor: actions.pause(rollout, actor=actor),
        "resume": lambda rollout, actor: actions.resume(rollout, actor=actor),
        "promote": lambda rollout, actor: actions.promote(rollout, actor=actor, reason="Go."),
        "abort": lambda rollout, actor: actions.abort(rollout, actor=actor, reason="Bad."),
        "rollback": lambda rollout, actor: actions.rollback(rollout, actor=actor, reason="Bad."),
        "approve_step": lambda rollout, actor: actions.approve_step(rollout, actor=actor),
    }


@pytest.mark.parametrize("verb", ["pause", "resume", "promote", "abort", "rollback", "approve_step"])
@pytest.mark.parametrize("who", ["ana", "bo", "cy", "dee", "eve"])
def test_each_verb_needs_its_role(world: World, verb: str, who: str) -> None:
    if who == {"approve_step": "bo"}.get(verb, "cy"):
        return
    rollout = world.request(world.registered())
    before = AuditEntry.objects.count()
    with pytest.raises(Forbidden):
        _verbs(world)[verb](rollout, getattr(world.cast, who))
    assert AuditEntry.objects.count() == before


MAY: dict[str, set[Status]] = {
    "pause": {Status.PROVISIONING, Status.PROGRESSING},
    "resume": set(),
    "promote": {Status.PROGRESSING},
    "abort": {s for s in ACTIVE if s is not Status.ROLLING_BACK},
    "rollback": {s for s in ACTIVE if s is not Status.ROLLING_BACK},
    "approve_step": set(),
}


@pytest.mark.parametrize("verb", sorted(MAY))
@pytest.mark.parametrize("status", sorted(set(Status) - {Status.SUCCEEDED}))
def test_each_verb_is_refused_in_the_states_that_do_not_allow_it(world: World, verb: str, status: Status) -> None:
    rollout = put(world.request(world.registered()), status)
    actor = world.cast.bo if verb == "approve_step" else world.cast.cy
    if status in MAY[verb]:
        _verbs(world)[verb](rollout, actor)
        return
    before = AuditEntry.objects.count()
    with pytest.raises(IllegalTransition) as caught:
        _verbs(world)[verb](rollout, actor)
    assert caught.value.message
    assert AuditEntry.objects.count() == before


# Strategies


def test_strategy_is_saved_as_it_was_understood_and_audited(world: World) -> None:
    first = actions.save_strategy("slow", [{"setWeight": 1}], actor=world.cast.cy, description="Slowly.")
    actions.save_strategy("slow", [{"setWeight": 2}], actor=world.cast.cy)
    first.refresh_from_db()
    assert first.steps == [{"setWeight": 2.0}]
    entry = AuditEntry.objects.get(sequence=AuditEntry.objects.count())
    assert (entry.verb, entry.before) == ("strategy.saved", {"steps": [[{"setWeight": 1.0}]]})


def test_strategy_that_cannot_be_used_is_not_saved(world: World) -> None:
    with pytest.raises(Invalid) as caught:
        actions.save_strategy("odd", [{"setWeight": 300}], actor=world.cast.cy)
    assert "steps[0].setWeight" in caught.value.fields
    with pytest.raises(Forbidden):
        actions.save_strategy("slow", [{"setWeight": 1}], actor=world.cast.ana)
    assert not Strategy.objects.filter(name__in=["odd", "slow"]).exists()


# The audit


def test_entry_and_change_are_of_one_transaction(world: World) -> None:
    rollout = world.canary()
    before = AuditEntry.objects.count()

    @transaction.atomic
    def cut_off(verb: str) -> None:
        _verbs(world)[verb](rollout, world.cast.cy)
        raise RuntimeError("the power fails")

    for verb in ("pause", "promote", "abort"):
        with pytest.raises(RuntimeError, match="the power fails"):
            cut_off(verb)
        rollout.refresh_from_db()
        assert (rollout.status, rollout.is_paused, rollout.promote) == (Status.PROGRESSING, False, "")
        assert AuditEntry.objects.count() == before


def test_chain_is_whole_after_a_rollout_and_its_rollback(world: World) -> None:
    world.live()
    rollout = world.run(world.request(world.approved(), ALL_AT_ONCE))
    actions.rollback(rollout, actor=world.cast.cy, reason="Users complain.")
    world.run(rollout)
    assert rollout.status == Status.ROLLED_BACK
    assert list(audit.verify()) == []
