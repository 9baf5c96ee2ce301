"""Somewhere to run a version while it is examined: it is there for the time of the examination and gone afterwards."""

from __future__ import annotations

import logging
import threading
from typing import Any

import pytest

from deploypipe.core.errors import TargetError
from registry.models import ModelVersion, QARun
from rollouts.examination import ExaminationHost
from rollouts.servers import examination_name, live_copy_name, spec_of
from rollouts.targets.base import Phase
from tests.rollouts.conftest import World

HOST = ExaminationHost()


@pytest.fixture
def version(world: World) -> ModelVersion:
    return world.registered()


@pytest.fixture
def run(version: ModelVersion) -> QARun:
    return QARun.objects.create(version=version, digest=version.digest, policy={}, status="running")


def test_server_is_there_for_the_examination_and_gone_afterwards(
    world: World, version: ModelVersion, run: QARun, settings: Any
) -> None:
    with HOST.candidate(version, run) as server:
        name = examination_name(run.pk, run.attempt)
        assert server.base_url == f"http://{world.target.observe(name).address}"
        assert (server.model, server.api_key) == ("textgen", settings.ENGINE_API_KEY)
        assert world.target.names() == {name}
    assert world.target.names() == set()


def test_server_is_gone_also_when_the_examination_fails(world: World, version: ModelVersion, run: QARun) -> None:
    with pytest.raises(ZeroDivisionError), HOST.candidate(version, run):
        raise ZeroDivisionError
    assert world.target.names() == set()


def test_server_that_cannot_be_stopped_does_not_hide_what_was_found(
    world: World, version: ModelVersion, run: QARun, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING), HOST.candidate(version, run):
        world.target.fail_next(TargetError("It does not let go."))
    assert "It does not let go." in caplog.text


def test_server_that_is_left_over_from_a_dead_worker_is_used(world: World, version: ModelVersion, run: QARun) -> None:
    world.target.apply(spec_of(version, examination_name(run.pk, run.attempt)))
    with HOST.candidate(version, run):
        assert world.target.started == [examination_name(run.pk, run.attempt)]


@pytest.mark.parametrize("phase", [Phase.FAILED, Phase.ABSENT, Phase.STOPPING])
def test_server_that_does_not_start_is_a_sentence(
    world: World, version: ModelVersion, run: QARun, phase: Phase
) -> None:
    world.target.ready_at_once = False
    name = examination_name(run.pk, run.attempt)

    def end() -> None:
        while name not in world.target.names():
            pass
        world.target.make(name, phase, "It exited with code 3.")

    ender = threading.Thread(target=end)
    ender.start()
    words = "The server did not start"
    with pytest.raises(TargetError, match=words), HOST.candidate(version, run):
        raise AssertionError("it never ran")
    ender.join(5)
    assert world.target.names() == set()


def test_server_that_is_never_ready_is_a_sentence(
    world: World, version: ModelVersion, run: QARun, settings: Any
) -> None:
    settings.READY_TIMEOUT = 0.05
    world.target.ready_at_once = False
    with pytest.raises(TargetError, match=r"not ready within 0\.05 s"), HOST.candidate(version, run):
        raise AssertionError("it never ran")


# What it is compared with


def test_live_version_is_compared_with_as_a_copy_and_never_itself(world: World) -> None:
    live = world.live()
    version = world.registered()
    run = QARun.objects.create(version=version, digest=version.digest, policy={}, status="running")
    serving = HOST.live(version, run)
    assert serving is not None
    with serving as server:
        name = live_copy_name(run.pk, run.attempt)
        assert server.base_url == f"http://{world.target.observe(name).address}"
        assert world.target.spec(name) == spec_of(live, name)
        assert world.target.names() == {name, world.deployment(live).name}
        assert server.base_url != f"http://{world.target.observe(world.deployment(live).name).address}"
    assert world.target.names() == {world.deployment(live).name}


def test_before_anything_is_live_there_is_nothing_to_compare_with(version: ModelVersion, run: QARun) -> None:
    assert HOST.live(version, run) is None


def test_live_version_is_not_compared_with_itself(world: World) -> None:
    live = world.live()
    run = QARun.objects.create(version=live, digest=live.digest, policy={}, status="running")
    assert HOST.live(live, run) is None


def test_environment_of_the_examination_decides_what_is_live(world: World) -> None:
    world.live()
    version = world.registered()
    run = QARun.objects.create(
        version=version, digest=version.digest, policy={}, status="running", environment="staging"
    )
    assert HOST.live(version, run) is None
    run.environment = "production"
    assert HOST.live(version, run) is not None


def test_hardware_is_what_the_target_has(world: World, version: ModelVersion, run: QARun) -> None:
    assert HOST.hardware(version, run) is None  # the memory target declares nothing
