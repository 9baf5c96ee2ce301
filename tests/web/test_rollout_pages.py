from __future__ import annotations

import json

import pytest
from django.urls import reverse
from pytest_django import DjangoAssertNumQueries

from deploypipe.core.models import AuditEntry
from deploypipe.metrics.models import Window
from rollouts import chart_data, pages
from rollouts.lifecycle import Status, StepStatus
from rollouts.models import Environment, Rollout
from tests.conftest import Cast
from tests.web.conftest import SignedIn, World


def _detail(rollout: Rollout) -> str:
    return reverse("rollout-detail", args=[rollout.pk])


def _post(signed_in: SignedIn, who: str, verb: str, rollout: Rollout, **data: object) -> str:
    response = signed_in(who).post(
        reverse("rollout-verb", args=[rollout.pk, verb]),
        data,
        headers={"Referer": f"http://testserver{_detail(rollout)}"},
        follow=True,
    )
    assert response.status_code == 200
    rollout.refresh_from_db()
    return response.content.decode()


def test_page_shows_state_sentence_traffic_and_verdict(world: World, signed_in: SignedIn) -> None:
    html = signed_in("dee").get(_detail(world.rollout)).content.decode()
    assert "<title>Progressing: textgen v2 10\N{NO-BREAK SPACE}%, production" in html
    assert world.rollout.sentence in html.replace("&#x27;", "'")
    assert "Measured 90 of 900 requests" in html
    assert "Candidate in this step" in html
    assert "127.0.0.1:20001" in html


def test_verdict_shows_the_evidence_of_errors_and_of_latency(world: World, signed_in: SignedIn) -> None:
    html = signed_in("dee").get(_detail(world.rollout)).content.decode()
    verdict = html.partition('aria-labelledby="verdict-h"')[2].partition("</section>")[0]
    for words, scope in (
        ("The error rate rises by less than 0.5 points", "this step"),
        ("Error rate worse by more than 0.5 points", "since it has traffic"),
        ("Error rate above the limit of 5 %", "since it has traffic"),
        ("P95 latency worse by more than 20 % and 5 ms", "since it has traffic"),
    ):
        assert f'{words}<span class="text-secondary fw-normal">, {scope}</span>' in verdict
    assert verdict.count("<progress") == 4
    assert "Candidate P95 " in verdict
    # The error rate in this step, and since it has traffic, is the same here, and said once.
    assert verdict.count('<div class="text-secondary">Candidate ') == 2
    assert "needed 20 : 1" in verdict
    assert "reached" not in verdict
    assert "Sessions</th>" in verdict


def test_look_of_an_older_judge_is_shown_by_its_sentence_alone(world: World, signed_in: SignedIn) -> None:
    looked = world.rollout.analyses.get()
    looked.detail, looked.sentence = {"verdict": "fail", "evidence": []}, "Written by a judge of old."
    looked.save()
    html = signed_in("dee").get(_detail(world.rollout)).content.decode()
    assert "Written by a judge of old." in html
    assert "<progress" not in html.partition('aria-labelledby="verdict-h"')[2].partition("</section>")[0]


def test_viewer_sees_the_verbs_with_one_reason(world: World, signed_in: SignedIn) -> None:
    html = signed_in("dee").get(_detail(world.rollout)).content.decode()
    assert html.count("This needs the role operator or admin; you do not have it.") == 1
    assert "/abort/" not in html


def test_operator_aborts_with_a_reason(world: World, signed_in: SignedIn) -> None:
    page = signed_in("cy").get(_detail(world.rollout)).content.decode()
    assert "Sends 100 % of production traffic back to textgen v1 now; textgen v2 has 10 %." in page
    html = _post(signed_in, "cy", "abort", world.rollout, reason="Users complain.")
    assert "turns back" in html
    assert world.rollout.status == Status.ROLLING_BACK
    assert AuditEntry.objects.get(verb="rollout.aborted").reason == "Users complain."


def test_abort_without_a_reason_is_explained(world: World, signed_in: SignedIn) -> None:
    assert "An abort needs a reason." in _post(signed_in, "cy", "abort", world.rollout)
    assert world.rollout.status == Status.PROGRESSING


def test_engineer_cannot_abort(world: World, signed_in: SignedIn) -> None:
    assert "This needs the role operator or admin" in _post(signed_in, "ana", "abort", world.rollout, reason="x")
    assert world.rollout.status == Status.PROGRESSING


