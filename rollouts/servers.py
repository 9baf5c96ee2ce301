"""Makes the targets do what the deployments say: start, restart what must live, drain and stop what is not needed."""

from __future__ import annotations

import hashlib
import logging
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

from django.conf import settings
from django.db import transaction
from django.db.models import F
from django.utils import timezone

from deploypipe.core import audit, events
from deploypipe.core.errors import BackendError, RouterError
from deploypipe.core.secrets import hide
from registry import artifacts
from registry.engines import ENGINES, launch_command
from registry.lifecycle import RunStatus
from registry.models import ModelVersion, QARun
from rollouts import queries, routing
from rollouts.backends import targets
from rollouts.events import DeploymentChanged
from rollouts.lifecycle import Status
from rollouts.models import Deployment, Desired, Environment, Rollout
from rollouts.targets.base import Observation, Phase, ServerSpec, Target

logger = logging.getLogger(__name__)

RESTART_LIMIT = timedelta(seconds=60)
_MOST_DOUBLINGS = 6
_NAME_LENGTH = 63
_LOOKED_AT = [
    "desired", "stop_after", "start_wanted", "restarts", "restart_after", "phase", "message", "address", "observed_at",
    "healthy", "health_message", "health_failures",
]  # fmt: skip


def examination_name(run: int, attempt: int) -> str:
    """One name per attempt: a worker that comes back from the dead stops its own server, not its successor's."""
    return f"qa-{run}-{attempt}"


def live_copy_name(run: int, attempt: int) -> str:
    """The copy of the live version that an examination compares with."""
    return f"qa-{run}-{attempt}-live"


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


def deploy(version: ModelVersion, environment: Environment) -> Deployment:
    """The row that says: this version shall run here. A worker starts the server, or keeps the one that runs still."""
    deployment, created = Deployment.objects.get_or_create(
        environment=environment,
        version=version,
        defaults={"name": _free_name(version, environment), "start_wanted": True},
    )
    if not created:
        runs = deployment.desired == Desired.RUNNING and deployment.phase == Phase.READY
        Deployment.objects.filter(pk=deployment.pk).update(
            desired=Desired.RUNNING,
            stop_after=None,
            start_wanted=True,
            # Whoever is looking at it at this moment looks at the earlier life: what they see is not noted any more.
            observed_at=timezone.now(),
            **({} if runs else {"phase": Phase.ABSENT, "message": "", "address": "", **_UNKNOWN_HEALTH}),
        )
        deployment.refresh_from_db()
    return deployment


_UNKNOWN_HEALTH: dict[str, Any] = {"healthy": None, "health_message": "", "health_failures": 0}


def _free_name(version: ModelVersion, environment: Environment) -> str:
    plain = f"{version.model.name}-v{version.number}-{environment.name}"
    if len(plain) <= _NAME_LENGTH and not Deployment.objects.filter(name=plain).exists():
        return plain
    mark = hashlib.sha256(f"{version.model.name}/{version.number}/{environment.name}".encode()).hexdigest()[:10]
    return f"{version.model.name[:24]}-v{version.number}-{environment.name[:14]}-{mark}"


def converge_all(now: datetime) -> bool:
    """One look at every deployment; a fault of one keeps no other from being looked after. Whether anything changed."""
    changed = False
    for deployment in Deployment.objects.kept().select_related("environment", "version__model"):
        try:
            changed |= converge(deployment, now)
        except Exception:
            logger.exception("%s could not be looked after", deployment)
    return changed


def converge(deployment: Deployment, now: datetime) -> bool:
    """One look at one deployment, and at most one order to its target; the row is read anew. Whether it changed.

    Any number of workers may do this at once: orders are idempotent, and of two observations only one is noted.
    """
    deployment.refresh_from_db(fields=_LOOKED_AT)
    target = targets[deployment.environment.target]
    try:
        seen = target.observe(deployment.name)
    except BackendError as error:
        # Not to know is no finding: neither its phase nor its address is taken from a server that may be serving.
        logger.warning("%s: %s", deployment, error.message)
        seen = Observation(Phase(deployment.phase), error.message, deployment.address or None)
        return _note(deployment, seen, now)
    try:
        seen = _ordered(target, deployment, seen, now)
    except BackendError as error:
        logger.warning("%s: %s", deployment, error.message)
        seen = _not_ordered(deployment, seen, error)
    return _note(deployment, seen, now)


def _ordered(target: Target, deployment: Deployment, seen: Observation, now: datetime) -> Observation:
    if deployment.desired == Desired.RUNNING:
        return _keep_running(target, deployment, seen, now)
    if seen.phase not in (Phase.ABSENT, Phase.STOPPING):
        target.stop(deployment.name, grace=settings.DRAIN_LIMIT)
        return target.observe(deployment.name)
    return seen


def _not_ordered(deployment: Deployment, seen: Observation, error: BackendError) -> Observation:
    if deployment.desired != Desired.RUNNING:
        return replace(seen, message=error.message)
    if error.permanent:
        return Observation(Phase.FAILED, error.message)
    # What is seen may be the end of an earlier life: it is no finding against the one that could not begin yet.
    return Observation(Phase.ABSENT if deployment.start_wanted else seen.phase, error.message)


def _keep_running(target: Target, deployment: Deployment, seen: Observation, now: datetime) -> Observation:
    if seen.phase in (Phase.STARTING, Phase.READY):
        _started(deployment)
    elif deployment.start_wanted or seen.phase is Phase.ABSENT:
        return _start(target, deployment, seen)
    elif seen.phase is Phase.FAILED and _must_live(deployment):
        _restart_soon(deployment, seen, now)
    return seen


