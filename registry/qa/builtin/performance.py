"""Speed and failures under a short load, which is measured once for all of them, and the memory after it."""

from __future__ import annotations

from abc import abstractmethod

import psutil

from deploypipe.core.errors import EngineError
from registry.engines import EngineClient
from registry.qa.base import Check, Context, Outcome, RunningServer
from registry.qa.builtin.exchange import server_of
from registry.qa.builtin.pressed import (
    CATEGORY,
    SCRATCH,
    failures,
    interval,
    load_of,
    ms,
    nothing_answered,
    per_second,
    probed,
)
from registry.qa.catalogue import check
from registry.qa.parameters import Parameter
from registry.qa.probe.figures import Figure
from registry.qa.probe.press import tokens_asked
from registry.qa.probe.report import ProbeReport

TIMEOUT = 900.0  # the probe has a limit of its own, which depends on the policy's load
METRICS_SECONDS = 3.0
MOST_MS = Parameter(
    name="most_ms",
    kind=float,
    default=0.0,
    help="The 95th percentile may be that; 0 measures it and judges nothing.",
    unit="ms",
    lowest=0,
    highest=3_600_000,
)


class ProbedCheck(Check):
    """Judges the figures of the one load. The subclass says how, in `judge`."""

    category = CATEGORY
    needs_server = True
    alone = True
    timeout = TIMEOUT

    def run(self, context: Context) -> Outcome:
        found = probed(context)
        return found if isinstance(found, Outcome) else self.judge(context, found)

    @abstractmethod
    def judge(self, context: Context, found: ProbeReport) -> Outcome: ...


@check
class FirstToken(ProbedCheck):
    name = "performance.first_token"
    label = "Time to first token"
    weight = 3.0
    required = False

    def judge(self, context: Context, found: ProbeReport) -> Outcome:
        limit = context.policy.max_latency_ms
        what = "time to first token" if found.streamed else "whole answer's time (the server does not stream)"
        return _judge_figure(context, found, found.first_token_ms, what, limit)


@check
class BetweenTokens(ProbedCheck):
    name = "performance.between_tokens"
    label = "Pauses between tokens"
    weight = 1.0
    required = False
    parameters = (MOST_MS,)

    def judge(self, context: Context, found: ProbeReport) -> Outcome:
        limit = context.parameter(self, "most_ms") or None
        if found.gap_ms is None and not found.gave_up and found.first_token_ms:
            why = "does not stream" if not found.streamed else "sends each answer in one piece"
            return Outcome.not_applicable(
                f"The server {why}, so there is no pause between tokens.", evidence=found.to_json()
            )
        return _judge_figure(context, found, found.gap_ms, "pause between two pieces of an answer", limit)


@check
class Whole(ProbedCheck):
    name = "performance.whole"
    label = "Time to the end of the answer"
    weight = 1.0
    required = False
    parameters = (MOST_MS,)

    def judge(self, context: Context, found: ProbeReport) -> Outcome:
        limit = context.parameter(self, "most_ms") or None
        return _judge_figure(context, found, found.whole_ms, "time to the end of the answer", limit)


def _judge_figure(
    context: Context, found: ProbeReport, figure: Figure | None, what: str, limit: float | None
) -> Outcome:
    """By the 95th percentile; None for no limit."""
    evidence = found.to_json()
    if limit is None and (figure is None or found.gave_up):
        return Outcome.not_applicable(f"No limit is set for the {what}, and none was measured.", evidence=evidence)
    if found.gave_up:
        return Outcome.failed(nothing_answered(found), limit=limit, unit="ms", evidence=evidence)
    if figure is None:
        said = f"None of {found.requests} requests brought any text ({failures(found)})."
        return Outcome.failed(said, limit=limit, unit="ms", evidence=evidence)
    value = figure.p95.value
    of = f"{figure.n:,} {'requests' if figure is not found.gap_ms else 'pauses'}"
    reason = (
        f"The {what} was {ms(value)} at the 95th percentile of {of} {load_of(context.policy.load)}"
        f"{interval(figure.p95, figure)}; "
    )
    if limit is None:
        return Outcome.not_applicable(f"{reason}no limit is set.", value=value, unit="ms", evidence=evidence)
    reason += f"the limit is {limit:g} ms."
    if value <= limit:
        return Outcome.passed(reason, value=value, limit=limit, unit="ms", evidence=evidence)
    if found.lag_ms and found.lag_ms.p95.value > min(limit, value - limit):  # sent in time it might have held
        reason += f" The probe itself was up to {found.lag_ms.highest:.0f} ms late: this machine was too busy."
        return Outcome.error(reason, value=value, limit=limit, unit="ms", evidence=evidence)
    return Outcome.failed(reason, value=value, limit=limit, unit="ms", evidence=evidence)


