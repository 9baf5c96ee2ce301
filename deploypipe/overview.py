"""The home page: what needs you, what serves, what is on its way, what happened. The only page that joins all apps."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from django.db.models import Count, Q
from django.http import HttpResponse
from django.urls import reverse

from abtests import pages as experiment_pages
from abtests.advice import ACTS
from abtests.lifecycle import EXPERIMENTS
from abtests.lifecycle import Status as ExperimentStatus
from abtests.models import Experiment
from abtests.page_verbs import may_decide
from deploypipe.core import roles
from deploypipe.core.pages import Request, answer, curl, page, recent
from deploypipe.core.status import Tone
from registry.lifecycle import Stage
from registry.models import ModelVersion
from rollouts import pages as rollout_pages
from rollouts.lifecycle import Status, StepStatus
from rollouts.models import Deployment, Rollout
from rollouts.strategy import APPROVAL
from rollouts.targets.base import Phase

if TYPE_CHECKING:
    from django.contrib.auth.models import User

ACTIVITY = 12
MOST_NEEDS = 20


@dataclass(frozen=True)
class Need:
    """Something that goes on only when a person does something. `yours`: this person may be the one."""

    tone: Tone
    icon: str
    title: str
    sentence: str
    url: str
    since: datetime | None
    yours: bool


@page
def overview(request: Request) -> HttpResponse:
    serving = rollout_pages.serving()
    needs = _needs(request.user, serving)
    context = {
        "yours": [need for need in needs if need.yours],
        "others": [need for need in needs if not need.yours],
        "pipeline": _pipeline(),
        "serving": serving,
        "lines": rollout_pages.lines(rollout_pages.rollouts().active()[:MOST_NEEDS]),
        "experiments": _experiments(),
        "activity": recent(ACTIVITY),
        "command": curl(request, "/api/v1/models/", {"name": "textgen"}),
    }
    return answer(request, "overview.html", "core/_overview.html", context)


def _needs(user: User, serving: list[rollout_pages.Serving]) -> list[Need]:
    found = [*_sick(user, serving), *_rollouts(user), *_experiments_to_act_on(user), *_versions(user)]
    return sorted(found, key=lambda need: not need.yours)


def _versions(user: User) -> list[Need]:
    waiting = ModelVersion.objects.filter(stage=Stage.AWAITING_APPROVAL).select_related("model").order_by("changed_at")
    may = roles.refusal(user, "registry.approve") is None
    return [
        Need(
            "hold",
            "hand",
            f"{version} waits for an approval",
            version.qa_sentence,
            reverse("version-detail", args=[version.pk]),
            version.changed_at,
            may and version.registered_by_id != user.pk,
        )
        for version in waiting[:MOST_NEEDS]
    ]


def _rollouts(user: User) -> list[Need]:
    held = rollout_pages.rollouts().filter(rollout_pages.needs_attention())[:MOST_NEEDS]
    return [_held(rollout, user) for rollout in held]


def _held(rollout: Rollout, user: User) -> Need:
    operates = roles.refusal(user, "rollouts.operate") is None
    approves = roles.refusal(user, "rollouts.approve") is None and rollout.requested_by_id != user.pk
    waits_for_approval = any(step.kind == APPROVAL and step.status == StepStatus.ACTIVE for step in rollout.steps.all())
    where = f"{rollout.version} in {rollout.environment}"
    url = reverse("rollout-detail", args=[rollout.pk])
    if rollout.problem:
        return Need("warn", "triangle", f"{where} has a problem", rollout.sentence, url, rollout.step_at, operates)
    if rollout.paused_at:
        by = f" by {rollout.paused_by}" if rollout.paused_by else ""
        return Need("hold", "pause", f"{where} is paused{by}", rollout.sentence, url, rollout.paused_at, operates)
    yours = approves if waits_for_approval else operates
    return Need("hold", "hand", f"{where} waits for a person", rollout.sentence, url, rollout.step_at, yours)


def _experiments_to_act_on(user: User) -> list[Need]:
    found = experiment_pages.listed().filter(Q(status=ExperimentStatus.RUNNING) & Q(verdict__in=[*ACTS, "invalid"]))
    return [
        Need(
            *(("warn", "triangle") if line.verdict == "invalid" else ("hold", "hand")),
            f"{line.experiment} {'cannot be trusted' if line.verdict == 'invalid' else 'waits for a person'}",
            line.sentence,
            reverse("experiment-detail", args=[line.experiment.pk]),
            line.experiment.started_at,
            may_decide(line.experiment, user) is None,
        )
        for line in experiment_pages.lines(found[:MOST_NEEDS])
    ]


def _sick(user: User, serving: list[rollout_pages.Serving]) -> list[Need]:
    """Versions that have traffic and are not well."""
    operates = roles.refusal(user, "rollouts.operate") is None
    return [
        Need(
            "bad",
            "server",
            f"{deployment.version} in {row.route.environment} is not well",
            deployment.view.message,
            reverse("version-detail", args=[deployment.version_id]),
            deployment.checked_at,
            operates,
        )
        for row in serving
        for deployment in (row.stable, row.candidate)
        if deployment is not None and deployment.view.bad
    ]


def _pipeline() -> list[dict[str, Any]]:
    """How many versions and rollouts are at each station, in the order in which they pass them."""
    stages = dict(ModelVersion.objects.order_by().values_list("stage").annotate(Count("pk")))
    states = dict(Rollout.objects.active().order_by().values_list("status").annotate(Count("pk")))
    rolling = sum(count for state, count in states.items() if state not in (Status.WAITING_QA, Status.WAITING_APPROVAL))
    live = Deployment.objects.filter(phase=Phase.READY).count()
    models, rollouts = reverse("model-list"), reverse("rollout-list")
    return [
        {"label": "Registered", "count": stages.get(Stage.REGISTERED, 0), "url": models, "icon": "tag"},
        {"label": "Examining", "count": stages.get(Stage.EXAMINING, 0), "url": models, "icon": "gauge"},
        {"label": "Awaiting approval", "count": stages.get(Stage.AWAITING_APPROVAL, 0), "url": models, "icon": "hand"},
        {"label": "Approved", "count": stages.get(Stage.APPROVED, 0), "url": models, "icon": "check-circle"},
        {"label": "Rolling out", "count": rolling, "url": f"{rollouts}?state=active", "icon": "rollouts"},
        {"label": "Servers ready", "count": live, "url": rollouts, "icon": "server"},
    ]


def _experiments() -> list[Experiment]:
    active = Experiment.objects.filter(status__in=EXPERIMENTS.active())
    return list(active.select_related("environment", "candidate__model", "stable__model")[:MOST_NEEDS])
