"""A small world to roll out in: memory back ends, examined versions, and measurements on demand."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from django.utils import timezone

from deploypipe.core.models import AuditEntry
from deploypipe.metrics.models import RecordCursor
from deploypipe.metrics.models import Window as StoredWindow
from deploypipe.metrics.windows import Units, units_to_json
from registry import actions as registry_actions
from registry.models import ModelVersion, QARun, RegisteredModel
from registry.scoring import Band
from rollouts import actions, reconcile
from rollouts.backends import gates, routers, targets
from rollouts.lifecycle import Status
from rollouts.models import Deployment, Environment, Rollout, Route
from rollouts.plan import Finding
from rollouts.targets.base import Phase
from rollouts.targets.memory import MemoryTarget
from rollouts.traffic.base import TOTAL_WEIGHT
from rollouts.traffic.memory import MemoryRouter
from tests.conftest import Cast, make_cast

CANARY: list[dict[str, Any]] = [{"setWeight": 10}, {"analysis": {}}, {"setWeight": 100}]


@dataclass
class World:
    cast: Cast
    model: RegisteredModel
    artifact: Path
    target: MemoryTarget
    router: MemoryRouter
    _batches: Iterator[int] = field(default_factory=lambda: count(1))

    @property
    def production(self) -> Environment:
        return Environment.objects.get(name="production")

    @property
    def staging(self) -> Environment:
        return Environment.objects.get(name="staging")

    # Versions

    def registered(self, model: RegisteredModel | None = None) -> ModelVersion:
        return registry_actions.register(
            model or self.model, actor=self.cast.ana, artifact_uri=self.artifact.as_uri(), engine="textgen"
        )

    def examined(
        self, version: ModelVersion, *, verb: str = "qualify", score: float = 97, band: Band = Band.EXCELLENT
    ) -> ModelVersion:
        """As an examination leaves it."""
        if version.stage != "examining":
            registry_actions.examine(version, actor=self.cast.ana)
        QARun.objects.filter(version=version).update(status="finished", finished_at=timezone.now())
        version.advance(verb, score=score, band=band, qa_sentence=f"Score {score:g}: {band.value}.")
        return version

    def approved(self, model: RegisteredModel | None = None, **examination: Any) -> ModelVersion:
        version = self.examined(self.registered(model), **examination)
        registry_actions.approve(version, actor=self.cast.bo)
        return version

    # Rollouts

    def request(self, version: ModelVersion, steps: Any = None, **options: Any) -> Rollout:
        options.setdefault("actor", self.cast.cy)
        options.setdefault("environment", self.production)
        environment = options.pop("environment")
        return actions.request(version, environment, steps=CANARY if steps is None else steps, **options)

    def run(self, rollout: Rollout, *, times: int = 30) -> Rollout:
        """As beat and its workers do: health is asked and the rollout brought forward, until nothing changes."""
        for _ in range(times):
            before = Rollout.objects.values_list("status", "step_index", "fence").get(pk=rollout.pk)
            self.check_health()
            worked = reconcile.reconcile(rollout.pk)
            rollout.refresh_from_db()
            if not worked and before[:2] == (rollout.status, rollout.step_index) and not self.unasked():
                break
        return rollout

    def unasked(self) -> bool:
        return Deployment.objects.filter(phase=Phase.READY, healthy=None).exists()

    def check_health(self) -> None:
        """What the health checks would note, where every server that is ready is well."""
        Deployment.objects.filter(phase=Phase.READY, healthy=None).update(healthy=True)

    def live(self, model: RegisteredModel | None = None) -> ModelVersion:
        """A version that has all traffic of production."""
        version = self.approved(model)
        rollout = self.run(self.request(version))
        assert rollout.status == Status.SUCCEEDED, rollout.sentence
        return version

    def canary(self, steps: Any = None, **options: Any) -> Rollout:
        """One version is live, the next one stands at the first step that waits."""
        self.live()
        return self.run(self.request(self.approved(), steps, **options))

    # Measurements

    def read_records(self, at: datetime | None = None) -> None:
        """The gateway's records have been read until now."""
        RecordCursor.objects.update_or_create(name="gateway", defaults={"read_at": at or timezone.now()})

    def measure(
        self,
        rollout: Rollout,
        *,
        candidate: tuple[int, int] = (0, 0),
        stable: tuple[int, int] = (0, 0),
        began: datetime | None = None,
        others: Mapping[Deployment, tuple[int, int]] | None = None,
    ) -> int:
        """Requests and errors of both arms, and of more candidates, as one batch of records; its number."""
        self.read_records()
        batch = next(self._batches)
        now = timezone.now()
        named = ((rollout.candidate, candidate), (rollout.previous, stable), *(others or {}).items())
        for deployment, (requests, errors) in named:
            if deployment is not None and requests:
                StoredWindow.objects.create(
                    batch=batch,
                    environment=rollout.environment.name,
                    model=rollout.model.name,
                    backend=deployment.name,
                    first_at=began or now,
                    last_at=now,
                    taken_at=now,
                    requests=requests,
                    errors=errors,
                    error_classes={"http_5xx": errors} if errors else {},
                    fresh=units(requests, errors),
                )
        return batch

    def measure_good(self, rollout: Rollout) -> int:
        return self.measure(rollout, candidate=(20_000, 20), stable=(180_000, 180))

    def measure_bad(self, rollout: Rollout) -> int:
        return self.measure(rollout, candidate=(500, 100), stable=(4_500, 4))

    # What is seen

    def route(self, model: RegisteredModel | None = None) -> Route:
        return Route.objects.get(environment=self.production, model=model or self.model)

    def wire(self, model: RegisteredModel | None = None) -> dict[str, int]:
        """The shares that are in force at the gateway, without those that get nothing."""
        weights = self.router.installed().weights.get(f"production/{(model or self.model).name}", {})
        return {name: weight for name, weight in weights.items() if weight}

    def deployment(self, version: ModelVersion) -> Deployment:
        return Deployment.objects.get(version=version, environment=self.production)

    def crash(self, deployment: Deployment | None) -> None:
        assert deployment is not None
        self.target.crash(deployment.name)


