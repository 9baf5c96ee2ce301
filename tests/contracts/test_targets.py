"""What every target promises, asked of each of them."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from urllib.request import urlopen

import pytest

from deploypipe.core.errors import TargetError
from rollouts.targets.base import Observation, Phase, ServerSpec, Target
from rollouts.targets.local import LocalTarget
from rollouts.targets.memory import MemoryTarget

SERVER = Path(__file__).parents[1] / "rollouts" / "model_server.py"


def server(name: str = "textgen-1", *options: str, environment: dict[str, str] | None = None) -> ServerSpec:
    command = (sys.executable, "-S", str(SERVER), "--host", "{host}", "--port", "{port}", *options)
    return ServerSpec(name, command, environment=environment or {}, ready_timeout=20)


class Stage:
    """A target, and the ways in which the world can be made to go wrong for it."""

    def __init__(self, target: Target) -> None:
        self.target = target

    def until(self, name: str, *phases: Phase) -> Observation:
        deadline = time.monotonic() + 15
        while (seen := self.target.observe(name)).phase not in phases:
            assert time.monotonic() < deadline, seen
            time.sleep(0.02)
        return seen

    def crash(self, name: str) -> None:
        raise NotImplementedError

    def exiting(self, name: str) -> ServerSpec:
        raise NotImplementedError


class MemoryStage(Stage):
    target: MemoryTarget

    def crash(self, name: str) -> None:
        self.target.crash(name)

    def exiting(self, name: str) -> ServerSpec:
        self.target.apply(server(name, "--exit", "3"))
        self.target.make(name, Phase.FAILED, f"{name} exited with code 3.", exit_code=3)
        return server(name, "--exit", "3")


class LocalStage(Stage):
    def crash(self, name: str) -> None:
        with suppress(OSError):
            urlopen(f"http://{self.target.observe(name).address}/crash", timeout=5)

    def exiting(self, name: str) -> ServerSpec:
        return server(name, "--exit", "3")


@pytest.fixture(params=["memory", "local"])
def stage(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Stage]:
    target = MemoryTarget() if request.param == "memory" else LocalTarget(tmp_path / "servers")
    yield MemoryStage(target) if isinstance(target, MemoryTarget) else LocalStage(target)
    target.stop_all(grace=0)


def test_unknown_server_is_absent(stage: Stage) -> None:
    assert stage.target.observe("textgen-1").phase is Phase.ABSENT
    assert stage.target.names() == set()
    assert stage.target.log_tail("textgen-1") == ""


def test_applied_server_becomes_ready_and_is_known_by_name(stage: Stage) -> None:
    stage.target.apply(server())
    seen = stage.until("textgen-1", Phase.READY)
    assert seen.address
    assert seen.address.startswith("127.0.0.1:")
    assert seen.since is not None
    assert "ready" in seen.message
    assert stage.target.names() == {"textgen-1"}


def test_applying_again_changes_nothing(stage: Stage) -> None:
    stage.target.apply(server())
    before = stage.until("textgen-1", Phase.READY)
    stage.target.apply(server())
    assert stage.target.observe("textgen-1") == before


def test_two_servers_have_two_addresses(stage: Stage) -> None:
    for name in ("textgen-1", "textgen-2"):
        stage.target.apply(server(name))
    addresses = {stage.until(name, Phase.READY).address for name in ("textgen-1", "textgen-2")}
    assert len(addresses) == 2


def test_stopped_server_is_absent_in_the_end(stage: Stage) -> None:
    stage.target.apply(server())
    stage.until("textgen-1", Phase.READY)
    stage.target.stop("textgen-1")
    stage.until("textgen-1", Phase.ABSENT)
    assert stage.target.names() == set()
    stage.target.stop("textgen-1")
    assert stage.target.observe("textgen-1").phase is Phase.ABSENT


def test_stopped_server_can_be_applied_again(stage: Stage) -> None:
    stage.target.apply(server())
    stage.target.stop("textgen-1")
    stage.until("textgen-1", Phase.ABSENT)
    stage.target.apply(server())
    stage.until("textgen-1", Phase.READY)


def test_server_that_exits_has_failed_and_says_how(stage: Stage) -> None:
    stage.target.apply(stage.exiting("textgen-1"))
    seen = stage.until("textgen-1", Phase.FAILED)
    assert "exited with code 3" in seen.message
    assert seen.exit_code == 3
    assert seen.address is None
    assert stage.target.names() == {"textgen-1"}


def test_ready_server_that_crashes_has_failed(stage: Stage) -> None:
    stage.target.apply(server())
    stage.until("textgen-1", Phase.READY)
    stage.crash("textgen-1")
    seen = stage.until("textgen-1", Phase.FAILED)
    assert "SEGV" in seen.message
    assert seen.exit_code == -11


def test_failed_server_is_started_by_restart_and_not_by_apply(stage: Stage) -> None:
    stage.target.apply(server())
    stage.until("textgen-1", Phase.READY)
    stage.crash("textgen-1")
    failed = stage.until("textgen-1", Phase.FAILED)
    stage.target.apply(server())
    assert stage.target.observe("textgen-1") == failed
    stage.target.restart(server())
    stage.until("textgen-1", Phase.READY)


def test_restart_leaves_a_ready_server_alone(stage: Stage) -> None:
    stage.target.apply(server())
    before = stage.until("textgen-1", Phase.READY)
    stage.target.restart(server())
    assert stage.target.observe("textgen-1") == before


def test_restart_starts_a_server_that_is_absent(stage: Stage) -> None:
    stage.target.restart(server())
    stage.until("textgen-1", Phase.READY)


def test_failed_server_is_forgotten_when_stopped(stage: Stage) -> None:
    stage.target.apply(stage.exiting("textgen-1"))
    stage.until("textgen-1", Phase.FAILED)
    stage.target.stop("textgen-1")
    assert stage.target.observe("textgen-1").phase is Phase.ABSENT


CHANGES: dict[str, Callable[[ServerSpec], ServerSpec]] = {
    "command": lambda spec: replace(spec, command=(*spec.command, "--stubborn")),
    "environment": lambda spec: replace(spec, environment={"MODEL_KEY": "other"}),
    "ready_path": lambda spec: replace(spec, ready_path="/ready"),
    "ready_timeout": lambda spec: replace(spec, ready_timeout=30),
}


@pytest.mark.parametrize("change", CHANGES)
def test_changed_server_under_the_same_name_is_refused_for_good(stage: Stage, change: str) -> None:
    spec = server(environment={"MODEL_KEY": "first"})
    stage.target.apply(spec)
    with pytest.raises(TargetError, match="textgen-1") as refused:
        stage.target.apply(CHANGES[change](spec))
    assert refused.value.permanent


@pytest.mark.parametrize("name", ["", "Textgen", "-a", "a-", "../a", "a/b", "a.b", "a" * 64, "a\n"])
def test_what_cannot_be_a_name_is_refused_for_good(stage: Stage, name: str) -> None:
    for call in (lambda: stage.target.apply(server(name)), lambda: stage.target.observe(name)):
        with pytest.raises(TargetError, match="cannot name a server") as refused:
            call()
        assert refused.value.permanent


def test_server_without_a_command_is_refused_for_good(stage: Stage) -> None:
    with pytest.raises(TargetError, match="no program") as refused:
        stage.target.apply(ServerSpec("textgen-1", ()))
    assert refused.value.permanent
    assert stage.target.names() == set()


def test_memory_target_raises_the_error_it_was_told_to_once() -> None:
    target = MemoryTarget()
    target.fail_next(TargetError("The machine is away."))
    with pytest.raises(TargetError, match="away"):
        target.apply(server())
    target.apply(server())
    assert target.started == ["textgen-1"]


def test_memory_target_shows_servers_that_nobody_applied() -> None:
    target = MemoryTarget(ready_at_once=False)
    target.make("orphan", Phase.READY)
    target.apply(server())
    assert target.names() == {"orphan", "textgen-1"}
    assert target.observe("textgen-1").phase is Phase.STARTING
    target.write_log("orphan", "one")
    target.write_log("orphan", "two")
    assert target.log_tail("orphan", lines=1) == "two"