def test_operator_pauses_and_resumes(world: World, signed_in: SignedIn) -> None:
    html = _post(signed_in, "cy", "pause", world.rollout)
    assert "Paused by cy" in html
    assert "Resume" in html
    assert "paused already" in _post(signed_in, "cy", "pause", world.rollout)
    _post(signed_in, "cy", "resume", world.rollout)
    assert world.rollout.paused_at is None


def test_promoting_past_a_judge_needs_a_reason(world: World, signed_in: SignedIn) -> None:
    assert "passes by a judge" in _post(signed_in, "cy", "promote", world.rollout)
    html = _post(signed_in, "cy", "promote", world.rollout, full="true", reason="It is only a fix.")
    assert world.rollout.promote == "full"
    assert "asked for already" in html


def test_approval_step_takes_four_eyes(world: World, signed_in: SignedIn, cast: Cast) -> None:
    world.rollout.steps.filter(index=1).update(kind="approval", settings={})
    html = signed_in("bo").get(_detail(world.rollout)).content.decode()
    assert "Waits for a person" in html
    assert "Approve step" in html
    Rollout.objects.filter(pk=world.rollout.pk).update(requested_by=cast.bo)
    assert "someone else must approve" in _post(signed_in, "bo", "approve", world.rollout)
    Rollout.objects.filter(pk=world.rollout.pk).update(requested_by=cast.cy)
    _post(signed_in, "bo", "approve", world.rollout)
    assert world.rollout.steps.get(index=1).approved_by == cast.bo


def test_promoted_version_can_be_taken_back(world: World, signed_in: SignedIn) -> None:
    page = signed_in("cy").get(_detail(world.ended)).content.decode()
    assert "Sends 100 % of canary traffic back to textgen v1. It is still warm: at once." in page
    _post(signed_in, "cy", "rollback", world.ended, reason="Wrong words.")
    assert world.ended.status == Status.ROLLING_BACK


def test_ended_rollout_cannot_be_aborted(world: World, signed_in: SignedIn) -> None:
    html = _post(signed_in, "cy", "abort", world.ended, reason="Late.")
    assert "This rollout is succeeded" in html
    assert world.ended.status == Status.SUCCEEDED


def test_problem_is_called_out(world: World, signed_in: SignedIn) -> None:
    Rollout.objects.filter(pk=world.rollout.pk).update(problem=True, sentence="The gateway does not answer.")
    html = signed_in("dee").get(_detail(world.rollout)).content.decode()
    assert "A person should look at this." in html
    assert 'role="alert"' in html


def test_charts_have_the_keys_of_live_points(world: World) -> None:
    figures = chart_data.figures(pages.rollout(world.rollout.pk))
    keys = {name: [trace["meta"]["key"] for trace in figure["data"]] for name, figure in figures.items()}
    assert keys == {
        "requests": ["requests.candidate", "requests.stable"],
        "errors": ["errors.candidate", "errors.stable"],
        "latency": ["p95.candidate", "p95.stable", "p50.candidate", "p50.stable"],
        "share": ["share.candidate", "set.candidate"],
    }
    assert all(len(trace["x"]) == 30 for trace in figures["requests"]["data"])
    assert figures["errors"]["layout"]["shapes"][0]["y0"] == 5.0
    assert figures["share"]["data"][1]["y"] == [10.0, 10.0]
    json.dumps(figures)


def test_latency_chart_shows_its_limit_where_there_is_one(world: World) -> None:
    assert "shapes" not in chart_data.figures(pages.rollout(world.rollout.pk))["latency"]["layout"]
    world.rollout.steps.filter(index=1).update(settings={"max_latency_ms": 800})
    line = chart_data.figures(pages.rollout(world.rollout.pk))["latency"]["layout"]["shapes"][0]
    assert (line["y0"], line["label"]["text"]) == (800, "Limit 800 ms")


def test_measured_share_leaves_out_who_was_not_drawn(world: World, signed_in: SignedIn) -> None:
    forced = Window.objects.filter(backend=world.rollout.candidate.name).order_by("-pk")[0]  # type: ignore[union-attr]
    forced.pk, forced.group, forced.requests = None, "forced", 5000
    forced.save()
    assert "Measured 90 of 900 requests" in signed_in("dee").get(_detail(world.rollout)).content.decode()


