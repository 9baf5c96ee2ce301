"""The tests that a plan's criteria come to: which data each one reads, which side it speaks for, and when it is enough.

Alpha of an abort is shared: by weight among the concerns that are present (errors .5, speed .3, worth .1, absolute
limits .1), then equally among a concern's criteria, then among a criterion's readings (a union bound: they live in
different filtrations, so they are not averaged). A promotion asks every criterion at full alpha (intersection-union:
Berger, Technometrics 24, 1982), in the last reading alone. Where a plan has a closing look, a criterion that can have
one (`closes`) keeps that part of its alpha for it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

from deploypipe.metrics.cores import Core, Question
from deploypipe.metrics.definitions import Concern, Family, Metric, Reading, metric_named
from deploypipe.metrics.questions import Criterion, Kind, Plan
from deploypipe.stats.two_arms import Side

LIMITS = "limits"
WEIGHTS: dict[str, float] = {Concern.ERRORS: 0.5, Concern.SPEED: 0.3, Concern.WORTH: 0.1, LIMITS: 0.1}


@dataclass(frozen=True, slots=True)
class Source:
    """A stream of data that several tests may read."""

    metric: Metric
    reading: Reading
    mirrored: bool = False
    """Values are read as 1 - value: the tests are at their best, and their numbers exact, where means are small."""


@dataclass(frozen=True, slots=True)
class Probe:
    source: int
    """Place in `Compiled.sources`."""
    against: bool
    """It speaks against the criterion; otherwise for it."""
    question: Question
    log_threshold: float


@dataclass(frozen=True, slots=True)
class Compiled:
    sources: tuple[Source, ...]
    probes: tuple[Probe, ...]
    of_criterion: tuple[tuple[int, ...], ...]
    """Places of its probes, for each criterion."""
    shown: tuple[int, ...]
    """For each criterion the place of the source from which it is proven and its estimate is taken."""
    closing: tuple[tuple[int, float] | None, ...]
    """For each criterion that has a closing look the place of its source, and the alpha kept for it."""


@lru_cache(maxsize=4096)
def compiled(plan: Plan) -> Compiled:
    sources: list[Source] = []
    probes: list[Probe] = []
    of_criterion: list[tuple[int, ...]] = []
    shown: list[int] = []
    closing: list[tuple[int, float] | None] = []

    def place_of(criterion: Criterion, metric: Metric, reading: Reading) -> int:
        source = Source(metric, reading, _mirrored(criterion, metric))
        if source not in sources:
            sources.append(source)
        return sources.index(source)

    for criterion in plan.criteria:
        metric = metric_named(criterion.metric)
        readings = metric.readings(plan.unit)
        shown.append(place_of(criterion, metric, readings[-1]))
        first = len(probes)
        kept = plan.closing if closes(criterion, plan) else 0.0
        closing.append(None)
        if criterion.proves:
            threshold = -math.log(plan.alpha / plan.arms)
            probes += [Probe(shown[-1], False, question, threshold) for question, _ in questions(criterion, metric)]
        if criterion.aborts:
            asked = [against for _, against in questions(criterion, metric)]
            alpha = _abort_alpha(criterion, plan)
            if kept:
                closing[-1] = place_of(criterion, metric, readings[0]), kept * alpha
            threshold = -math.log((1 - kept) * alpha / len(readings) / len(asked))
            probes += [
                Probe(place_of(criterion, metric, reading), True, question, threshold)
                for reading in readings
                for question in asked
            ]
        of_criterion.append(tuple(range(first, len(probes))))
    return Compiled(tuple(sources), tuple(probes), tuple(of_criterion), tuple(shown), tuple(closing))


def closes(criterion: Criterion, plan: Plan) -> bool:
    """Of what happens or not, against stable by a margin in points. Of several candidates the end is not settled
    beforehand: it is when the last one is decided."""
    metric = metric_named(criterion.metric)
    counted = (
        metric.bounded and bool(metric.event) and metric.readings(plan.unit)[0] in (Reading.FIRST, Reading.REQUEST)
    )
    return (
        criterion.aborts and counted and criterion.kind is Kind.INCREASE and not criterion.relative and plan.arms == 1
    )


def _abort_alpha(criterion: Criterion, plan: Plan) -> float:
    """Criteria that ask the same in other words cross their threshold together, and share one part."""
    concerns = {_essence(other): concern_of(other) for other in plan.criteria if other.aborts}
    present = list(concerns.values())
    total = sum(weight for name, weight in WEIGHTS.items() if name in present)  # in one order: the same bits
    concern = concern_of(criterion)
    return plan.alpha / plan.arms * WEIGHTS[concern] / total / present.count(concern)


def _essence(criterion: Criterion) -> tuple[object, ...]:
    metric = metric_named(criterion.metric)
    if not metric.complement_of or criterion.relative:
        return criterion.metric, criterion.kind, criterion.margin, criterion.relative, criterion.level, criterion.slack
    low, high = metric.scale
    margin = low + high - criterion.margin if criterion.kind is Kind.LIMIT else criterion.margin
    return metric.complement_of, criterion.kind, margin, False, None, 0.0


def concern_of(criterion: Criterion) -> str:
    return LIMITS if criterion.kind is Kind.LIMIT else metric_named(criterion.metric).concern


def questions(criterion: Criterion, metric: Metric) -> Iterator[tuple[Question, Question]]:
    """Pairs: the evidence that the criterion holds, and that it does not, at each of its boundaries."""
    for worst, boundary in _boundaries(criterion, metric):
        good, bad = (Side.BELOW, Side.ABOVE) if worst else (Side.ABOVE, Side.BELOW)
        yield _question(criterion, metric, good, boundary), _question(criterion, metric, bad, boundary)


def _mirrored(criterion: Criterion, metric: Metric) -> bool:
    return metric.bounded and metric.typical > 0.5 and not criterion.relative  # 1 - value keeps no ratio


def _boundaries(criterion: Criterion, metric: Metric) -> list[tuple[bool, float]]:
    """(whether the good side is below, boundary): the limit, the ratio where relative, else the difference."""
    margin, lower = criterion.margin, metric.lower_is_better
    up, down = (1 + margin / 100, 1 - margin / 100) if criterion.relative else (margin, -margin)
    match criterion.kind:
        case Kind.LIMIT:
            return [(lower, margin)]
        case Kind.INCREASE:
            return [(True, up) if lower else (False, down)]
        case Kind.IMPROVEMENT:
            return [(True, down) if lower else (False, up)]
        case Kind.EQUIVALENCE:
            return [(True, up), (False, down)]


def _question(criterion: Criterion, metric: Metric, side: Side, boundary: float) -> Question:
    low, high = metric.scale
    mirrored = _mirrored(criterion, metric)
    if mirrored:
        side = Side.ABOVE if side is Side.BELOW else Side.BELOW
    if criterion.kind is Kind.LIMIT:
        match metric.family:
            case Family.BOUNDED:
                # Of what happens or not, counts are enough for an exact mixture; more values are worth knowing each.
                core = Core.LIMIT if metric.event else Core.BETS
                limit = (high - boundary if mirrored else boundary - low) / (high - low)
                return Question(core, side, limit=limit)
            case Family.QUANTILE:
                return Question(Core.SLOWER, side, limit=boundary, level=criterion.level or 0.0)
            case Family.MEAN | Family.ARRIVALS:
                raise ValueError(f"{criterion.metric}: there is no test of a limit")  # refused by Criterion
    ratio = boundary if criterion.relative else 1.0
    difference = 0.0 if criterion.relative else boundary
    match metric.family:
        case Family.BOUNDED:
            typical = 1 - metric.typical if mirrored else metric.typical
            scaled = (-difference if mirrored else difference) / (high - low)
            return Question(Core.TWO_ARMS, side, difference=scaled, ratio=ratio, typical=typical)
        case Family.QUANTILE:
            return Question(Core.QUANTILE, side, ratio=ratio, level=criterion.level or 0.0, slack=criterion.slack)
        case Family.ARRIVALS:
            return Question(Core.ARRIVALS, side, ratio=ratio)
        case Family.MEAN:
            return Question(Core.TWO_MEANS, side, difference=difference, ratio=ratio)
