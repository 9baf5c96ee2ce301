"""The server's own OpenAPI document, turned against it: schemathesis makes requests from it, and none may crash it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from registry.qa.base import Context, Finding, Outcome, Severity
from registry.qa.builtin.exchange import ABSENT, CHAT, COMPLETIONS, REFUSED, Exchange, VisitingCheck, Visitor, listed
from registry.qa.builtin.security_asking import CATEGORY, MOST_SILENCES, Asking, GivenUp, asking_within
from registry.qa.builtin.security_routes import DOCUMENT, foreign_references
from registry.qa.catalogue import check
from registry.qa.parameters import Parameter
from registry.qa.probe.run import INHERITED, ROOT

MODULE = "registry.qa.builtin.security_openapi_process"
START = 10.0
"""Seconds that the process may take to start, and to end after its last request, besides those for asking."""
BESIDE = 20.0
"""Seconds for what is asked before and after, and for the process's start."""
MOST_LINES = 10_000


@check
class Fuzz(VisitingCheck):
    name = "security.fuzz"
    label = "Generated requests do not crash it"
    category = CATEGORY
    weight = 1.0
    required = False
    last = True
    timeout = 90.0
    parameters = (
        Parameter("seconds", float, 10.0, "How long requests may be made.", unit="s", lowest=1.0, highest=60.0),
        Parameter("examples", int, 12, "Requests for each operation and kind, sound and not.", lowest=1, highest=1000),
    )

    def ask(self, context: Context, visitor: Visitor) -> Outcome:
        seconds = float(context.parameter(self, "seconds"))
        with asking_within(context, visitor, seconds + BESIDE) as asking:
            try:
                return self._asked(context, asking)
            except GivenUp as why:
                return Outcome.not_checked(f"The server could not be asked before the first generated request: {why}.")

    def _asked(self, context: Context, asking: Asking) -> Outcome:
        document = _document(asking)
        if isinstance(document, Outcome):
            return document
        before = _sound(asking)
        if before.status != 200:
            return Outcome.not_checked(
                f"The server {before.said} to a sound request before any other, so a crash could not be told apart.",
                evidence={"exchanges": [before.evidence()]},
            )
        was_healthy = asking.ask("GET", "/health").status == 200
        found = _fuzz(context, asking, document, self)
        try:
            afterwards = _after(asking, before, was_healthy)
        except GivenUp as why:
            if not found.crashes:
                return Outcome.not_checked(
                    f"Whether the server is there after {found.requests:,} generated requests was not seen: {why}."
                )
            afterwards = []
        return _outcome(found, afterwards)


def _document(asking: Asking) -> dict[str, Any] | Outcome:
    answer = asking.ask("GET", DOCUMENT, sent="no key")
    if answer.status in REFUSED and asking.key:
        answer = asking.ask("GET", DOCUMENT, key=asking.key, sent="the right key")
    evidence = {"exchanges": [answer.evidence()]}
    if answer.status in (*ABSENT, *REFUSED):
        return Outcome.not_applicable(f"The server has no document of its routes: {DOCUMENT} {answer.said}.")
    if not answer.status:
        return Outcome.not_checked(f"The server {answer.said} to GET {DOCUMENT}.", evidence=evidence)
    document = answer.json()
    if answer.status != 200 or not isinstance(document.get("paths"), dict):
        return Outcome.error(f"GET {DOCUMENT} {answer.said} with what is no OpenAPI document.", evidence=evidence)
    if foreign := foreign_references(document):
        return Outcome.error(f"{DOCUMENT} refers to documents elsewhere, which are not fetched: {listed(foreign, 3)}.")
    if find_spec("schemathesis") is None:
        return Outcome.not_checked("schemathesis is not installed: pip install 'schemathesis>=4.32,<5'.")
    return document


def _sound(asking: Asking) -> Exchange:
    for path in (COMPLETIONS, CHAT):
        body = asking.visitor.body(path, max_tokens=1)
        answer = asking.ask("POST", path, key=asking.key or None, body=body, sent="a sound request")
        if answer.status not in ABSENT:
            break
    return answer


def _after(asking: Asking, before: Exchange, was_healthy: bool) -> list[Finding]:
    """Whether the server is still there."""
    found: list[Finding] = []
    try:
        if was_healthy and (health := asking.ask("GET", "/health")).status != 200:
            found.append(Finding(Severity.HIGH, f"afterwards GET /health {health.said}.", _SURVIVE))
        if (again := _sound(asking)).status != before.status:
            found.append(Finding(Severity.HIGH, f"afterwards a sound request {again.said}.", _SURVIVE))
    except GivenUp:
        if asking.silences < MOST_SILENCES and not found:
            raise
        found.append(Finding(Severity.HIGH, "afterwards the server answers nothing.", _SURVIVE))
    return found


@dataclass(frozen=True)
class Fuzzed:
    requests: int
    operations: int
    left_out: list[str]
    """Operations that are not tried out: they would set something going."""
    statuses: dict[str, int]
    crashes: list[dict[str, Any]]
    silences: list[str]
    problems: list[str]
    """Operations for which no request could be made."""
    ended: str
    """Why before all was tried, to stand after "it ended"; empty where all was."""


