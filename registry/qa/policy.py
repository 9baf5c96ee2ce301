"""What a version is judged by: limits, weights, and how the load probe presses. Pure; a run keeps the one it used."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from registry.scoring import CATEGORY_WEIGHTS


@dataclass(frozen=True)
class Load:
    """The load probe: open loop, so that a slow server cannot hide its queueing."""

    requests_per_second: float = 20.0
    seconds: float = 5.0
    warm_up_requests: int = 10
    max_tokens: int = 24


@dataclass(frozen=True)
class Policy:
    minimum_score: float = 80.0
    """Below it, only a named approver's override lets a version through."""
    max_latency_ms: float = 200.0
    """95th percentile of the time to the first token of a stream."""
    min_throughput_tokens_sec: float = 100.0
    """Tokens per second over all streams together."""
    max_error_rate_percent: float = 1.0
    require_authentication: bool = True
    require_input_validation: bool = True
    deep_tree_echo: bool = True
    weights: Mapping[str, float] = field(default_factory=lambda: dict(CATEGORY_WEIGHTS))
    load: Load = field(default_factory=Load)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Policy:
        known = dict(value)
        known["load"] = Load(**known.get("load", {}))
        return cls(**known)
