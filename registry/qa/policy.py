"""What a version is judged by: limits, weights, and how the load probe presses. Pure; a run keeps the one it used."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from registry.scoring import CATEGORY_WEIGHTS, MINIMUM_SCORE

DTE_COMPONENTS = ("dtesn", "aar_core", "echo_self")


@dataclass(frozen=True)
class Load:
    """How the probe presses. Open loop by default, so that a slow server cannot hide its queueing."""

    requests_per_second: float = 20.0
    seconds: float = 5.0
    warm_up_requests: int = 10
    max_tokens: int = 24
    concurrency: int = 0
    """Above 0: a closed loop instead, with that many requests always under way; the rate then says nothing."""
    prompt_words: tuple[tuple[int, float], ...] = ()
    """A mix of prompt lengths as (words, share); empty: the probe's own short prompts as they are."""
    output_tokens: tuple[tuple[int, float], ...] = ()
    """A mix of answer lengths as (tokens, share); empty: `max_tokens` for all."""
    prompts_file: str = ""
    """A JSONL file of the team's own prompts, {"prompt": …} a line; relative to the folder for such files."""

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Load:
        known = _known(cls, value)
        for mix in ("prompt_words", "output_tokens"):
            if mix in known:
                known[mix] = tuple((int(length), float(share)) for length, share in known[mix])
        return cls(**known)


@dataclass(frozen=True)
class Policy:
    minimum_score: float = MINIMUM_SCORE
    """Below it, only a named approver's override lets a version through."""
    max_latency_ms: float = 200.0
    """95th percentile of the time to the first token of a stream; of the whole answer where it does not stream."""
    min_throughput_tokens_sec: float = 100.0
    """Tokens per second over all streams together."""
    max_memory_gb: float = 16.0
    """Resident memory of the server after the load, 10^9 bytes."""
    max_error_rate_percent: float = 1.0
    require_authentication: bool = True
    require_rate_limiting: bool = True
    require_input_validation: bool = True
    deep_tree_echo: bool = True
    deep_tree_echo_components: tuple[str, ...] = DTE_COMPONENTS
    compare_with_live: bool = True
    """Start a copy of the live version and press both in turn."""
    weights: Mapping[str, float] = field(default_factory=lambda: dict(CATEGORY_WEIGHTS))
    """Of the categories, relative to each other."""
    advisory: tuple[str, ...] = ("integration", "quality")
    """Categories whose required checks cost points but do not block."""
    load: Load = field(default_factory=Load)
    parameters: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """By the check's name, then the parameter's."""

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Policy:
        """Of a stored run, which may be older or newer than this code: what it does not name has its default."""
        known = _known(cls, value)
        known["load"] = Load.from_json(known.get("load", {}))
        for several in ("advisory", "deep_tree_echo_components"):
            if several in known:
                known[several] = tuple(known[several])
        return cls(**known)


def _known(cls: type[Any], value: Mapping[str, Any]) -> dict[str, Any]:
    names = {one.name for one in fields(cls)}
    return {name: item for name, item in value.items() if name in names}
