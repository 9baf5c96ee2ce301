"""What machines ask: alive, ready, and figures for Prometheus. No sign-in: they tell nothing of models or people."""

from __future__ import annotations

from datetime import timedelta

from django.conf import settings
from django.db import Error, connection
from django.db.models import Count
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.utils import timezone
from prometheus_client import CollectorRegistry, Gauge, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from deploypipe.core.models import AuditHead
from deploypipe.metrics.models import RecordCursor
from registry.models import ModelVersion, QARun
from rollouts.models import Deployment, Rollout

TICK_LIMIT = timedelta(seconds=15)


def healthz(request: HttpRequest) -> HttpResponse:
    """This process answers."""
    return HttpResponse("ok\n", content_type="text/plain")


def readyz(request: HttpRequest) -> JsonResponse:
    """The database answers and the workers keep reading the gateway's records; what does not is named.

    503 for the database, and where the worker is in this very process. A worker elsewhere that has died is told of, but
    it must not take the pages away that show what has happened.
    """
    problems: dict[str, str] = {}
    try:
        with connection.cursor() as cursor:
            cursor.execute("SELECT 1")
        read = RecordCursor.objects.values_list("read_at", flat=True).first()
        if read is None or timezone.now() - read > TICK_LIMIT:
            problems["worker"] = f"nothing has been done for more than {TICK_LIMIT.total_seconds():g} s"
    except Error as error:
        problems["database"] = type(error).__name__
    usable = not problems or ("database" not in problems and not settings.EMBEDDED)
    response = JsonResponse({"ready": not problems, "problems": problems}, status=200 if usable else 503)
    # "Not yet" is an answer, not an error of ours: it is asked many times a minute and must not fill the log.
    response._has_been_logged = True  # type: ignore[attr-defined]
    return response


def metrics(request: HttpRequest) -> HttpResponse:
    """Read from the database at each scrape, so that every web process tells the same."""
    try:
        return HttpResponse(_figures(), content_type=CONTENT_TYPE_LATEST)
    except Error as error:
        return HttpResponse(f"# no figures: {type(error).__name__}\n", status=503, content_type="text/plain")


def _figures() -> bytes:
    registry = CollectorRegistry()
    _counted(registry, "deploypipe_versions", "Versions by stage.", "stage", ModelVersion)
    _counted(registry, "deploypipe_rollouts", "Rollouts by phase.", "status", Rollout)
    _counted(registry, "deploypipe_examinations", "Examinations by state.", "status", QARun)
    _counted(registry, "deploypipe_deployments", "Deployments by phase of their server.", "phase", Deployment)
    cursor = RecordCursor.objects.filter(name="gateway").first()
    records = Gauge("deploypipe_gateway_records", "Requests counted from the gateway's log.", registry=registry)
    garbage = Gauge("deploypipe_gateway_garbage_lines", "Lines of that log that were no record.", registry=registry)
    records.set(cursor.records if cursor else 0)
    garbage.set(cursor.garbage if cursor else 0)
    head = AuditHead.objects.filter(pk=1).first()
    Gauge("deploypipe_audit_entries", "Entries of the audit chain.", registry=registry).set(
        head.sequence if head else 0
    )
    return generate_latest(registry)


def _counted(
    registry: CollectorRegistry,
    name: str,
    text: str,
    field: str,
    model: type[ModelVersion | Rollout | QARun | Deployment],
) -> None:
    gauge = Gauge(name, text, [field], registry=registry)
    for value, count in model._default_manager.order_by().values_list(field).annotate(n=Count("pk")):
        gauge.labels(value).set(count)
