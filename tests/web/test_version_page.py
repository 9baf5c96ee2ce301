from __future__ import annotations

import re

from django.urls import reverse
from django.utils import timezone

from registry import policy_actions
from registry.lifecycle import Stage
from registry.models import Approval, ModelVersion, QARun
from tests.conftest import Cast
from tests.web.conftest import SignedIn, World


def _post(signed_in: SignedIn, who: str, verb: str, version: ModelVersion, **data: object) -> str:
    """What the page says after the verb."""
    page = reverse("version-detail", args=[version.pk])
    response = signed_in(who).post(
        reverse(f"version-{verb}", args=[version.pk]),
        data,
        headers={"Referer": f"http://testserver{page}"},
        follow=True,
    )
    assert response.status_code == 200
    version.refresh_from_db()
    return response.content.decode()


def _run(version: ModelVersion) -> int:
    return version.qa_runs.latest("pk").pk


def test_approver_approves_with_a_note(world: World, signed_in: SignedIn) -> None:
    html = _post(signed_in, "bo", "approve", world.waiting, note="Fine.", seen_run=_run(world.waiting))
    assert "textgen v3 is approved." in html
    assert world.waiting.stage == Stage.APPROVED
    assert Approval.objects.get(version=world.waiting).note == "Fine."


def test_approver_refuses_with_a_reason(world: World, signed_in: SignedIn) -> None:
    html = _post(signed_in, "bo", "refuse", world.waiting, note="Too slow.", seen_run=_run(world.waiting))
    assert "textgen v3 is refused." in html
    assert world.waiting.stage == Stage.REFUSED


def test_refusal_without_a_reason_is_explained(world: World, signed_in: SignedIn) -> None:
    assert "A refusal needs a reason." in _post(signed_in, "bo", "refuse", world.waiting, note=" ")
    assert world.waiting.stage == Stage.AWAITING_APPROVAL


def test_viewer_sees_the_buttons_and_why_they_are_disabled(world: World, signed_in: SignedIn) -> None:
    html = signed_in("dee").get(reverse("version-detail", args=[world.waiting.pk])).content.decode()
    assert "This needs the role approver or admin; you do not have it." in html
    assert reverse("version-approve", args=[world.waiting.pk]) not in html


def test_viewer_cannot_approve_by_posting(world: World, signed_in: SignedIn) -> None:
    assert "This needs the role approver or admin" in _post(signed_in, "dee", "approve", world.waiting)
    assert world.waiting.stage == Stage.AWAITING_APPROVAL


def test_whoever_registered_it_cannot_approve_it(world: World, signed_in: SignedIn, cast: Cast) -> None:
    ModelVersion.objects.filter(pk=world.waiting.pk).update(registered_by=cast.bo)
    page = signed_in("bo").get(reverse("version-detail", args=[world.waiting.pk])).content.decode()
    assert "You registered this version; someone else must approve it." in page
    assert "someone else must approve it" in _post(signed_in, "bo", "approve", world.waiting)
    assert world.waiting.stage == Stage.AWAITING_APPROVAL


def test_low_score_needs_an_override_with_a_reason(world: World, signed_in: SignedIn) -> None:
    html = signed_in("bo").get(reverse("version-detail", args=[world.caution.pk])).content.decode()
    assert "Approve with an override" in html
    assert "below what may be approved without an override" in _post(signed_in, "bo", "approve", world.caution)
    assert world.caution.stage == Stage.AWAITING_APPROVAL
    _post(signed_in, "bo", "approve", world.caution, override="true", note="Only for the pilot.")
    assert world.caution.stage == Stage.APPROVED


def test_decision_on_an_old_report_is_refused(world: World, signed_in: SignedIn) -> None:
    html = _post(signed_in, "bo", "approve", world.waiting, seen_run=_run(world.waiting) + 100)
    assert "examined again since you opened the page" in html
    assert world.waiting.stage == Stage.AWAITING_APPROVAL


def test_engineer_asks_for_an_examination(world: World, signed_in: SignedIn) -> None:
    assert "is asked for" in _post(signed_in, "ana", "examine", world.waiting)
    assert world.waiting.stage == Stage.EXAMINING
    html = _post(signed_in, "ana", "examine", world.waiting)
    assert "This version is examining" in html


