"""The cast, and a small world: a live version, a canary of the next one with measurements, an experiment."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.test import Client
from django.utils import timezone

from abtests import actions as abtests_actions
from abtests import decision
from abtests.models import Experiment, Snapshot
from abtests.settings import parse_settings
from deploypipe.core import events
from deploypipe.metrics.models import RecordCursor, Window
from deploypipe.metrics.windows import (
    CANDIDATE,
    STABLE,
    WHOLE,
    ArmWindow,
    Measured,
    Units,
    units_from_json,
    units_to_json,
)  # fmt: skip
from deploypipe.stats.histogram import Histogram
from registry import actions as registry_actions
from registry.lifecycle import RunStatus
from registry.models import ModelVersion, QAResult, QARun, RegisteredModel
from registry.scoring import Scored, score
from registry.scoring import Status as Outcome
from rollouts import actions as rollout_actions
from rollouts import monitor
from rollouts.lifecycle import Status, StepStatus
from rollouts.models import Deployment, Environment, Rollout, Route, Strategy
from rollouts.targets.base import Phase
from tests.conftest import Cast

CHECKS = [
    ("compatibility.digest", "Artifact digest", "compatibility", True),
    ("performance.latency", "Time to first token", "performance", False),
    ("security.key", "Key is required", "security", True),
    ("integration.echo", "Deep Tree Echo", "integration", False),
]

SignedIn = Callable[[str], Client]


@pytest.fixture(autouse=True)
def _nobody_listens(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pages are looked at here; workers are not woken."""
    monkeypatch.setattr(events, "_tell", lambda event: None)


@pytest.fixture
def signed_in(cast: Cast) -> SignedIn:
    def sign_in(name: str) -> Client:
        client = Client()
        client.force_login(getattr(cast, name))
        return client

    return sign_in


@dataclass
class World:
    model: RegisteredModel
    live: ModelVersion
    canary: ModelVersion
    waiting: ModelVersion
    caution: ModelVersion
    rollout: Rollout
    ended: Rollout
    experiment: Experiment


@pytest.fixture
def world(cast: Cast, tmp_path: Path) -> World:
    model = registry_actions.create_model("textgen", actor=cast.ana, description="A small language model.")
    live, canary, waiting = (examined(model, cast.ana, tmp_path / f"v{n}") for n in (1, 2, 3))
    caution = examined(model, cast.ana, tmp_path / "v4", failed="performance.latency")
    for version in (live, canary):
        registry_actions.approve(version, actor=cast.bo, note="Looks right.")
    rollout = canary_under_way(live, canary, cast.cy)
    staging = Environment.objects.get(name="staging")
    stable = deployed(live, staging)
    Route.objects.create(environment=staging, model=model, stable=stable)
    ended = succeeded(canary, Environment.objects.get(name="canary"), live, cast.cy)
    experiment = compared(canary, staging, stable, cast.ana)
    return World(model, live, canary, waiting, caution, rollout, ended, experiment)


def examined(model: RegisteredModel, actor: User, folder: Path, failed: str = "") -> ModelVersion:
    folder.mkdir()
    (folder / "model.json").write_text(folder.name)
    version = registry_actions.register(
        model, actor=actor, artifact_uri=str(folder), engine="textgen", tags={"team": "search"}, parameters={"order": 3}
    )
    run = registry_actions.examine(version, actor=actor)
    QARun.objects.filter(pk=run.pk).update(status=RunStatus.RUNNING, attempt=1, planned_checks=len(CHECKS))
    run.refresh_from_db()
    for name, label, category, required in CHECKS:
        QAResult.objects.create(
            run=run,
            name=name,
            label=label,
            category=category,
            required=required,
            status=Outcome.FAILED if name == failed else Outcome.PASSED,
            value=41.5,
            limit=200,
            unit="ms",
            reason=f"What was seen of {name}.",
            evidence={"answer": "<script>alert(1)</script>"},
        )
    found = score(
        [
            Scored(name, label, category, Outcome.FAILED if name == failed else Outcome.PASSED, 1, required, "seen")
            for name, label, category, required in CHECKS
        ]
    )
    run.advance("finish", finished_at=timezone.now(), score=found.points, band=found.band, sentence=found.sentence,
                blocked=found.blocked, categories=found.categories)  # fmt: skip
    version.advance("qualify", score=found.points, band=found.band, needs_override=found.points < 80,
                    qa_sentence=found.sentence)  # fmt: skip
    return version


def deployed(version: ModelVersion, environment: Environment) -> Deployment:
    return Deployment.objects.create(
        environment=environment,
        version=version,
        name=f"{environment.name}-textgen-{version.number}",
        phase=Phase.READY,
        healthy=True,
        address="127.0.0.1:20001",
        health_message="A generation ended after 4 ms.",
        checked_at=timezone.now(),
    )


