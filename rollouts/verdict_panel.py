"""What the page of a rollout shows of one look of the judge."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from deploypipe.metrics.criteria import Row
from deploypipe.metrics.definitions import metric_named
from deploypipe.stats import words
from rollouts.analysis import ArmTotals, Judgement, capitalised
from rollouts.models import Analysis


@dataclass(frozen=True)
class Look:
    analysis: Analysis
    judgement: Judgement | None
    """None where it was written by a version whose numbers this one cannot read."""

    @property
    def arms(self) -> list[tuple[str, ArmTotals]]:
        if self.judgement is None:
            return []
        step, rollout = self.judgement.step, self.judgement.rollout
        return [
            ("Candidate in this step", step.candidate),
            ("Stable in this step", step.stable),
            ("Candidate since it has traffic", rollout.candidate),
            ("Stable since then", rollout.stable),
        ]

    @property
    def evidence(self) -> list[Evidence]:
        """What must be proven in this step first, then what would fail the rollout."""
        if self.judgement is None:
            return []
        bars = [
            *(_proof(row) for row in self.judgement.needed if row.proves),
            *(_harm(row) for row in self.judgement.against if row.log_threshold_against is not None),
        ]
        return _said_once(bars)


@dataclass(frozen=True)
class Evidence:
    """One bar."""

    words: str
    metric: str
    scope: str
    measured: str
    """Empty where another bar has said it."""
    seen: str
    needed: str
    part: int
    """Percent of what is needed."""
    reached: bool
    bad: bool


def _proof(row: Row) -> Evidence:
    return _bar(row, capitalised(row.name), "this step", row.log_evidence, row.log_threshold or 1.0, bad=False)


def _harm(row: Row) -> Evidence:
    needed = row.log_threshold_against or 1.0
    return _bar(row, _harm_words(row), "since it has traffic", row.log_evidence_against, needed, bad=True)


def _harm_words(row: Row) -> str:
    metric = metric_named(row.metric)
    of = f"P{100 * row.level:g} {metric.label}" if row.level is not None else metric.label
    return capitalised(f"{of} {row.broken_words}")


def _bar(row: Row, said: str, scope: str, seen: float, needed: float, *, bad: bool) -> Evidence:
    part = round(100 * max(0.0, min(1.0, seen / needed)))
    return Evidence(
        said,
        row.metric,
        scope,
        capitalised(row.measured),
        words.odds(seen),
        words.odds(needed),
        part,
        seen >= needed,
        bad,
    )


def _said_once(bars: Iterable[Evidence]) -> list[Evidence]:
    said: set[str] = set()
    shown = []
    for bar in bars:
        of_this = {bar.measured, f"{bar.metric} {bar.scope}"}
        shown.append(replace(bar, measured="") if said & of_this else bar)
        said |= of_this
    return shown


def look_of(analysis: Analysis) -> Look:
    try:
        return Look(analysis, Judgement.from_json(analysis.detail))
    except (KeyError, TypeError, ValueError):
        return Look(analysis, None)
