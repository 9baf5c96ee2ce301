"""Speed and failures under a short load, which is measured once for all of them."""

from __future__ import annotations

import psutil

from registry.qa.base import Check, Context, Outcome
from registry.qa.builtin.exchange import server_of
from registry.qa.catalogue import check
from registry.qa.policy import Load
from registry.qa.probe.measured import Failure
from registry.qa.probe.run import Figure, ProbeError, ProbeReport, run_probe
from registry.scoring import Status

CATEGORY = "performance"
SCRATCH = "performance.probe"
TIMEOUT = 900.0  # the probe has a limit of its own, which depends on the policy's load

WORDS = {
    Failure.HTTP: "answered with another status than 200",
    Failure.TRANSPORT: "broke off",
    Failure.TIMEOUT: "timed out",
    Failure.STREAM_ERROR: "ended with an error event inside a 200 answer",
    Failure.EMPTY: "brought no text",
    Failure.INCOMPLETE: "ended without [DONE]",
}


@check
class FirstToken(Check):
    name = "performance.first_token"
    label = "Time to first token"
    category = CATEGORY
    weight = 3.0
    required = False
    needs_server = True
    alone = True
    timeout = TIMEOUT

    def run(self, context: Context) -> Outcome:
        found = _probe(context)
        if isinstance(found, Outcome):
            return found
        limit = context.policy.max_latency_ms
        figure = found.first_token_ms
        if figure is None:
            return Outcome.failed(f"None of {found.requests} requests brought any text.", evidence=found.to_json())
        what = "time to first token" if found.streamed else "whole answer's time (the server does not stream)"
        at = f"{figure.n} requests at {context.policy.load.requests_per_second:g} requests/s"
        reason = (
            f"The {what} was {figure.p95:.0f} ms at the 95th percentile of {at}{_interval(figure)}; "
            f"the limit is {limit:g} ms."
        )
        outcome = Outcome.passed if figure.p95 <= limit else Outcome.failed
        if figure.p95 > limit and found.lag_ms and found.lag_ms.p95 > limit:
            reason += f" The probe itself was up to {found.lag_ms.highest:.0f} ms late: this machine was too busy."
            return Outcome(Status.ERROR, reason, value=figure.p95, limit=limit, unit="ms", evidence=found.to_json())
        return outcome(reason, value=figure.p95, limit=limit, unit="ms", evidence=found.to_json())


@check
class Throughput(Check):
    name = "performance.throughput"
    label = "Throughput"
    category = CATEGORY
    weight = 2.0
    required = False
    needs_server = True
    alone = True
    timeout = TIMEOUT

    def run(self, context: Context) -> Outcome:
        limit, load = context.policy.min_throughput_tokens_sec, context.policy.load
        most = load.requests_per_second * load.max_tokens
        if most < limit:
            return Outcome.not_checked(
                f"{load.requests_per_second:g} requests/s with {load.max_tokens} tokens each ask for {most:g} tokens/s "
                f"at most; the policy's load cannot show the {limit:g} tokens/s that it demands."
            )
        found = _probe(context)
        if isinstance(found, Outcome):
            return found
        value = found.tokens_per_second
        outcome = Outcome.passed if value >= limit else Outcome.failed
        return outcome(
            f"{value:.0f} tokens/s over all streams together at {load.requests_per_second:g} requests/s; "
            f"at least {limit:g} tokens/s are demanded.",
            value=value,
            limit=limit,
            unit="tokens/s",
            evidence=found.to_json(),
        )


@check
class ErrorRate(Check):
    name = "performance.error_rate"
    label = "Error rate"
    category = CATEGORY
    weight = 2.0
    required = True
    needs_server = True
    alone = True
    timeout = TIMEOUT

    def run(self, context: Context) -> Outcome:
        found = _probe(context)
        if isinstance(found, Outcome):
            return found
        value, limit = found.error_rate_percent, context.policy.max_error_rate_percent
        how = ", ".join(f"{count} {WORDS[Failure(name)]}" for name, count in found.failures.items())
        outcome = Outcome.passed if value <= limit else Outcome.failed
        return outcome(
            f"{found.failed} of {found.requests} requests failed ({value:.3g} %){': ' if how else ''}{how}; "
            f"at most {limit:g} % may.",
            value=round(value, 3),
            limit=limit,
            unit="%",
            evidence=found.to_json(),
        )


@check
class Memory(Check):
    name = "performance.memory"
    label = "Memory after the load"
    category = CATEGORY
    # A figure to read, not one to judge by: no policy limits it yet. Worth nothing, so that a server whose process is
    # out of reach (another machine, another engine's container) loses no points by "not checked".
    weight = 0.0
    required = False
    needs_server = True
    alone = True  # after the load, when the caches are filled
    timeout = 10.0

    def run(self, context: Context) -> Outcome:
        server = server_of(context)
        if server.pid is None:
            return Outcome.not_checked("The server's process is not on this machine, so its memory cannot be read.")
        try:
            process = psutil.Process(server.pid)
            family = [process, *process.children(recursive=True)]
            resident = process.memory_info().rss + sum(map(_resident, family[1:]))
        except psutil.NoSuchProcess:
            return Outcome(Status.ERROR, f"The server's process {server.pid} is gone.")
        except psutil.AccessDenied:
            return Outcome.not_checked(f"The memory of process {server.pid} may not be read by this user.")
        value = resident / 1e9
        processes = "process" if len(family) == 1 else "processes"
        return Outcome.passed(
            f"{value:.2f} GB resident in {len(family)} {processes} after the load; the policy sets no limit.",
            value=round(value, 3),
            unit="GB",
            evidence={"processes": len(family), "resident_bytes": resident},
        )


def _resident(child: psutil.Process) -> int:
    try:
        return int(child.memory_info().rss)
    except psutil.Error:  # ended since it was listed
        return 0


def _probe(context: Context) -> ProbeReport | Outcome:
    """What the probe measured, or the outcome that says why it did not. The first check to ask runs it."""
    if SCRATCH not in context.scratch:
        context.scratch[SCRATCH] = _measure(context, context.policy.load)
    found: ProbeReport | Outcome = context.scratch[SCRATCH]
    return found


def _measure(context: Context, load: Load) -> ProbeReport | Outcome:
    try:
        return run_probe(server_of(context), load)
    except ProbeError as error:
        return Outcome(Status.ERROR, str(error))


def _interval(figure: Figure) -> str:
    if figure.p95_low is None and figure.p95_high is None:
        return ""
    if figure.p95_high is None:
        return f" (95 % confidence: above {figure.p95_low:.0f} ms; {figure.n} requests are too few to say more)"
    if figure.p95_low is None:
        return f" (95 % confidence: below {figure.p95_high:.0f} ms)"
    return f" (95 % confidence: {figure.p95_low:.0f} to {figure.p95_high:.0f} ms)"