@check
class Throughput(ProbedCheck):
    name = "performance.throughput"
    label = "Throughput"
    weight = 2.0
    required = False

    def run(self, context: Context) -> Outcome:
        limit, load = context.policy.min_throughput_tokens_sec, context.policy.load
        if not load.concurrency and (most := tokens_asked(load) / load.seconds) < limit:
            return Outcome.not_checked(
                f"{load.requests_per_second:g} requests/s for {load.seconds:g} s ask for {most:.0f} tokens/s at most; "
                f"the policy's load cannot show the {limit:g} tokens/s that it demands: raise its rate or its "
                "max_tokens."
            )
        return super().run(context)

    def judge(self, context: Context, found: ProbeReport) -> Outcome:
        limit = context.policy.min_throughput_tokens_sec
        facts = {"value": found.tokens_per_second.value, "limit": limit, "unit": "tokens/s"}
        if found.gave_up:
            return Outcome.failed(nothing_answered(found), **{**facts, "value": 0.0}, evidence=found.to_json())
        value = found.tokens_per_second.value
        outcome = Outcome.passed if value >= limit else Outcome.failed
        return outcome(
            f"{value:.0f} tokens/s{per_second(found.tokens_per_second)} over all streams together "
            f"{load_of(context.policy.load)}; at least {limit:g} tokens/s are demanded.",
            **facts,
            evidence=found.to_json(),
        )


@check
class ErrorRate(ProbedCheck):
    name = "performance.error_rate"
    label = "Error rate"
    weight = 2.0
    required = True

    def judge(self, context: Context, found: ProbeReport) -> Outcome:
        value, limit = found.error_rate_percent, context.policy.max_error_rate_percent
        facts = {"value": round(value, 3), "limit": limit, "unit": "%", "evidence": found.to_json()}
        if found.gave_up:
            return Outcome.failed(nothing_answered(found), **facts)
        every = found.error_percent["all"]
        how = f": {failures(found)}" if found.failures else ""
        outcome = Outcome.passed if value <= limit else Outcome.failed
        return outcome(
            f"{found.failed} of {found.requests} requests failed ({value:.3g} %, 95 % confidence: {every.low:.3g} to "
            f"{every.high:.3g} %){how}; at most {limit:g} % may.",
            **facts,
        )


# -- memory ------------------------------------------------------------------------------------------------------------


@check
class Memory(Check):
    name = "performance.memory"
    label = "Memory after the load"
    category = CATEGORY
    weight = 1.0
    required = False
    needs_server = True
    alone = True  # after the load, when the caches are filled
    timeout = 20.0

    def run(self, context: Context) -> Outcome:
        server, limit = server_of(context), context.policy.max_memory_gb
        found = _of_processes(server.pid) if server.pid is not None else "Which process it is cannot be seen from here"
        if isinstance(found, Outcome):
            return found
        if isinstance(found, str):
            found = _of_metrics(server, why=found)
        if isinstance(found, Outcome):
            return found
        resident, source, evidence = found
        value = resident / 1e9
        outcome = Outcome.passed if value <= limit else Outcome.failed
        return outcome(
            f"{value:.2f} GB resident {source} {_when(context)}; the limit is {limit:g} GB.{_graphics(context)}",
            value=round(value, 3),
            limit=limit,
            unit="GB",
            evidence={**evidence, "resident_bytes": resident},
        )


def _when(context: Context) -> str:
    found = context.scratch.get(SCRATCH)
    loaded = isinstance(found, ProbeReport) and not found.silent
    return "after the load" if loaded else "without a load before"


Resident = tuple[int, str, dict[str, object]]


def _of_processes(pid: int) -> Resident | str | Outcome:
    """Of the process and all that it started; or why not, to stand before a full stop."""
    try:
        process = psutil.Process(pid)
        family = [process, *process.children(recursive=True)]
        sizes = [_size(process), *(_size_or_none(child) for child in family[1:])]
    except psutil.NoSuchProcess:
        return Outcome.error(f"The server's process {pid} is gone.")
    except psutil.AccessDenied:
        return f"The memory of process {pid} may not be read by this user"
    source = f"in {len(family)} process{'' if len(family) == 1 else 'es'}"
    return sum(sizes), source, {"source": "processes", "processes": len(family)}


def _size(process: psutil.Process) -> int:
    """Shared pages by share: workers that were forked would count the weights once each else."""
    try:
        return int(process.memory_full_info().pss)
    except (psutil.AccessDenied, AttributeError):  # AttributeError: not on Linux
        return int(process.memory_info().rss)


def _size_or_none(child: psutil.Process) -> int:
    try:
        return _size(child)
    except psutil.Error:  # ended since it was listed
        return 0


def _of_metrics(server: RunningServer, *, why: str) -> Resident | Outcome:
    try:
        with EngineClient(server.base_url, server.api_key or None, timeout=METRICS_SECONDS) as client:
            families = client.metrics()
    except EngineError as error:
        return Outcome.not_checked(f"{why}, and its own figures cannot be had: {error.message}")
    family = families.get("process_resident_memory_bytes")
    sizes = [sample.value for sample in family.samples] if family else []
    if not sizes or not 0 < sum(sizes) < 1e18:
        return Outcome.not_checked(f"{why}, and /metrics does not say process_resident_memory_bytes.")
    source = "as /metrics says of the process that answers (others of the engine are not in it)"
    return int(sum(sizes)), source, {"source": "/metrics", "why": why}


def _graphics(context: Context) -> str:
    if context.hardware is not None and context.hardware.gpus == 0:
        return ""
    return " What it holds in the memory of a GPU is not in this figure: nothing here can read that."
