from __future__ import annotations

from dataclasses import dataclass

from deploypipe.core.events import Event


@dataclass(frozen=True)
class ExperimentChanged(Event):
    experiment_id: int
