"""What the charts of a rollout's page are drawn from."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

from deploypipe.metrics import series
from deploypipe.metrics.models import Window
from deploypipe.metrics.windows import CANDIDATE, STABLE
from rollouts import charts, monitor
from rollouts.bucketing import cuts_of, weights_of
from rollouts.lifecycle import Purpose, Status
from rollouts.models import Rollout
from rollouts.page_verbs import back
from rollouts.queries import backends_of
from rollouts.strategy import SET_WEIGHT
from rollouts.traffic.base import TOTAL_WEIGHT

POINTS = 600
"""Readings that a chart begins with; about ten minutes."""
AFTERWARDS = timedelta(seconds=60)
"""How long after its end a rollout is still drawn."""


def charts_of(one: Rollout) -> dict[str, Any]:
    return {"figures": figures(one), "topic": f"rollout-{one.pk}"}


def figures(one: Rollout) -> dict[str, charts.Figure]:
    """Empty while nothing was measured."""
    windows = _windows(one)
    if not windows:
        return {}
    measured = series.history(windows, backends_of(one))
    judged = monitor.settings_of(one.plan, None)
    first, last = windows[0].taken_at, windows[-1].taken_at
    versions = {CANDIDATE: str(one.version), **{arm.name: str(arm.version) for arm in one.arms.all()}}
    return charts.figures(
        measured,
        {arm: _wanted(one, arm, first, last) for arm in versions},
        {**versions, **({STABLE: back(one)} if one.previous else {})},
        limit=judged.max_error_rate_percent,
        limit_ms=judged.max_latency_ms,
    )


def _windows(one: Rollout) -> list[Window]:
    backends = backends_of(one)
    if not backends or one.traffic_from is None:
        return []
    rows = Window.objects.filter(
        environment=one.environment.name, model=one.model.name, backend__in=backends, taken_at__gte=one.traffic_from
    )
    if one.ended_at:
        rows = rows.filter(taken_at__lte=one.ended_at + AFTERWARDS)
    return list(rows.order_by("-pk")[: POINTS * len(backends)])[::-1]


def _wanted(one: Rollout, arm: str, first: datetime, last: datetime) -> list[tuple[datetime, float]]:
    """A candidate's share as it was set, at each change within the chart, and where it stands at its end."""
    changes = [
        (step.began_at, _part(one, arm, float(step.settings["percent"])))
        for step in one.steps.all()
        if step.kind == SET_WEIGHT and step.began_at
    ]
    if one.status in (Status.PROMOTING, Status.SUCCEEDED) and one.purpose == Purpose.PROMOTE:
        changes.append((one.ended_at or one.phase_at, 100.0))
    if one.status in (Status.ROLLING_BACK, Status.ROLLED_BACK, Status.CONCLUDING):
        changes.append((one.phase_at, 0.0))
    left_at = next((row.dropped_at for row in one.arms.all() if row.name == arm), None)
    if left_at is not None:
        changes = [*((at, share) for at, share in changes if at < left_at), (left_at, 0.0)]
    before = [share for at, share in changes if at <= first]
    inside = [(at, share) for at, share in changes if first < at <= last]
    drawn = [(first, before[-1] if before else 0.0), *inside]
    return [*drawn, (last, drawn[-1][1])]


def _part(one: Rollout, arm: str, percent: float) -> float:
    """Of what is set for all candidates together, in percent."""
    if not one.arms.all():
        return percent
    lanes = [replace(lane, on=True) for lane in one.lanes]
    return 100 * weights_of(cuts_of(round(percent * TOTAL_WEIGHT / 100), lanes)).get(arm, 0) / TOTAL_WEIGHT
