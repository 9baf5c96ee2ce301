"""Starts the process that looks at a component, bounds it, and reads what it wrote down."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[3]
INHERITED = ("PATH", "LANG", "LC_ALL", "PYTHONPATH", "LD_LIBRARY_PATH", "SYSTEMROOT")
MOST_BYTES = 1_000_000

MODULES = {"dtesn": "dtesn_integration", "aar_core": "aar_core", "echo_self": "echo_self"}
"""The module that is imported first."""
KERNEL = "echo.kern"
"""DTESN's folder: its name has a dot, so it is no package, and its modules are imported flat."""


@dataclass(frozen=True)
class Place:
    component: str
    folders: tuple[str, ...] = ()
    """To import from before all others; none where it is installed."""


@dataclass(frozen=True)
class Seen:
    facts: dict[str, Any]
    steps: dict[str, float]
    """Seconds of each step that ended."""
    seconds: float
    problem: str = ""
    """What stopped it, to stand after "…: ". Empty where all was looked at."""
    missing: str = ""
    """A module that it needs and that is not installed here."""


def find(component: str, checkout: Path | None = None) -> Place | None:
    """Where the component can be imported from: the given folder, else what is installed. Nothing is imported here."""
    module = MODULES[component]
    if checkout is None:
        return Place(component) if _installed(module) else None
    if component != "dtesn":
        return Place(component, (str(checkout),)) if (checkout / module / "__init__.py").is_file() else None
    for folder in (checkout / KERNEL, checkout):
        if (folder / f"{module}.py").is_file():
            return Place(component, (str(folder), str(checkout)))
    return None


def _installed(module: str) -> bool:
    try:
        spec = find_spec(module)
    except (ImportError, ValueError):
        return False
    return spec is not None and spec.origin is not None  # a folder without code has no origin


def look(place: Place, seconds: float) -> Seen:
    """Never raises for what the component does; what it did is in the answer."""
    with tempfile.TemporaryDirectory(prefix="deploypipe-import-", ignore_cleanup_errors=True) as scratch:
        journal = Path(scratch) / "journal"
        began = time.monotonic()
        code = _run(place, journal, Path(scratch), seconds)
        return _read(journal, code, time.monotonic() - began, seconds)


def _run(place: Place, journal: Path, scratch: Path, seconds: float) -> int | None:
    """The exit code; None where the time was up."""
    environment = {name: os.environ[name] for name in INHERITED if name in os.environ}
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), environment.get("PYTHONPATH")]))
    environment |= {"PYTHONDONTWRITEBYTECODE": "1", "HOME": str(scratch), "TMPDIR": str(scratch)}
    process = subprocess.Popen(
        [
            sys.executable,
            "-P",
            "-m",
            "registry.qa.imports",
            place.component,
            str(journal),
            str(seconds),
            *place.folders,
        ],
        cwd=scratch,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        return process.wait(seconds)
    except subprocess.TimeoutExpired:
        return None
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # with all that it started
        process.wait()


@dataclass
class _Reading:
    facts: dict[str, Any] = field(default_factory=dict)
    steps: dict[str, float] = field(default_factory=dict)
    under_way: str = ""
    failed: dict[str, Any] = field(default_factory=dict)
    done: bool = False

    def add(self, line: dict[str, Any]) -> None:
        if "step" in line:
            self.under_way = str(line["step"])
        elif "ended" in line:
            self.steps[str(line["ended"])] = float(line["seconds"])
        elif "fact" in line:
            self.facts[str(line["fact"])] = line["value"]
        elif "failed" in line:
            self.failed = line
        elif "done" in line:
            self.done = True


def _read(journal: Path, code: int | None, took: float, seconds: float) -> Seen:
    reading = _Reading()
    try:
        with journal.open("rb") as file:
            for line in file.read(MOST_BYTES).splitlines():
                reading.add(json.loads(line))
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        pass  # what was read until there counts, and it is not done
    missing = str(reading.failed.get("missing", ""))
    return Seen(reading.facts, reading.steps, round(took, 3), _problem(reading, code, seconds), missing)


def _problem(reading: _Reading, code: int | None, seconds: float) -> str:
    step = reading.under_way or "the start"
    if reading.done:
        return ""
    if reading.failed:
        return _failure(reading.failed, step)
    if code is None:
        return f"{step} did not end within {seconds:g} s"
    if code < 0:
        return f"{step} ended the process by {_signal(-code)}"
    return f"{step} ended the process with exit code {code}"


def _failure(failed: dict[str, Any], step: str) -> str:
    kind, text, where = (str(failed.get(name, "")) for name in ("failed", "text", "where"))
    if kind == "SystemExit":
        return f"{step} called sys.exit({text})"
    place = f" ({where})" if where else ""
    return f"{step} raised {kind}{f': {text}' if text else ''}{place}"


def _signal(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