def _start(target: Target, deployment: Deployment, seen: Observation) -> Observation:
    if seen.phase is Phase.STOPPING:
        return Observation(Phase.STOPPING, f"{seen.message} It is started again once it has ended.")
    if faults := _changed_bytes(deployment.version):
        return Observation(Phase.FAILED, faults)
    target.restart(spec_of(deployment.version, deployment.name))
    _started(deployment)
    return target.observe(deployment.name)


def _started(deployment: Deployment) -> None:
    if deployment.start_wanted:
        Deployment.objects.filter(pk=deployment.pk, observed_at=deployment.observed_at).update(start_wanted=False)


def _changed_bytes(version: ModelVersion) -> str:
    """Approval is bound to the registered bytes: a server is never started on others."""
    try:
        found = artifacts.verify(artifacts.local_path(version.artifact_uri), artifacts.parse(version.manifest))
    except (artifacts.ArtifactError, OSError) as error:
        return f"The artifact cannot be read: {error}."
    if not found:
        return ""
    return f"The artifact is not the registered one: {'; '.join(m.sentence for m in found[:3])}."


def _must_live(deployment: Deployment) -> bool:
    """A version that has all traffic, or shall have it again, is started again when it died.

    A candidate that died is the rollout's business.
    """
    is_stable = any(route.stable_id == deployment.pk for route in queries.routes_naming(deployment))
    return is_stable or Rollout.objects.filter(status=Status.ROLLING_BACK, previous=deployment).exists()


def _restart_soon(deployment: Deployment, seen: Observation, now: datetime) -> None:
    """With growing pauses, so that a server that cannot live does not take the machine with it."""
    if deployment.restart_after and now < deployment.restart_after:
        return
    pause = min(timedelta(seconds=2 ** min(deployment.restarts, _MOST_DOUBLINGS)), RESTART_LIMIT)
    with transaction.atomic():
        claimed = Deployment.objects.filter(pk=deployment.pk, restart_after=deployment.restart_after).update(
            restart_after=now + pause, restarts=F("restarts") + 1, start_wanted=True
        )
        if claimed:
            audit.record(None, "deployment.restarted", deployment, reason=seen.message)


def _note(deployment: Deployment, seen: Observation, now: datetime) -> bool:
    # The end of a server's log may be in the message, and servers print what they like.
    seen = replace(seen, message=hide(seen.message))
    address = seen.address or ""
    changed = (deployment.phase, deployment.message, deployment.address) != (seen.phase, seen.message, address)
    # A server that starts again, or under another address, must show its health anew.
    forget = _UNKNOWN_HEALTH if seen.phase is not Phase.READY or address != deployment.address else {}
    noted = Deployment.objects.filter(pk=deployment.pk, observed_at=deployment.observed_at).update(
        phase=seen.phase, message=seen.message, address=address, observed_at=now, **forget
    )
    deployment.refresh_from_db(fields=_LOOKED_AT)
    if not noted:
        return False  # another worker has looked since this one began to
    if changed:
        events.announce(DeploymentChanged(deployment.pk))
    return changed


def stop_idle(now: datetime) -> int:
    """Stop what is no longer needed: no share at the gateway, its time over, and its streams done or past the limit."""
    over = Deployment.objects.filter(desired=Desired.RUNNING, stop_after__lte=now)
    return sum(
        _stop(deployment)
        for deployment in over.select_related("environment", "version__model")
        if _is_idle(deployment, now)
    )


@transaction.atomic
def _stop(deployment: Deployment) -> bool:
    still = Deployment.objects.filter(pk=deployment.pk, desired=Desired.RUNNING, stop_after=deployment.stop_after)
    if not still.update(desired=Desired.STOPPED):
        return False  # it is wanted again
    audit.record(None, "deployment.stopped", deployment, reason="It has no traffic and is not needed.")
    return True


def _is_idle(deployment: Deployment, now: datetime) -> bool:
    if queries.is_needed(deployment):
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
    for alias in targets.aliases():
        try:
            _stop_strays_of(targets[alias])
        except BackendError as error:
            logger.warning("%s: %s", alias, error.message)


def _stop_strays_of(target: Target) -> None:
    # In this order: a server's row is there before the server is.
    found = target.names()
    runs = QARun.objects.filter(status=RunStatus.RUNNING).values_list("pk", "attempt")
    wanted = {name(*run) for run in runs for name in (examination_name, live_copy_name)}
    wanted |= set(Deployment.objects.kept().values_list("name", flat=True))
    for name in found - wanted:
        target.stop(name)


def recover() -> int:
    """At the start of the product: what ended while nobody was watching is no finding against it; start it again."""
    lost = 0
    for deployment in Deployment.objects.filter(desired=Desired.RUNNING).select_related("environment"):
        if deployment.phase == Phase.FAILED and not _must_live(deployment):
            continue  # somebody was watching
        try:
            seen = targets[deployment.environment.target].observe(deployment.name)
        except BackendError as error:
            logger.warning("%s: %s", deployment, error.message)
            continue
        if seen.phase in (Phase.FAILED, Phase.ABSENT, Phase.STOPPING):
            Deployment.objects.filter(pk=deployment.pk).update(
                start_wanted=True, phase=Phase.ABSENT, address="", restart_after=None, observed_at=timezone.now(),
                message="It ended with the product and is being started again.", **_UNKNOWN_HEALTH,
            )  # fmt: skip
            lost += 1
    return lost
