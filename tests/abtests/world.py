"""A live version, a candidate, and what the gateway measured of both: as rows."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from django.utils import timezone

from abtests.gates import ExperimentGate
from deploypipe.metrics.models import RecordCursor, Window
from deploypipe.metrics.windows import Units, units_to_json
from registry import actions as registry_actions
from registry.models import ModelVersion
from rollouts import actions as rollout_actions
from rollouts.lifecycle import Purpose, Status
from rollouts.models import Deployment, Environment, Rollout, RolloutArm, Route
from rollouts.targets.base import Phase
from tests.conftest import Cast

BEGAN = timezone.now() - timedelta(minutes=2)
NOW = BEGAN + timedelta(minutes=1)


@dataclass
class World:
    cast: Cast
    live: ModelVersion
    candidate: ModelVersion
    environment: Environment
    stable: Deployment

    def rollout(self, settings: dict[str, Any], *, purpose: Purpose = Purpose.PROMOTE) -> Rollout:
        """At its experiment, which has just begun, with half of the traffic."""
        rollout = rollout_actions.request(
            self.candidate,
            self.environment,
            actor=self.cast.cy,
            steps=[{"setWeight": 50}, {"experiment": settings}],
            purpose=purpose,
        )
        self.reaches_its_experiment(rollout)
        self.records_read(BEGAN)
        rollout = Rollout.objects.get(pk=rollout.pk)
        ExperimentGate().judge(rollout, 1, now=BEGAN, seconds=0)
        return rollout

    def another(self) -> ModelVersion:
        """A third version."""
        return registry_actions.register(
            self.live.model, actor=self.cast.ana, artifact_uri=self.candidate.artifact_uri, engine="textgen"
        )

    def comparison(self, third: ModelVersion, settings: dict[str, Any]) -> Rollout:
        """Two candidates at their experiment, which has just begun."""
        rollout = rollout_actions.request(
            self.candidate,
            self.environment,
            actor=self.cast.cy,
            steps=[{"setWeight": 60}, {"experiment": settings}],
            purpose=Purpose.EXPERIMENT,
            arms=[third],
        )
        self.reaches_its_experiment(rollout)
        RolloutArm.objects.filter(rollout=rollout, position=2).update(deployment=deployed(third, self.environment))
        self.records_read(BEGAN)
        rollout = Rollout.objects.get(pk=rollout.pk)
        ExperimentGate().judge(rollout, 1, now=BEGAN, seconds=0)
        return rollout

    def reaches_its_experiment(self, rollout: Rollout) -> None:
        Rollout.objects.filter(pk=rollout.pk).update(
            status=Status.PROGRESSING,
            candidate=deployed(self.candidate, self.environment),
            previous=self.stable,
            step_index=1,
            traffic_from=BEGAN,
            step_at=BEGAN,
        )

    def measure(
        self,
        *,
        stable: tuple[int, int],
        candidate: tuple[int, int],
        batches: int = 1,
        others: dict[ModelVersion, tuple[int, int]] | None = None,
        assigned: tuple[int, int] | None = None,
        drop: bool = False,
    ) -> None:
        """Windows of (sessions, failed ones) of both versions, that many times; and the records were read just now.
        Each session makes one request. `assigned`: new sessions of stable and candidate, if not all of them. `drop`:
        the candidate was taken off, and has no share."""
        first = (Window.objects.order_by("-batch").values_list("batch", flat=True).first() or 0) + 1
        seen = {self.live: stable, **({} if drop else {self.candidate: candidate}), **(others or {})}
        news = dict(zip((self.live, self.candidate), assigned or (stable[0], candidate[0]), strict=True))
        for batch in range(first, first + batches):
            at = BEGAN + timedelta(seconds=batch)
            for version, (sessions, failed) in seen.items():
                units = Units(
                    first=(sessions, failed),
                    whole={key: count for key, count in {(1, 0): sessions - failed, (1, 1): failed}.items() if count},
                )
                Window.objects.create(
                    batch=batch, environment=self.environment.name, model=self.live.model.name,
                    backend=Deployment.objects.get(version=version).name,
                    epoch="salt", period=1 + drop, share=1 / len(seen),
                    first_at=at, last_at=at, taken_at=at, seconds=1.0, requests=sessions, errors=failed,
                    error_classes={"server_error": failed} if failed else {},
                    assigned=news.get(version, sessions), fresh=units_to_json(units),
                )  # fmt: skip
        self.records_read(NOW)

    def records_read(self, at: datetime) -> None:
        RecordCursor.objects.update_or_create(name="gateway", defaults={"read_at": at})


def deployed(version: ModelVersion, environment: Environment) -> Deployment:
    return Deployment.objects.create(
        environment=environment, version=version, name=f"textgen-v{version.number}", phase=Phase.READY, healthy=True,
        address="127.0.0.1:1",
    )  # fmt: skip


def make_world(cast: Cast, artifact: Path) -> World:
    model = registry_actions.create_model("textgen", actor=cast.ana)
    live, candidate = (
        registry_actions.register(model, actor=cast.ana, artifact_uri=str(artifact), engine="textgen") for _ in "12"
    )
    environment = Environment.objects.get(name="production")
    stable = deployed(live, environment)
    Route.objects.create(environment=environment, model=model, stable=stable)
    return World(cast, live, candidate, environment, stable)
