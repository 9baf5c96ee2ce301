"""A verdict that the settings leave to a person is carried out by one."""

from __future__ import annotations

import pytest

from abtests import actions
from abtests.gates import ExperimentGate
from abtests.lifecycle import Status
from abtests.models import Experiment
from deploypipe.core.errors import Conflict, Forbidden, IllegalTransition, Invalid
from deploypipe.core.models import AuditEntry
from rollouts.analysis import Verdict
from rollouts.lifecycle import Purpose
from rollouts.models import Rollout
from tests.abtests.test_gates import AUTOMATIC, MARGIN, SAME, WORSE, judge
from tests.abtests.world import World

BY_HAND = {**MARGIN, "auto_promote": False, "auto_rollback": False}
ALONE = Purpose.EXPERIMENT


def found(world: World, measured: dict[str, object], purpose: Purpose = ALONE) -> tuple[Experiment, Rollout]:
    """An experiment whose verdict waits."""
    rollout = world.rollout(BY_HAND, purpose=purpose)
    world.measure(**measured)  # type: ignore[arg-type]
    waiting = judge(rollout)
    assert waiting.verdict == Verdict.INSUFFICIENT_DATA
    assert waiting.sentence.endswith("A person must act on it.")
    return Experiment.objects.get(rollout=rollout), rollout


def test_agreed_promotion_names_the_winner_and_lets_the_rollout_go_on(world: World) -> None:
    experiment, rollout = found(world, SAME, Purpose.PROMOTE)
    actions.agree(experiment, "promote", actor=world.cast.cy, reason="It reads better, too.")
    experiment.refresh_from_db()
    assert (experiment.status, experiment.winner) == (Status.PROMOTE, world.candidate)
    assert "A person must act" not in experiment.sentence
    assert experiment.ended_at
    assert ExperimentGate().judge(rollout, 1, now=experiment.ended_at, seconds=70).verdict == Verdict.PASS
    entry = AuditEntry.objects.get(verb="experiment.decide_promote")
    assert (entry.actor, entry.before, entry.after, entry.reason) == (
        "cy", {"status": "running"}, {"status": "promote", "winner": "textgen v2"}, "It reads better, too.",
    )  # fmt: skip


def test_agreed_abort_fails_the_rollout(world: World) -> None:
    experiment, rollout = found(world, WORSE)
    actions.agree(experiment, "abort", actor=world.cast.ana)
    experiment.refresh_from_db()
    assert (experiment.status, experiment.winner) == (Status.ABORT, None)
    assert experiment.ended_at
    assert ExperimentGate().judge(rollout, 1, now=experiment.ended_at, seconds=70).verdict == Verdict.FAIL


def test_what_the_newest_look_does_not_say_is_not_carried_out(world: World) -> None:
    experiment, _ = found(world, WORSE)
    with pytest.raises(Conflict, match="The newest look says abort, not promote"):
        actions.agree(experiment, "promote", actor=world.cast.ana)
    world.measure(stable=(400, 4), candidate=(400, 4))
    experiment.snapshots.all().delete()
    with pytest.raises(Conflict, match="is still to come"):
        actions.agree(experiment, "abort", actor=world.cast.ana)
    experiment.refresh_from_db()
    assert experiment.status == Status.RUNNING


def test_there_are_two_verdicts_to_agree_with(world: World) -> None:
    experiment, _ = found(world, WORSE)
    with pytest.raises(Invalid) as refused:
        actions.agree(experiment, "continue", actor=world.cast.ana)
    assert refused.value.fields == {"verdict": "'continue': give promote or abort"}


def test_nobody_agrees_twice(world: World) -> None:
    experiment, _ = found(world, WORSE)
    actions.agree(experiment, "abort", actor=world.cast.ana)
    with pytest.raises(IllegalTransition):
        actions.agree(experiment, "abort", actor=world.cast.cy)


def test_what_ends_by_itself_needs_no_person(world: World) -> None:
    rollout = world.rollout(AUTOMATIC, purpose=ALONE)
    world.measure(**WORSE)
    judge(rollout)
    experiment = Experiment.objects.get(rollout=rollout)
    assert experiment.status == Status.ABORT
    with pytest.raises(IllegalTransition):
        actions.agree(experiment, "abort", actor=world.cast.cy)


@pytest.mark.parametrize(("purpose", "name"), [(ALONE, "bo"), (ALONE, "dee"), (Purpose.PROMOTE, "ana")])
def test_a_rollout_is_moved_by_operators_alone(purpose: Purpose, name: str, world: World) -> None:
    experiment, _ = found(world, WORSE, purpose)
    with pytest.raises(Forbidden):
        actions.agree(experiment, "abort", actor=getattr(world.cast, name))
    experiment.refresh_from_db()
    assert experiment.status == Status.RUNNING
