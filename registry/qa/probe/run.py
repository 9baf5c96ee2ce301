"""Runs the probe in a process of its own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
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
LOOKS_EVERY = 0.2
"""Seconds after which it is seen that nobody waits for the probe any more."""


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
    given_up: threading.Event | None = None,
) -> ProbeReport:
    """Press the server as `load` says, until `given_up` is set. Raises ProbeError; never leaves a process behind."""
    spec = _spec(server, load, questions, seed, request_timeout)
    seconds = longest(spec) if timeout is None else timeout
    answer = _spawn("press", spec.to_json(), seconds, (server.api_key,), given_up)
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
    given_up: threading.Event | None = None,
) -> Alternated:
    """Press both in turns, until `given_up` is set. Raises ProbeError; never leaves a process behind."""
    specs = [_spec(server, load, questions, seed, REQUEST_SECONDS) for server in (candidate, live)]
    both = Alternation(specs[0], specs[1], pairs, requests, most_seconds)
    seconds = longest_alternation(both)
    answer = _spawn("alternate", both.to_json(), seconds, (candidate.api_key, live.api_key), given_up)
    try:
        return Alternated.from_json(answer)
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise ProbeError(f"The load probe's answer cannot be read: {error}.") from error


def longest(spec: Spec) -> float:
    """Seconds after which the probe must have ended, whatever the server does: start, form, warm-up and measurement."""
    load, one = spec.load, spec.longest_timeout
    warm_up = load.warm_up_requests / load.requests_per_second + one
    if load.concurrency:
        warm_up = one * (1 + load.warm_up_requests // load.concurrency)
    return START_SECONDS + spec.request_timeout + warm_up + 2 * ENGINE_SECONDS + load.seconds + one


def longest_alternation(both: Alternation) -> float:
    """The same for two: up to four forms are tried, and the last turn may be begun just before the time is up."""
    load, one = both.candidate.load, both.candidate.longest_timeout
    warm_up = load.warm_up_requests / load.requests_per_second + one
    turn = both.requests / load.requests_per_second + one
    if load.concurrency:
        warm_up = one * (1 + load.warm_up_requests // load.concurrency)
        turn = one * (1 + both.requests // load.concurrency)
    return START_SECONDS + 4 * both.candidate.request_timeout + warm_up + both.most_seconds + turn


def _spec(
    server: RunningServer, load: Load, questions: tuple[Question, ...], seed: int, request_timeout: float
) -> Spec:
    try:
        return Spec(server.base_url, server.model, server.api_key, load, questions, seed, request_timeout)
    except ValueError as error:
        raise ProbeError(f"The load cannot be used: {error}.") from error


def _spawn(
    task: str,
    spec: Mapping[str, Any],
    timeout: float,
    secrets: tuple[str, ...],
    given_up: threading.Event | None,
) -> Any:
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
            out, err = _talk(process, json.dumps(spec), timeout, given_up)
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


def _talk(
    process: subprocess.Popen[str], given: str, timeout: float, given_up: threading.Event | None
) -> tuple[str, str]:
    ends = time.monotonic() + timeout
    rest: str | None = given
    while True:
        try:
            return process.communicate(rest, max(0.0, min(LOOKS_EVERY, ends - time.monotonic())))
        except subprocess.TimeoutExpired:
            rest = None  # it goes on with what it was given
        if given_up is not None and given_up.is_set():
            raise ProbeError("The load probe was ended, since nobody waits for it any more.")
        if time.monotonic() >= ends:
            raise ProbeError(f"The load probe did not end within {timeout:g} s.")


def _hidden(text: str, secrets: tuple[str, ...]) -> str:
    for secret in filter(None, secrets):
        text = text.replace(secret, "•••")
    return text
