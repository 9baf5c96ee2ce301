"""Real engines, started as the product starts them, and the whole gate against one."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from time import monotonic

import pytest

from registry import artifacts
from registry.engines import ENGINES, launch_command
from registry.qa.base import Context, RunningServer
from registry.qa.catalogue import all_checks
from registry.qa.policy import Policy
from registry.qa.runner import Result, examine, to_scored
from registry.qa.warming import warm_up
from registry.scoring import Score, Status, score
from rollouts.targets.base import Phase, ServerSpec
from rollouts.targets.local import LocalTarget
from tests.product import until

ROOT = Path(__file__).resolve().parents[2]
LLAMACPP, VLLM = ROOT / ".engines" / "llamacpp", ROOT / ".engines" / "vllm"
"""Where `make engines` and `make test-vllm` install them."""
KEY = "sk-engines-4f1d"


@dataclass(frozen=True)
class Launch:
    engine: str
    artifact: Path
    model: str
    arguments: tuple[str, ...] = ()


@contextmanager
def serving(
    launch: Launch, programs: Path, folder: Path, environment: Mapping[str, str] | None = None, *, seconds: float
) -> Iterator[RunningServer]:
    """`programs` stands first on the server's PATH: there the command of `ENGINES` is found."""
    engine = ENGINES[launch.engine]
    command = launch_command(engine, artifact=launch.artifact, model=launch.model, arguments=launch.arguments)
    assert engine.api_key_variable
    path = f"{programs}{os.pathsep}{os.environ['PATH']}"
    given = {engine.api_key_variable: KEY, "PATH": path, **(environment or {})}
    target = LocalTarget(folder)
    name = launch.engine
    try:
        target.apply(ServerSpec(name, command, given, ready_timeout=seconds))
        seen = until(
            lambda: (found := target.observe(name)).phase in (Phase.READY, Phase.FAILED) and found,
            seconds=seconds + 10,
            what=f"the start of {name}",
        )
        if seen.phase is not Phase.READY:
            pytest.fail(f"{name} did not start: {seen.message}\n{target.log_tail(name)}")
        yield RunningServer(f"http://{seen.address}", launch.model, KEY, seen.pid)
    finally:
        target.stop_all(grace=5)


def program(folder: Path, name: str, *words: str) -> Path:
    """An executable of that name which runs the words with what it is given; the folder to put on the PATH."""
    folder.mkdir(parents=True, exist_ok=True)
    script = folder / name
    script.write_text(f'#!/bin/sh\nexec {" ".join(words)} "$@"\n')
    script.chmod(script.stat().st_mode | stat.S_IXUSR)
    return folder


@dataclass(frozen=True)
class Gate:
    """What the whole gate said of one server."""

    results: Mapping[str, Result]
    score: Score
    seconds: float

    @property
    def statuses(self) -> dict[str, str]:
        return {name: result.outcome.status.value for name, result in self.results.items()}

    def reason(self, name: str) -> str:
        return self.results[name].outcome.reason

    def table(self) -> str:
        """For a person: each check, how it ended, how long it took and why."""
        rows = [
            f"{name:34} {r.outcome.status.value:15} {r.seconds:6.2f} s  {r.outcome.reason}"
            for name, r in self.results.items()
        ]
        return "\n".join([*rows, f"{self.seconds:.1f} s; {self.score.sentence}"])


def whole_gate(
    launch: Launch, server: RunningServer, policy: Policy, files: Path | None = None, *, only: str = ""
) -> Gate:
    target = LocalTarget(launch.artifact)  # of which only the machine's hardware is asked
    context = Context(
        artifact=launch.artifact,
        manifest=artifacts.build(launch.artifact),
        engine=launch.engine,
        policy=policy,
        server=server,
        hardware=target.hardware(),
        engine_arguments=launch.arguments,
        files=files,
    )
    began = monotonic()
    results = examine(context, [check for check in all_checks() if only in check.name], warm_up=warm_up)
    seconds = monotonic() - began
    return Gate(
        {result.name: result for result in results},
        score([to_scored(result) for result in results], policy.weights),
        seconds,
    )


Expected = Sequence[tuple[str, Status, str]]
"""Each check, how it ends on this engine, and words of its reason."""


def unexplained(gate: Gate, expected: Expected) -> set[str]:
    """Checks that are in one of the two only: each new check has to be explained for each engine."""
    return set(gate.results) ^ {name for name, _, _ in expected}
