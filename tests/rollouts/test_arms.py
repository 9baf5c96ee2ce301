"""Asking for a comparison of several versions, and taking one of them off."""

from __future__ import annotations

from typing import Any

import pytest

from deploypipe.core import audit
from deploypipe.core.errors import Conflict, Forbidden, IllegalTransition, Invalid
from deploypipe.core.models import AuditEntry
from registry import actions as registry_actions
from registry.models import ModelVersion
from registry.scoring import Band
from rollouts import actions, queries
from rollouts.lifecycle import Cause, Purpose, Status
from rollouts.models import Rollout, RolloutArm
from tests.rollouts.conftest import ScriptedGate, World, verbs_of

STEPS: list[dict[str, Any]] = [{"setWeight": 30}, {"tasting": {}}]


@pytest.fixture
def compared(world: World, gate: ScriptedGate) -> World:
    world.live()
    return world


def ask(world: World, versions: int = 3, **options: Any) -> Rollout:
    own, *others = [world.approved() for _ in range(versions)]
    return world.request(own, **{"steps": STEPS, "purpose": Purpose.EXPERIMENT, "arms": others, **options})


def refused(world: World, **options: Any) -> dict[str, str]:
    with pytest.raises(Invalid) as caught:
        ask(world, **options)
    assert not Rollout.objects.active().exists()
    return caught.value.fields


# Asking


def test_each_version_is_an_arm_with_an_equal_part(compared: World) -> None:
    rollout = ask(compared)
    rows = [(arm.name, arm.version.number, arm.parts, arm.digest) for arm in rollout.arms.all()]
    digest = rollout.version.digest
    assert rows == [("candidate", 2, 1, digest), ("candidate-2", 3, 1, digest), ("candidate-3", 4, 1, digest)]
    entry = AuditEntry.objects.get(verb="rollout.requested", object_id=str(rollout.pk))
    assert [arm["version"] for arm in entry.after["arms"]] == ["textgen v3", "textgen v4"]


def test_parts_may_be_given(compared: World) -> None:
    rollout = ask(compared, arm_weights=[2, 1, 1])
    assert [lane.parts for lane in rollout.lanes] == [2, 1, 1]


def test_rollout_of_one_version_has_no_arms(compared: World) -> None:
    rollout = ask(compared, versions=1, routing={"by": "header", "name": "X-User-Id"}, holdout_percent=2.5)
    assert not rollout.arms.exists()
    assert (rollout.routing, rollout.holdout) == ({"by": "header", "name": "x-user-id"}, 250)
    entry = AuditEntry.objects.get(verb="rollout.requested", object_id=str(rollout.pk))
    assert (entry.after["routing"], entry.after["holdout"]) == (rollout.routing, 250)
    assert "arms" not in entry.after


@pytest.mark.parametrize(
    ("options", "place", "right"),
    [
        ({"versions": 5, "arms": None}, "arms", "4 are too many: give at most 3"),
        ({"purpose": Purpose.PROMOTE}, "arms", "roll the winner out afterwards"),
        ({"arm_weights": [1, 1]}, "arm_weights", "give 3 whole numbers from 1 to 1000"),
        ({"arm_weights": [1, 0, 1]}, "arm_weights", "[1, 0, 1] is not usable"),
        ({"arm_weights": [1, 1, True]}, "arm_weights", "is not usable"),
        ({"versions": 1, "arm_weights": [1]}, "arm_weights", "leave it out, or give arms"),
        ({"steps": [{"setWeight": 100}, {"tasting": {}}]}, "steps[0].setWeight", "leaves the stable version no share"),
        ({"steps": [{"setWeight": 0.02}, {"tasting": {}}]}, "steps[0].setWeight", "would get nothing"),
        (
            {"steps": [{"setWeight": 30}, {"analysis": {}}]},
            "steps[1].analysis", "judges one candidate: give a step that judges several, an experiment",
        ),
        ({"routing": {"by": "header"}}, "routing.name", "give a header's name"),
        (
            {"routing": {"forced": [{"header": "x", "value": "y", "arm": "candidate-4"}]}},
            "routing.forced[0].arm", "one of stable, candidate, candidate-2, candidate-3",
        ),
        ({"holdout_percent": 51}, "holdout_percent", "from 0 to 50"),
    ],
)  # fmt: skip
def test_what_cannot_be_compared_is_refused_with_its_place(
    compared: World, options: dict[str, Any], place: str, right: str
) -> None:
    options = {name: value for name, value in options.items() if value is not None}
    assert right in refused(compared, **options)[place]


