"""Stored examinations, as pages and the API read them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from django.db.models import Prefetch, QuerySet
from django.utils import timezone

from registry import progress
from registry.changes import Change, changes
from registry.lifecycle import RunStatus
from registry.models import ModelVersion, QAResult, QARun, RegisteredModel
from registry.qa.base import Check, Finding, Outcome, Severity
from registry.qa.catalogue import all_checks
from registry.qa.policy import Policy
from registry.qa.runner import Result
from registry.report import Examination, scored
from registry.scoring import Band, Score, Status


def with_results() -> QuerySet[QARun]:
    results = Prefetch("results", QAResult.objects.order_by("pk"))
    return QARun.objects.select_related("version__model", "requested_by").prefetch_related(results)


def newest(version: ModelVersion) -> QARun | None:
    return with_results().filter(version=version).order_by("-pk").first()


def before(run: QARun) -> QARun | None:
    """The finished one before it, of the same version."""
    earlier = with_results().filter(version_id=run.version_id, status=RunStatus.FINISHED, pk__lt=run.pk)
    return earlier.order_by("-pk").first()


def least_score(model: RegisteredModel) -> float:
    """What the newest examination of any of its versions asked for."""
    policies = QARun.objects.filter(version__model=model).order_by("-pk").values_list("policy", flat=True)
    return float((policies.first() or {}).get("minimum_score", Policy.minimum_score))


def as_result(row: QAResult) -> Result:
    outcome = Outcome(
        Status(row.status), row.reason, row.value, row.limit, row.unit, row.evidence, tuple(_findings(row.findings))
    )
    return Result(row.name, row.label, row.category, row.weight, row.required, outcome, row.seconds)


def _findings(stored: Sequence[Mapping[str, str]]) -> list[Finding]:
    return [Finding(Severity(one["severity"]), one["sentence"], one["action"]) for one in stored]


def as_examination(run: QARun, *, with_approval: bool = True) -> Examination | None:
    """None while it goes on, and where it ended without a verdict."""
    if run.status != RunStatus.FINISHED or run.score is None or run.finished_at is None:
        return None
    results = [as_result(row) for row in run.results.all()]
    # The verdict is the stored one. What cost the points is not stored: it is told as long as it adds up to that.
    again = scored(results, Policy.from_json(run.policy))
    lost = again.lost if again.points == run.score else ()
    version = run.version
    return Examination(
        model_name=version.model.name,
        engine=version.engine,
        results=results,
        score=Score(run.score, Band(run.band), run.blocked, run.sentence, run.categories, lost),
        policy=run.policy,
        seconds=run.seconds or 0.0,
        at=run.finished_at,
        digest=run.digest,
        version=str(version),
        number=run.pk,
        environment=run.environment,
        policy_sources=run.policy_sources,
        approval=_approval(run) if with_approval else None,
    )


def so_far(run: QARun, results: Sequence[Result]) -> Examination:
    """Of one without a verdict: what has come in, and no points."""
    nothing = Score(0.0, Band.POOR, False, "", {})
    return Examination(run.version.model.name, run.version.engine, results, nothing, run.policy, 0.0, run.queued_at)


def _approval(run: QARun) -> dict[str, Any] | None:
    said = run.approvals.select_related("by").order_by("-pk").first()
    if said is None:
        return None
    return {
        "decision": said.get_decision_display(),
        "by": said.by.get_username(),
        "at": said.at.isoformat(),
        "note": said.note,
        "override": said.override,
    }


def difference(run: QARun, earlier: QARun | None) -> list[Change]:
    if earlier is None:
        return []
    return changes([as_result(row) for row in earlier.results.all()], [as_result(row) for row in run.results.all()])


# --- Progress ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Progress:
    done: int
    planned: int
    under_way: Sequence[progress.UnderWay]
    left: progress.Left | None
    """None while it waits for a worker."""
    starting: bool
    """No check runs: the server, or the live version's copy, is being started."""

    @property
    def sentence(self) -> str:
        if self.left is None:
            return "Waiting for a worker to begin."
        return f"{self.done} of {self.planned} checks are done, {self.left.sentence}."

    def to_json(self) -> dict[str, Any]:
        return {
            "done": self.done,
            "planned": self.planned,
            "under_way": [{"name": r.name, "label": r.label, "seconds": round(r.seconds, 1)} for r in self.under_way],
            "seconds_left": None if self.left is None else round(self.left.seconds, 1),
            "sentence": self.sentence,
        }


def progress_of(run: QARun, now: datetime | None = None) -> Progress | None:
    """Of one that is queued or running."""
    if run.status not in (RunStatus.QUEUED, RunStatus.RUNNING):
        return None
    now = now or timezone.now()
    done = {row.name for row in run.results.all()}
    if run.status == RunStatus.QUEUED or run.started_at is None:
        return Progress(len(done), run.planned_checks or len(all_checks()), (), None, False)
    checks = all_checks()
    under_way = [
        progress.UnderWay(
            one["name"], one["label"], max(0.0, (now - datetime.fromisoformat(one["at"])).total_seconds())
        )
        for one in run.under_way
    ]
    seconds = max(0.0, (now - run.started_at).total_seconds())
    times = progress.expected(checks, _earlier(run, checks))
    left = progress.left(checks, times, done=done, under_way=under_way, seconds=seconds)
    return Progress(len(done), run.planned_checks, under_way, left, not under_way and 0 < len(done) < len(checks))


def _earlier(run: QARun, checks: Sequence[type[Check]]) -> dict[str, list[float]]:
    """Seconds of each check in the model's newest finished examinations, the newest first; else in anybody's."""
    finished = QARun.objects.filter(status=RunStatus.FINISHED).exclude(started_at=None).order_by("-pk")
    same = finished.filter(version__model=run.version.model_id)[: progress.NEWEST]
    durations = Prefetch("results", QAResult.objects.only("run", "name", "status", "seconds"))  # evidence is large
    runs = list(same.prefetch_related(durations)) or list(finished[: progress.NEWEST].prefetch_related(durations))
    times: dict[str, list[float]] = defaultdict(list)
    for earlier in runs:
        # What was skipped for want of something may be made this time; what does not apply will not again.
        known = [row for row in earlier.results.all() if row.seconds or row.status == Status.NOT_APPLICABLE]
        took = {row.name: row.seconds for row in known}
        for name, seconds in took.items():
            times[name].append(seconds)
        if any(check.needs_server and took.get(check.name) for check in checks):
            times[progress.SERVER_START].append(progress.idle(earlier.seconds or 0.0, checks, took))
    return times
