"""Makes the targets do what the deployments say: start, restart what must live, drain and stop what is not needed."""

from __future__ import annotations

import logging
from datetime import datetime, timedelta

from django.conf import settings
from django.db import transaction
from django.db.models import F
from django.utils import timezone

from deploypipe.core import audit, events
from deploypipe.core.errors import BackendError, RouterError
from registry import artifacts
from registry.engines import ENGINES, launch_command
from registry.models import ModelVersion, QARun
from rollouts import queries, routing
from rollouts.backends import targets
from rollouts.events import DeploymentChanged
from rollouts.models import Deployment, Desired, Environment
from rollouts.targets.base import Observation, Phase, ServerSpec

logger = logging.getLogger(__name__)

EXAMINATION_PREFIX = "qa-"
RESTART_LIMIT = timedelta(seconds=60)


def spec_of(version: ModelVersion, name: str) -> ServerSpec:
    engine = ENGINES[version.engine]
    command = launch_command(
        engine,
        artifact=artifacts.local_path(version.artifact_uri),
        model=version.model.name,
        arguments=version.engine_arguments,
    )
    environment = {engine.api_key_variable: settings.ENGINE_API_KEY} if engine.api_key_variable else {}
    return ServerSpec(name, command, environment, ready_timeout=settings.READY_TIMEOUT)


def deploy(version: ModelVersion, environment: Environment, *, fresh: bool = True) -> Deployment:
    """The row that says: this version shall run here. A worker starts the server."""
    name = f"{version.model.name[:30]}-v{version.number}-{environment.name[:20]}"
    deployment, created = Deployment.objects.get_or_create(
        environment=environment, version=version, defaults={"name": name, "start_wanted": True}
    )
    if not created:
        again = fresh and deployment.phase != Phase.READY
        Deployment.objects.filter(pk=deployment.pk).update(
            desired=Desired.RUNNING,
            stop_after=None,
            start_wanted=again or F("start_wanted"),
            # What was seen of an earlier life says nothing about this one.
            **({"phase": Phase.ABSENT, "message": "", "healthy": None, "health_failures": 0} if again else {}),
        )
        deployment.refresh_from_db()
    return deployment


def converge(deployment: Deployment, now: datetime) -> bool:
    """One look at one deployment, and at most one order to its target. Whether anything changed."""
    target = targets[deployment.environment.target]
    try:
        seen = target.observe(deployment.name)
        if deployment.desired == Desired.RUNNING:
            seen = _keep_running(deployment, seen, now)
        elif seen.phase not in (Phase.ABSENT, Phase.STOPPING):
            target.stop(deployment.name, grace=settings.DRAIN_LIMIT)
            seen = target.observe(deployment.name)
    except BackendError as error:
        seen = Observation(Phase.FAILED if error.permanent else Phase(deployment.phase), error.message)
        logger.warning("%s: %s", deployment, error.message)
    return _note(deployment, seen, now)


def _keep_running(deployment: Deployment, seen: Observation, now: datetime) -> Observation:
    target = targets[deployment.environment.target]
    if deployment.start_wanted and seen.phase not in (Phase.STARTING, Phase.READY):
        if faults := _changed_bytes(deployment.version):
            return Observation(Phase.FAILED, faults)
        target.restart(spec_of(deployment.version, deployment.name))
        Deployment.objects.filter(pk=deployment.pk).update(start_wanted=False)
        return target.observe(deployment.name)
    if deployment.start_wanted:
        Deployment.objects.filter(pk=deployment.pk).update(start_wanted=False)
    if seen.phase is Phase.ABSENT:
        target.apply(spec_of(deployment.version, deployment.name))
        return target.observe(deployment.name)
    if seen.phase is Phase.FAILED and _must_live(deployment):
        _restart_soon(deployment, seen, now)
    return seen


def _changed_bytes(version: ModelVersion) -> str:
    """Approval is bound to the registered bytes: a server is never started on others."""
    found = artifacts.verify(artifacts.local_path(version.artifact_uri), artifacts.parse(version.manifest))
    if not found:
        return ""
    return f"The artifact is not the registered one: {'; '.join(m.sentence for m in found[:3])}."


