"""What the plan decides: every phase and branch as a row, and what holds for every snapshot as a property."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rollouts.lifecycle import ENDED, MOVES_TRAFFIC, ROLLOUTS, Cause, Purpose, Status
from rollouts.plan import (
    ROUTE_DEADLINE,
    Abort,
    Action,
    Finding,
    Hold,
    Move,
    NextStep,
    Promote,
    Restore,
    ServerView,
    SetWeight,
    Snapshot,
    decide,
)
from rollouts.strategy import Step
from rollouts.traffic.base import TOTAL_WEIGHT

WELL = ServerView(ready=True, failed=False, healthy=True, message="it answers.")
STARTING = ServerView(ready=False, failed=False, healthy=None, message="it loads its weights.")
UNASKED = ServerView(ready=True, failed=False, healthy=None, message="it was not asked yet.")
HUNG = ServerView(ready=True, failed=False, healthy=False, message="a generation did not end.")
DEAD = ServerView(ready=False, failed=True, healthy=None, message="it exited by signal SEGV.")

TEN = Step("setWeight", {"percent": 10.0})
ALL = Step("setWeight", {"percent": 100.0})
WAIT = Step("pause", {"seconds": 30.0})
PERSON = Step("pause", {})
JUDGE = Step("analysis", {})
JUDGE_HOLDS = Step("analysis", {"on_timeout": "hold"})
AGREE = Step("approval", {})
TASTE = Step("tasting", {})

PASS = Finding("pass", "Not worse.")
FAIL = Finding("fail", "Worse.")
MORE = Finding("insufficient_data", "Not enough data yet.")
LATE = Finding("insufficient_data", "No decision.", timed_out=True)
BLIND = Finding("provider_error", "The records could not be read.")


def snapshot(status: Status = Status.PROGRESSING, **changes: Any) -> Snapshot:
    """One in which all is well and the first step, 10 %, is about to begin."""
    usual: dict[str, Any] = {
        "status": status,
        "steps": (TEN, JUDGE, ALL),
        "step_index": 0,
        "step_seconds": 1.0,
        "phase_seconds": 1.0,
        "candidate": WELL,
        "stage": "approved",
        "stage_sentence": "Score 97.",
        "weight": 0,
        "installed_weight": 0,
        "previous": WELL,
    }
    return Snapshot(**{**usual, **changes})


def at(step: Step, **changes: Any) -> Snapshot:
    """At that step, with 10 % of the traffic."""
    return snapshot(steps=(TEN, step, ALL), step_index=1, **{"weight": 1000, "installed_weight": 1000, **changes})


def assert_decides(seen: Snapshot, expected: Action) -> None:
    """`expected` names the words that the sentence must have."""
    decided = decide(seen)
    assert expected.sentence in decided.sentence
    assert replace(decided, sentence="") == replace(expected, sentence="")


QA, AGREED = Status.WAITING_QA, Status.WAITING_APPROVAL


@pytest.mark.parametrize(
    ("seen", "expected"),
    [
        (snapshot(QA, stage="examining"), Hold("Waiting for the examination")),
        (snapshot(QA, stage="registered", stage_sentence="No machine."), Hold("No machine. Ask for", problem=True)),
        (snapshot(QA, stage="awaiting_approval"), Move("Score 97.", "qa_passed")),
        (snapshot(QA, stage="approved"), Move("Score 97.", "qa_passed")),
        *[(snapshot(QA, stage=s), Move("Score", "cancel")) for s in ("blocked", "refused", "suspended", "retired")],
        *[(snapshot(AGREED, stage=s), Move("Score", "cancel")) for s in ("blocked", "refused", "suspended", "retired")],
        (snapshot(AGREED, stage="awaiting_approval"), Hold("Waiting for an approver")),
        (snapshot(AGREED, stage="awaiting_approval", needs_approval=False), Move("asks for no approval", "approved")),
        (snapshot(AGREED, stage="examining", needs_approval=False), Hold("Waiting for the examination")),
        (snapshot(AGREED, stage="registered"), Hold("Waiting for the examination")),
        (snapshot(AGREED), Move("is approved", "approved")),
    ],
)
def test_before_it_begins(seen: Snapshot, expected: Action) -> None:
    assert_decides(seen, expected)


@pytest.mark.parametrize("status", [QA, AGREED])
@pytest.mark.parametrize("stage", ["awaiting_approval", "approved"])
def test_version_whose_score_asks_for_watching_is_not_rolled_out_unwatched(status: Status, stage: str) -> None:
    unwatched = snapshot(status, stage=stage, must_be_watched=True, steps=(TEN, WAIT, ALL))
    assert_decides(unwatched, Move("only by a rollout with an analysis step", "cancel"))
    watched = decide(snapshot(status, stage=stage, must_be_watched=True))
    assert not (isinstance(watched, Move) and watched.verb == "cancel")


PROVISIONING = Status.PROVISIONING


@pytest.mark.parametrize(
    ("seen", "expected"),
    [
        (snapshot(PROVISIONING, candidate=STARTING), Hold("it loads its weights")),
        (snapshot(PROVISIONING, candidate=UNASKED), Hold("Waiting for the server to be ready")),
        (snapshot(PROVISIONING, candidate=HUNG), Hold("a generation did not end")),
        (snapshot(PROVISIONING), Move("ready and healthy", "provisioned")),
        (snapshot(PROVISIONING, paused=True), Hold("Paused by a person.")),
        (snapshot(PROVISIONING, candidate=DEAD), Abort("did not start: it exited", Cause.HEALTH)),
        (snapshot(PROVISIONING, candidate=DEAD, paused=True), Abort("did not start", Cause.HEALTH)),
        (snapshot(PROVISIONING, candidate=STARTING, phase_seconds=601), Abort("within 600 s", Cause.DEADLINE)),
        (snapshot(PROVISIONING, candidate=HUNG, phase_seconds=601), Abort("within 600 s", Cause.DEADLINE)),
        (snapshot(PROVISIONING, stage="suspended"), Abort("may not be deployed any more", Cause.APPROVAL)),
    ],
)
def test_provisioning(seen: Snapshot, expected: Action) -> None:
    assert_decides(seen, expected)


@pytest.mark.parametrize(
    ("seen", "expected"),
    [
        (snapshot(), SetWeight("10 % of traffic", 1000)),
        (snapshot(installed_weight=None), Hold("the gateway does not answer", problem=True)),
        (snapshot(weight=1000), Hold("10 % is written")),
        (snapshot(weight=1000, installed_weight=None), Hold("10 % is written", problem=True)),
        (snapshot(weight=1000, write_problem="The disk is full."), Hold("The disk is full.", problem=True)),
        (snapshot(weight=1000, route_seconds=31), Abort("did not put 10 % into force", Cause.DEADLINE)),
        (snapshot(weight=1000, step_seconds=99), Hold("10 % is written")),
        (snapshot(weight=1000, route_seconds=31, installed_weight=None), Hold("10 % is written", problem=True)),
        (snapshot(weight=1000, route_seconds=31, write_problem="Disk full."), Hold("Disk full.", problem=True)),
        (snapshot(weight=1000, installed_weight=1000), NextStep("10 % is in force")),
        (snapshot(weight=1000, installed_weight=1000, promote="step"), NextStep("10 % is in force")),
        (snapshot(step_index=3), Move("All steps are done.", "steps_done")),
        (snapshot(step_index=3, purpose=Purpose.EXPERIMENT), Move("All steps are done.", "conclude")),
        (snapshot(promote="full"), Move("A person asked to go to the end", "steps_done")),
        (snapshot(promote="full", purpose=Purpose.EXPERIMENT), Move("A person asked", "conclude")),
    ],
)
def test_setting_a_weight(seen: Snapshot, expected: Action) -> None:
    assert_decides(seen, expected)


@pytest.mark.parametrize(
    ("seen", "expected"),
    [
        (at(WAIT), Hold("Waiting 30 s.")),
        (at(WAIT, step_seconds=30), NextStep("Waited 30 s.")),
        (at(PERSON, step_seconds=9999), Hold("Waiting for a person")),
        (at(PERSON, promote="step"), NextStep("A person asked to go on.", skipped=True)),
        (at(AGREE), Hold("Waiting for an approver")),
        (at(AGREE, step_approved=True), NextStep("Approved to go on.")),
        (at(JUDGE), Hold("Waiting for the first measurements.")),
        (at(JUDGE, step_finding=MORE), Hold("Not enough data yet.")),
        (at(JUDGE, step_finding=PASS), NextStep("Not worse.")),
        (at(JUDGE, step_finding=FAIL), Abort("Worse.", Cause.VERDICT)),
        (at(JUDGE, step_finding=BLIND), Hold("could not be read", problem=True)),
        (at(JUDGE, step_finding=BLIND, step_seconds=99_999), Hold("could not be read", problem=True)),
        (at(JUDGE, step_finding=LATE), Abort("No decision.", Cause.DEADLINE)),
        (at(JUDGE_HOLDS, step_finding=LATE), Hold("A person must decide.", problem=True)),
        (at(JUDGE, step_finding=MORE, promote="step"), NextStep("A person asked", skipped=True)),
        (at(TASTE), Hold("Waiting for the first measurements.")),
        (at(TASTE, step_finding=PASS), NextStep("Not worse.")),
        (at(TASTE, step_finding=FAIL), Abort("Worse.", Cause.VERDICT)),
        (at(TASTE, step_finding=LATE), Abort("No decision.", Cause.DEADLINE)),
    ],
)
def test_steps(seen: Snapshot, expected: Action) -> None:
    assert_decides(seen, expected)


EVERY_STEP = [at(step) for step in (ALL, WAIT, PERSON, JUDGE, AGREE, TASTE)]
PROMOTING = snapshot(Status.PROMOTING, step_index=3, weight=1000, installed_weight=1000)


@pytest.mark.parametrize("seen", [*EVERY_STEP, PROMOTING])
@pytest.mark.parametrize(
    ("changes", "cause"),
    [
        ({"candidate": DEAD}, Cause.HEALTH),
        ({"candidate": HUNG}, Cause.HEALTH),
        ({"guard": FAIL}, Cause.VERDICT),
        ({"step_finding": FAIL}, Cause.VERDICT),
        ({"guard": FAIL, "candidate": STARTING}, Cause.VERDICT),
        ({"guard": FAIL, "paused": True, "promote": "full"}, Cause.VERDICT),
        ({"candidate": DEAD, "paused": True}, Cause.HEALTH),
        ({"candidate": DEAD, "installed_weight": None}, Cause.HEALTH),
    ],
)
def test_trouble_turns_back_at_every_step(seen: Snapshot, changes: dict[str, Any], cause: Cause) -> None:
    decided = decide(replace(seen, **changes))
    assert isinstance(decided, Abort)
    assert decided.cause is cause
    held = decide(replace(seen, **changes, rollback_on_failure=False))
    assert isinstance(held, Hold)
    assert held.problem
    assert "Automatic rollback is off" in held.sentence


@pytest.mark.parametrize("seen", [*EVERY_STEP, PROMOTING])
@pytest.mark.parametrize("stage", ["suspended", "refused", "retired", "blocked"])
def test_withdrawn_version_turns_back_whatever_was_asked(seen: Snapshot, stage: str) -> None:
    decided = decide(replace(seen, stage=stage, rollback_on_failure=False, paused=True))
    assert isinstance(decided, Abort)
    assert decided.cause is Cause.APPROVAL


@pytest.mark.parametrize("seen", [*EVERY_STEP, PROMOTING])
@pytest.mark.parametrize("candidate", [STARTING, UNASKED])
@pytest.mark.parametrize("promote", ["", "step", "full"])
def test_nothing_goes_forward_while_the_candidate_is_not_known_to_be_well(
    seen: Snapshot, candidate: ServerView, promote: str
) -> None:
    decided = decide(
        replace(seen, candidate=candidate, promote=promote, step_seconds=99, step_finding=PASS, step_approved=True)
    )
    assert_decides(
        replace(seen, candidate=candidate), Hold("until the candidate is known", problem=not candidate.ready)
    )
    assert isinstance(decided, Hold)


@pytest.mark.parametrize("seen", EVERY_STEP)
@pytest.mark.parametrize("previous", [STARTING, DEAD])
def test_steps_wait_while_the_stable_version_does_not_run(seen: Snapshot, previous: ServerView) -> None:
    without = replace(seen, previous=previous, step_seconds=99, route_seconds=99, step_finding=PASS, step_approved=True)
    assert_decides(without, Hold("until the stable version is ready again", problem=True))
    assert_decides(replace(without, promote="full"), Move("A person asked", "steps_done"))


@pytest.mark.parametrize(
    ("seen", "expected"),
    [
        (PROMOTING, SetWeight("100 % of traffic", 10_000)),
        (replace(PROMOTING, installed_weight=None), Hold("the gateway does not answer", problem=True)),
        (replace(PROMOTING, weight=10_000), Hold("100 % is written")),
        (replace(PROMOTING, weight=10_000, route_seconds=31), Abort("did not put 100 %", Cause.DEADLINE)),
        (replace(PROMOTING, weight=10_000, installed_weight=10_000), Promote("becomes the stable version")),
        (replace(PROMOTING, weight=10_000, installed_weight=10_000, previous=None), Promote("becomes the stable")),
        (replace(PROMOTING, weight=10_000, installed_weight=10_000, previous=DEAD), Promote("becomes the stable")),
    ],
)
def test_promoting(seen: Snapshot, expected: Action) -> None:
    assert_decides(seen, expected)


CONCLUDING = snapshot(Status.CONCLUDING, purpose=Purpose.EXPERIMENT, step_index=3, weight=5000, installed_weight=5000)


@pytest.mark.parametrize(
    ("seen", "expected"),
    [
        (CONCLUDING, SetWeight("0 % of traffic", 0)),
        (replace(CONCLUDING, installed_weight=None), SetWeight("0 % of traffic", 0)),
        (replace(CONCLUDING, candidate=DEAD), SetWeight("0 % of traffic", 0)),
        (replace(CONCLUDING, previous=DEAD), Hold("Waiting for the previous version", problem=True)),
        (replace(CONCLUDING, previous=DEAD, candidate=DEAD), SetWeight("0 % of traffic", 0)),
        (replace(CONCLUDING, weight=0), Hold("0 % is written")),
        (replace(CONCLUDING, weight=0, route_seconds=31), Hold("0 % is written", problem=True)),
        (replace(CONCLUDING, weight=0, installed_weight=None), Hold("0 % is written", problem=True)),
        (replace(CONCLUDING, weight=0, write_problem="Disk full."), Hold("Disk full.", problem=True)),
        (replace(CONCLUDING, weight=0, installed_weight=0), Move("on the stable version", "concluded")),
        (replace(CONCLUDING, weight=0, installed_weight=0, previous=DEAD), Move("stable version", "concluded")),
    ],
)
def test_concluding(seen: Snapshot, expected: Action) -> None:
    assert_decides(seen, expected)


BACK = snapshot(Status.ROLLING_BACK, weight=1000, installed_weight=1000)
RESTORED = replace(BACK, route_restored=True, weight=0)
TAKING_BACK = replace(BACK, weight=0, candidate_is_stable=True, previous=STARTING)


@pytest.mark.parametrize(
    ("seen", "expected"),
    [
        (BACK, Restore("All traffic goes back to the previous version.")),
        (replace(BACK, previous=None), Restore("gets no traffic any more")),
        (replace(BACK, installed_weight=None), Restore("All traffic goes back")),
        (replace(BACK, paused=True, stage="suspended", guard=FAIL), Restore("All traffic goes back")),
        # The only healthy copy keeps the traffic.
        (replace(BACK, previous=STARTING), Hold("it loads its weights", problem=True)),
        (replace(BACK, previous=UNASKED), Hold("previous version to be ready and healthy", problem=True)),
        (replace(BACK, previous=HUNG), Hold("a generation did not end", problem=True)),
        (replace(BACK, previous=DEAD), Hold("it exited", problem=True)),
        (replace(BACK, previous=DEAD, candidate=HUNG), Restore("All traffic goes back")),
        (replace(BACK, previous=DEAD, candidate=DEAD), Restore("All traffic goes back")),
        (replace(BACK, previous=DEAD, phase_seconds=9999), Hold("it exited", problem=True)),
        # A promotion that cannot be taken back stays, after a while, and frees the way for the next rollout.
        (TAKING_BACK, Hold("it loads its weights", problem=True)),
        (replace(TAKING_BACK, phase_seconds=601), Move("The rollback was given up", "keep")),
        (replace(TAKING_BACK, phase_seconds=601, candidate=DEAD), Restore("All traffic goes back")),
        (replace(TAKING_BACK, phase_seconds=601, previous=WELL), Restore("All traffic goes back")),
        (RESTORED, Hold("waiting for the gateway to take it")),
        (replace(RESTORED, route_seconds=31), Hold("waiting for the gateway to take it", problem=True)),
        (replace(RESTORED, installed_weight=None), Hold("The gateway does not answer", problem=True)),
        (replace(RESTORED, write_problem="Disk full."), Hold("Disk full.", problem=True)),
        (replace(RESTORED, installed_weight=0), Move("in force at the gateway", "rolled_back")),
        (replace(RESTORED, installed_weight=0, previous=None), Move("in force", "rolled_back")),
    ],
)
def test_rolling_back(seen: Snapshot, expected: Action) -> None:
    assert_decides(seen, expected)


@pytest.mark.parametrize("status", sorted(ENDED))
def test_nothing_is_done_after_the_end(status: Status) -> None:
    assert decide(snapshot(status, guard=FAIL, candidate=DEAD, stage="suspended", promote="full")) == Hold("")


# What holds for every snapshot

views = st.builds(
    ServerView,
    ready=st.booleans(),
    failed=st.booleans(),
    healthy=st.none() | st.booleans(),
    message=st.just("it says something."),
)
findings = st.none() | st.builds(
    Finding,
    st.sampled_from(["pass", "fail", "insufficient_data", "provider_error"]),
    st.just("A sentence."),
    timed_out=st.booleans(),
)
steps = st.lists(st.sampled_from([TEN, ALL, WAIT, PERSON, JUDGE, JUDGE_HOLDS, AGREE, TASTE]), min_size=1, max_size=5)
weights = st.sampled_from([0, 1000, 5000, TOTAL_WEIGHT])
seconds = st.sampled_from([0.0, 29.0, ROUTE_DEADLINE + 1, 601.0, 99_999.0])
stages = st.sampled_from(
    ["registered", "examining", "awaiting_approval", "approved", "refused", "blocked", "suspended", "retired"]
)


def snapshots_in(statuses: Collection[Status]) -> st.SearchStrategy[Snapshot]:
    """Drawn with the status, not filtered by it: most of what is drawn would be thrown away."""
    return st.builds(
        Snapshot,
        status=st.sampled_from(list(statuses)),
        steps=steps.map(tuple),
        step_index=st.integers(0, 6),
        step_seconds=seconds,
        phase_seconds=seconds,
        candidate=views,
        stage=stages,
        stage_sentence=st.just("It is so."),
        weight=weights,
        installed_weight=st.none() | weights,
        purpose=st.sampled_from(Purpose),
        route_seconds=seconds,
        write_problem=st.sampled_from(["", "The disk is full."]),
        paused=st.booleans(),
        needs_approval=st.booleans(),
        must_be_watched=st.booleans(),
        previous=st.none() | views,
        candidate_is_stable=st.booleans(),
        route_restored=st.booleans(),
        guard=findings,
        step_finding=findings,
        step_approved=st.booleans(),
        promote=st.sampled_from(["", "step", "full"]),
        rollback_on_failure=st.booleans(),
    )


snapshots = snapshots_in(list(Status))
moving = snapshots_in(sorted(MOVES_TRAFFIC))


@given(snapshots)
def test_weight_never_grows_while_anything_is_bad_or_unknown(seen: Snapshot) -> None:
    decided = decide(seen)
    if isinstance(decided, SetWeight) and decided.weight > seen.weight:
        assert seen.status in MOVES_TRAFFIC
        assert seen.candidate.well
        assert seen.installed_weight is not None
        assert not (seen.paused and seen.status is Status.PROGRESSING)
        assert not any(found and found.verdict == "fail" for found in (seen.guard, seen.step_finding))
        assert seen.stage not in ("refused", "blocked", "suspended", "retired")


@given(snapshots)
def test_every_verb_is_one_that_the_phase_allows(seen: Snapshot) -> None:
    decided = decide(seen)
    verb = {Move: getattr(decided, "verb", ""), Abort: "abort", Promote: "promoted"}.get(type(decided))
    if verb:
        assert ROLLOUTS.refusal(seen.status, verb) is None


@given(snapshots)
def test_every_decision_that_does_something_says_why(seen: Snapshot) -> None:
    assert decide(seen).sentence or seen.status in ENDED


@given(moving)
def test_only_a_pass_or_a_person_passes_a_judge(seen: Snapshot) -> None:
    decided = decide(seen)
    if isinstance(decided, NextStep) and seen.steps[seen.step_index].kind in ("analysis", "tasting"):
        passed = seen.step_finding is not None and seen.step_finding.verdict == "pass"
        assert passed or (decided.skipped and seen.promote == "step")


@given(moving)
def test_nothing_goes_forward_while_the_data_plane_disagrees(seen: Snapshot) -> None:
    decided = decide(seen)
    if isinstance(decided, NextStep) and seen.steps[seen.step_index].kind == "setWeight":
        assert seen.installed_weight == seen.weight == seen.steps[seen.step_index].weight


@given(moving)
def test_trouble_with_the_measurements_is_no_finding_against_the_model(seen: Snapshot) -> None:
    """A metrics outage by itself never turns a rollout back that would not have been turned back without a judge."""
    blind = replace(seen, guard=BLIND, step_finding=BLIND)
    decided = decide(blind)
    if isinstance(decided, Abort):
        assert isinstance(decide(replace(seen, guard=None, step_finding=None)), Abort)


@given(moving)
def test_failed_guard_always_turns_back_or_says_that_it_may_not(seen: Snapshot) -> None:
    decided = decide(replace(seen, guard=FAIL))
    if seen.stage in ("refused", "blocked", "suspended", "retired") or seen.rollback_on_failure:
        assert isinstance(decided, Abort)
    else:
        assert isinstance(decided, Hold)
        assert decided.problem


@given(moving)
def test_dead_candidate_never_stays_without_a_word(seen: Snapshot) -> None:
    decided = decide(replace(seen, candidate=DEAD))
    assert isinstance(decided, Abort) or (isinstance(decided, Hold) and decided.problem)


@given(snapshots)
def test_promotion_needs_the_whole_weight_in_force_and_a_healthy_candidate(seen: Snapshot) -> None:
    if isinstance(decide(seen), Promote):
        assert seen.status is Status.PROMOTING
        assert seen.weight == seen.installed_weight == TOTAL_WEIGHT
        assert seen.candidate.well


@given(snapshots_in([Status.ROLLING_BACK]))
def test_way_back_never_gives_the_candidate_anything(seen: Snapshot) -> None:
    decided = decide(seen)
    assert isinstance(decided, Restore | Hold | Move)
    if isinstance(decided, Move) and decided.verb == "rolled_back":
        assert seen.route_restored
        assert seen.installed_weight == 0


@given(snapshots_in([Status.ROLLING_BACK, Status.CONCLUDING]))
def test_traffic_is_not_taken_from_the_only_healthy_copy(seen: Snapshot) -> None:
    decided = decide(seen)
    takes = isinstance(decided, Restore) or (isinstance(decided, SetWeight) and decided.weight < seen.weight)
    if takes and seen.previous is not None and seen.candidate.well:
        assert seen.previous.well


def test_every_phase_and_every_step_is_decided() -> None:
    for status in Status:
        assert decide(snapshot(status)).sentence or status in ENDED
