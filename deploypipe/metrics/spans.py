"""Intervals of what each criterion measures, for people to read: they hold at every look at once.

A decision never waits for them, and they cost some twenty times what the evidence costs: an evaluation carries them
only where it is started with them. Each comes from the same tests as the evidence, on a grid of boundaries fixed before
any data (confidence 1 - 2 alpha), and agrees with the verdict at the margin.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from deploypipe.metrics.cores import Core, Item
from deploypipe.metrics.probes import Compiled, Source
from deploypipe.metrics.questions import Criterion, Kind, Plan
from deploypipe.stats import arrivals, intervals, limits, mean_intervals, means, quantiles
from deploypipe.stats.intervals import Interval, Scale, TwoArmSequence
from deploypipe.stats.limits import LimitProcess
from deploypipe.stats.mean_intervals import Means, MeanSequence
from deploypipe.stats.quantiles import QuantileProcess, QuantileTest
from deploypipe.stats.samples import Sample
from deploypipe.stats.two_arms import EProcess, Side

_TIMES = (1.05, 1.1, 1.15, 1.2, 1.3, 1.4, 1.5, 1.75, 2.0, 2.5, 3.0, 5.0)
P = TypeVar("P", LimitProcess, QuantileProcess)
RATIOS = tuple(sorted({1.0, *_TIMES, *(1 / times for times in _TIMES)}))
"""Of two latencies."""
STEPS = tuple(10 ** (step / 24) for step in range(-24, 25))
"""Of one latency, over its limit: from a tenth to ten times, each a tenth more."""


@dataclass(frozen=True, slots=True)
class RatioSequence:
    """Of two quantiles: the tests not yet rejected, on both sides."""

    level: float
    alpha: float
    lower: tuple[QuantileProcess, ...]
    """Of "at most r", for the last values of the grid."""
    upper: tuple[QuantileProcess, ...]
    """Of "at least r", for the first values of the grid."""

    @property
    def interval(self) -> Interval:
        first, last = len(RATIOS) - len(self.lower), len(self.upper)
        low = RATIOS[first - 1] if first else 0.0
        high = RATIOS[last] if last < len(RATIOS) else math.inf
        if low > high:  # so much has changed that no single ratio explains all looks
            low, high = 0.0, math.inf
        return Interval(low, high, 1 - 2 * self.alpha)

    def to_json(self) -> dict[str, Any]:
        return {
            "level": self.level,
            "alpha": self.alpha,
            "lower": _states_to_json(self.lower),
            "upper": _states_to_json(self.upper),
        }

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> RatioSequence:
        lower, upper = (_states_from_json(stored[side]) for side in ("lower", "upper"))
        return cls(float(stored["level"]), float(stored["alpha"]), lower, upper)


def _states_to_json(states: Sequence[QuantileProcess]) -> list[Any]:
    """They have all seen the same of stable, so that is written once."""
    said = [state.to_json() for state in states]
    return [said[0], *({**one, "past": None} for one in said[1:])] if said else []


def _states_from_json(stored: Sequence[Mapping[str, Any]]) -> tuple[QuantileProcess, ...]:
    return tuple(QuantileProcess.from_json({**one, "past": stored[0]["past"]}) for one in stored)


@dataclass(frozen=True, slots=True)
class SlownessSequence:
    """Of one arm's quantile: at each value of a grid around its limit, whether more than 1 - level are surely slower,
    or surely fewer."""

    level: float
    alpha: float
    limit: float
    """Milliseconds; the grid is STEPS times that."""
    lower: tuple[LimitProcess, ...]
    upper: tuple[LimitProcess, ...]

    @property
    def interval(self) -> Interval:
        first, last = len(STEPS) - len(self.lower), len(self.upper)
        low = self.limit * STEPS[first - 1] if first else 0.0
        high = self.limit * STEPS[last] if last < len(STEPS) else math.inf
        if low > high:  # so much has changed that no single value explains all looks
            low, high = 0.0, math.inf
        return Interval(low, high, 1 - 2 * self.alpha)

    def to_json(self) -> dict[str, Any]:
        return {
            "level": self.level,
            "alpha": self.alpha,
            "limit": self.limit,
            "lower": [state.to_json() for state in self.lower],
            "upper": [state.to_json() for state in self.upper],
        }

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> SlownessSequence:
        lower, upper = (tuple(LimitProcess.from_json(one) for one in stored[side]) for side in ("lower", "upper"))
        return cls(float(stored["level"]), float(stored["alpha"]), float(stored["limit"]), lower, upper)

    def extended(self, arms: Sequence[Mapping[int, float]]) -> SlownessSequence:
        first = len(STEPS) - len(self.lower)
        lower = self._kept(self.lower, STEPS[first:], Side.ABOVE, arms)
        upper = self._kept(self.upper, STEPS[: len(self.upper)], Side.BELOW, arms)
        return SlownessSequence(self.level, self.alpha, self.limit, lower, upper)

    def _kept(
        self,
        states: tuple[LimitProcess, ...],
        ratios: Sequence[float],
        side: Side,
        arms: Sequence[Mapping[int, float]],
    ) -> tuple[LimitProcess, ...]:
        samples = [
            [Sample.binary(*quantiles.slower_than(arm, self.limit * ratio, side)) for arm in arms] for ratio in ratios
        ]
        return _left(limits.advance_many(states, samples), side, self.alpha)


Span = TwoArmSequence | MeanSequence | RatioSequence | SlownessSequence | None
"""None where the evidence's own state is enough, or where there is no interval."""


