"""The contract of a check. A check is a class that is registered with `@check`; `docs/extending.md` shows one."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any, ClassVar, Protocol

from registry.artifacts import Manifest
from registry.qa.parameters import Parameter, Value
from registry.qa.policy import Policy
from registry.scoring import Status


@dataclass(frozen=True)
class RunningServer:
    """A model server: the one under examination, or the live version's copy that it is compared with."""

    base_url: str
    model: str
    """The name that it must serve the model by."""
    api_key: str = field(repr=False)
    pid: int | None = None


@dataclass(frozen=True)
class Hardware:
    """What the place where the version shall run has; None for what is not declared."""

    memory_bytes: int | None = None
    """Of the machine or the container."""
    gpus: int = 0
    gpu_memory_bytes: int | None = None
    """Of one of them."""
    compute_capability: int | None = None
    """CUDA's, times ten: 75 for 7.5."""


@dataclass(frozen=True)
class Context:
    """All that a check may look at."""

    artifact: Path | None
    """The folder with the version's files; None where only a running server was given."""
    manifest: Manifest | None
    engine: str
    policy: Policy
    server: RunningServer | None = None
    server_problem: str = ""
    """Why there is no server, as a sentence, where there is none."""
    live: RunningServer | None = None
    """A copy of the version that serves today, for checks that say `needs_live`. Never the one that has users."""
    hardware: Hardware | None = None
    engine_arguments: tuple[str, ...] = ()
    """What the engine is started with besides its own command ("--max-model-len", "4096")."""
    files: Path | None = None
    """The folder in which the policy's own prompt and held-out files lie; the policy names them relative to it."""
    given_up: threading.Event = field(default_factory=threading.Event, repr=False, compare=False)
    """Set when the runner no longer waits for the check that has this context; who asks a server then stops asking, so
    as not to disturb the checks that measure its speed.
    """
    scratch: dict[str, Any] = field(default_factory=dict)
    """What one check measured and others read too (the load probe's figures), by the measuring check's name."""

    @property
    def folder(self) -> Path:
        """The artifact's folder, for a check with `needs_artifact`: such a one is not run without."""
        if self.artifact is None:
            raise RuntimeError("this check needs files and was run without any")
        return self.artifact

    def parameter(self, check: Check | type[Check], name: str) -> Any:
        """The policy's value, else the default. Raises KeyError for a name that the check does not declare."""
        declared = {parameter.name: parameter for parameter in check.parameters}[name]
        given: Value = self.policy.parameters.get(check.name, {}).get(name, declared.default)
        return given


class Severity(StrEnum):
    CRITICAL = "critical"
    HIGH = "high"
    MEDIUM = "medium"
    LOW = "low"


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong, with what to do about it."""

    severity: Severity
    sentence: str
    action: str

    def to_json(self) -> dict[str, str]:
        return {"severity": self.severity.value, "sentence": self.sentence, "action": self.action}


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
    findings: tuple[Finding, ...] = ()

    @classmethod
    def passed(cls, reason: str, **more: Any) -> Outcome:
        return cls(Status.PASSED, reason, **more)

    @classmethod
    def failed(cls, reason: str, **more: Any) -> Outcome:
        return cls(Status.FAILED, reason, **more)

    @classmethod
    def error(cls, reason: str, **more: Any) -> Outcome:
        """The check itself could not do its work: nothing is known."""
        return cls(Status.ERROR, reason, **more)

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
    """A required check that does not pass blocks the version whatever its score is, unless the policy calls its
    category advisory."""
    timeout: ClassVar[float]
    """Seconds after which the runner gives it up as an error."""
    parameters: ClassVar[tuple[Parameter, ...]] = ()
    """What a policy may set; read with `context.parameter(self, name)`."""

    # When it runs. The runner's order: files, then what goes together on the server, then what must be alone, then
    # comparisons with the live version, then what may bring the server down.
    needs_artifact: ClassVar[bool] = False
    """Where only a server was given the runner answers "not applicable", without calling the check."""
    needs_server: ClassVar[bool] = False
    """Where there is no server the runner answers "not checked" with the reason, without calling the check."""
    alone: ClassVar[bool] = False
    """It measures speed, or what it reads must not depend on what is computed beside it: nothing else may run then."""
    needs_live: ClassVar[bool] = False
    """It compares with the live version, a copy of which is started for it. Implies that it runs alone."""
    last: ClassVar[bool] = False
    """It may bring the server down, or make it refuse others for a while. Implies that it runs alone."""

    def run(self, context: Context) -> Outcome: ...
