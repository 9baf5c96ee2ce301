"""The models, trained once, and their server as a real process on a free port."""

import os
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

from examples.textgen.train import train

ROOT = Path(__file__).resolve().parents[2]
KEY = "sk-first"
KEYS = f"{KEY},sk-second"
MODEL = "textgen"
NO_TLS = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # httpx would read all authorities of the machine for each client


@dataclass
class TextgenServer:
    process: subprocess.Popen[str]
    url: str
    http: httpx.Client = field(repr=False)
    anonymous: httpx.Client = field(repr=False)

    def post(self, path: str, **fields: Any) -> httpx.Response:
        return self.http.post(path, json={"model": MODEL} | fields)

    def complete(self, prompt: str = "The class", **fields: Any) -> httpx.Response:
        return self.post("/v1/completions", prompt=prompt, **fields)

    def metric(self, name: str) -> float:
        """The sum over all labels that the name does not pin."""
        wanted, _, labels = name.partition("{")
        pins = [pin for pin in labels.rstrip("}").split(",") if pin]
        return sum(
            float(line.rpartition(" ")[2])
            for line in self.http.get("/metrics").text.splitlines()
            if line.partition("{")[0] == wanted and all(pin in line for pin in pins)
        )


def wait_until(is_true: Callable[[], bool], *, seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    while not is_true():
        assert time.monotonic() < deadline, "the condition did not come true in time"
        time.sleep(0.01)


def module(name: str, *arguments: str, keys: str = KEYS) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-W", "error", "-m", f"examples.textgen.{name}", *arguments],
        cwd=ROOT,
        env=os.environ | {"TEXTGEN_API_KEY": keys},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@contextmanager
def serving(model: Path, *arguments: str, keys: str = KEYS) -> Iterator[TextgenServer]:
    """A server that says on stderr which port it took. It is killed at the end if the test has not stopped it."""
    process = module(
        "server", "--model", str(model), "--port", "0", "--served-model-name", MODEL, *arguments, keys=keys
    )
    with process:
        assert process.stderr is not None
        try:
            line = process.stderr.readline()
            assert "serving" in line, line + process.stderr.read()
            url = line.split()[-1]
            with (
                httpx.Client(base_url=url, headers={"authorization": f"Bearer {KEY}"}, verify=NO_TLS) as http,
                httpx.Client(base_url=url, verify=NO_TLS) as anonymous,
            ):
                wait_until(lambda: _answers(http))
                yield TextgenServer(process, url, http, anonymous)
        finally:
            process.kill()


def _answers(http: httpx.Client) -> bool:
    try:
        return bool(http.get("/health").status_code)
    except httpx.TransportError:
        return False


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("models")
    return {kind: train(kind, folder / kind).folder for kind in ("bigram", "trigram")}


@pytest.fixture(scope="session")
def server(models: dict[str, Path]) -> Iterator[TextgenServer]:
    with serving(models["trigram"], "--rate-limit", "0") as running:
        yield running
