"""What the pages of models and versions show, put together from the rows."""

from __future__ import annotations

import json
from collections.abc import Set
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from django.db.models import Count, OuterRef, Q, QuerySet, Subquery
from django.shortcuts import get_object_or_404
from django.urls import reverse

from deploypipe.core import roles
from deploypipe.core.pages import Choice, Request, Verb, Verbs, curl, history
from deploypipe.core.status import status_of
from registry import examinations, hooks, policy_pages
from registry.artifacts import ArtifactError, parse
from registry.changes import Change, Kind
from registry.lifecycle import RunStatus, Stage
from registry.models import Decision, ModelVersion, QARun, RegisteredModel
from registry.policy_pages import Group
from registry.qa.base import Finding, Severity
from registry.qa.catalogue import all_checks
from registry.qa.runner import Result
from registry.report import Category, Examination
from registry.scoring import Band, Status

if TYPE_CHECKING:
    from django.contrib.auth.models import User

CATEGORY_ICONS = {"compatibility": "puzzle", "performance": "gauge", "security": "shield", "integration": "plug"}
MOST_RUNS = 20


def models() -> QuerySet[RegisteredModel]:
    newest = ModelVersion.objects.filter(model=OuterRef("pk")).order_by("-number")
    return (
        RegisteredModel.objects.select_related("created_by")
        .order_by("name")
        .annotate(
            versions_count=Count("versions"),
            waiting_count=Count("versions", filter=Q(versions__stage=Stage.AWAITING_APPROVAL)),
            newest_pk=Subquery(newest.values("pk")[:1]),
            newest_number=Subquery(newest.values("number")[:1]),
            newest_stage=Subquery(newest.values("stage")[:1]),
            newest_at=Subquery(newest.values("registered_at")[:1]),
        )
    )


def version(pk: int) -> ModelVersion:
    found = ModelVersion.objects.select_related("model", "registered_by").prefetch_related("tags", "approvals__by")
    return get_object_or_404(found, pk=pk)


# --- The report -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Checked:
    result: Result
    evidence: str
    lost: float
    installed: bool

    @property
    def anchor(self) -> str:
        return f"check-{self.result.name.replace('.', '-')}"


@dataclass(frozen=True)
class Shown:
    """A category as the page shows it: a line with a bar, which unfolds into its checks."""

    category: Category
    icon: str
    checks: list[Checked]
    open: bool

    @property
    def counts(self) -> str:
        """ "1 failed, 11 passed" """
        return ", ".join(
            f"{count} {status_of('qa_result', status).label.lower()}" for status, count in self.category.counts.items()
        )


@dataclass(frozen=True)
class Cost:
    points: float
    label: str
    reason: str
    anchor: str


@dataclass(frozen=True)
class Report:
    run: QARun
    progress: examinations.Progress | None
    """While it is queued or runs."""
    examination: Examination | None
    """When it has ended with a verdict."""
    categories: list[Shown]
    findings: list[tuple[Finding, str, str]]
    """With the tone of its severity and the label of its check."""
    earlier: QARun | None
    changes: list[tuple[Change, str]]
    """Since `earlier`, with their tones."""
    judged_by: list[Group]
    """All that the policy said."""

    @property
    def is_active(self) -> bool:
        return self.progress is not None

    @property
    def policies(self) -> list[tuple[str, str]]:
        """Address and words of each policy that it was judged by, the most general first."""
        return [
            (
                reverse("policy-detail", args=[source["id"]]),
                f"number {source['number']} of {source['model'] or 'all models'} in "
                f"{source['environment'] or 'all environments'}",
            )
            for source in self.run.policy_sources
        ]

    @property
    def so_far(self) -> list[Result]:
        """The newest first, while it runs."""
        return [examinations.as_result(row) for row in reversed(self.run.results.all())] if self.is_active else []

    @property
    def verdict(self) -> tuple[str, str, str]:
        """Tone, word and icon."""
        if self.run.blocked:
            return "bad", "Blocked", "shield"
        if self.examination and not self.examination.approved:
            return "warn", "Needs an override", "triangle"
        known = status_of("qa_band", self.run.band)
        return known.tone, known.label, known.icon

    @property
    def band(self) -> str:
        """For the colour of the score."""
        if self.run.blocked:
            return Band.POOR
        return self.run.band if self.examination and self.examination.approved else Band.CAUTION

    @property
    def costs(self) -> list[Cost]:
        """What cost points, the dearest first."""
        lost = self.examination.score.lost if self.examination else ()
        checks = {check.result.name: check for shown in self.categories for check in shown.checks}
        return [
            Cost(loss.points, loss.label, checks[loss.name].result.outcome.reason, checks[loss.name].anchor)
            for loss in lost
            if loss.points and loss.name in checks
        ]