def test_charts_are_bounded(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chart_data, "POINTS", 5)
    figures = chart_data.figures(pages.rollout(world.rollout.pk))
    assert all(len(trace["x"]) == 5 for trace in figures["requests"]["data"])


def test_chart_is_answered_as_json(world: World, signed_in: SignedIn) -> None:
    answered = signed_in("dee").get(reverse("rollout-chart", args=[world.rollout.pk, "errors"])).json()
    assert [trace["name"] for trace in answered["data"]] == ["textgen v2", "textgen v1"]


def test_charts_ask_again_until_there_is_something(world: World, signed_in: SignedIn) -> None:
    html = signed_in("dee").get(reverse("rollout-charts", args=[world.ended.pk])).content.decode()
    assert "Nothing measured yet" in html
    assert "hx-get" in html
    assert "hx-get" not in signed_in("dee").get(reverse("rollout-charts", args=[world.rollout.pk])).content.decode()


def _form(world: World, **changes: object) -> dict[str, object]:
    environment = Environment.objects.get(name="staging")
    given = {"version": world.waiting.pk, "environment": environment.pk, "strategy": "canary"}
    return {**given, "rollback_on_failure": "on", "note": "Why.", "request_key": "k1", **changes}


def test_new_rollout_shows_what_a_strategy_does(world: World, signed_in: SignedIn) -> None:
    html = signed_in("cy").get(reverse("rollout-new"), {"version": world.waiting.pk}).content.decode()
    assert "Send 10 % of traffic" in html
    assert f'<option value="{world.waiting.pk}" selected>' in html


def test_same_form_sent_twice_makes_one_rollout(world: World, signed_in: SignedIn) -> None:
    Rollout.objects.filter(environment__name="staging").update(status=Status.CANCELLED)
    client, before = signed_in("cy"), Rollout.objects.count()
    first = client.post(reverse("rollout-new"), _form(world))
    second = client.post(reverse("rollout-new"), _form(world))
    assert first.status_code == second.status_code == 302
    assert first.headers["Location"] == second.headers["Location"]
    assert Rollout.objects.count() == before + 1


def test_refused_request_says_why_on_the_form(world: World, signed_in: SignedIn) -> None:
    response = signed_in("cy").post(reverse("rollout-new"), _form(world))
    assert response.status_code == 409
    assert "is under way for textgen in staging" in response.content.decode()


def test_missing_fields_are_named(world: World, signed_in: SignedIn) -> None:
    html = signed_in("cy").post(reverse("rollout-new"), {"strategy": "canary"}).content.decode()
    assert html.count("This field is required.") >= 2


def test_viewer_cannot_request(world: World, signed_in: SignedIn) -> None:
    assert signed_in("dee").post(reverse("rollout-new"), _form(world)).status_code == 403


def test_list_can_be_narrowed(world: World, signed_in: SignedIn) -> None:
    client = signed_in("dee")
    ended = client.get(reverse("rollout-list"), {"state": "ended"}).content.decode()
    assert _detail(world.ended) in ended
    assert _detail(world.rollout) not in ended
    assert "No rollout matches" in client.get(reverse("rollout-list"), {"state": "attention"}).content.decode()
    Rollout.objects.filter(pk=world.rollout.pk).update(problem=True)
    attention = client.get(reverse("rollout-list"), {"state": "attention"}).content.decode()
    assert _detail(world.rollout) in attention


def test_list_has_as_many_queries_for_many(
    world: World, signed_in: SignedIn, cast: Cast, django_assert_max_num_queries: DjangoAssertNumQueries
) -> None:
    for _ in range(25):
        copy = Rollout(environment=world.ended.environment, model=world.model, version=world.canary,
                       digest="0" * 64, status=Status.ROLLED_BACK, requested_by=cast.cy)  # fmt: skip
        copy.save()
    client = signed_in("dee")
    with django_assert_max_num_queries(16):
        client.get(reverse("rollout-list"))


def test_skipped_and_failed_steps_are_said_in_words(world: World, signed_in: SignedIn) -> None:
    world.rollout.steps.filter(index=1).update(status=StepStatus.FAILED, sentence="Too many errors.")
    world.rollout.steps.filter(index__gt=1).update(status=StepStatus.SKIPPED)
    html = signed_in("dee").get(_detail(world.rollout)).content.decode()
    assert "Failed: Too many errors." in html
    assert html.count("Skipped") >= 3
