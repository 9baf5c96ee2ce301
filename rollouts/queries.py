"""Questions about rollouts that more than one place asks."""

from __future__ import annotations

from django.db.models import Q

from registry.models import ModelVersion
from rollouts.models import Deployment, Desired, Rollout, Route
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