def units(sessions: int, failed: int) -> dict[str, Any]:
    """Sessions of one request each, all of them over."""
    whole = {key: count for key, count in (((1, 0), sessions - failed), ((1, 1), failed)) if count}
    return units_to_json(Units(first=(sessions, failed), whole=whole))


def candidate_of(rollout: Rollout) -> Deployment:
    assert rollout.candidate is not None
    return rollout.candidate


def previous_of(rollout: Rollout) -> Deployment:
    assert rollout.previous is not None
    return rollout.previous


def all_on(deployment: Deployment | None) -> dict[str, int]:
    assert deployment is not None
    return {deployment.name: TOTAL_WEIGHT}


def verbs_of(rollout: Rollout) -> list[str]:
    """What the audit says of a rollout, oldest first."""
    entries = AuditEntry.objects.filter(object_type="rollouts.rollout", object_id=str(rollout.pk))
    return list(entries.order_by("sequence").values_list("verb", flat=True))


def long_ago(**fields: float) -> dict[str, datetime]:
    """Moments so many seconds ago."""
    return {name: timezone.now() - timedelta(seconds=seconds) for name, seconds in fields.items()}


def make_world(artifact: Path, target: MemoryTarget, router: MemoryRouter) -> World:
    cast = make_cast()
    return World(cast, registry_actions.create_model("textgen", actor=cast.ana), artifact, target, router)


@pytest.fixture
def world(db: None, artifact: Path, target: MemoryTarget, router: MemoryRouter) -> World:
    return make_world(artifact, target, router)


@dataclass
class ScriptedGate:
    """A gate that says what the test wants."""

    finding: Finding = field(default_factory=lambda: Finding("insufficient_data", "Nothing is known yet."))
    ended: list[int] = field(default_factory=list)
    asked: int = 0
    error: Exception | None = None

    def check(self, settings: Any) -> dict[str, str]:
        return {"speed": "is not known here; there is: taste"} if "speed" in settings else {}

    def title(self, settings: Any) -> str:
        return "Tasting"

    def watch(self, settings: Any) -> dict[str, Any]:
        return {"max_error_increase_points": 7.0}

    def judge(self, rollout: Rollout, step_index: int, *, now: datetime, seconds: float) -> Finding:
        self.asked += 1
        if self.error:
            raise self.error
        return self.finding

    def end(self, rollout: Rollout, step_index: int, *, now: datetime) -> None:
        self.ended.append(step_index)


@pytest.fixture
def gate() -> Iterator[ScriptedGate]:
    """Steps of the kind "tasting"."""
    scripted = ScriptedGate()
    gates.register("tasting")(scripted)
    yield scripted
    gates.unregister("tasting")


Replace = Callable[[str, Any], None]


@pytest.fixture
def backend() -> Iterator[Replace]:
    """Put another target or router in place: `backend("target", …)`."""

    def put(kind: str, instance: Any) -> None:
        (targets if kind == "target" else routers).replace("local" if kind == "target" else "envoy", instance)

    yield put
    targets.forget()
    routers.forget()
