"""Windows as chart points: what the rollout page shows of each arm."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

from deploypipe.metrics.bins import first_ms
from deploypipe.metrics.models import Window
from deploypipe.metrics.windows import STABLE
from deploypipe.stats.histogram import Histogram

Points = dict[str, dict[str, list[Any]]]
QUANTILES = {"p50": 0.5, "p95": 0.95}


def points(windows: Iterable[Window], roles: Mapping[str, str], at: datetime) -> Points:
    """One point per trace, for the windows of one batch; `roles`: backend's name → arm. Keys are "requests.candidate",
    "p95.stable" and so on."""
    found: Points = {}
    of_role: dict[str, list[Window]] = {}
    for window in windows:
        if window.backend in roles:
            of_role.setdefault(roles[window.backend], []).append(window)
    drawn = sum(_drawn(rows) for rows in of_role.values())
    for role, rows in of_role.items():
        values = _values(rows)
        if role != STABLE and drawn:
            values["share"] = 100 * _drawn(rows) / drawn
        for name, value in values.items():
            found[f"{name}.{role}"] = {"x": [at.isoformat()], "y": [value]}
    return found


def _values(rows: Sequence[Window]) -> dict[str, float | None]:
    """Of one arm: a batch has a row for each period and group."""
    requests = sum(row.requests for row in rows)
    latencies = Histogram()
    for row in rows:
        latencies = latencies.merge(first_ms(row))
    return {
        "requests": requests,
        "errors": 100 * sum(row.errors for row in rows) / requests if requests else None,
        **{name: latencies.quantile(p) for name, p in QUANTILES.items()},
    }


def _drawn(rows: Iterable[Window]) -> int:
    """Requests of sessions that chance has sent there: those held out would make a share look wrong that is right."""
    return sum(row.requests for row in rows if not row.group)


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
