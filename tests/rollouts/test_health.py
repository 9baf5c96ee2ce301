"""Is a server well? Asked of real ones on the loopback; the last word is on the row, each change is kept."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from django.utils import timezone

from registry import actions as registry_actions
from rollouts import health, servers
from rollouts.models import Deployment, Desired, HealthSample
from rollouts.targets.base import Phase
from tests.registry.faulty_engine import KEY, MODEL, Engine, running_engine
from tests.rollouts.conftest import World


@pytest.fixture(scope="module")
def running() -> Iterator[Engine]:
    with running_engine() as engine:
        yield engine


@pytest.fixture
def engine(running: Engine) -> Engine:
    running.reset()
    return running


@pytest.fixture
def deployment(world: World, engine: Engine, settings: Any) -> Deployment:
    settings.ENGINE_API_KEY = KEY
    settings.HEALTH_DEADLINE = 5.0
    model = registry_actions.create_model(MODEL, actor=world.cast.ana)
    made = servers.deploy(world.approved(model), world.production)
    Deployment.objects.filter(pk=made.pk).update(phase=Phase.READY, address=engine.base_url.removeprefix("http://"))
    return fresh(made)


def fresh(deployment: Deployment) -> Deployment:
    return Deployment.objects.select_related("version__model").get(pk=deployment.pk)


def samples(deployment: Deployment) -> list[tuple[bool, str]]:
    return list(deployment.health_samples.order_by("pk").values_list("healthy", "layer"))


def test_server_that_generates_is_healthy(deployment: Deployment) -> None:
    assert health.check(deployment, timezone.now()) is True
    deployment = fresh(deployment)
    assert deployment.healthy is True
    assert "One token was generated" in deployment.health_message
    assert samples(deployment) == [(True, "generation")]


def test_one_failed_check_is_a_hiccup_and_two_are_a_finding(deployment: Deployment, engine: Engine) -> None:
    health.check(deployment, timezone.now())
    engine.faults = {"unhealthy"}
    assert health.check(fresh(deployment), timezone.now()) is False
    deployment = fresh(deployment)
    assert (deployment.healthy, deployment.health_failures) == (True, 1)
    health.check(deployment, timezone.now())
    deployment = fresh(deployment)
    assert (deployment.healthy, deployment.health_failures) == (False, 2)
    assert "503" in deployment.health_message
    assert samples(deployment) == [(True, "generation"), (False, "health")]


def test_failures_count_only_in_a_row(deployment: Deployment, engine: Engine) -> None:
    for faults in ({"unhealthy"}, set(), {"unhealthy"}):
        engine.faults = set(faults)
        health.check(fresh(deployment), timezone.now())
    deployment = fresh(deployment)
    assert (deployment.healthy, deployment.health_failures) == (True, 1)


def test_server_that_was_never_well_is_unknown_until_there_are_enough_failures(
    deployment: Deployment, engine: Engine
) -> None:
    engine.faults = {"other model"}
    health.check(deployment, timezone.now())
    assert fresh(deployment).healthy is None
    assert samples(deployment) == []
    health.check(fresh(deployment), timezone.now())
    assert fresh(deployment).healthy is False
    assert samples(deployment) == [(False, "models")]


def test_sample_is_kept_only_on_a_change(deployment: Deployment) -> None:
    for _ in range(3):
        health.check(fresh(deployment), timezone.now())
    assert HealthSample.objects.count() == 1


def test_server_that_hangs_behind_a_good_health_page_is_found_out(
    deployment: Deployment, engine: Engine, settings: Any
) -> None:
    settings.HEALTH_DEADLINE = 0.3
    engine.faults = {"hangs"}
    for _ in range(2):
        health.check(fresh(deployment), timezone.now())
    deployment = fresh(deployment)
    assert deployment.healthy is False
    assert "/health answers 200 but a one-token generation did not end" in deployment.health_message


def test_server_that_is_gone_is_found_out(deployment: Deployment, settings: Any) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        nobody = f"127.0.0.1:{probe.getsockname()[1]}"
    Deployment.objects.filter(pk=deployment.pk).update(address=nobody)
    settings.HEALTH_FAILURES = 1
    health.check(fresh(deployment), timezone.now())
    assert samples(deployment) == [(False, "tcp")]


@pytest.mark.parametrize(
    "meanwhile", [{"address": "127.0.0.1:9"}, {"phase": Phase.FAILED, "address": ""}, {"phase": Phase.STARTING}]
)
def test_answer_about_a_server_that_is_not_there_any_more_is_ignored(
    deployment: Deployment, meanwhile: dict[str, Any]
) -> None:
    before = fresh(deployment)
    Deployment.objects.filter(pk=deployment.pk).update(**meanwhile)
    assert health.check(before, timezone.now()) is True
    assert fresh(deployment).healthy is None
    assert not HealthSample.objects.exists()


def test_second_worker_does_not_ask_as_well(deployment: Deployment, engine: Engine) -> None:
    stale = fresh(deployment)
    health.check(deployment, timezone.now())
    assert health.check(stale, timezone.now()) is None


def test_health_that_is_shown_again_begins_the_pauses_of_restarts_anew(deployment: Deployment) -> None:
    Deployment.objects.filter(pk=deployment.pk).update(restarts=4)
    health.check(deployment, timezone.now())
    assert fresh(deployment).restarts == 0


def test_due_are_the_servers_that_run_and_were_not_asked_lately(deployment: Deployment, settings: Any) -> None:
    now = timezone.now()
    assert deployment in health.due(now)
    health.check(deployment, now)
    assert deployment not in health.due(now)
    assert deployment in health.due(now + timedelta(seconds=settings.HEALTH_INTERVAL))
    for changes in ({"phase": Phase.STARTING}, {"desired": Desired.STOPPED, "phase": Phase.READY}):
        Deployment.objects.filter(pk=deployment.pk).update(**changes)
        assert deployment not in health.due(now + timedelta(days=1))
