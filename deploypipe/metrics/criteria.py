"""Is a candidate as good as was asked? Criteria, and the evidence for and against each, window by window.

An evaluation is a pure function of its plan and the windows that it has seen: any batching of the same windows gives
the same bits, and `advance_many` gives those of `advance`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from deploypipe.metrics import closing, cores, spans
from deploypipe.metrics.answers import rows
from deploypipe.metrics.definitions import Reading, Unit
from deploypipe.metrics.probes import Compiled, compiled
from deploypipe.metrics.questions import Criterion, Kind, Plan, Role, Row, Scope, State
from deploypipe.metrics.reading import Reader, Seen, add, seen_from_json, seen_to_json
from deploypipe.metrics.spans import Span
from deploypipe.metrics.windows import CANDIDATE, Measured

__all__ = [
    "Criterion", "Evaluation", "Kind", "Plan", "Reading", "Role", "Row", "Scope", "State", "Unit",
    "advance", "advance_many", "close", "replay", "rows", "start",
]  # fmt: skip


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Of one plan and one candidate: all that must be kept between two looks."""

    plan: Plan
    looks: int = 0
    """Windows seen."""
    last_window: int = -1
    """Number of the newest of them."""
    first_period: int | None = None
    states: tuple[Any, ...] = ()
    """Of each test in `probes.compiled(plan).probes`."""
    seen: tuple[Seen, ...] = ()
    """What each source held so far, period by period: for estimates, never for evidence."""
    spans: tuple[Span, ...] | None = None
    """For each criterion what its interval comes from; None where it was started without."""
    closed: tuple[float | None, ...] | None = None
    """For each criterion the p-value of its closing look; None before it."""

    def to_json(self) -> dict[str, Any]:
        found = compiled(self.plan)
        return {
            "plan": self.plan.to_json(),
            "looks": self.looks,
            "last_window": self.last_window,
            "first_period": self.first_period,
            "states": [state.to_json() for state in self.states],
            "seen": [
                seen_to_json(source.metric.family, seen) for source, seen in zip(found.sources, self.seen, strict=True)
            ],
            "spans": None if self.spans is None else [spans.to_json(span) for span in self.spans],
            "closed": None if self.closed is None else list(self.closed),
        }

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> Evaluation:
        plan = Plan.from_json(stored["plan"])
        found = compiled(plan)
        return cls(
            plan,
            int(stored["looks"]),
            int(stored["last_window"]),
            stored["first_period"],
            tuple(
                cores.state_from_json(probe.question, state)
                for probe, state in zip(found.probes, stored["states"], strict=True)
            ),
            tuple(
                seen_from_json(source.metric.family, seen)
                for source, seen in zip(found.sources, stored["seen"], strict=True)
            ),
            None if stored["spans"] is None else tuple(spans.from_json(span) for span in stored["spans"]),
            None if stored["closed"] is None else tuple(stored["closed"]),
        )


def start(plan: Plan, *, intervals: bool = False) -> Evaluation:
    """Intervals cost far more than the evidence, and decide nothing: ask for them where somebody reads them."""
    found = compiled(plan)
    states = tuple(cores.start(probe.question) for probe in found.probes)
    shown = [found.sources[place] for place in found.shown]
    return Evaluation(
        plan,
        states=states,
        seen=((),) * len(found.sources),
        spans=tuple(
            spans.start(criterion, source, plan) for criterion, source in zip(plan.criteria, shown, strict=True)
        )
        if intervals
        else None,
    )


def replay(plan: Plan, windows: Iterable[Measured], arm: str = CANDIDATE, *, intervals: bool = False) -> Evaluation:
    return advance(start(plan, intervals=intervals), windows, arm)


def close(evaluation: Evaluation) -> Evaluation:
    """Take the closing look, once: at an end that was settled before the first window. Later windows do not move it."""
    if evaluation.closed is not None or not evaluation.plan.closing:
        return evaluation
    return replace(evaluation, closed=closing.p_values(compiled(evaluation.plan), evaluation))


def advance(evaluation: Evaluation, windows: Iterable[Measured], arm: str = CANDIDATE) -> Evaluation:
    """Windows in any order; a number that is not above those that it has seen is a ValueError: none counts twice."""
    return advance_many((evaluation,), (windows,), (arm,))[0]


def advance_many(
    evaluations: Sequence[Evaluation], windows_of_each: Sequence[Iterable[Measured]], arms: Sequence[str]
) -> list[Evaluation]:
    """Many at once: tests of the same kind share one pass of arrays."""
    found = [compiled(evaluation.plan) for evaluation in evaluations]
    after: list[_Advancing] = []
    for evaluation, windows, arm in zip(evaluations, windows_of_each, arms, strict=True):
        after.append(_read(evaluation, compiled(evaluation.plan), _in_order(windows, evaluation.last_window), arm))
    groups: dict[cores.Core, list[tuple[int, int]]] = {}
    for place, (advancing, each) in enumerate(zip(after, found, strict=True)):
        if advancing.items:
            for index, probe in enumerate(each.probes):
                groups.setdefault(probe.question.core, []).append((place, index))
    for core, members in groups.items():
        advanced = cores.advance_many(
            core,
            [found[place].probes[index].question for place, index in members],
            [after[place].states[index] for place, index in members],
            [after[place].items[found[place].probes[index].source] for place, index in members],
        )
        for (place, index), state in zip(members, advanced, strict=True):
            after[place].states[index] = state
    return [advancing.done() for advancing in after]


@dataclass(slots=True)
class _Advancing:
    before: Evaluation
    looks: int
    last_window: int
    first_period: int | None
    states: list[Any]
    items: tuple[list[cores.Item], ...]
    """Of each source, one for each new window; empty where there is no new window."""
    seen: tuple[Seen, ...]
    spans: tuple[Span, ...] | None

    def done(self) -> Evaluation:
        if not self.items:
            return self.before
        return Evaluation(
            self.before.plan,
            self.looks,
            self.last_window,
            self.first_period,
            tuple(self.states),
            self.seen,
            self.spans,
            self.before.closed,
        )


def _read(evaluation: Evaluation, found: Compiled, windows: list[Measured], arm: str) -> _Advancing:
    first_period = evaluation.first_period
    items: tuple[list[cores.Item], ...] = ()
    seen, extended = evaluation.seen, evaluation.spans
    if windows:
        if first_period is None:
            first_period = windows[0].period
        reader = Reader(evaluation.plan.unit, evaluation.plan.scope, first_period, arm)
        items = reader.items(found.sources, windows)
        seen = tuple(
            add(source.metric.family, before, new)
            for source, before, new in zip(found.sources, evaluation.seen, items, strict=True)
        )
        if extended is not None:
            extended = tuple(
                spans.extend(span, items[place]) for span, place in zip(extended, found.shown, strict=True)
            )
    return _Advancing(
        evaluation,
        evaluation.looks + len(windows),
        windows[-1].number if windows else evaluation.last_window,
        first_period,
        list(evaluation.states),
        items,
        seen,
        extended,
    )


def _in_order(windows: Iterable[Measured], last: int) -> list[Measured]:
    ordered = sorted(windows, key=lambda window: window.number)
    for window in ordered:
        if window.number <= last:
            raise ValueError(f"window {window.number} comes after window {last}: each counts once, and numbers rise")
        last = window.number
    return ordered
