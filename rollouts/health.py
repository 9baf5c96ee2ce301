"""Is a running model server well? Asked in layers, on and on; changes are kept, the last word is on the deployment."""

from __future__ import annotations

from datetime import datetime, timedelta

from django.conf import settings
from django.db import transaction
from django.db.models import Q, QuerySet

from deploypipe.core import events
from registry.engines import check_health
from rollouts.events import DeploymentChanged
from rollouts.models import Deployment, Desired, HealthSample
from rollouts.targets.base import Phase


def due(now: datetime) -> QuerySet[Deployment]:
    before = now - timedelta(seconds=settings.HEALTH_INTERVAL)
    return Deployment.objects.filter(desired=Desired.RUNNING, phase=Phase.READY).filter(
        Q(checked_at=None) | Q(healthy=None) | Q(checked_at__lte=before)
    )


def check(deployment: Deployment, now: datetime) -> bool | None:
    """Ask the server. None where another worker is asking already."""
    claimed = Deployment.objects.filter(pk=deployment.pk, checked_at=deployment.checked_at).update(checked_at=now)
    if not claimed or not deployment.address:
        return None
    found = check_health(
        deployment.address,
        model=deployment.version.model.name,
        api_key=settings.ENGINE_API_KEY,
        deadline=settings.HEALTH_DEADLINE,
    )
    return _note(deployment, found.ok, found.layer, found.message, now)


@transaction.atomic
def _note(deployment: Deployment, ok: bool, layer: str, message: str, now: datetime) -> bool:
    current = Deployment.objects.select_for_update().get(pk=deployment.pk)
    if current.address != deployment.address or current.phase != Phase.READY:
        return ok  # the answer is about a server that is not there any more
    failures = 0 if ok else current.health_failures + 1
    # One failed check may be a hiccup; until there are enough of them the last known word stands.
    healthy = True if ok else (False if failures >= settings.HEALTH_FAILURES else current.healthy)
    Deployment.objects.filter(pk=current.pk).update(
        healthy=healthy, health_message=message, health_failures=failures, **({"restarts": 0} if ok else {})
    )
    if healthy is not None and healthy != current.healthy:
        HealthSample.objects.create(deployment=current, at=now, healthy=healthy, layer=layer, message=message)
        events.announce(DeploymentChanged(current.pk))
    return ok