def test_version_is_examined_for_the_environment_that_is_chosen(world: World, signed_in: SignedIn, cast: Cast) -> None:
    policy_actions.save_policy(None, "canary", {"minimum_score": 91}, actor=cast.bo)
    html = signed_in("ana").get(reverse("version-detail", args=[world.waiting.pk])).content.decode()
    select = re.search(r'<select name="environment">(.*?)</select>', html)
    assert select is not None
    assert re.findall(r'value="(\w*)"( selected)?', select[1]) == [
        ("", " selected"), ("staging", ""), ("canary", ""), ("production", ""),
    ]  # fmt: skip
    assert "textgen v3 for canary is asked for" in _post(
        signed_in, "ana", "examine", world.waiting, environment="canary"
    )
    run = QARun.objects.get(pk=_run(world.waiting))
    assert (run.environment, run.policy["minimum_score"]) == ("canary", 91)


def test_environment_of_the_newest_examination_is_chosen_first(world: World, signed_in: SignedIn) -> None:
    QARun.objects.filter(version=world.waiting).update(environment="production")
    html = signed_in("ana").get(reverse("version-detail", args=[world.waiting.pk])).content.decode()
    assert '<option value="production" selected>' in html


def test_environment_that_does_not_exist_is_refused(world: World, signed_in: SignedIn) -> None:
    assert "use one of staging, canary, production" in _post(
        signed_in, "ana", "examine", world.waiting, environment="moon"
    )
    assert world.waiting.stage == Stage.AWAITING_APPROVAL


def test_approver_suspends_and_the_dialog_says_what_it_means(world: World, signed_in: SignedIn) -> None:
    html = signed_in("bo").get(reverse("version-detail", args=[world.live.pk])).content.decode()
    assert "may be deployed again only when it was examined and approved anew" in html
    assert "It serves 90 % of traffic in production." in html
    assert "None holds" not in html
    assert "A suspension needs a reason." in _post(signed_in, "bo", "suspend", world.live, reason=" ")
    assert "textgen v1 is suspended." in _post(signed_in, "bo", "suspend", world.live, reason="For production.")
    assert world.live.stage == Stage.SUSPENDED
    html = signed_in("bo").get(reverse("version-detail", args=[world.live.pk])).content.decode()
    assert "None holds: the newest was taken back." in html
    assert reverse("version-suspend", args=[world.live.pk]) not in html
    assert reverse("version-examine", args=[world.live.pk]) in html


def test_only_approvers_suspend(world: World, signed_in: SignedIn) -> None:
    assert "This needs the role approver or admin" in _post(signed_in, "cy", "suspend", world.live, reason="x")
    assert world.live.stage == Stage.APPROVED


def test_report_tells_progress_while_it_runs(world: World, signed_in: SignedIn) -> None:
    run = QARun.objects.get(pk=_run(world.waiting))
    QARun.objects.filter(pk=run.pk).update(
        status="running", started_at=timezone.now(), finished_at=None, planned_checks=14
    )
    html = signed_in("dee").get(reverse("version-report", args=[world.waiting.pk])).content.decode()
    assert "4 of 14 checks are done, " in html


def test_report_shows_value_limit_and_evidence(world: World, signed_in: SignedIn) -> None:
    html = signed_in("dee").get(reverse("version-detail", args=[world.caution.pk])).content.decode()
    assert "41.5" in html
    assert "limit 200 ms" in html
    assert "Time to first token" in html
    assert "&lt;script&gt;alert(1)" in html


def test_page_of_a_version_that_was_never_examined(world: World, signed_in: SignedIn) -> None:
    QARun.objects.filter(version=world.waiting).delete()
    html = signed_in("dee").get(reverse("version-detail", args=[world.waiting.pk])).content.decode()
    assert "Not examined yet" in html


def test_versions_are_paged(world: World, signed_in: SignedIn, cast: Cast) -> None:
    ModelVersion.objects.bulk_create(
        ModelVersion(
            model=world.model, number=n, artifact_uri="/a", manifest={}, digest="0" * 64, engine="textgen",
            registered_by=cast.ana,
        )
        for n in range(10, 50)
    )  # fmt: skip
    client = signed_in("dee")
    assert "Page 1 of 2" in client.get("/models/textgen/").content.decode()
    second = client.get("/models/textgen/?page=2").content.decode()
    assert ">v1</a>" in second
