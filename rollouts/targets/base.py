"""Where model servers run: the contract that every target keeps (`tests/contracts/test_targets.py`).

A target is asynchronous in spirit: `apply` says what should be there and returns at once, `observe` says what is.
Both are idempotent and may be called by any worker at any time. Nothing outside the target knows of pids or pods.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Protocol

from registry.qa.base import Hardware


@dataclass(frozen=True)
class ServerSpec:
    """One model server. `name` identifies it in the target: lower-case letters, digits and dashes, 63 at most."""

    name: str
    command: tuple[str, ...]
    """The words of the command; `{host}` and `{port}` stand for where the server shall listen."""
    environment: Mapping[str, str] = field(default_factory=dict)
    """Added to the environment of the server; may hold secrets, so it is never logged nor shown."""
    ready_path: str = "/health"
    """The server counts as ready when this path answers 200."""
    ready_timeout: float = 60.0
    """Seconds from the start until a server that is not ready is called failed."""


class Phase(StrEnum):
    ABSENT = "absent"  # nothing is there: never applied, or stopped
    STARTING = "starting"
    READY = "ready"
    STOPPING = "stopping"
    FAILED = "failed"  # exited by itself, or never became ready; `apply` does not restart it, `restart` does


@dataclass(frozen=True)
class Observation:
    phase: Phase
    message: str
    """A sentence for people: why it is in this phase, with the end of the log where that explains it."""
    address: str | None = None
    """`host:port` while the server is starting or ready."""
    since: datetime | None = None
    exit_code: int | None = None
    pid: int | None = None
    """Of a ready server that is a process of this machine: its memory can be measured. Never a handle to act by."""


class Target(Protocol):
    def apply(self, spec: ServerSpec) -> None:
        """Make the server exist. Raises TargetError, permanent where the spec can never start (no such program)."""

    def restart(self, spec: ServerSpec) -> None:
        """Forget a failed or stopped server of that name and start it anew."""

    def observe(self, name: str) -> Observation: ...

    def stop(self, name: str, *, grace: float = 10.0) -> None:
        """Ask the server to end, and end it by force after `grace` seconds; returns without waiting for that."""

    def names(self) -> set[str]:
        """The servers that this target knows and that are not absent: also those nobody asked for any more."""

    def hardware(self) -> Hardware | None:
        """What each server may use here; None where nothing is declared or measured."""

    def log_tail(self, name: str, *, lines: int = 50) -> str: ...
