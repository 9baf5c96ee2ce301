"""Examinations over REST: the row, its progress, and its reports as files."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Any

import pytest
from django.test import Client
from django.utils import timezone

from deploypipe.core import tokens
from registry import actions, examinations
from registry.lifecycle import RunStatus
from registry.models import ModelVersion, QAResult, QARun
from registry.qa.catalogue import all_checks
from registry.qa.runner import to_scored
from registry.report import deployment_hash
from registry.scoring import Band, Status, score
from tests.conftest import Cast
from tests.registry.test_report import VALID

FINDING = {"severity": "high", "sentence": "Nobody is slowed down.", "action": "Limit each key."}
LOADED = "performance.first_token"


@pytest.fixture
def run(version: ModelVersion) -> QARun:
    return actions.examine(version, actor=None)


@pytest.fixture
def client(cast: Cast) -> Client:
    return Client(headers={"Authorization": f"Bearer {tokens.issue(cast.dee, name='test')}"})


def came(run: QARun, name: str, status: Status = Status.PASSED, **more: Any) -> QAResult:
    facts = {"label": name, "category": name.partition(".")[0], "reason": f"What was seen of {name}.", "seconds": 1.5}
    return QAResult.objects.create(run=run, name=name, status=status, **{**facts, **more})


def finished(run: QARun, *, ago: float = 0.0, took: float = 8.0) -> QARun:
    """With a passed and a failed check, scored as the product does."""
    came(run, "security.key_required", required=True)
    came(run, "security.rate_limit", Status.FAILED, findings=[FINDING], value=0, limit=1, unit="refusals")
    points = score([to_scored(examinations.as_result(row)) for row in run.results.all()])
    ended = timezone.now() - timedelta(seconds=ago)
    run.advance("start", attempt=1, started_at=ended - timedelta(seconds=took))
    run.advance(
        "finish",
        finished_at=ended,
        score=points.points,
        band=points.band,
        blocked=points.blocked,
        sentence=points.sentence,
        categories=points.categories,
    )
    return run


def test_examination_is_read_with_findings_and_environment(run: QARun, client: Client) -> None:
    finished(run)
    said = client.get(f"/api/v1/qa-runs/{run.pk}/").json()
    assert (said["status"], said["score"], said["environment"], said["progress"]) == ("finished", 50.0, "", None)
    assert said["version"] == run.version_id
    assert said["results"][1]["findings"] == [FINDING]


def test_json_report_is_a_file_that_keeps_to_the_schema(run: QARun, client: Client) -> None:
    finished(run)
    answer = client.get(f"/api/v1/qa-runs/{run.pk}/report.json")
    assert answer.headers["Content-Type"] == "application/json"
    assert answer.headers["Content-Disposition"] == f'attachment; filename="qa_report-textgen-v1-{run.pk}.json"'
    report = json.loads(answer.content)
    assert [error.message for error in VALID.iter_errors(report)] == []
    summary = report["qa_report"]
    assert (summary["model_name"], summary["version"], summary["examination"]) == ("textgen", "textgen v1", run.pk)
    assert summary["artifact_digest"] == run.digest
    assert summary["deployment_hash"] == deployment_hash(report)
    assert summary["lost"] == [{"check": "security.rate_limit", "label": "security.rate_limit", "points": 50.0}]
    assert (summary["deployment_approved"], summary["approval"]) == (False, None)


def test_json_report_tells_what_a_person_said(run: QARun, client: Client, cast: Cast) -> None:
    finished(run)
    QARun.objects.filter(pk=run.pk).update(blocked=False, score=97, band=Band.EXCELLENT)
    run.version.advance("qualify", score=97, band="excellent")
    actions.approve(run.version, actor=cast.bo, note="Fine.", seen_run=run.pk)
    summary = client.get(f"/api/v1/qa-runs/{run.pk}/report.json").json()["qa_report"]
    assert (summary["approval"]["by"], summary["approval"]["decision"]) == ("bo", "approved")
    assert summary["approval"]["note"] == "Fine."
    assert summary["lost"] == []  # what is stored does not add up to these points, so it is not told


@pytest.mark.parametrize("accept", ["*/*", "text/markdown", "application/json"])
def test_markdown_report_is_a_file(accept: str, run: QARun, client: Client) -> None:
    finished(run)
    answer = client.get(f"/api/v1/qa-runs/{run.pk}/report.md", headers={"Accept": accept})
    assert answer.status_code == 200
    assert answer.headers["Content-Type"] == "text/markdown; charset=utf-8"
    assert answer.content.decode().startswith("## ❌ textgen: not approved\n")


@pytest.mark.parametrize("name", ["report.json", "report.md"])
def test_there_is_no_report_without_a_verdict(name: str, run: QARun, client: Client) -> None:
    answer = client.get(f"/api/v1/qa-runs/{run.pk}/{name}", headers={"Accept": "text/markdown"})
    assert answer.status_code == 409
    assert answer.json()["message"] == "There is no report: the examination is queued."


@pytest.mark.parametrize("name", ["", "report.json", "report.md"])
def test_reports_are_for_those_who_may_look(name: str, run: QARun, client: Client, cast: Cast) -> None:
    finished(run)
    outside = Client(headers={"Authorization": f"Bearer {tokens.issue(cast.eve, name='test')}"})
    assert outside.get(f"/api/v1/qa-runs/{run.pk}/{name}").status_code == 403
    assert Client().get(f"/api/v1/qa-runs/{run.pk}/{name}").status_code == 401
    assert client.get(f"/api/v1/qa-runs/{run.pk + 99}/{name}").status_code == 404


# --- Progress ---------------------------------------------------------------------------------------------------------


def begun(run: QARun, *, since: float, under_way: tuple[tuple[str, float], ...] = ()) -> QARun:
    now = timezone.now()
    QARun.objects.filter(pk=run.pk).update(
        status=RunStatus.RUNNING,
        started_at=now - timedelta(seconds=since),
        planned_checks=len(all_checks()),
        under_way=[{"name": n, "label": n, "at": (now - timedelta(seconds=s)).isoformat()} for n, s in under_way],
    )
    return QARun.objects.get(pk=run.pk)


def test_one_that_waits_says_so(run: QARun, client: Client) -> None:
    told = client.get(f"/api/v1/qa-runs/{run.pk}/").json()["progress"]
    assert (told["done"], told["seconds_left"], told["sentence"]) == (0, None, "Waiting for a worker to begin.")


def test_time_left_comes_from_the_models_earlier_examinations(run: QARun, client: Client) -> None:
    for check in all_checks():
        seconds = 40.0 if check.name == LOADED else 0.0
        came(run, check.name, Status.PASSED if seconds else Status.NOT_APPLICABLE, seconds=seconds)
    QAResult.objects.filter(run=run, name__startswith="security.").delete()
    finished(run, took=40.0)
    run.version.advance("qualify", score=50, band="poor")
    again = begun(actions.examine(run.version, actor=None), since=10, under_way=((LOADED, 10.0),))
    told = client.get(f"/api/v1/qa-runs/{again.pk}/").json()["progress"]
    # Of the security checks that never ran here, each is taken for as long as such a check typically takes.
    assert told["seconds_left"] == pytest.approx(30, abs=16)
    assert told["seconds_left"] >= 29
    assert [(one["name"], round(one["seconds"])) for one in told["under_way"]] == [(LOADED, 10)]
    assert told["sentence"].startswith(f"0 of {len(all_checks())} checks are done, about ")


def test_first_examination_of_all_is_estimated_too_and_never_negative(run: QARun) -> None:
    told = examinations.progress_of(begun(run, since=9000, under_way=((LOADED, 9000.0),)))
    assert told
    assert told.left
    assert told.left.seconds >= 0
    assert told.left.overdue == (LOADED,)


def test_server_that_is_being_started_is_told(run: QARun) -> None:
    for check in all_checks():
        if not check.needs_server:
            came(run, check.name)
    assert (told := examinations.progress_of(begun(run, since=2)))
    assert told.starting


def test_progress_of_what_has_ended_is_none(run: QARun) -> None:
    assert examinations.progress_of(finished(run)) is None
