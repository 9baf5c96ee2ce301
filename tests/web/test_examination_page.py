"""What a person sees of an examination: its page, the ones before it, and what is different since."""

from __future__ import annotations

import re
from datetime import timedelta
from html import unescape
from typing import Any

import pytest
from django.urls import reverse
from django.utils import timezone

from registry import actions
from registry.models import QAResult, QARun
from registry.qa.catalogue import all_checks
from registry.scoring import Status
from tests.conftest import Cast
from tests.web.conftest import SignedIn, World


@pytest.fixture
def page(world: World, signed_in: SignedIn) -> Any:
    """The page of an examination, with blanks as a reader sees them."""

    def page(run: QARun) -> str:
        response = signed_in("dee").get(reverse("examination-detail", args=[run.pk]))
        assert response.status_code == 200
        return " ".join(unescape(re.sub(r"<[^>]+>", " ", response.content.decode())).replace("\xa0", " ").split())

    return page


def run_of(world: World, name: str) -> QARun:
    run: QARun = getattr(world, name).qa_runs.latest("pk")
    return run


def again(run: QARun, cast: Cast, **changed: Any) -> QARun:
    """The same version examined once more, with one result that is not as before."""
    repeated = actions.examine(run.version, actor=cast.ana)
    for row in run.results.all():
        row.pk, row.run = None, repeated
        if row.name == "performance.latency":
            for name, value in changed.items():
                setattr(row, name, value)
        row.save()
    facts = QARun.objects.filter(pk=run.pk).values("score", "band", "sentence", "categories", "status")[0]
    now = timezone.now()
    QARun.objects.filter(pk=repeated.pk).update(**facts, started_at=now - timedelta(seconds=8), finished_at=now)
    return QARun.objects.get(pk=repeated.pk)


def test_verdict_score_and_what_cost_the_points_are_there(world: World, page: Any) -> None:
    run = run_of(world, "caution")
    text = page(run)
    assert run.sentence in text
    assert "What cost the points −30 Time to first token" in text
    assert "Needs an override" in text
    assert "1 failed −30 of 30" in text


def test_findings_are_told_the_gravest_first_with_what_to_do(world: World, page: Any) -> None:
    run = run_of(world, "caution")
    low = {"severity": "low", "sentence": "A small thing.", "action": "Some day."}
    high = {"severity": "critical", "sentence": "An open door <b>.", "action": "Shut it."}
    run.results.filter(name="performance.latency").update(findings=[low, high])
    text = page(run)
    assert "What to do 2 Critical An open door <b>. Shut it." in text
    assert text.index("Shut it.") < text.index("Some day.")


def test_check_that_is_no_longer_installed_says_so(world: World, page: Any) -> None:
    run = run_of(world, "waiting")
    assert "Artifact digest" in page(run)  # by its stored label
    installed = all_checks()[0]
    run.results.filter(name="compatibility.digest").update(name="compatibility.long_gone", label="A check of old")
    QAResult.objects.create(run=run, name=installed.name, label=installed.label, category=installed.category,
                            status=Status.NOT_APPLICABLE, reason="Still there.")  # fmt: skip
    text = page(run)
    assert "A check of old required no longer installed" in text
    assert f"{installed.label} Still there." in text


def test_difference_to_the_examination_before_is_told(world: World, page: Any, cast: Cast) -> None:
    before = run_of(world, "waiting")
    now = again(before, cast, status=Status.FAILED, value=400.0)
    text = page(now)
    assert f"Since examination {before.pk}" in text
    assert "Time to first token was passed, is failed: 41.5 → 400 ms (+864 %)" in text
    assert f"The newest one is {now.pk}" in page(before)


def test_earlier_examinations_stay_reachable_from_the_version(world: World, signed_in: SignedIn, cast: Cast) -> None:
    before = run_of(world, "waiting")
    now = again(before, cast)
    html = signed_in("dee").get(reverse("version-detail", args=[before.version_id])).content.decode()
    for run in (before, now):
        assert f'href="{reverse("examination-detail", args=[run.pk])}"' in html


def test_report_files_are_linked_when_there_is_a_verdict(world: World, signed_in: SignedIn) -> None:
    run = run_of(world, "waiting")
    client = signed_in("dee")
    html = client.get(reverse("examination-detail", args=[run.pk])).content.decode()
    for name, kind in (("qa-run-json", "application/json"), ("qa-run-markdown", "text/markdown; charset=utf-8")):
        address = reverse(name, args=[run.pk])
        assert f'href="{address}"' in html
        assert client.get(address).headers["Content-Type"] == kind


def test_running_one_shows_what_runs_and_what_has_come(world: World, signed_in: SignedIn) -> None:
    run, now = run_of(world, "waiting"), timezone.now()
    QARun.objects.filter(pk=run.pk).update(
        status="running", finished_at=None, started_at=now, planned_checks=14,
        under_way=[{"name": "performance.slow", "label": "Load probe", "at": now.isoformat()}],
    )  # fmt: skip
    html = signed_in("dee").get(reverse("examination-detail", args=[run.pk])).content.decode()
    assert "4 of 14 checks are done, " in html
    assert 'value="4"' in html
    assert "Running now" in html
    assert "Load probe" in html
    assert "What cost the points" not in html
    assert f'data-live-topic="version-{run.version_id}"' in html


def test_slow_check_is_said_to_take_longer_than_usual(world: World, signed_in: SignedIn) -> None:
    run, check = run_of(world, "waiting"), next(c for c in all_checks() if c.needs_server)
    long_ago = timezone.now() - timedelta(hours=1)
    under_way = [{"name": check.name, "label": check.label, "at": long_ago.isoformat()}]
    QARun.objects.filter(pk=run.pk).update(status="running", started_at=long_ago, under_way=under_way)
    html = signed_in("dee").get(reverse("examination-detail", args=[run.pk])).content.decode()
    assert f"{check.label}: longer than usual" in html


def test_one_that_ended_without_a_verdict_says_why(world: World, page: Any) -> None:
    run = run_of(world, "waiting")
    QARun.objects.filter(pk=run.pk).update(
        status="error", score=None, band="", sentence="The examination could not be carried out."
    )
    text = page(run)
    assert "The examination could not be carried out." in text
    assert "JSON" not in text


def test_what_it_was_judged_by_names_environment_and_limits(world: World, page: Any) -> None:
    run = run_of(world, "waiting")
    policy = {**run.policy, "parameters": {"security.rate_limit": {"burst": 50}}}
    QARun.objects.filter(pk=run.pk).update(environment="production", policy=policy)
    text = page(run)
    assert "Environment production" in text
    assert "Policies, the most general first The product's defaults" in text
    assert "First token, 95th percentile, at most 200 ms" in text
    assert "Weight of performance 30" in text
    assert "Requests in a second 20 requests/s How long it is pressed 5 s" in text
    assert "Burst of security.rate_limit 50" in text
    assert "Security never blocks no Integration never blocks yes" in text


def test_examination_that_does_not_exist_is_not_found(world: World, signed_in: SignedIn) -> None:
    assert signed_in("dee").get(reverse("examination-detail", args=[10**6])).status_code == 404


def test_line_in_the_chart_of_scores_is_what_the_newest_examination_asked_for(
    world: World, signed_in: SignedIn
) -> None:
    run = run_of(world, "caution")
    QARun.objects.filter(pk=run.pk).update(policy={**run.policy, "minimum_score": 91})
    html = signed_in("dee").get(reverse("model-detail", args=[world.model.name])).content.decode()
    assert "Least score 91" in html
