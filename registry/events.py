from __future__ import annotations

from dataclasses import dataclass

from deploypipe.core.events import Event


@dataclass(frozen=True)
class VersionChanged(Event):
    """Registered, or moved to another stage."""

    version_id: int
    stage: str


@dataclass(frozen=True)
class QARequested(Event):
    run_id: int
    version_id: int


@dataclass(frozen=True)
class QAProgressed(Event):
    """A result came in, or the run ended."""

    run_id: int
    version_id: int


@dataclass(frozen=True)
class PolicyChanged(Event):
    """What versions are judged by was set anew."""

    policy_id: int
