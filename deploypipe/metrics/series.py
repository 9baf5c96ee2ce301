"""Windows as chart points: what the rollout page shows of each arm."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any, Protocol

from deploypipe.metrics.models import Window
from deploypipe.stats.histogram import Histogram

Points = dict[str, dict[str, list[Any]]]
QUANTILES = {"p50": 0.5, "p95": 0.95}


class Named(Protocol):
    name: str


def roles_of(candidate: Named | None, stable: Named | None) -> dict[str, str]:
    """Backend's name → the role by which charts know it."""
    named = {"candidate": candidate, "stable": stable}
    return {backend.name: role for role, backend in named.items() if backend is not None}


def points(windows: Iterable[Window], roles: Mapping[str, str], at: datetime) -> Points:
    """One point per trace, for the windows of one batch. Keys are "requests.candidate", "p95.stable" and so on."""
    found: Points = {}
    of_role = {roles[w.backend]: w for w in windows if w.backend in roles}
    total = sum(window.requests for window in of_role.values())
    for role, window in of_role.items():
        values = {
            "requests": window.requests,
            "errors": 100 * window.errors / window.requests if window.requests else None,
            **{name: Histogram.from_json(window.first_ms).quantile(p) for name, p in QUANTILES.items()},
        }
        if role == "candidate" and total:
            values["share"] = 100 * window.requests / total
        for name, value in values.items():
            found[f"{name}.{role}"] = {"x": [at.isoformat()], "y": [value]}
    return found


def history(windows: Iterable[Window], roles: Mapping[str, str]) -> Points:
    """The same for many batches, oldest first."""
    joined: Points = {}
    batches: dict[int, list[Window]] = {}
    for window in windows:
        batches.setdefault(window.batch, []).append(window)
    for batch in sorted(batches):
        for key, point in points(batches[batch], roles, batches[batch][0].taken_at).items():
            trace = joined.setdefault(key, {"x": [], "y": []})
            trace["x"] += point["x"]
            trace["y"] += point["y"]
    return joined
