"""The whole product as `manage.py run` starts it, for tests that use it as a person would, or break it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, TypeVar

import psutil
import pytest

from examples.story.client import Api, Json
from examples.story.demo import Stage
from examples.textgen import train

MODEL, ENVIRONMENT = "textgen", "production"
RATE = 40.0
JUDGE = {
    "analysis": {
        "max_error_increase_points": 5.0,
        "max_error_rate_percent": 20.0,
        "max_latency_increase_percent": None,  # milliseconds on a machine that is busy with tests say nothing
        "min_requests": 60,
    }
}
STEPS = [{"setWeight": 30}, JUDGE, {"setWeight": 60}, JUDGE, {"setWeight": 100}]
ENDED = ("succeeded", "rolled_back", "cancelled")


T = TypeVar("T")


def until(condition: Callable[[], T | Literal[False] | None], *, seconds: float, what: str) -> T:
    """The first true answer; fails with a sentence when there is none in time."""
    deadline = time.monotonic() + seconds
    while True:
        if answer := condition():
            return answer
        if time.monotonic() > deadline:
            pytest.fail(f"{what} did not happen within {seconds:g} s")
        time.sleep(0.05)


class Product:
    """A running product and what one does to it."""

    def __init__(self, folder: Path, **environment: str) -> None:
        self.stage = Stage(folder)
        self.stage.environment |= {"DEPLOYPIPE_HEALTH_INTERVAL": "0.5", "DEPLOYPIPE_HEALTH_DEADLINE": "1"}
        self.stage.environment |= environment
        self.stage.manage("migrate", "--verbosity", "0")
        self.stage.manage("demo_accounts")
        self.start()
        self.api = Api(self.stage.url, folder / "secrets" / "demo-tokens.json")
        self.key = (folder / "secrets" / "engine").read_text()
        self._number = 0
        self.api.post("models/", "ana", {"name": MODEL})

    def start(self) -> None:
        self.stage.start()

    def registered(self, *arguments: str, kind: str = "bigram") -> Json:
        self._number += 1
        folder = self.stage.folder / "artifacts" / f"v{self._number}"
        train.train(kind, folder)
        body = {"artifact_uri": folder.as_uri(), "engine": "textgen", "engine_arguments": list(arguments)}
        return self.api.post(f"models/{MODEL}/versions/", "ana", body)

    def examined(self, version: Json) -> Json:
        path = f"versions/{version['id']}/"
        if self.api.get(path)["stage"] == "registered":
            self.api.post(f"{path}examine/", "ana")
        return until(
            lambda: (seen := self.api.get(path))["stage"] not in ("registered", "examining") and seen,
            seconds=120,
            what="the end of the examination",
        )

    def approved(self, *arguments: str, kind: str = "bigram") -> Json:
        version = self.examined(self.registered(*arguments, kind=kind))
        self.api.post(f"versions/{version['id']}/approve/", "bo", {"note": "for a test"})
        return version

    def rollout(self, version: Json, steps: list[Json] | None = None) -> int:
        body = {"model": MODEL, "version": version["number"], "environment": ENVIRONMENT, "steps": steps or STEPS}
        return int(self.api.post("rollouts/", "cy", body)["id"])

    @property
    def live(self) -> Json:
        """The version that was promoted last; an experiment that went well has promoted none."""
        ended = self.api.get("rollouts/", status="succeeded", environment=ENVIRONMENT)["results"]
        return {"number": next(rollout["version"] for rollout in ended if rollout["purpose"] == "promote")}

    def experiment(self, version: Json, settings: Json, **more: Any) -> int:
        body = {"model": MODEL, "version": version["number"], "environment": ENVIRONMENT, "settings": settings, **more}
        return int(self.api.post("experiments/", "cy", body)["id"])

    def experiment_seen(self, experiment: int) -> Json:
        seen: Json = self.api.get(f"experiments/{experiment}/")
        return seen

    def experiment_of(self, rollout: int) -> int:
        """That its current step waits for."""
        return until(
            lambda: next((int(e["id"]) for e in self.api.get("experiments/")["results"] if e["rollout"] == rollout), 0),
            seconds=60,
            what=f"an experiment of rollout {rollout}",
        )

    def looks_at(self, experiment: int, *, more_than: int = 0, seconds: float = 60) -> Json:
        """It, once it runs and was looked at more often than that."""

        def there() -> Json | None:
            seen = self.experiment_seen(experiment)
            assert seen["status"] in ("draft", "running"), seen["sentence"]
            return seen if seen["latest"] and seen["latest"]["looks"] > more_than else None

        return until(there, seconds=seconds, what=f"a look at experiment {experiment}")

    def decided(self, experiment: int, *, seconds: float = 120) -> Json:
        return until(
            lambda: (seen := self.experiment_seen(experiment))["status"] not in ("draft", "running") and seen,
            seconds=seconds,
            what=f"the end of experiment {experiment}",
        )

    def replayed(self, experiment: int) -> subprocess.CompletedProcess[str]:
        """What the command line says of its verdicts, computed again."""
        command = [sys.executable, "-m", "deploypipe", "experiment", "replay", str(experiment), "--url", self.stage.url]
        return subprocess.run(
            command,
            env={**os.environ, "DEPLOYPIPE_TOKEN": self.api.key_of("dee")},
            capture_output=True,
            text=True,
            timeout=120,
        )

    def seen(self, rollout: int) -> Json:
        seen: Json = self.api.get(f"rollouts/{rollout}/")
        return seen

    def ended(self, rollout: int, *, seconds: float = 120) -> Json:
        return until(
            lambda: (seen := self.seen(rollout))["status"] in ENDED and seen, seconds=seconds, what="the rollout's end"
        )

    def reached(self, rollout: int, step: int, *, seconds: float = 60) -> Json:
        def there() -> Json | None:
            seen = self.seen(rollout)
            assert seen["status"] not in ENDED, seen["reason"]
            return seen if seen["step_index"] >= step else None

        return until(there, seconds=seconds, what=f"step {step} of the rollout")

    def server(self, version: Json) -> psutil.Process:
        """The process that serves a version in production."""
        return psutil.Process(self.record(version)["identity"]["pid"])

    def record(self, version: Json) -> Json:
        name = f"{MODEL}-v{version['number']}-{ENVIRONMENT}"
        path = self.stage.folder / "servers" / f"{name}.json"

        def there() -> Json | None:
            """Between a process that died and the one that takes its place there is none for a moment."""
            try:
                found: Json = json.loads(path.read_text())
            except FileNotFoundError:
                return None
            return found

        return until(there, seconds=30, what=f"a process of {name}")

    @property
    def recorded(self) -> int:
        """Lines that the gateway has written."""
        return (self.stage.folder / "gateway" / "access.log").read_bytes().count(b"\n")

    @property
    def envoy(self) -> psutil.Process | None:
        return next((p for p in self.stage.tree() if p.name() == "envoy"), None)

    def kill_main(self) -> None:
        """SIGKILL of web, worker and scheduler at once; Envoy and model servers are processes of their own."""
        assert self.stage.process is not None
        self.stage.process.send_signal(signal.SIGKILL)
        self.stage.process.wait()

    def kill_tree(self) -> None:
        """Everything. The gateway before the model servers, as one who is dead cannot answer for another."""
        self.kill_main()
        if (envoy := self.envoy) is not None:
            envoy.kill()
        for process in self.stage.tree():
            if "examples.textgen.traffic" not in process.cmdline():  # the users live elsewhere
                process.kill()

    @contextmanager
    def traffic(self, *options: str) -> Iterator[dict[str, Any]]:
        """Users, for as long as the body runs; their report is in the dictionary afterwards."""
        report: dict[str, Any] = {}
        path = self.stage.folder / f"traffic-{time.monotonic_ns()}.json"
        command = [sys.executable, "-m", "examples.textgen.traffic", "--model", MODEL, "--rate", str(RATE), *options]
        command += ["--base-url", f"{self.stage.gateway}/{ENVIRONMENT}/{MODEL}", "--report", str(path)]
        keys = {"TEXTGEN_API_KEY": self.key, "TEXTGEN_FEEDBACK_TOKEN": self.api.key_of("ana")}
        users = subprocess.Popen(command, env={**os.environ, **keys}, stdout=subprocess.DEVNULL, start_new_session=True)
        try:
            yield report
        finally:
            users.terminate()
            users.wait(60)
            report.update(json.loads(path.read_text()))
