"""What the pages of models and versions show, put together from the rows."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from django.db.models import Count, OuterRef, Q, QuerySet, Subquery
from django.shortcuts import get_object_or_404
from django.urls import reverse

from deploypipe.core import roles
from deploypipe.core.pages import Request, Verb, Verbs, curl, history
from deploypipe.core.status import readable
from registry.artifacts import ArtifactError, parse
from registry.lifecycle import RunStatus, Stage
from registry.models import ModelVersion, QAResult, QARun, RegisteredModel
from registry.scoring import Status

if TYPE_CHECKING:
    from django.contrib.auth.models import User

CATEGORY_ICONS = {"compatibility": "puzzle", "performance": "gauge", "security": "shield", "integration": "plug"}


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
    result: QAResult
    evidence: str

    @property
    def open(self) -> bool:
        """What cost points is explained without a click."""
        return self.result.status in (Status.FAILED, Status.ERROR)


@dataclass(frozen=True)
class Category:
    name: str
    label: str
    icon: str
    weight: float
    points: float | None
    checks: list[Checked]


@dataclass(frozen=True)
class Report:
    run: QARun
    categories: list[Category]
    done: int
    limits: list[tuple[str, str]]

    @property
    def is_active(self) -> bool:
        return self.run.status in (RunStatus.QUEUED, RunStatus.RUNNING)


def report(version: ModelVersion) -> Report | None:
    """The newest examination."""
    run = version.qa_runs.select_related("requested_by").prefetch_related("results").order_by("-pk").first()
    if run is None:
        return None
    results = list(run.results.all())
    weights: Mapping[str, float] = run.policy.get("weights") or {}
    names = [*weights, *dict.fromkeys(r.category for r in results if r.category not in weights)]
    categories = [_category(name, weights.get(name, 0), run, results) for name in names]
    return Report(run, [c for c in categories if c.checks or run.categories], len(results), _limits(run.policy))


def _category(name: str, weight: float, run: QARun, results: list[QAResult]) -> Category:
    checks = [Checked(r, _json(r.evidence)) for r in results if r.category == name]
    return Category(name, readable(name), CATEGORY_ICONS.get(name, "info"), weight, run.categories.get(name), checks)


def _limits(policy: Mapping[str, Any]) -> list[tuple[str, str]]:
    known = [
        ("Least score without an override", "minimum_score", "{:g}"),
        ("First token, P95, at most", "max_latency_ms", "{:g} ms"),
        ("Throughput, at least", "min_throughput_tokens_sec", "{:g} tokens/s"),
        ("Errors, at most", "max_error_rate_percent", "{:g} %"),
    ]
    return [(label, shape.format(policy[key])) for label, key, shape in known if key in policy]


def _json(value: object) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False) if value else ""


# --- A version --------------------------------------------------------------------------------------------------------


def of_version(version: ModelVersion, request: Request) -> dict[str, Any]:
    """What changes while one looks. `moved`: the head and the history are not what the browser has."""
    found, past = report(version), history(version)
    state = f"{version.stage}.{found.run.pk if found else 0}.{past.newest}"
    return {
        "version": version,
        "report": found,
        "approvals": list(version.approvals.all()),
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
    return Verbs(items)


def _override(version: ModelVersion, user: User) -> dict[str, Any] | None:
    """The approval that needs more than a click."""
    if not version.needs_override or version.stage != Stage.AWAITING_APPROVAL:
        return None
    return {"disabled": _may_not_approve(version, user), "minimum": 80}


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
        return ""
    if version.stage == Stage.AWAITING_APPROVAL:
        return (
            f"The report with {version.score:g} points is replaced; until the new one is there, nobody can approve it."
        )
    return f"{version} is started on its own and examined anew; the report below is replaced."


def _approving(version: ModelVersion) -> str:
    watched = " Its rollout must have analysis steps." if version.must_be_watched else ""
    score = f" It scored {version.score:g} of 100." if version.score is not None else ""
    return f"{version} may then be deployed, with exactly these bytes ({version.digest[:12]}…).{score}{watched}"


def _seen(found: Report | None) -> int | None:
    """The examination that this page shows; a decision is bound to it."""
    return found.run.pk if found and found.run.status == RunStatus.FINISHED else None
