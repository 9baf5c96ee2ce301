"""Somewhere to run a version while it is examined: it is there for the time of the examination and gone afterwards."""

from __future__ import annotations

import logging
import threading
from typing import Any

import pytest

from deploypipe.core.errors import TargetError
from registry.models import ModelVersion, QARun
from rollouts.examination import ExaminationHost
from rollouts.servers import examination_name, spec_of
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