def _must_live(deployment: Deployment) -> bool:
    """A stable version that died is started again; a candidate that died is the rollout's business."""
    return any(route.stable_id == deployment.pk for route in queries.routes_naming(deployment))


def _restart_soon(deployment: Deployment, seen: Observation, now: datetime) -> None:
    """With growing pauses, so that a server that cannot live does not take the machine with it."""
    if deployment.restart_after and now < deployment.restart_after:
        return
    pause = min(timedelta(seconds=2**deployment.restarts), RESTART_LIMIT)
    with transaction.atomic():
        claimed = Deployment.objects.filter(pk=deployment.pk, restart_after=deployment.restart_after).update(
            restart_after=now + pause, restarts=F("restarts") + 1, start_wanted=True
        )
        if claimed:
            audit.record(None, "deployment.restarted", deployment, reason=seen.message)


def _note(deployment: Deployment, seen: Observation, now: datetime) -> bool:
    address = seen.address or ""
    changed = (deployment.phase, deployment.message, deployment.address) != (seen.phase, seen.message, address)
    # A server that starts again, or under another address, must show its health anew.
    forget = (
        {"healthy": None, "health_failures": 0}
        if seen.phase is not Phase.READY or address != deployment.address
        else {}
    )
    Deployment.objects.filter(pk=deployment.pk).update(
        phase=seen.phase, message=seen.message, address=address, observed_at=now, **forget
    )
    if changed:
        deployment.refresh_from_db()
        events.announce(DeploymentChanged(deployment.pk))
    return changed


def stop_idle(now: datetime) -> int:
    """Stop what is no longer needed: no share at the gateway, its time over, and its streams done or past the limit."""
    stopped = 0
    for deployment in Deployment.objects.filter(desired=Desired.RUNNING, stop_after__lte=now).select_related(
        "environment", "version__model"
    ):
        if _is_idle(deployment, now):
            with transaction.atomic():
                if Deployment.objects.filter(
                    pk=deployment.pk, desired=Desired.RUNNING, stop_after=deployment.stop_after
                ).update(desired=Desired.STOPPED):
                    audit.record(None, "deployment.stopped", deployment, reason="It has no traffic and is not needed.")
                    stopped += 1
    return stopped


def _is_idle(deployment: Deployment, now: datetime) -> bool:
    if any(queries.share_of(route, deployment) for route in queries.routes_naming(deployment)):
        return False
    try:
        seen = routing.installed(deployment.environment.router)
    except RouterError:
        return False
    if any(weights.get(deployment.name) for weights in seen.weights.values()):
        return False
    waited = now - (deployment.stop_after or now)
    return not seen.active_requests.get(deployment.name) or waited > timedelta(seconds=settings.DRAIN_LIMIT)


def stop_strays() -> None:
    """End servers that no row asks for: the left-overs of an examination whose worker died."""
    running = {
        f"{EXAMINATION_PREFIX}{pk}" for pk in QARun.objects.filter(status="running").values_list("pk", flat=True)
    }
    wanted = set(Deployment.objects.kept().values_list("name", flat=True)) | running
    for alias in targets.aliases():
        for name in targets[alias].names() - wanted:
            targets[alias].stop(name)


def recover() -> int:
    """At the start of the product: what ended while nobody was watching is no finding against it; start it again."""
    lost = 0
    for deployment in Deployment.objects.filter(desired=Desired.RUNNING).select_related("environment"):
        seen = targets[deployment.environment.target].observe(deployment.name)
        if seen.phase in (Phase.FAILED, Phase.ABSENT, Phase.STOPPING):
            Deployment.objects.filter(pk=deployment.pk).update(
                start_wanted=True, phase=Phase.ABSENT, address="", healthy=None, health_failures=0, restart_after=None,
                message="It ended with the product and is being started again.", observed_at=timezone.now(),
            )  # fmt: skip
            lost += 1
    return lost