def canary_under_way(live: ModelVersion, canary: ModelVersion, actor: User) -> Rollout:
    production = Environment.objects.get(name="production")
    stable, candidate = deployed(live, production), deployed(canary, production)
    began = timezone.now() - timedelta(seconds=40)
    Route.objects.create(
        environment=production, model=live.model, stable=stable, candidate=candidate, weight=1000, changed_at=began
    )
    rollout = rollout_actions.request(
        canary, production, actor=actor, strategy=Strategy.objects.get(name="canary"), note="Better text."
    )
    rollout.steps.filter(index=0).update(status=StepStatus.DONE, began_at=began, ended_at=began)
    rollout.steps.filter(index=1).update(status=StepStatus.ACTIVE, began_at=began)
    Rollout.objects.filter(pk=rollout.pk).update(
        status=Status.PROGRESSING, candidate=candidate, previous=stable, step_index=1, traffic_from=began, step_at=began
    )
    measure(stable, candidate, began)
    rollout = Rollout.objects.get(pk=rollout.pk)
    look = monitor.look(rollout, timezone.now())
    assert look.step is not None
    Rollout.objects.filter(pk=rollout.pk).update(sentence=look.step.sentence)
    rollout.refresh_from_db()
    return rollout


def measure(stable: Deployment, candidate: Deployment, began: datetime, batches: int = 30) -> None:
    rng = random.Random(7)
    for batch in range(1, batches + 1):
        at = began + timedelta(seconds=batch)
        for deployment, requests in ((stable, 27), (candidate, 3)):
            latencies = Histogram()
            for _ in range(requests):
                latencies.add(rng.lognormvariate(1.6, 0.3))
            Window.objects.create(
                batch=batch, environment="production", model="textgen", backend=deployment.name,
                first_at=at - timedelta(milliseconds=900), last_at=at, taken_at=at, requests=requests,
                errors=int(batch == 9), error_classes={"http_5xx": 1} if batch == 9 else {}, sessions=requests,
                first_ms=latencies.to_json(), fresh=units(requests, int(batch == 9), latencies.counts),
            )  # fmt: skip
    RecordCursor.objects.create(name="gateway", read_at=timezone.now())


def units(sessions: int, failed: int, latencies: Mapping[int, int]) -> dict[str, Any]:
    """Sessions of one request each, all of them over."""
    whole = {key: count for key, count in (((1, 0), sessions - failed), ((1, 1), failed)) if count}
    by_session = {bin_: WHOLE * count for bin_, count in latencies.items()}
    return units_to_json(Units((sessions, failed), latencies, whole, by_session))


def succeeded(version: ModelVersion, environment: Environment, before: ModelVersion, actor: User) -> Rollout:
    rollout = rollout_actions.request(
        version, environment, actor=actor, strategy=Strategy.objects.get(name="all-at-once")
    )
    candidate, previous = deployed(version, environment), deployed(before, environment)
    Route.objects.create(environment=environment, model=version.model, stable=candidate)
    rollout.steps.update(status=StepStatus.DONE)
    Rollout.objects.filter(pk=rollout.pk).update(
        status=Status.SUCCEEDED, candidate=candidate, previous=previous, ended_at=timezone.now(), sentence="Promoted."
    )
    rollout.refresh_from_db()
    return rollout


def window(has_error: bool) -> ArmWindow:
    """Twenty sessions of one request each."""
    counted = units(20, int(has_error), {20: 20 - has_error})
    return ArmWindow(20, {"http_5xx": 1} if has_error else {}, assigned=20, fresh=units_from_json(counted))


def compared(version: ModelVersion, environment: Environment, stable: Deployment, actor: User) -> Experiment:
    experiment = abtests_actions.start(version, environment, actor=actor, name="Trigram against bigram")
    Rollout.objects.filter(pk=experiment.rollout_id).update(
        status=Status.PROGRESSING, candidate=deployed(version, environment), previous=stable, step_index=1
    )
    windows = [
        Measured(n, 1.0, 1, {STABLE: 0.5, CANDIDATE: 0.5}, {STABLE: window(n % 9 == 0), CANDIDATE: window(n % 7 == 0)})
        for n in range(1, 13)
    ]
    decided = decision.replay(windows, parse_settings(experiment.settings), seconds=12)
    Snapshot.objects.create(experiment=experiment, last_window=12, verdict=decided.verdict.value,
                            sentence=decided.sentence, detail=decided.to_json())  # fmt: skip
    experiment.advance("start", started_at=timezone.now(), stable=stable.version, sentence=decided.sentence)
    return experiment