def test_versions_that_cannot_be_compared_are_named_each(compared: World) -> None:
    stable = ModelVersion.objects.get(number=1)
    other = compared.approved(registry_actions.create_model("another", actor=compared.cast.ana))
    own, twice, refused_one = compared.approved(), compared.approved(), compared.examined(compared.registered())
    registry_actions.refuse(refused_one, actor=compared.cast.bo, note="No.")
    with pytest.raises(Invalid) as caught:
        compared.request(own, STEPS, purpose=Purpose.EXPERIMENT, arms=[twice, twice, own])
    assert caught.value.fields == {
        "arms[1]": "textgen v3 is named twice: give each version once",
        "arms[2]": "textgen v2 is named twice: give each version once",
    }
    with pytest.raises(Invalid) as caught:
        compared.request(own, STEPS, purpose=Purpose.EXPERIMENT, arms=[stable, other, refused_one])
    fields = caught.value.fields
    assert "is the stable version already" in fields["arms[0]"]
    assert "is of another model" in fields["arms[1]"]
    assert "may not be deployed: it is refused" in fields["arms[2]"]


def test_version_that_must_be_watched_asks_for_a_judge(compared: World) -> None:
    watched = compared.approved(score=85, band=Band.GOOD)
    unwatched = [{"setWeight": 30}, {"pause": {}}]
    with pytest.raises(Invalid) as caught:
        compared.request(compared.approved(), unwatched, purpose=Purpose.EXPERIMENT, arms=[watched])
    assert caught.value.fields == {"arms[0]": "textgen v2 scored 85: add a step that judges it"}


def test_arm_that_was_not_examined_is_examined(compared: World) -> None:
    fresh = compared.registered()
    compared.request(compared.approved(), STEPS, purpose=Purpose.EXPERIMENT, arms=[fresh])
    fresh.refresh_from_db()
    assert fresh.stage == "examining"


# In use


def test_version_that_is_an_arm_is_in_use_until_it_is_taken_off(compared: World) -> None:
    rollout = ask(compared)
    version = rollout.arms.get(position=2).version
    assert queries.use_of_version(version) == f"Rollout {rollout.pk} in production is under way with it."
    with pytest.raises(Conflict):
        registry_actions.retire(version, actor=compared.cast.ana, reason="Old.")
    actions.drop_arm(rollout, "candidate-2", "Bad.", actor=compared.cast.cy)
    assert queries.use_of_version(version) is None


# Taking off


def test_arm_is_taken_off_once_and_the_audit_says_who_and_why(compared: World) -> None:
    rollout = compared.run(ask(compared))
    assert actions.drop_arm(rollout, "candidate-2", "It swears.", actor=compared.cast.cy) is True
    assert actions.drop_arm(rollout, "candidate-2", "Again.", actor=compared.cast.cy) is False
    arm = rollout.arms.get(position=2)
    assert (arm.is_on, arm.cause, arm.reason) == (False, Cause.PERSON, "It swears.")
    entry = AuditEntry.objects.get(verb="rollout.arm_dropped")
    assert (entry.actor, entry.reason, entry.before) == (
        "cy", "It swears.", {"arm": "candidate-2", "version": "textgen v3"},
    )  # fmt: skip
    assert list(audit.verify()) == []


def test_judges_word_needs_no_person(compared: World) -> None:
    rollout = compared.run(ask(compared))
    assert actions.drop_arm(rollout, "candidate", "Worse.")
    assert rollout.arms.get(position=1).cause == Cause.VERDICT


@pytest.mark.parametrize(
    ("arm", "reason", "field"),
    [("candidate-9", "Bad.", "arm"), ("stable", "Bad.", "arm"), ("candidate-2", " ", "reason")],
)
def test_taking_off_names_what_is_missing(compared: World, arm: str, reason: str, field: str) -> None:
    rollout = ask(compared)
    with pytest.raises(Invalid) as caught:
        actions.drop_arm(rollout, arm, reason, actor=compared.cast.cy)
    assert set(caught.value.fields) == {field}


def test_who_may_not_operate_may_not_take_off(compared: World) -> None:
    rollout = ask(compared)
    with pytest.raises(Forbidden):
        actions.drop_arm(rollout, "candidate-2", "Bad.", actor=compared.cast.dee)
    assert "rollout.arm_dropped" not in verbs_of(rollout)


def test_last_arm_cannot_leave(compared: World) -> None:
    rollout = compared.run(ask(compared, versions=2))
    actions.drop_arm(rollout, "candidate", "Bad.")
    with pytest.raises(IllegalTransition, match="is the last arm of this rollout: abort it"):
        actions.drop_arm(rollout, "candidate-2", "Bad.")


def test_own_version_cannot_leave_before_the_rollout_has_begun(compared: World) -> None:
    rollout = ask(compared)
    with pytest.raises(IllegalTransition, match="cannot be taken off alone while the rollout is waiting_qa"):
        actions.drop_arm(rollout, "candidate", "Bad.", actor=compared.cast.cy)


def test_ended_rollout_keeps_its_arms_as_they_were(compared: World) -> None:
    rollout = compared.run(ask(compared))
    actions.abort(rollout, actor=compared.cast.cy, reason="Enough.")
    compared.run(rollout)
    assert rollout.status == Status.ROLLED_BACK
    with pytest.raises(IllegalTransition, match="while the rollout is rolled_back"):
        actions.drop_arm(rollout, "candidate-2", "Bad.", actor=compared.cast.cy)
    assert not RolloutArm.objects.exclude(dropped_at=None).exists()
