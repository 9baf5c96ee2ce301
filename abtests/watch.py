"""What a rollout is watched by, before and after its experiment: as much as that allows, and no more. Pure."""

from __future__ import annotations

from typing import Any

from abtests.settings import ExperimentSettings
from deploypipe.metrics.criteria import Criterion, Kind

_COMPARED = (Kind.INCREASE, Kind.EQUIVALENCE)
_WIDEST_LEVEL = 0.99


def watched_by(settings: ExperimentSettings) -> dict[str, Any]:
    """Settings of an analysis step. Ratings and what else users say are the experiment's alone to judge."""
    asked = [criterion for criterion in settings.criteria if criterion.aborts]
    found: dict[str, Any] = {
        "alpha": settings.alpha,
        "unit": settings.unit.value,
        "max_error_rate_percent": _least([_error_limit(one) for one in asked]),
        "max_latency_increase_percent": None,
    }
    margins = [one.margin for one in asked if _compares_errors(one)]
    if margins:
        found["max_error_increase_points"] = min(margins)
    latencies = [one for one in asked if one.metric == "latency" and 0.5 <= (one.level or 0.0) <= _WIDEST_LEVEL]
    compared = next((one for one in latencies if one.kind in _COMPARED), None)
    limit = next((one for one in latencies if one.kind is Kind.LIMIT), None)
    if compared is not None:
        found |= {"max_latency_increase_percent": compared.margin, "latency_slack_ms": compared.slack}
        found["latency_level"] = compared.level
    if limit is not None and (compared is None or limit.level == compared.level):  # one step has one level
        found |= {"max_latency_ms": limit.margin, "latency_level": limit.level}
    return found


def _compares_errors(criterion: Criterion) -> bool:
    absolute = criterion.kind in _COMPARED and not criterion.relative
    return criterion.metric in ("error_rate", "success_rate") and absolute


def _error_limit(criterion: Criterion) -> float | None:
    if criterion.kind is not Kind.LIMIT:
        return None
    return {"error_rate": criterion.margin, "success_rate": 100 - criterion.margin}.get(criterion.metric)


def _least(values: list[float | None]) -> float | None:
    return min((value for value in values if value is not None), default=None)
