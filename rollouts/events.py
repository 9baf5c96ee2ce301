from __future__ import annotations

from dataclasses import dataclass

from deploypipe.core.events import Event


@dataclass(frozen=True)
class RolloutChanged(Event):
    """Its phase, its step, its traffic, or what a person asked of it."""

    rollout_id: int
    status: str


@dataclass(frozen=True)
class RolloutSaid(Event):
    """Only its sentence is new: what it waits for."""

    rollout_id: int


@dataclass(frozen=True)
class RolloutEnded(Event):
    rollout_id: int
    status: str


@dataclass(frozen=True)
class RecordsRead(Event):
    """New windows of measurements; `batch` is their number."""

    batch: int


@dataclass(frozen=True)
class DeploymentChanged(Event):
    deployment_id: int
