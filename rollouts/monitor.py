"""From the gateway's windows to the judge's word: which measurements belong to a rollout and to a step of it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from deploypipe.metrics.models import RecordCursor
from deploypipe.metrics.models import Window as StoredWindow
from deploypipe.stats.counts import ArmCounts, Window
from rollouts import analysis
from rollouts.lifecycle import MOVES_TRAFFIC
from rollouts.models import Analysis, Rollout
from rollouts.plan import Finding
from rollouts.strategy import ANALYSIS, SET_WEIGHT, Step
from rollouts.traffic.base import TOTAL_WEIGHT

STALE_AFTER = timedelta(seconds=15)
"""Records that nobody has read for so long say nothing about now."""


@dataclass(frozen=True)
class Look:
    guard: Finding | None = None
    step: Finding | None = None


@dataclass(frozen=True)
class Measurements:
    windows: tuple[Window, ...]
    last: int
    """Id of the newest stored window in it."""


def measurements(rollout: Rollout, since: datetime | None) -> Measurements:
    """The windows of both arms whose requests all began after `since`, one per batch of records, oldest first."""
    if since is None:
        return Measurements((), 0)
    return _since(since, _stored(rollout, since), _arms(rollout))


def _arms(rollout: Rollout) -> dict[str, int]:
    """Backend's name → its place in a window: stable 0, candidate 1."""
    return {d.name: arm for d, arm in ((rollout.previous, 0), (rollout.candidate, 1)) if d is not None}


def _stored(rollout: Rollout, since: datetime) -> list[StoredWindow]:
    if rollout.candidate is None:
        return []
    rows = StoredWindow.objects.filter(
        environment=rollout.environment.name,
        model=rollout.model.name,
        backend__in=_arms(rollout),
        taken_at__gte=since,
    )
    return list(rows.only("pk", "batch", "backend", "taken_at", "first_at", "requests", "errors"))


def _since(since: datetime, rows: Iterable[StoredWindow], names: dict[str, int]) -> Measurements:
    rows = [row for row in rows if row.taken_at >= since]
    # Both arms of a batch or neither: to drop the slower arm alone would compare two different stretches of time.
    early = {row.batch for row in rows if row.first_at < since}
    found = [row for row in rows if row.batch not in early]
    return Measurements(tuple(_by_batch(found, names)), max((row.pk for row in found), default=0))


def _by_batch(rows: Iterable[StoredWindow], names: dict[str, int]) -> Iterable[Window]:
    batches: dict[int, list[ArmCounts]] = {}
    for row in sorted(rows, key=lambda row: (row.batch, row.pk)):
        arms = batches.setdefault(row.batch, [ArmCounts(), ArmCounts()])
        arms[names[row.backend]] = arms[names[row.backend]] + ArmCounts(row.requests, row.errors)
    return (Window(stable, candidate) for stable, candidate in batches.values())


def provider_problem(now: datetime) -> str | None:
    """Why the records cannot be trusted to tell about now; None when they can."""
    cursor = RecordCursor.objects.filter(name="gateway").first()
    if cursor is None or cursor.read_at is None:
        return "the gateway's records have not been read yet."
    if now - cursor.read_at > STALE_AFTER:
        return f"the gateway's records were last read {(now - cursor.read_at).total_seconds():.0f} s ago."
    return None


def look(rollout: Rollout, now: datetime) -> Look:
    """Judge what was measured so far, and keep the judge's word where there is something new in it."""
    if rollout.state not in MOVES_TRAFFIC or rollout.traffic_from is None:
        return Look()
    steps = rollout.plan
    current = steps[rollout.step_index] if rollout.step_index < len(steps) else None
    rows, arms = _stored(rollout, rollout.traffic_from), _arms(rollout)
    seen = _since(rollout.traffic_from, rows, arms)
    problem = provider_problem(now)
    guard = analysis.guard(seen.windows, settings_of(steps, current), provider_problem=problem)
    if current is None or current.kind != ANALYSIS:
        return Look(guard=_finding(guard))
    in_step = _since(rollout.step_at, rows, arms)
    step = judge_step(rollout, current, in_step, seen, now, problem)
    if seen.last:
        _keep(rollout, seen.last, step, now)
    return Look(guard=_finding(guard), step=_finding(step))


def judge_step(
    rollout: Rollout, step: Step, in_step: Measurements, seen: Measurements, now: datetime, problem: str | None
) -> analysis.Judgement:
    return analysis.judge(
        in_step.windows,
        seen.windows,
        settings_of((step,), step),
        provider_problem=problem,
        seconds_in_step=rollout.seconds_since(rollout.step_at, now),
        compare=_compares(rollout),
    )


def _compares(rollout: Rollout) -> bool:
    """Whether the stable version has a share in this step: with all traffic on the candidate only limits can judge."""
    weights = [step.weight for step in rollout.plan[: rollout.step_index] if step.kind == SET_WEIGHT]
    return rollout.previous is not None and bool(weights) and weights[-1] < TOTAL_WEIGHT


def settings_of(steps: Iterable[Step], current: Step | None) -> analysis.AnalysisSettings:
    """Of the current analysis step, else of the first one that the strategy has, else the defaults."""
    if current is None or current.kind != ANALYSIS:
        current = next((step for step in steps if step.kind == ANALYSIS), None)
    given: dict[str, Any] = dict(current.settings) if current else {}
    given.pop("on_timeout", None)
    return analysis.parse_settings(given)


def _finding(judgement: analysis.Judgement) -> Finding:
    return Finding(judgement.verdict.value, judgement.sentence, judgement.timed_out)


def _keep(rollout: Rollout, last: int, judgement: analysis.Judgement, now: datetime) -> None:
    Analysis.objects.get_or_create(
        rollout=rollout,
        step_index=rollout.step_index,
        last_window=last,
        defaults={
            "at": now,
            "verdict": judgement.verdict.value,
            "sentence": judgement.sentence,
            "detail": judgement.to_json(),
        },
    )