def _fuzz(context: Context, asking: Asking, document: dict[str, Any], settings: Fuzz) -> Fuzzed:
    seconds = float(context.parameter(settings, "seconds"))
    visitor = asking.visitor
    spec = {
        "base_url": visitor.server.base_url,
        "model": visitor.server.model,
        "api_key": visitor.server.api_key,  # by stdin: the command line and the environment can be read by others
        "document": document,
        "seconds": seconds,
        "answer_within": min(asking.patience, START / 2),  # it is killed when it waits for longer
        "examples": int(context.parameter(settings, "examples")),
    }
    lines, ended = _spawn(json.dumps(spec), max(START, min(seconds + START, asking.left)))
    return _read(lines, ended.replace(visitor.server.api_key, "•••") if visitor.server.api_key else ended)


def _spawn(spec: str, timeout: float) -> tuple[list[str], str]:
    """Its lines as far as they came, and why it did not end by itself. Leaves no process behind."""
    with tempfile.TemporaryDirectory(prefix="deploypipe-fuzz-") as scratch:
        out, errors = Path(scratch, "out"), Path(scratch, "errors")
        environment = {name: os.environ[name] for name in INHERITED if name in os.environ}
        environment |= {"HYPOTHESIS_STORAGE_DIRECTORY": scratch, "HOME": scratch}
        with (
            out.open("wb") as standard,
            errors.open("wb") as wrong,
            subprocess.Popen(
                [sys.executable, "-m", MODULE],
                cwd=ROOT,
                env=environment,
                stdin=subprocess.PIPE,
                stdout=standard,
                stderr=wrong,
                start_new_session=True,
            ) as process,
        ):
            ended = ""
            try:
                process.communicate(spec.encode(), timeout)
            except subprocess.TimeoutExpired:
                ended = f"with its process, which was still busy after {timeout:g} s"
            finally:
                if process.poll() is None:
                    os.killpg(process.pid, signal.SIGKILL)
                    process.wait()
        if process.returncode and not ended:
            last = errors.read_text(errors="replace").strip().splitlines()[-1:] or [f"exit code {process.returncode}"]
            ended = f"with an error of its own: {last[0][:300]}"
        return out.read_text(errors="replace").splitlines()[:MOST_LINES], ended


def _read(lines: list[str], ended: str) -> Fuzzed:
    events: list[dict[str, Any]] = []
    for line in lines:
        try:
            event = json.loads(line)
        except ValueError:
            continue  # the last one may be cut off
        events.append(event if isinstance(event, dict) else {})
    answers = [event for event in events if event.get("event") == "answer"]
    statuses: dict[str, int] = {}
    for answer in answers:
        word = str(answer["status"] or "none")
        statuses[word] = statuses.get(word, 0) + 1

    def of(kind: str) -> list[dict[str, Any]]:
        return [event for event in events if event.get("event") == kind]

    return Fuzzed(
        requests=len(answers),
        operations=len({answer["operation"] for answer in answers}),
        left_out=[str(event["operation"]) for event in of("left out")],
        statuses=statuses,
        crashes=of("crash"),
        silences=[str(event["operation"]) for event in of("silence")],
        problems=[f"{event['operation']}: {event['problem']}" for event in of("problem")],
        ended=ended or next((str(event["why"]) for event in of("ended")), ""),
    )


def _outcome(found: Fuzzed, afterwards: list[Finding]) -> Outcome:
    crashes = {(crash["operation"], crash["said"]): crash for crash in reversed(found.crashes)}
    findings = [
        Finding(Severity.HIGH, f"{crash['operation']} {crash['said']} to {crash['request']}", _SURVIVE)
        for crash in reversed(crashes.values())
    ]
    findings += afterwards
    evidence = {
        "requests": found.requests,
        "operations": found.operations,
        "statuses": found.statuses,
        "crashes": [dict(crash) for crash in list(crashes.values())[:10]],
        "silences": found.silences[:10],
        "left_out": found.left_out[:40],
        "problems": found.problems[:10],
        "ended": found.ended,
    }
    asked = f"{found.requests:,} generated requests to {found.operations} operations"
    early = f" It ended {found.ended}." if found.ended else ""
    if findings:
        said = listed([finding.sentence.removesuffix(".") for finding in findings], 2)
        return Outcome.failed(
            f"Of {asked} not all were survived: {said}.{early}",
            value=float(len(findings)),
            limit=0.0,
            unit="findings",
            evidence=evidence,
            findings=tuple(findings),
        )
    if not found.requests:
        why = (
            f"it ended {found.ended}" if found.ended else listed(found.problems, 2)
        ) or "its document shows no operation that may be tried out"
        if not found.ended and not found.problems:
            return Outcome.not_applicable(f"No request was made: {why}.", evidence=evidence)
        return Outcome.error(f"No request could be made: {why}.", evidence=evidence)
    silent = f" {len(found.silences)} were not answered in time." if found.silences else ""
    return Outcome.passed(
        f"{asked}, sound ones and broken ones, met no 5xx answer and no lost connection, and the server answers "
        f"afterwards.{silent}{early}",
        value=0.0,
        limit=0.0,
        unit="findings",
        evidence=evidence,
    )


_SURVIVE = "Send the request again by hand, and refuse its like with 400 before it reaches the engine."
