"""Questions about rollouts that more than one place asks."""

from __future__ import annotations

import json

from django.db.models import Q

from registry import policies
from registry.lifecycle import RunStatus, Stage
from registry.models import ModelVersion
from registry.qa import policy_values
from registry.qa.policy import Policy
from registry.qa.policy_values import Change
from rollouts.lifecycle import Status
from rollouts.models import Deployment, Desired, Environment, Rollout, Route
from rollouts.traffic.base import TOTAL_WEIGHT


def use_of_version(version: ModelVersion) -> str | None:
    """Registry asks before it retires a version."""
    rollout = Rollout.objects.active().filter(version=version).select_related("environment").first()
    if rollout is not None:
        return f"Rollout {rollout.pk} in {rollout.environment} is under way with it."
    route = Route.objects.select_related("environment").filter(stable__version=version).first()
    if route is not None:
        return f"It serves {(TOTAL_WEIGHT - route.weight) * 100 / TOTAL_WEIGHT:g} % of traffic in {route.environment}."
    warm = Deployment.objects.filter(version=version, desired=Desired.RUNNING).select_related("environment").first()
    if warm is not None:
        return f"It still runs in {warm.environment}, so that a rollback finds it warm."
    return None


def share_of(route: Route, deployment: Deployment) -> int:
    """Hundredths of a percent that the deployment gets by this route."""
    if route.candidate_id == deployment.pk:
        return route.weight if route.stable_id else (TOTAL_WEIGHT if route.weight else 0)
    if route.stable_id == deployment.pk:
        return TOTAL_WEIGHT - route.weight
    return 0


def is_needed(deployment: Deployment) -> bool:
    """Traffic goes to it, or a rollout that is under way may send some there."""
    in_rollout = Rollout.objects.active().filter(Q(candidate=deployment) | Q(previous=deployment))
    return bool(routes_naming(deployment)) or in_rollout.exists()


def routes_naming(deployment: Deployment) -> list[Route]:
    return list(Route.objects.filter(Q(stable=deployment) | Q(candidate=deployment)))


def environments() -> list[str]:
    """Registry asks for which of them a policy may be."""
    return list(Environment.objects.values_list("name", flat=True))


def examined_elsewhere(version: ModelVersion, environment: Environment) -> str:
    """Why the newest examination says nothing of this environment, as a sentence; empty where it does.

    Where both environments ask the same, one examination is enough. A policy that is changed afterwards takes nothing
    back, and what has served an environment before may come back to it: going back must not wait for an examination.
    """
    run = version.qa_runs.filter(status=RunStatus.FINISHED).order_by("-pk").first()
    if run is None or run.environment == environment.name:
        return ""
    effective = policies.effective(version.model, environment.name)
    if not run.environment and not any(row.environment for row in effective.rows):
        return ""
    judged_by = dict(policy_values.settings(Policy.from_json(run.policy).to_json()))
    differing = policy_values.changes(judged_by, effective.resolved.values)
    if not differing or _served(version, environment):
        return ""
    where = f"for {run.environment}" if run.environment else "by the general policy"
    what = "suspend it, examine it" if version.stage == Stage.APPROVED else "examine it"
    then = ", and approve it anew" if version.stage == Stage.APPROVED else ""
    return (
        f"{version} was examined {where}, and {environment} asks for something else ({_said(differing)}): "
        f"{what} for {environment}{then}."
    )


def _served(version: ModelVersion, environment: Environment) -> bool:
    return Rollout.objects.filter(version=version, environment=environment, status=Status.SUCCEEDED).exists()


def _said(differing: list[Change]) -> str:
    shown = [f"{one.name} {_value(one.after)} instead of {_value(one.before)}" for one in differing[:3]]
    return ", ".join(shown) + (f" and {len(differing) - 3} more" if len(differing) > 3 else "")


def _value(value: object) -> str:
    return "nothing" if value is None else json.dumps(value)
