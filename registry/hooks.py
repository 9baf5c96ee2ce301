"""What registry needs from above without knowing who gives it.

- `host`: somewhere to run a version while it is examined (rollouts gives its targets), what that place has, and a copy
  of the version that serves today.
- `uses`: who uses a version, so that it is not retired under live traffic.
- `environments`: the names that a policy or an examination may be for.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Protocol

from registry.models import ModelVersion, QARun
from registry.qa.base import Hardware, RunningServer


class Host(Protocol):
    """Starts servers for an examination, waits until they are ready, stops them at the end.

    Entering a server raises BackendError with a sentence.
    """

    def candidate(self, version: ModelVersion, run: QARun) -> AbstractContextManager[RunningServer]: ...

    def live(self, version: ModelVersion, run: QARun) -> AbstractContextManager[RunningServer] | None:
        """A copy of what serves `run.environment` today; None where nothing does, or that is `version` itself."""

    def hardware(self, version: ModelVersion, run: QARun) -> Hardware | None:
        """What is declared or measured of the place; None where nothing is known."""


_hosts: list[Host] = []
_uses: list[Callable[[ModelVersion], str | None]] = []
_environments: list[Callable[[], list[str]]] = []


def provide_host(host: Host | None) -> None:
    _hosts[:] = [host] if host else []


def host() -> Host | None:
    return _hosts[0] if _hosts else None


def add_use(use: Callable[[ModelVersion], str | None]) -> None:
    """`use` answers with a sentence ("It serves 50 % of production.") or None."""
    if use not in _uses:
        _uses.append(use)


def remove_use(use: Callable[[ModelVersion], str | None]) -> None:
    _uses.remove(use)


def use_of(version: ModelVersion) -> str | None:
    return next((sentence for use in _uses if (sentence := use(version))), None)


def provide_environments(names: Callable[[], list[str]]) -> None:
    _environments[:] = [names]


def environments() -> list[str]:
    """In the order in which a version goes through them; empty where nobody gives any."""
    return [name for names in _environments for name in names()]