SEVERITY_TONES = {Severity.CRITICAL: "bad", Severity.HIGH: "bad", Severity.MEDIUM: "warn", Severity.LOW: "idle"}
CHANGE_TONES = {Kind.WORSE: "bad", Kind.BETTER: "ok"}


def run(pk: int) -> QARun:
    return get_object_or_404(examinations.with_results(), pk=pk)


def report(run: QARun | None) -> Report | None:
    if run is None:
        return None
    examination = examinations.as_examination(run, with_approval=False)
    earlier = examinations.before(run) if examination else None
    results = [examinations.as_result(row) for row in run.results.all()]
    # What is under way has no verdict yet: the same shape, for its categories only.
    known = examination or examinations.so_far(run, results)
    findings = [(found, SEVERITY_TONES[found.severity], result.label) for found, result in known.findings]
    changes = examinations.difference(run, earlier)
    installed = {check.name for check in all_checks()}
    return Report(
        run,
        examinations.progress_of(run),
        examination,
        [_shown(category, known, installed) for category in known.categories],
        findings,
        earlier,
        [(change, CHANGE_TONES.get(change.kind, "idle")) for change in changes],
        policy_pages.of_policy(run.policy),
    )


def _shown(category: Category, examination: Examination, installed: Set[str]) -> Shown:
    lost = {loss.name: loss.points for loss in examination.score.lost}
    checks = [
        Checked(r, _json(r.outcome.evidence), lost.get(r.name, 0.0), r.name in installed) for r in category.results
    ]
    unfolded = category.status in (Status.FAILED, Status.ERROR) or bool(category.lost)
    return Shown(category, CATEGORY_ICONS.get(category.name, "info"), checks, unfolded)


def _json(value: object) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False) if value else ""


def of_run(run: QARun, request: Request) -> dict[str, Any]:
    """The page of one examination."""
    version = run.version
    return {
        "version": version,
        "report": report(run),
        "runs": runs(version),
        "newest": version.qa_runs.order_by("-pk").values_list("pk", flat=True).first(),
        "command": curl(request, f"/api/v1/qa-runs/{run.pk}/report.json"),
    }


def runs(version: ModelVersion) -> list[QARun]:
    """Its newest examinations, without their results."""
    return list(version.qa_runs.select_related("requested_by").order_by("-pk")[:MOST_RUNS])


# --- A version --------------------------------------------------------------------------------------------------------


def of_version(version: ModelVersion, request: Request) -> dict[str, Any]:
    """What changes while one looks. `moved`: the head and the history are not what the browser has."""
    found, past = report(examinations.newest(version)), history(version)
    approvals = list(version.approvals.all())
    state = f"{version.stage}.{found.run.pk if found else 0}.{past.newest}"
    return {
        "version": version,
        "report": found,
        "runs": runs(version),
        "approvals": approvals,
        "taken_back": bool(approvals) and approvals[0].decision == Decision.APPROVE and not version.is_decided,
        "verbs": verbs(version, request.user, found),
        "override": _override(version, request.user),
        "seen_run": _seen(found),
        "history": past,
        "history_id": f"version-{version.pk}-history",
        "command": curl(request, f"/api/v1/versions/{version.pk}/examine/", post=True),
        "state": state,
        "moved": bool(request.htmx) and request.GET.get("seen") != state,
    }


def facts(version: ModelVersion) -> dict[str, Any]:
    """What was registered and never changes."""
    try:
        size: int | None = parse(version.manifest).size
    except ArtifactError:
        size = None
    return {
        "size": size,
        "manifest": _json(version.manifest),
        "parameters": _json(version.parameters),
        "arguments": " ".join(version.engine_arguments),
    }


