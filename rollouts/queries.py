"""Questions about rollouts that more than one place asks."""

from __future__ import annotations

import json

from django.db.models import Q

from deploypipe.metrics.windows import CANDIDATE, STABLE
from registry import policies
from registry.lifecycle import RunStatus, Stage
from registry.models import ModelVersion
from registry.qa import policy_values
from registry.qa.policy import Policy
from registry.qa.policy_values import Change
from rollouts.bucketing import cuts_of, weights_of
from rollouts.lifecycle import Status
from rollouts.models import Deployment, Desired, Environment, Rollout, RolloutArm, Route
from rollouts.traffic.base import TOTAL_WEIGHT


def use_of_version(version: ModelVersion) -> str | None:
    """Registry asks before it retires a version."""
    rollout = Rollout.objects.active().of_version(version).select_related("environment").first()
    if rollout is not None:
        return f"Rollout {rollout.pk} in {rollout.environment} is under way with it."
    route = Route.objects.select_related("environment", "stable").filter(stable__version=version).first()
    if route is not None and route.stable is not None:
        share = share_of(route, route.stable) * 100 / TOTAL_WEIGHT
        return f"It serves {share:g} % of traffic in {route.environment}."
    warm = Deployment.objects.filter(version=version, desired=Desired.RUNNING).select_related("environment").first()
    if warm is not None:
        return f"It still runs in {warm.environment}, so that a rollback finds it warm."
    return None


def share_of(route: Route, deployment: Deployment) -> int:
    """Hundredths of a percent that the deployment gets by this route."""
    arm = next((arm for arm, pk in route.arms.items() if pk == deployment.pk), None)
    if arm is None:
        return 0
    if route.stable_id is None:
        return TOTAL_WEIGHT if route.weight else 0
    return weights_of(cuts_of(route.weight, route.lanes)).get(arm, 0)


def backends_of(rollout: Rollout) -> dict[str, str]:
    """Backend's name → arm, of all that it compares; also of those that were taken off."""
    named: list[tuple[Deployment | None, str]] = [(rollout.candidate, CANDIDATE)]
    named += [(arm.deployment, arm.name) for arm in rollout.arms.all() if arm.position > 1]
    named.append((rollout.previous, STABLE))
    return {deployment.name: arm for deployment, arm in named if deployment is not None}


def shares_of(route: Route, rollout: Rollout) -> dict[str, int]:
    """Candidate arm → hundredths of a percent that it has by this route now."""
    named = {CANDIDATE: rollout.candidate, **{arm.name: arm.deployment for arm in rollout.arms.all()}}
    return {arm: share_of(route, deployment) for arm, deployment in named.items() if deployment is not None}


def is_needed(deployment: Deployment) -> bool:
    """Traffic goes to it, or a rollout that is under way may send some there."""
    taken_off = RolloutArm.objects.filter(deployment=deployment).exclude(dropped_at=None).values("rollout")
    wants = Q(previous=deployment) | Q(candidate=deployment) & ~Q(pk__in=taken_off)
    wants |= Q(arms__deployment=deployment, arms__dropped_at=None)
    return bool(routes_naming(deployment)) or Rollout.objects.active().filter(wants).exists()


def routes_naming(deployment: Deployment) -> list[Route]:
    named = Q(stable=deployment) | Q(candidate=deployment) | Q(rollout__arms__deployment=deployment)
    routes = Route.objects.filter(named).distinct().select_related("rollout").prefetch_related("rollout__arms")
    return [route for route in routes if deployment.pk in route.arms.values()]


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
