"""Runs the probe in a process of its own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from registry.qa.base import RunningServer
from registry.qa.policy import Load
from registry.qa.probe.measured import (
    ENGINE_SECONDS,
    REQUEST_SECONDS,
    Alternated,
    Alternation,
    Measured,
    Question,
    Spec,
)
from registry.qa.probe.report import ProbeReport, report

ROOT = Path(__file__).resolve().parents[3]
INHERITED = ("PATH", "LANG", "LC_ALL", "PYTHONPATH", "SSL_CERT_FILE", "SSL_CERT_DIR", "SYSTEMROOT", "TMPDIR")
START_SECONDS = 10.0


class ProbeError(Exception):
    """The probe itself failed, so nothing is known about the server; the text is a sentence."""


def run_probe(
    server: RunningServer,
    load: Load,
    timeout: float | None = None,
    *,
    seed: int = 1,
    questions: tuple[Question, ...] = (),
    request_timeout: float = REQUEST_SECONDS,
) -> ProbeReport:
    """Press the server as `load` says. Raises ProbeError; never leaves a process behind."""
    spec = _spec(server, load, questions, seed, request_timeout)
    seconds = longest(spec) if timeout is None else timeout
    answer = _spawn("press", spec.to_json(), seconds, (server.api_key,))
    try:
        return report(Measured.from_json(answer))
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise ProbeError(f"The load probe's answer cannot be read: {error}.") from error


def run_alternating(
    candidate: RunningServer,
    live: RunningServer,
    load: Load,
    *,
    pairs: int,
    requests: int,
    most_seconds: float,
    questions: tuple[Question, ...] = (),
    seed: int = 1,
) -> Alternated:
    """Press both in turns. Raises ProbeError; never leaves a process behind."""
    specs = [_spec(server, load, questions, seed, REQUEST_SECONDS) for server in (candidate, live)]
    both = Alternation(specs[0], specs[1], pairs, requests, most_seconds)
    seconds = longest_alternation(both)
    answer = _spawn("alternate", both.to_json(), seconds, (candidate.api_key, live.api_key))
    try:
        return Alternated.from_json(answer)
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise ProbeError(f"The load probe's answer cannot be read: {error}.") from error


def longest(spec: Spec) -> float:
    """Seconds after which the probe must have ended, whatever the server does: start, form, warm-up and measurement."""
    load, one = spec.load, spec.request_timeout
    warm_up = load.warm_up_requests / load.requests_per_second + one
    if load.concurrency:
        warm_up = one * (1 + load.warm_up_requests // load.concurrency)
    return START_SECONDS + one + warm_up + 2 * ENGINE_SECONDS + load.seconds + one


def longest_alternation(both: Alternation) -> float:
    """The same for two: up to four forms are tried, and the last turn may be begun just before the time is up."""
    load, one = both.candidate.load, both.candidate.request_timeout
    warm_up = load.warm_up_requests / load.requests_per_second + one
    turn = both.requests / load.requests_per_second + one
    if load.concurrency:
        warm_up = one * (1 + load.warm_up_requests // load.concurrency)
        turn = one * (1 + both.requests // load.concurrency)
    return START_SECONDS + 4 * one + warm_up + both.most_seconds + turn


def _spec(
    server: RunningServer, load: Load, questions: tuple[Question, ...], seed: int, request_timeout: float
) -> Spec:
    try:
        return Spec(server.base_url, server.model, server.api_key, load, questions, seed, request_timeout)
    except ValueError as error:
        raise ProbeError(f"The load cannot be used: {error}.") from error


def _spawn(task: str, spec: Mapping[str, Any], timeout: float, secrets: tuple[str, ...]) -> Any:
    with subprocess.Popen(
        [sys.executable, "-m", "registry.qa.probe", task],
        cwd=ROOT,
        env={name: os.environ[name] for name in INHERITED if name in os.environ},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            out, err = process.communicate(json.dumps(spec), timeout)
        except subprocess.TimeoutExpired as error:
            raise ProbeError(f"The load probe did not end within {timeout:g} s.") from error
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.communicate()
    if process.returncode != 0:
        said = err.strip().splitlines()[-1:] or [f"exit code {process.returncode}"]
        raise ProbeError(f"The load probe failed: {_hidden(said[0], secrets)}")
    try:
        return json.loads(out)
    except ValueError as error:
        raise ProbeError(f"The load probe's answer cannot be read: {error}.") from error


def _hidden(text: str, secrets: tuple[str, ...]) -> str:
    for secret in filter(None, secrets):
        text = text.replace(secret, "•••")
    return text
