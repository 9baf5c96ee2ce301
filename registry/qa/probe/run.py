"""Runs the probe in a process of its own and turns what it measured into figures."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from deploypipe.stats.intervals import binomial_bounds
from registry.qa.base import RunningServer
from registry.qa.policy import Load
from registry.qa.probe.measured import Failure, Measured, Spec

ROOT = Path(__file__).resolve().parents[3]
INHERITED = ("PATH", "LANG", "LC_ALL", "PYTHONPATH", "SSL_CERT_FILE", "SSL_CERT_DIR", "SYSTEMROOT", "TMPDIR")


class ProbeError(Exception):
    """The probe itself failed, so nothing is known about the server; the text is a sentence."""


@dataclass(frozen=True)
class Figure:
    """A measured quantity in milliseconds; percentiles are measured values (nearest rank), never interpolated."""

    n: int
    mean: float
    p50: float
    p95: float
    p99: float
    highest: float
    p95_low: float | None
    """The 95 % confidence interval of p95. None where so few values say nothing on that side."""
    p95_high: float | None


@dataclass(frozen=True)
class ProbeReport:
    path: str
    streamed: bool
    """False: the server cannot stream, and the first text is the whole answer."""
    requests: int
    failures: dict[str, int]
    """By class (`Failure`); empty when none failed."""
    examples: dict[str, str]
    """What the first failure of each class said."""
    seconds: float
    first_token_ms: Figure | None
    """None when no request brought any text. One that timed out counts with the time waited."""
    gap_ms: Figure | None
    """Between two events of a stream. They come in bunches, so its interval is narrower than it should be."""
    whole_ms: Figure | None
    lag_ms: Figure | None
    """How late the probe was in sending: large on a machine that is too busy to measure on."""
    tokens: int
    tokens_from: str
    """"usage" where the server counted them, else "events"."""
    tokens_per_second: float
    requests_per_second: float
    """Answered without failure."""

    @property
    def failed(self) -> int:
        return sum(self.failures.values())

    @property
    def error_rate_percent(self) -> float:
        return 100.0 * self.failed / self.requests

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def run_probe(server: RunningServer, load: Load, timeout: float | None = None, *, seed: int = 1) -> ProbeReport:
    """Press the server as `load` says. Raises ProbeError; never leaves a process behind."""
    try:
        spec = Spec(server.base_url, server.model, server.api_key, load, seed)
    except ValueError as error:
        raise ProbeError(f"The load cannot be used: {error}.") from error
    answer = _spawn(json.dumps(spec.to_json()), longest(spec) if timeout is None else timeout, server.api_key)
    try:
        return report(Measured.from_json(json.loads(answer)))
    except (ValueError, LookupError, TypeError) as error:
        raise ProbeError(f"The load probe's answer cannot be read: {error}.") from error


def longest(spec: Spec) -> float:
    """Seconds after which the probe must have ended, whatever the server does: start, form, warm-up and measurement."""
    warm_up = spec.load.warm_up_requests / spec.load.requests_per_second
    return 10.0 + warm_up + spec.load.seconds + 3 * spec.request_timeout


def report(measured: Measured) -> ProbeReport:
    requests = measured.requests
    answered = [request for request in requests if request.failure is None]
    failures = Counter(request.failure.value for request in requests if request.failure)
    examples = {r.failure.value: r.detail for r in reversed(requests) if r.failure}
    counted = bool(answered) and all(request.tokens is not None for request in answered)
    tokens = sum(_tokens(request.tokens, request.pieces, counted) for request in requests)
    return ProbeReport(
        path=measured.path,
        streamed=measured.streamed,
        requests=len(requests),
        failures={kind.value: failures[kind.value] for kind in Failure if failures[kind.value]},
        examples=examples,
        seconds=round(measured.seconds, 3),
        first_token_ms=figure([request.first for request in requests if request.first is not None]),
        gap_ms=figure([gap for request in requests for gap in request.gaps]),
        whole_ms=figure([request.whole for request in requests if request.whole is not None]),
        lag_ms=figure([request.lag for request in requests]),
        tokens=tokens,
        tokens_from="usage" if counted else "events",
        tokens_per_second=round(tokens / measured.seconds, 1),
        requests_per_second=round(len(answered) / measured.seconds, 2),
    )


def _tokens(by_server: int | None, pieces: int, counted: bool) -> int:
    return by_server if counted and by_server is not None else pieces


def figure(seconds: Sequence[float]) -> Figure | None:
    if not seconds:
        return None
    values = sorted(1000.0 * value for value in seconds)
    low, high = percentile_ranks(len(values), 0.95)
    return Figure(
        n=len(values),
        mean=round(math.fsum(values) / len(values), 2),
        p50=round(percentile(values, 0.50), 2),
        p95=round(percentile(values, 0.95), 2),
        p99=round(percentile(values, 0.99), 2),
        highest=round(values[-1], 2),
        p95_low=round(values[low - 1], 2) if low else None,
        p95_high=round(values[high - 1], 2) if high else None,
    )


def percentile(ordered: Sequence[float], share: float) -> float:
    return ordered[max(1, math.ceil(share * len(ordered) - 1e-9)) - 1]


def percentile_ranks(n: int, share: float, alpha: float = 0.05) -> tuple[int | None, int | None]:
    """The ranks, from 1, between which the percentile lies with probability at least 1 - alpha, whatever the
    distribution: how many of n values lie below it is binomial (David and Nagaraja, Order Statistics, section 7.1).
    """
    low, high = binomial_bounds(n, share, alpha)
    return low or None, high + 1 if high < n else None


def _spawn(spec: str, timeout: float, secret: str) -> str:
    with subprocess.Popen(
        [sys.executable, "-m", "registry.qa.probe"],
        cwd=ROOT,
        env={name: os.environ[name] for name in INHERITED if name in os.environ},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            out, err = process.communicate(spec, timeout)
        except subprocess.TimeoutExpired as error:
            raise ProbeError(f"The load probe did not end within {timeout:g} s.") from error
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.communicate()
    if process.returncode != 0:
        said = err.strip().splitlines()[-1:] or [f"exit code {process.returncode}"]
        text = said[0].replace(secret, "•••") if secret else said[0]
        raise ProbeError(f"The load probe failed: {text}")
    return out
