"""Who listens to what, read from top to bottom. The only place where apps that do not know each other meet.

Listeners run after commit. They enqueue a task or ring a page's doorbell; they never write.
"""

from __future__ import annotations

from django.db.models import Q

from abtests import pages as experiment_pages
from abtests.events import ExperimentChanged
from deploypipe.core import live
from deploypipe.core.events import subscribe
from deploypipe.metrics import series
from deploypipe.metrics.models import Window
from registry import tasks as registry_tasks
from registry.events import PolicyChanged, QAProgressed, QARequested, VersionChanged
from rollouts import queries
from rollouts import tasks as rollout_tasks
from rollouts.events import DeploymentChanged, RecordsRead, RolloutChanged, RolloutEnded, RolloutSaid
from rollouts.models import Deployment, Rollout, Route
from rollouts.traffic.base import TOTAL_WEIGHT


def connect() -> None:
    # A version is registered or moves on: its page, the lists, and the rollout that waits for it.
    subscribe(VersionChanged, _version_changed)
    # An examination is asked for: a worker begins it at once instead of at the next beat.
    subscribe(QARequested, _qa_requested)
    subscribe(QAProgressed, lambda e: live.ring(f"version-{e.version_id}"))
    subscribe(PolicyChanged, lambda e: live.ring("policies"))
    # A server became ready, failed, or changed its health: the rollout that uses it goes on or turns back now.
    subscribe(DeploymentChanged, _deployment_changed)
    # New measurements, feedback that found its session among them: chart points for pages, and a look of the judge.
    # Where nothing new came, beat brings every rollout forward each second anyway: time alone may decide, too.
    subscribe(RecordsRead, _records_read)
    subscribe(RolloutChanged, _rollout_changed)
    subscribe(RolloutSaid, lambda e: live.ring(f"rollout-{e.rollout_id}"))
    subscribe(RolloutEnded, lambda e: live.ring("overview"))
    subscribe(ExperimentChanged, _experiment_changed)


def _qa_requested(event: QARequested) -> None:
    registry_tasks.run_qa.delay(event.run_id)


def _version_changed(event: VersionChanged) -> None:
    live.ring(f"version-{event.version_id}")
    live.ring("versions")
    live.ring("overview")
    waiting = Rollout.objects.active().filter(Q(version_id=event.version_id) | Q(arms__version_id=event.version_id))
    for pk in set(waiting.values_list("pk", flat=True)):
        _bring_forward(pk)


def _deployment_changed(event: DeploymentChanged) -> None:
    live.ring("overview")
    deployment = Deployment.objects.select_related("version").filter(pk=event.deployment_id).first()
    if deployment is None:
        return
    active = Rollout.objects.active().filter(
        environment_id=deployment.environment_id, model_id=deployment.version.model_id
    )
    for pk in active.values_list("pk", flat=True):
        live.ring(f"rollout-{pk}")
        _bring_forward(pk)


def _records_read(event: RecordsRead) -> None:
    windows = list(Window.objects.filter(batch=event.batch))
    for environment, model in {(window.environment, window.model) for window in windows}:
        newest = Rollout.objects.filter(environment__name=environment, model__name=model).order_by("-pk")
        rollout = newest.select_related("candidate", "previous").prefetch_related("arms__deployment").first()
        if rollout is None:
            continue
        _send_points(rollout, [w for w in windows if (w.environment, w.model) == (environment, model)])
        if rollout.is_active:
            live.ring(f"rollout-{rollout.pk}")
            _bring_forward(rollout.pk)


def _send_points(rollout: Rollout, windows: list[Window]) -> None:
    at = windows[0].taken_at
    values = series.points(windows, queries.backends_of(rollout), at)
    route = Route.objects.filter(environment=rollout.environment_id, model=rollout.model_id).first()
    if route is not None:
        for arm, share in queries.shares_of(route, rollout).items():
            values[f"set.{arm}"] = {"x": [at.isoformat()], "y": [100 * share / TOTAL_WEIGHT]}
    live.points(f"rollout-{rollout.pk}", values)


def _rollout_changed(event: RolloutChanged) -> None:
    live.ring(f"rollout-{event.rollout_id}")
    live.ring("rollouts")
    live.ring("overview")
    _bring_forward(event.rollout_id)


def _experiment_changed(event: ExperimentChanged) -> None:
    live.ring(f"experiment-{event.experiment_id}")
    live.points(f"experiment-{event.experiment_id}", experiment_pages.newest_points(event.experiment_id))
    live.ring("experiments")


def _bring_forward(rollout_id: int) -> None:
    rollout_tasks.bring_forward.delay(rollout_id)
