"""The targets and routers of the settings, by alias; and the kinds of gate that other apps add to strategies."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from deploypipe.core.plugins import Backends, Registry
from rollouts.plan import Finding
from rollouts.targets.base import Target
from rollouts.traffic.base import Router

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime
    from typing import Any

    from rollouts.models import Rollout

targets: Backends[Target] = Backends("TARGETS")
routers: Backends[Router] = Backends("ROUTERS")


class Gate(Protocol):
    """A kind of step whose answer another app gives."""

    def check(self, settings: Mapping[str, Any]) -> dict[str, str]:
        """What is wrong with the step's settings: field → what would be right. Empty when they are usable."""

    def title(self, settings: Mapping[str, Any]) -> str: ...

    def watch(self, settings: Mapping[str, Any]) -> Mapping[str, Any]:
        """By what the candidate is watched outside of this step, where the strategy has no judge of its own: settings
        of an analysis step. It should never forbid what the gate allows."""

    def judge(self, rollout: Rollout, step_index: int, *, now: datetime, seconds: float) -> Finding:
        """The answer now; called about every second while the step is current, so it must be idempotent."""

    def end(self, rollout: Rollout, step_index: int, *, now: datetime) -> None:
        """The rollout left the step without the gate's say: skipped by a person, or turned back."""


gates: Registry[Gate] = Registry("gate", module="gates")
