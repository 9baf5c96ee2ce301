"""Celery's side of rollouts: ask what is due, do it. Ids only; running a task twice or late is harmless."""

from __future__ import annotations

import logging

from celery import shared_task
from django.conf import settings
from django.utils import timezone

from deploypipe.core import events
from deploypipe.core.errors import BackendError
from deploypipe.metrics.sources import gateway, retention
from rollouts import health, reconcile, routing, servers
from rollouts.events import RecordsRead
from rollouts.models import Deployment

logger = logging.getLogger(__name__)
STALE_SECONDS = 2
"""What nobody has taken by then is asked for again anyway."""


@shared_task
def read_records() -> None:
    batches = gateway.read(settings.GATEWAY_RECORDS, routing.facts)
    for batch in batches:
        events.announce(RecordsRead(batch))


@shared_task
def forget_windows() -> None:
    retention.forget_windows(timezone.now(), settings.WINDOWS_DAYS)


@shared_task
def servers_due() -> None:
    now = timezone.now()
    if servers.converge_all(now):
        _write_routes()  # at once: traffic leaves a server that died, and comes back to one that is ready again
    servers.stop_idle(now)
    servers.stop_strays()


@shared_task
def health_due() -> None:
    for pk in health.due(timezone.now()).values_list("pk", flat=True):
        check_health.delay(pk)


@shared_task(expires=STALE_SECONDS)
def check_health(deployment_id: int) -> None:
    deployment = Deployment.objects.select_related("version__model").get(pk=deployment_id)
    health.check(deployment, timezone.now())


@shared_task
def rollouts_due() -> None:
    """Also writes every route anew: where somebody edited the data plane behind our back, this puts it right."""
    _write_routes()
    for pk in reconcile.due():
        bring_forward.delay(pk)


def _write_routes() -> None:
    try:
        routing.write_all()
    except BackendError as error:
        logger.warning("routes were not written: %s", error.message)


@shared_task(expires=STALE_SECONDS)
def bring_forward(rollout_id: int) -> None:
    reconcile.reconcile(rollout_id)