def start(criterion: Criterion, source: Source, plan: Plan) -> Span:
    metric, alpha = source.metric, plan.alpha / plan.arms
    if alpha >= 0.5:
        return None
    if metric.bounded and criterion.kind is Kind.LIMIT:
        return mean_intervals.start(Means.RATE if metric.event else Means.BOUNDED, alpha=alpha)
    if metric.bounded:
        typical = 1 - metric.typical if source.mirrored else metric.typical
        scale = Scale.RATIO if criterion.relative else Scale.DIFFERENCE
        return intervals.start(scale, alpha=alpha, prior_mean=typical, prior_units=2 / typical)
    if criterion.level is not None and criterion.kind is not Kind.LIMIT:
        lower, upper = (
            tuple(quantiles.start(QuantileTest(side, criterion.level, ratio)) for ratio in RATIOS)
            for side in (Side.ABOVE, Side.BELOW)
        )
        return RatioSequence(criterion.level, alpha, lower, upper)
    if criterion.level is not None:
        tests = [limits.LimitTest(side, 1 - criterion.level) for side in (Side.ABOVE, Side.BELOW)]
        lower_limits, upper_limits = ((limits.start(test),) * len(STEPS) for test in tests)
        return SlownessSequence(criterion.level, alpha, float(criterion.margin), lower_limits, upper_limits)
    return None


def extend(span: Span, items: Sequence[Item]) -> Span:
    match span:
        case TwoArmSequence():
            return intervals.extend(span, items)  # type: ignore[arg-type]
        case MeanSequence():
            return mean_intervals.extend(span, [item.candidate for item in items])  # type: ignore[misc]
        case RatioSequence():
            return RatioSequence(
                span.level, span.alpha, *(_kept(states, items, span.alpha) for states in (span.lower, span.upper))
            )
        case SlownessSequence():
            return span.extended([item.candidate for item in items])  # type: ignore[misc]
        case None:
            return None


def _kept(states: tuple[QuantileProcess, ...], items: Sequence[Item], alpha: float) -> tuple[QuantileProcess, ...]:
    if not states:
        return states
    after = quantiles.advance_many(states, [items] * len(states))  # type: ignore[list-item]
    return _left(after, states[0].test.side, alpha)


def _left(states: Sequence[P], side: Side, alpha: float) -> tuple[P, ...]:
    """One end of the grid goes: of "at most x" the first values, of "at least x" the last."""
    rejected = [place for place, state in enumerate(states) if state.reached(alpha)]
    if not rejected:
        return tuple(states)
    return tuple(states[max(rejected) + 1 :]) if side is Side.ABOVE else tuple(states[: min(rejected)])


def shown(
    criterion: Criterion, place: int, found: Compiled, states: Sequence[Any], span: Span, plan: Plan
) -> tuple[float | None, float | None]:
    """In the unit of the margin; None where there is no end on that side, or no interval."""
    source = found.sources[found.shown[place]]
    ours = [index for index in found.of_criterion[place] if found.probes[index].source == found.shown[place]]
    if ours:
        core = found.probes[ours[0]].question.core
        interval = _interval(criterion, span, [states[index] for index in ours], core, plan)
    else:
        interval = span.interval if span else None
    if interval is None:
        return None, None
    low, high = _in_unit(criterion, source, interval.low, interval.high)
    return (low if math.isfinite(low) else None), (high if math.isfinite(high) else None)


def _interval(criterion: Criterion, span: Span, states: Sequence[Any], core: Core, plan: Plan) -> Interval | None:
    alpha = plan.alpha / plan.arms
    if alpha >= 0.5:
        return None
    if core is Core.TWO_MEANS:
        return means.interval(states[0], alpha, relative=criterion.relative)
    if core is Core.ARRIVALS:
        return arrivals.interval(states[0].counts, alpha)
    if isinstance(span, TwoArmSequence):
        return span.agreeing_with(state for state in states if isinstance(state, EProcess))
    return span.interval if span else None


def _in_unit(criterion: Criterion, source: Source, low: float, high: float) -> tuple[float, float]:
    metric = source.metric
    if criterion.relative:
        return 100 * (low - 1), 100 * (high - 1)
    if not metric.bounded:
        return low, high
    least, greatest = metric.scale
    size = greatest - least
    if criterion.kind is Kind.LIMIT:
        ends = (1 - high, 1 - low) if source.mirrored else (low, high)
        return least + ends[0] * size, least + ends[1] * size
    return (-high * size, -low * size) if source.mirrored else (low * size, high * size)


def to_json(span: Span) -> Any:
    return None if span is None else {"kind": type(span).__name__, **span.to_json()}


_KINDS: dict[str, Any] = {cls.__name__: cls for cls in (TwoArmSequence, MeanSequence, RatioSequence, SlownessSequence)}


def from_json(stored: Any) -> Span:
    return None if stored is None else _KINDS[stored["kind"]].from_json(stored)