def verbs(version: ModelVersion, user: User, found: Report | None) -> Verbs:
    """Examine, approve and refuse; what has no sense any more is not offered."""
    items = []
    if version.refusal("examine") is None:
        again = "Examine again" if found else "Examine"
        items.append(
            Verb(
                reverse("version-examine", args=[version.pk]),
                again,
                tone="primary" if version.stage == Stage.REGISTERED else "plain",
                icon="gauge",
                title=f"{again}: {version}",
                confirm=_examining(version, found),
                choice=_for_environment(found),
                disabled=roles.refusal(user, "registry.examine"),
            )
        )
    if not version.needs_override and version.stage in (Stage.AWAITING_APPROVAL, Stage.EXAMINING, Stage.REGISTERED):
        items.append(
            Verb(
                reverse("version-approve", args=[version.pk]),
                "Approve",
                tone="ok",
                icon="check",
                title=f"Approve {version}",
                confirm=_approving(version),
                reason="optional",
                reason_name="note",
                reason_label="Note (optional)",
                disabled=_may_not_approve(version, user),
                seen_run=_seen(found),
            )
        )
    if version.refusal("refuse") is None:
        items.append(
            Verb(
                reverse("version-refuse", args=[version.pk]),
                "Refuse",
                tone="bad",
                icon="x",
                title=f"Refuse {version}",
                confirm=f"{version} may not be deployed then. Rollouts that wait for it are cancelled.",
                reason="required",
                reason_name="note",
                reason_label="What is wrong",
                disabled=roles.refusal(user, "registry.approve"),
                seen_run=_seen(found),
            )
        )
    if version.refusal("suspend") is None:
        items.append(
            Verb(
                reverse("version-suspend", args=[version.pk]),
                "Suspend",
                icon="hand",
                title=f"Suspend {version}",
                confirm=_suspending(version),
                reason="required",
                disabled=roles.refusal(user, "registry.approve"),
            )
        )
    return Verbs(items)


def _override(version: ModelVersion, user: User) -> dict[str, Any] | None:
    """The approval that needs more than a click."""
    if not version.needs_override or version.stage != Stage.AWAITING_APPROVAL:
        return None
    return {"disabled": _may_not_approve(version, user)}


def _may_not_approve(version: ModelVersion, user: User) -> str | None:
    if sentence := roles.refusal(user, "registry.approve"):
        return sentence
    if version.registered_by_id == user.pk:
        return "You registered this version; someone else must approve it."
    if version.stage == Stage.REGISTERED:
        return "It must be examined first."
    if version.stage == Stage.EXAMINING:
        return "Its examination has not ended yet."
    return version.refusal("approve")


def _examining(version: ModelVersion, found: Report | None) -> str:
    if found is None:
        return f"{version} is started on its own and examined."
    if version.stage == Stage.AWAITING_APPROVAL:
        return (
            f"The report with {version.score:g} points is replaced; until the new one is there, nobody can approve it."
        )
    return f"{version} is started on its own and examined anew; the report below is replaced."


def _for_environment(found: Report | None) -> Choice | None:
    """Whose policy it is judged by; first that of the newest examination."""
    names = hooks.environments()
    if not names:
        return None
    options = [("", "all environments (the general one)"), *((name, name) for name in names)]
    return Choice("environment", "Judged by the policy of", options, found.run.environment if found else "")


def _suspending(version: ModelVersion) -> str:
    use = hooks.use_of(version)
    return (
        f"Its approval is taken back: {version} may be deployed again only when it was examined and approved anew, for "
        "another environment or by another policy, say. Rollouts that are under way with it turn back. Where it is the "
        f"stable version it goes on serving, until a rollback or another version replaces it.{f' {use}' if use else ''}"
    )


def _approving(version: ModelVersion) -> str:
    watched = " Its rollout must have analysis steps." if version.must_be_watched else ""
    score = f" It scored {version.score:g} of 100." if version.score is not None else ""
    return f"{version} may then be deployed, with exactly these bytes ({version.digest[:12]}…).{score}{watched}"


def _seen(found: Report | None) -> int | None:
    """The examination that this page shows; a decision is bound to it."""
    return found.run.pk if found and found.run.status == RunStatus.FINISHED else None
