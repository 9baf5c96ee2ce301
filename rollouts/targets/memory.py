"""The target of the tests: servers that exist only here and do what the test says."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

from deploypipe.core.errors import TargetError
from registry.qa.base import Hardware

from .base import Observation, Phase, ServerSpec
from .local import require_name


@dataclass
class _Server:
    spec: ServerSpec | None
    address: str
    seen: Observation
    log: list[str] = field(default_factory=list)


class MemoryTarget:
    """`ready_at_once=False` leaves new servers starting until `make` says otherwise."""

    def __init__(self, *, ready_at_once: bool = True) -> None:
        self.ready_at_once = ready_at_once
        self.started: list[str] = []
        """The name of each server that was started, once for each time."""
        self._servers: dict[str, _Server] = {}
        self._errors: list[TargetError] = []
        self._ports = 0
        self._lock = threading.RLock()

    def apply(self, spec: ServerSpec) -> None:
        with self._lock:
            self._obey(spec.name)
            if not spec.command:
                raise TargetError(f"{spec.name} cannot start: there is no program ''.", permanent=True)
            server = self._servers.get(spec.name)
            if server is None:
                self._start(spec)
            elif server.seen.phase is Phase.STOPPING:
                raise TargetError(f"{spec.name} is still stopping; it can be started once it has ended.")
            elif server.spec not in (None, spec):
                raise TargetError(f"{spec.name} exists with another specification.", permanent=True)
            else:
                server.spec = spec

    def restart(self, spec: ServerSpec) -> None:
        with self._lock:
            server = self._servers.get(spec.name)
            if server is not None and server.seen.phase is Phase.FAILED and not self._errors:
                del self._servers[spec.name]
            self.apply(spec)

    def observe(self, name: str) -> Observation:
        with self._lock:
            self._obey(name)
            if name not in self._servers:
                return Observation(Phase.ABSENT, f"{name} is not there.")
            return self._servers[name].seen

    def stop(self, name: str, *, grace: float = 10.0) -> None:
        with self._lock:
            self._obey(name)
            self._servers.pop(name, None)

    def stop_all(self, *, grace: float = 10.0) -> None:
        for name in self.names():
            self.stop(name, grace=grace)

    def names(self) -> set[str]:
        with self._lock:
            return set(self._servers)

    def hardware(self) -> Hardware | None:
        return None

    def log_tail(self, name: str, *, lines: int = 50) -> str:
        with self._lock:
            server = self._servers.get(name)
            return "\n".join(server.log[-lines:]) if server and lines > 0 else ""

    # -- what tests say ------------------------------------------------------------------------------------------------

    def make(self, name: str, phase: Phase, message: str = "", *, exit_code: int | None = None) -> None:
        """Put the server in a phase; one that nobody applied appears as somebody else's."""
        with self._lock:
            if phase is Phase.ABSENT:
                self._servers.pop(name, None)
                return
            if name not in self._servers:
                self._servers[name] = self._new(None)
            server = self._servers[name]
            server.seen = Observation(
                phase,
                message or f"{name} is {phase}.",
                address=server.address if phase in (Phase.STARTING, Phase.READY) else None,
                since=datetime.now(UTC),
                exit_code=exit_code,
            )

    def crash(self, name: str, message: str = "") -> None:
        self.make(name, Phase.FAILED, message or f"{name} exited by signal SEGV.", exit_code=-11)

    def fail_next(self, error: TargetError) -> None:
        """Raise this at the next apply, restart, observe or stop; several wait for one call each."""
        self._errors.append(error)

    def write_log(self, name: str, line: str) -> None:
        self._servers[name].log.append(line)

    def spec(self, name: str) -> ServerSpec | None:
        """What was applied under that name and is still there."""
        server = self._servers.get(name)
        return server.spec if server else None

    def _obey(self, name: str) -> None:
        require_name(name)
        if self._errors:
            raise self._errors.pop(0)

    def _start(self, spec: ServerSpec) -> None:
        spec = replace(spec, environment=dict(spec.environment))
        self._servers[spec.name] = self._new(spec)
        self.started.append(spec.name)
        self.make(spec.name, Phase.READY if self.ready_at_once else Phase.STARTING)

    def _new(self, spec: ServerSpec | None) -> _Server:
        self._ports += 1
        return _Server(spec, f"127.0.0.1:{self._ports}", Observation(Phase.STARTING, "just made"))
