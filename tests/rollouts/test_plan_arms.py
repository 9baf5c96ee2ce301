"""What the plan decides where an experiment compares several candidates."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rollouts.lifecycle import ROLLOUTS, Cause, Purpose, Status
from rollouts.plan import (
    Abort,
    Action,
    ArmView,
    DropArm,
    Finding,
    Hold,
    Move,
    NextStep,
    Promote,
    ServerView,
    SetWeight,
    Snapshot,
    decide,
)
from tests.rollouts.test_plan import (
    AGREED,
    ALL,
    BLIND,
    DEAD,
    FAIL,
    HUNG,
    MORE,
    PASS,
    PROVISIONING,
    QA,
    STARTING,
    TASTE,
    TEN,
    UNASKED,
    WAIT,
    WELL,
    assert_decides,
    snapshot,
)

WORST = "candidate-2"


def arm(position: int, **changes: Any) -> ArmView:
    name = "candidate" if position == 1 else f"candidate-{position}"
    return ArmView(name, WELL, stage_sentence=f"Score {96 + position}.", **changes)


def three(status: Status = Status.PROGRESSING, second: dict[str, Any] | None = None, **changes: Any) -> Snapshot:
    """An experiment of three candidates, at its judge; `second` changes the second one."""
    usual: dict[str, Any] = {
        "arms": (arm(1), replace(arm(2), **(second or {})), arm(3)),
        "purpose": Purpose.EXPERIMENT,
        "steps": (TEN, TASTE),
        "step_index": 1,
        "weight": 1000,
        "installed_weight": 1000,
    }
    return snapshot(status, **{**usual, **changes})


def drop(*names: str) -> Finding:
    return Finding("insufficient_data", "The others go on.", drop=tuple((name, f"{name} is worse.") for name in names))


# Before it begins


@pytest.mark.parametrize(
    ("seen", "expected"),
    [
        (three(QA), Move("Score 97. Score 98. Score 99.", "qa_passed")),
        (three(QA, {"stage": "examining"}), Hold("examination of the version (candidate-2) to end")),
        (three(QA, {"stage": "registered", "stage_sentence": "No machine."}), Hold("No machine. Ask", problem=True)),
        (three(QA, {"examined_elsewhere": "Elsewhere."}), Hold("Elsewhere.", problem=True)),
        (three(QA, {"stage": "blocked"}), DropArm("Score 98.", WORST, Cause.APPROVAL)),
        (three(AGREED), Move("Every version is approved.", "approved")),
        (three(AGREED, {"stage": "awaiting_approval"}), Hold("say yes to the version (candidate-2).")),
        (three(AGREED, {"stage": "awaiting_approval"}, needs_approval=False), Move("asks for no approval", "approved")),
        (three(AGREED, {"stage": "examining"}), Hold("examination of the version (candidate-2)")),
        (three(AGREED, {"stage": "refused"}), DropArm("Score 98.", WORST, Cause.APPROVAL)),
        (
            three(AGREED, {"must_be_watched": True}, steps=(TEN, WAIT)),
            DropArm("only by a rollout with an analysis step", WORST, Cause.APPROVAL),
        ),
        (three(PROVISIONING), Move("ready and healthy", "provisioned")),
        (three(PROVISIONING, {"server": STARTING}), Hold("server (candidate-2) to be ready: it loads")),
        (three(PROVISIONING, {"server": DEAD}), DropArm("did not start: it exited", WORST, Cause.HEALTH)),
        (
            three(PROVISIONING, {"server": STARTING}, phase_seconds=601.0),
            DropArm("within 600 s", WORST, Cause.DEADLINE),
        ),
        (three(PROVISIONING, {"stage": "suspended"}), DropArm("may not be deployed", WORST, Cause.APPROVAL)),
    ],
)
def test_before_traffic_all_must_be_ready_and_one_that_never_will_be_leaves_alone(
    seen: Snapshot, expected: Action
) -> None:
    assert_decides(seen, expected)


def test_own_version_that_may_not_come_cancels_the_whole_rollout() -> None:
    seen = three(AGREED)
    refused = replace(seen, arms=(replace(seen.arms[0], stage="refused"), *seen.arms[1:]))
    assert_decides(refused, Move("Score 97.", "cancel"))


# While it runs


@pytest.mark.parametrize(
    ("seen", "expected"),
    [
        (three(second={"server": DEAD}), DropArm("candidate-2 is not healthy: it exited", WORST, Cause.HEALTH)),
        (three(second={"server": HUNG}), DropArm("candidate-2 is not healthy", WORST, Cause.HEALTH)),
        (three(second={"server": UNASKED}), Hold("until candidate-2 is known to be healthy")),
        (three(second={"server": STARTING}), Hold("until candidate-2 is known to be healthy", problem=True)),
        (three(second={"stage": "suspended"}), DropArm("may not be deployed any more", WORST, Cause.APPROVAL)),
        (three(guard=FAIL), Abort("Worse.", Cause.VERDICT)),
        (three(guard=drop("candidate")), DropArm("candidate is worse.", "candidate", Cause.VERDICT)),
        (three(step_finding=drop("candidate-3")), DropArm("candidate-3 is worse.", "candidate-3", Cause.VERDICT)),
        (three(guard=drop(WORST)), DropArm("candidate-2 is worse.", WORST, Cause.VERDICT)),
        (three(step_finding=drop("candidate")), DropArm("candidate is worse.", "candidate", Cause.VERDICT)),
        (three(step_finding=drop("stable", "nobody")), Hold("The others go on.")),
        (three(second={"on": False}, step_finding=drop(WORST)), Hold("The others go on.")),
        (three(second={"on": False, "server": DEAD}, step_finding=PASS), NextStep("Not worse.")),
        (three(step_finding=FAIL), Abort("Worse.", Cause.VERDICT)),
        (three(step_finding=BLIND), Hold("could not be read", problem=True)),
        (three(step_finding=drop(WORST), rollback_on_failure=False), Hold("a person must decide", problem=True)),
        (three(paused=True, second={"server": DEAD}), DropArm("not healthy", WORST, Cause.HEALTH)),
        (three(split_differs=True, write_problem="Disk full."), Hold("Disk full.", problem=True)),
        (three(step_index=0, split_differs=True), Hold("10 % is written; waiting for the gateway")),
        (three(step_index=0, weight=0, installed_weight=0), SetWeight("goes to the candidates.", 1000)),
        (three(step_index=2), Move("All steps are done.", "conclude")),
        (three(Status.CONCLUDING), SetWeight("0 % of traffic", 0)),
        (
            three(Status.CONCLUDING, weight=0, installed_weight=0, answer="candidate-3 wins."),
            Move("all traffic is on the stable version. candidate-3 wins.", "concluded"),
        ),
    ],
)
def test_one_arm_leaves_and_the_others_go_on(seen: Snapshot, expected: Action) -> None:
    assert_decides(seen, expected)


def test_last_arm_that_fails_turns_the_whole_rollout_back() -> None:
    alone = three(second={"server": DEAD})
    alone = replace(alone, arms=(replace(alone.arms[0], on=False), alone.arms[1], replace(alone.arms[2], on=False)))
    assert_decides(alone, Abort("candidate-2 is not healthy", Cause.HEALTH))
    assert_decides(replace(alone, guard=FAIL), Abort("candidate-2 is not healthy", Cause.HEALTH))


def test_guards_word_about_an_arm_that_left_is_no_word_about_the_others() -> None:
    seen = three(guard=drop("candidate"), step_finding=MORE)
    assert isinstance(decide(replace(seen, arms=(replace(seen.arms[0], on=False), *seen.arms[1:]))), Hold)


def test_only_copy_that_is_well_keeps_its_traffic_though_a_judge_calls_it_bad() -> None:
    seen = three(second={"server": STARTING}, previous=DEAD, step_finding=drop("candidate"))
    seen = replace(seen, arms=(*seen.arms[:2], replace(seen.arms[2], server=STARTING)))
    assert_decides(seen, Hold("It keeps its traffic until another version can take it.", problem=True))
    assert_decides(replace(seen, previous=WELL), DropArm("candidate is worse.", "candidate", Cause.VERDICT))


servers = st.builds(
    ServerView,
    ready=st.booleans(),
    failed=st.booleans(),
    healthy=st.sampled_from([True, False, None]),
    message=st.just("so it is."),
)
views = st.integers(2, 4).flatmap(
    lambda n: st.tuples(
        *(
            st.builds(
                ArmView,
                name=st.just("candidate" if i == 1 else f"candidate-{i}"),
                server=servers,
                stage=st.sampled_from(["registered", "examining", "awaiting_approval", "approved", "suspended"]),
                stage_sentence=st.just("Its stage."),
                on=st.booleans(),
            )
            for i in range(1, n + 1)
        )
    )
)
findings = st.sampled_from([None, PASS, FAIL, MORE, BLIND, drop(WORST), drop("candidate", "candidate-3"), drop("x")])
several = st.builds(
    three,
    st.sampled_from(list(Status)),
    arms=views,
    steps=st.just((TEN, TASTE, ALL)),
    step_index=st.integers(0, 3),
    weight=st.sampled_from([0, 1000]),
    installed_weight=st.sampled_from([0, 999, 1000, None]),
    split_differs=st.booleans(),
    write_problem=st.sampled_from(["", "Disk full."]),
    guard=findings,
    step_finding=findings,
    previous=st.sampled_from([WELL, DEAD, STARTING]),
    paused=st.booleans(),
    promote=st.sampled_from(["", "step", "full"]),
    rollback_on_failure=st.booleans(),
    phase_seconds=st.sampled_from([1.0, 601.0]),
).filter(lambda s: any(view.on for view in s.arms))


@given(several)
def test_every_snapshot_of_several_is_decided_by_what_its_phase_allows(seen: Snapshot) -> None:
    decided = decide(seen)
    verb = {Move: getattr(decided, "verb", ""), Abort: "abort"}.get(type(decided))
    assert not verb or ROLLOUTS.refusal(seen.status, verb) is None


@given(several)
def test_only_an_arm_that_takes_part_is_dropped_and_never_the_last(seen: Snapshot) -> None:
    decided = decide(seen)
    if isinstance(decided, DropArm):
        on = [view.name for view in seen.arms if view.on]
        assert decided.arm in on
        assert len(on) > 1
        assert decided.sentence


@given(several)
def test_no_extra_arm_is_ever_promoted(seen: Snapshot) -> None:
    if seen.status in (Status.PROGRESSING, Status.CONCLUDING):
        assert not isinstance(decide(seen), Promote)


@given(several)
def test_dropping_settles_after_as_many_looks_as_there_are_arms(seen: Snapshot) -> None:
    for _ in range(5):
        decided = decide(seen)
        if not isinstance(decided, DropArm):
            return
        seen = replace(seen, arms=tuple(replace(v, on=v.on and v.name != decided.arm) for v in seen.arms))
    raise AssertionError("It drops the same arm again and again.")


@given(several)
def test_bad_arm_never_stays_without_a_word(seen: Snapshot) -> None:
    seen = replace(seen, status=Status.PROGRESSING)
    if any(view.on and view.server.bad for view in seen.arms):
        decided = decide(seen)
        assert isinstance(decided, Abort | DropArm) or (isinstance(decided, Hold) and decided.problem)
