"""Examine, approve, refuse, suspend, retire."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.db import connection

from deploypipe.core.errors import ConcurrentChange, Conflict, Forbidden, FourEyes, IllegalTransition, Invalid
from deploypipe.core.models import AuditEntry
from registry import actions, hooks
from registry.lifecycle import RunStatus, Stage
from registry.models import Approval, ModelVersion, QARun
from registry.qa.policy import Policy
from tests.conftest import Cast
from tests.registry.steps import examined, finish, fresh

ALL = ["ana", "bo", "cy", "dee", "eve"]


def last_entry() -> AuditEntry:
    entry = AuditEntry.objects.first()
    assert entry
    return entry


@pytest.fixture
def in_use() -> Iterator[dict[int, str]]:
    """Version → what uses it."""
    users: dict[int, str] = {}

    def ask(version: ModelVersion) -> str | None:
        return users.get(version.pk)

    hooks.add_use(ask)
    yield users
    hooks.remove_use(ask)


# --- Examine ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ALL)
def test_examination_is_for_its_roles(name: str, version: ModelVersion, cast: Cast) -> None:
    may = name in ("ana", "bo", "cy")
    try:
        actions.examine(version, actor=getattr(cast, name))
    except Forbidden:
        assert not may
    else:
        assert may
    assert fresh(version).stage == (Stage.EXAMINING if may else Stage.REGISTERED)


def test_examination_is_queued_with_digest_and_policy(version: ModelVersion, cast: Cast) -> None:
    run = actions.examine(version, actor=cast.ana, policy=Policy(minimum_score=90))
    kept = QARun.objects.get(pk=run.pk)
    assert (kept.status, kept.digest, kept.requested_by) == (RunStatus.QUEUED, version.digest, cast.ana)
    assert Policy.from_json(kept.policy).minimum_score == 90
    assert last_entry().after == {"stage": "examining", "qa_run": run.pk}


def test_one_examination_at_a_time(version: ModelVersion, cast: Cast) -> None:
    actions.examine(version, actor=cast.ana)
    with pytest.raises(IllegalTransition):
        actions.examine(version, actor=cast.cy)
    assert version.qa_runs.count() == 1


def test_run_without_its_stage_is_a_conflict_that_changes_nothing(version: ModelVersion, cast: Cast) -> None:
    QARun.objects.create(version=version, digest=version.digest, policy={})
    with pytest.raises(Conflict, match="being examined already"):
        actions.examine(version, actor=cast.ana)
    assert fresh(version).stage == Stage.REGISTERED


def test_product_itself_may_ask_for_one(version: ModelVersion) -> None:
    assert actions.examine(version, actor=None).requested_by is None
    assert last_entry().actor == "deploypipe"


# --- Approve ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ALL)
def test_approval_is_for_approvers(name: str, version: ModelVersion, cast: Cast) -> None:
    examined(version)
    if name == "bo":
        actions.approve(fresh(version), actor=cast.bo)
    else:
        with pytest.raises(Forbidden):
            actions.approve(fresh(version), actor=getattr(cast, name))
    assert fresh(version).stage == (Stage.APPROVED if name == "bo" else Stage.AWAITING_APPROVAL)


def test_approval_is_bound_to_bytes_and_evidence(version: ModelVersion, cast: Cast) -> None:
    run = examined(version)
    approval = actions.approve(fresh(version), actor=cast.bo, note=" Looks right. ", seen_run=run.pk)
    kept = Approval.objects.get(pk=approval.pk)
    assert (kept.digest, kept.qa_run, kept.by, kept.note, kept.override) == (
        version.digest, run, cast.bo, "Looks right.", False,
    )  # fmt: skip
    entry = last_entry()
    assert (entry.actor, entry.verb, entry.reason) == ("bo", "version.approved", "Looks right.")
    assert entry.before == {"stage": "awaiting_approval"}
    assert entry.after == {"stage": "approved", "digest": version.digest, "qa_run": run.pk, "score": 97.0}


def test_who_registered_cannot_approve(version: ModelVersion, cast: Cast, django_user_model: type[User]) -> None:
    examined(version)
    django_user_model.objects.filter(pk=cast.ana.pk).update(is_superuser=True)
    with pytest.raises(FourEyes):
        actions.approve(fresh(version), actor=django_user_model.objects.get(pk=cast.ana.pk), override=True, note="x")
    assert fresh(version).stage == Stage.AWAITING_APPROVAL


@pytest.mark.parametrize("points", [100, 95, 94.9, 80])
def test_good_score_needs_no_override(points: float, version: ModelVersion, cast: Cast) -> None:
    examined(version, points)
    assert not actions.approve(fresh(version), actor=cast.bo, override=True, note="To be sure.").override


@pytest.mark.parametrize("points", [79.9, 65])
@pytest.mark.parametrize("said", [{}, {"override": True}, {"note": "Needed."}, {"override": True, "note": "  "}])
def test_caution_needs_an_override_with_a_reason(
    points: float, said: dict[str, Any], version: ModelVersion, cast: Cast
) -> None:
    examined(version, points)
    with pytest.raises(Invalid) as refused:
        actions.approve(fresh(version), actor=cast.bo, **said)
    assert set(refused.value.fields) == {"override", "note"}
    assert fresh(version).stage == Stage.AWAITING_APPROVAL
    assert actions.approve(fresh(version), actor=cast.bo, override=True, note="Needed.").override


def test_stricter_policy_needs_an_override_sooner(version: ModelVersion, cast: Cast) -> None:
    examined(version, 85, needs_override=True)
    with pytest.raises(Invalid):
        actions.approve(fresh(version), actor=cast.bo)


def test_blocked_version_cannot_be_approved_by_anything(version: ModelVersion, cast: Cast) -> None:
    examined(version, 64.9)
    with pytest.raises(IllegalTransition, match="This version is blocked"):
        actions.approve(fresh(version), actor=cast.bo, override=True, note="Please.")


@pytest.mark.parametrize("stage", [s for s in Stage if s is not Stage.AWAITING_APPROVAL])
def test_approval_needs_the_right_stage(stage: Stage, version: ModelVersion, cast: Cast) -> None:
    ModelVersion.objects.filter(pk=version.pk).update(stage=stage)
    with pytest.raises(IllegalTransition):
        actions.approve(fresh(version), actor=cast.bo)
    assert not Approval.objects.exists()


def test_who_looked_at_an_older_report_must_look_again(version: ModelVersion, cast: Cast) -> None:
    seen = examined(version)
    examined(fresh(version), 82)
    for verb in (actions.approve, actions.refuse):
        with pytest.raises(Conflict, match="examined again"):
            verb(fresh(version), actor=cast.bo, note="Seen.", seen_run=seen.pk)


def test_score_that_changed_behind_the_page_is_not_approved(version: ModelVersion, cast: Cast) -> None:
    """The page was read before an examination whose worse score needs an override."""
    examined(version)
    on_the_page = fresh(version)
    examined(fresh(version), 70)
    with pytest.raises(ConcurrentChange):
        actions.approve(on_the_page, actor=cast.bo)
    assert fresh(version).stage == Stage.AWAITING_APPROVAL


def test_approval_without_an_examination_of_these_bytes_is_refused(version: ModelVersion, cast: Cast) -> None:
    run = examined(version)
    QARun.objects.filter(pk=run.pk).update(digest="0" * 64)
    with pytest.raises(Conflict, match="exactly these bytes"):
        actions.approve(fresh(version), actor=cast.bo)
    QARun.objects.all().delete()
    with pytest.raises(Conflict, match="exactly these bytes"):
        actions.approve(fresh(version), actor=cast.bo)


@pytest.mark.django_db(transaction=True)
def test_of_two_decisions_at_once_one_counts(version: ModelVersion, cast: Cast) -> None:
    examined(version)
    begin, outcomes = threading.Barrier(2), list[str]()

    def decide(verb: Callable[..., Approval]) -> None:
        mine = fresh(version)
        begin.wait()
        try:
            outcomes.append(verb(mine, actor=cast.bo, note="Decided.").decision)
        except IllegalTransition:
            outcomes.append("too late")
        finally:
            connection.close()

    threads = [threading.Thread(target=decide, args=(verb,)) for verb in (actions.approve, actions.approve)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == ["approve", "too late"]
    assert Approval.objects.count() == 1


# --- Refuse -----------------------------------------------------------------------------------------------------------


def test_refusal_says_why(version: ModelVersion, cast: Cast) -> None:
    run = examined(version)
    refusal = actions.refuse(fresh(version), actor=cast.bo, note="It is rude.", seen_run=run.pk)
    assert (refusal.decision, refusal.note, refusal.digest) == ("refuse", "It is rude.", version.digest)
    assert fresh(version).stage == Stage.REFUSED
    assert (last_entry().verb, last_entry().reason) == ("version.refused", "It is rude.")


@pytest.mark.parametrize("note", ["", " \n"])
def test_refusal_without_a_reason_is_refused(note: str, version: ModelVersion, cast: Cast) -> None:
    examined(version)
    with pytest.raises(Invalid) as refused:
        actions.refuse(fresh(version), actor=cast.bo, note=note)
    assert set(refused.value.fields) == {"note"}


@pytest.mark.parametrize("name", ["ana", "cy", "dee", "eve"])
def test_refusal_is_for_approvers(name: str, version: ModelVersion, cast: Cast) -> None:
    examined(version)
    with pytest.raises(Forbidden):
        actions.refuse(fresh(version), actor=getattr(cast, name), note="No.")


def test_approval_can_be_taken_back_until_something_uses_it(
    version: ModelVersion, cast: Cast, in_use: dict[int, str]
) -> None:
    examined(version)
    actions.approve(fresh(version), actor=cast.bo)
    in_use[version.pk] = "It serves 50 % of traffic in production."
    with pytest.raises(Conflict, match=r"It serves 50 % of traffic in production\."):
        actions.refuse(fresh(version), actor=cast.bo, note="Second thoughts.")
    in_use.clear()
    actions.refuse(fresh(version), actor=cast.bo, note="Second thoughts.")
    assert [a.decision for a in version.approvals.all()] == ["refuse", "approve"]
    assert not ModelVersion.objects.deployable()


def test_refused_version_can_be_examined_and_approved_anew(version: ModelVersion, cast: Cast) -> None:
    examined(version)
    actions.refuse(fresh(version), actor=cast.bo, note="No.")
    examined(fresh(version))
    actions.approve(fresh(version), actor=cast.bo)
    assert fresh(version).stage == Stage.APPROVED


# --- Suspend and retire -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["bo", None])
def test_suspension_takes_the_word_back(name: str | None, version: ModelVersion, cast: Cast) -> None:
    examined(version)
    actions.approve(fresh(version), actor=cast.bo)
    actions.suspend(fresh(version), actor=getattr(cast, name) if name else None, reason="It leaks names.")
    assert fresh(version).stage == Stage.SUSPENDED
    assert (last_entry().verb, last_entry().reason) == ("version.suspended", "It leaks names.")
    with pytest.raises(IllegalTransition):
        actions.approve(fresh(version), actor=cast.bo)


@pytest.mark.parametrize("name", ["ana", "cy", "dee", "eve"])
def test_suspension_is_for_approvers(name: str, version: ModelVersion, cast: Cast) -> None:
    examined(version)
    actions.approve(fresh(version), actor=cast.bo)
    with pytest.raises(Forbidden):
        actions.suspend(fresh(version), actor=getattr(cast, name), reason="x")


def test_suspension_needs_a_reason(version: ModelVersion, cast: Cast) -> None:
    examined(version)
    actions.approve(fresh(version), actor=cast.bo)
    with pytest.raises(Invalid):
        actions.suspend(fresh(version), actor=cast.bo, reason=" ")


@pytest.mark.parametrize("name", ALL)
def test_retiring_is_for_its_roles(name: str, version: ModelVersion, cast: Cast) -> None:
    may = name in ("ana", "cy")
    try:
        actions.retire(version, actor=getattr(cast, name), reason="Old.")
    except Forbidden:
        assert not may
    else:
        assert may
    assert fresh(version).stage == (Stage.RETIRED if may else Stage.REGISTERED)


def test_version_in_use_cannot_be_retired(version: ModelVersion, cast: Cast, in_use: dict[int, str]) -> None:
    in_use[version.pk] = "It serves all traffic in production."
    with pytest.raises(Conflict, match="It serves all traffic"):
        actions.retire(version, actor=cast.cy)


def test_version_under_examination_cannot_be_retired(version: ModelVersion, cast: Cast) -> None:
    actions.examine(version, actor=cast.ana)
    with pytest.raises(IllegalTransition):
        actions.retire(version, actor=cast.cy)


@pytest.mark.parametrize("verb", ["examine", "approve", "refuse", "suspend", "retire"])
def test_retired_is_the_end(verb: str, version: ModelVersion, cast: Cast) -> None:
    actions.retire(version, actor=cast.ana)
    actor = cast.bo if verb in ("approve", "refuse", "suspend") else cast.ana
    more = {"refuse": {"note": "x"}, "suspend": {"reason": "x"}}.get(verb, {})
    with pytest.raises(IllegalTransition):
        getattr(actions, verb)(version, actor=actor, **more)


def test_refused_verb_leaves_no_entry(version: ModelVersion, cast: Cast) -> None:
    before = AuditEntry.objects.count()
    for verb in (actions.approve, actions.refuse):
        with pytest.raises(IllegalTransition):
            verb(version, actor=cast.bo, note="x")
    assert AuditEntry.objects.count() == before


def test_examination_that_is_under_way_is_not_approved_by_its_earlier_report(version: ModelVersion, cast: Cast) -> None:
    examined(version)
    run = actions.examine(fresh(version), actor=cast.ana)
    with pytest.raises(IllegalTransition):
        actions.approve(fresh(version), actor=cast.bo)
    run.advance("start", attempt=1)
    finish(run, 90)
    assert actions.approve(fresh(version), actor=cast.bo).qa_run == run
