"""The engine's own counters over the load, as evidence beside the probe's figures. Nothing is judged by them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from deploypipe.core.errors import EngineError
from registry.engines import EngineClient
from registry.qa.probe.measured import ENGINE_SECONDS

_COUNTERS = (
    "generation_tokens_total",
    "prompt_tokens_total",
    "num_preemptions_total",
    "prefix_cache_queries_total",
    "prefix_cache_hits_total",
)
_BY_REASON = "request_success_total"
_HISTOGRAMS = {
    "time_to_first_token_seconds": "first_token_ms",
    "inter_token_latency_seconds": "gap_ms",
    "e2e_request_latency_seconds": "whole_ms",
    "request_queue_time_seconds": "queue_ms",
}
_STARTED = "process_start_time_seconds"


def snapshot(base_url: str, api_key: str) -> dict[str, float]:
    """By name, with the one label that tells apart; other labels (engine, model name) are added up. Empty where the
    engine shows nothing, or not in time.
    """
    try:
        with EngineClient(base_url, api_key or None, timeout=ENGINE_SECONDS) as client:
            families = client.metrics()
    except EngineError:
        return {}
    found: dict[str, float] = {}
    for sample in (sample for family in families.values() for sample in family.samples):
        if (key := _key(sample.name, sample.labels)) and math.isfinite(sample.value):
            found[key] = found.get(key, 0.0) + sample.value
    return found


def _key(name: str, labels: Mapping[str, str]) -> str:
    if name in _COUNTERS or name == _STARTED:
        return name
    if name == _BY_REASON:
        return f"{name}|{labels.get('finished_reason', '')}"
    base, _, part = name.rpartition("_")
    if base in _HISTOGRAMS and part in ("sum", "count"):
        return name
    if base in _HISTOGRAMS and part == "bucket" and _is_number(limit := labels.get("le", "")):
        return f"{name}|{limit}"
    return ""


def _is_number(text: str) -> bool:
    try:
        return not math.isnan(float(text))
    except ValueError:
        return False


def engine_side(before: Mapping[str, float], after: Mapping[str, float]) -> dict[str, Any]:
    """What the engine counted between the two looks; empty where there were not two. JSON-able."""
    if not before or not after:
        return {}
    if _was_reset(before, after):
        return {"reset": "The engine's counters began anew during the load: it was started again, or reset."}
    moved = {name: count - before.get(name, 0.0) for name, count in after.items() if name != _STARTED}
    found: dict[str, Any] = {
        name.removesuffix("_total"): round(moved[name]) for name in _COUNTERS if moved.get(name) is not None
    }
    reasons = {name.partition("|")[2]: round(n) for name, n in moved.items() if name.startswith(f"{_BY_REASON}|")}
    found["requests_by_finish_reason"] = {reason: count for reason, count in reasons.items() if count}
    for name, shown in _HISTOGRAMS.items():
        if count := moved.get(f"{name}_count"):
            found[shown] = {
                "n": round(count),
                "mean": round(1000 * moved.get(f"{name}_sum", 0.0) / count, 2),
                "p95_between": _p95_bucket(name, moved, count),
            }
    return found


def _was_reset(before: Mapping[str, float], after: Mapping[str, float]) -> bool:
    """A counter never falls, and none vanishes, while its process lives (Prometheus' own rule)."""
    if before.get(_STARTED) != after.get(_STARTED):
        return True
    return any(after.get(name, -1.0) < count for name, count in before.items() if name != _STARTED and count > 0)


def _p95_bucket(name: str, moved: Mapping[str, float], count: float) -> list[float | None] | None:
    """The two bucket limits in ms between which the 95th percentile lies; None above the last one."""
    start = f"{name}_bucket|"
    buckets = sorted((float(key.removeprefix(start)), n) for key, n in moved.items() if key.startswith(start))
    lower = 0.0
    for limit, below in buckets:
        if below >= 0.95 * count:
            return [round(1000 * lower, 1), None if limit == float("inf") else round(1000 * limit, 1)]
        lower = limit
    return None
