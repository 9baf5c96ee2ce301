"""The contract of a check. A check is a class that is registered with `@check`; see `CONTRIBUTING.md` to add one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Protocol

from registry.artifacts import Manifest
from registry.qa.policy import Policy
from registry.scoring import Status


@dataclass(frozen=True)
class RunningServer:
    """The model server under examination."""

    base_url: str
    model: str
    """The name that it must serve the model by."""
    api_key: str = field(repr=False)
    pid: int | None = None


@dataclass(frozen=True)
class Context:
    """All that a check may look at."""

    artifact: Path
    manifest: Manifest
    engine: str
    policy: Policy
    server: RunningServer | None = None
    server_problem: str = ""
    """Why there is no server, as a sentence, where there is none."""
    scratch: dict[str, Any] = field(default_factory=dict)
    """What one check measured and others read too (the load probe's figures), by the measuring check's name."""


@dataclass(frozen=True)
class Outcome:
    status: Status
    reason: str
    """One sentence that a person can act on."""
    value: float | None = None
    limit: float | None = None
    unit: str = ""
    evidence: Mapping[str, Any] = field(default_factory=dict)
    """What was sent and what came back, JSON-able, never with a secret in it."""

    @classmethod
    def passed(cls, reason: str, **more: Any) -> Outcome:
        return cls(Status.PASSED, reason, **more)

    @classmethod
    def failed(cls, reason: str, **more: Any) -> Outcome:
        return cls(Status.FAILED, reason, **more)

    @classmethod
    def not_applicable(cls, reason: str, **more: Any) -> Outcome:
        return cls(Status.NOT_APPLICABLE, reason, **more)

    @classmethod
    def not_checked(cls, reason: str, **more: Any) -> Outcome:
        return cls(Status.NOT_CHECKED, reason, **more)


class Check(Protocol):
    name: ClassVar[str]
    """Identifier, "category.word": it stands in stored results, so it never changes."""
    label: ClassVar[str]
    """What a person reads."""
    category: ClassVar[str]
    weight: ClassVar[float]
    """Share inside the category, relative to the category's other checks."""
    required: ClassVar[bool]
    """A required check that does not pass blocks the version whatever its score is."""
    needs_server: ClassVar[bool]
    """Where there is no server the runner answers "not checked" with the reason, without calling the check."""
    alone: ClassVar[bool]
    """It measures speed: nothing else may run beside it."""
    timeout: ClassVar[float]
    """Seconds after which the runner gives it up as an error."""

    def run(self, context: Context) -> Outcome: ...
