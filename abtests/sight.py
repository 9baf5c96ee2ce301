"""How much longer: units of all arms until the last open criterion is decided, if things go on as they are.

An estimate to plan by, never part of a verdict: the forecasts of `deploypipe.stats.planning`, with what was measured so
far in the place of the truth. A candidate that has shown little is taken to be like stable.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from abtests.forecast import smoothed
from abtests.progress import Progress
from deploypipe.metrics.cores import Core
from deploypipe.metrics.criteria import Evaluation, State, Unit
from deploypipe.metrics.estimates import ratio_of_arrivals
from deploypipe.metrics.probes import Probe, compiled
from deploypipe.metrics.windows import STABLE
from deploypipe.metrics.wording import quantile, units_of
from deploypipe.stats import planning, quantiles
from deploypipe.stats.planning import NEVER, Forecast
from deploypipe.stats.samples import Moments, Sample

if TYPE_CHECKING:
    from abtests.decision import Arm

_MOST = 100_000_000
_LIKE_STABLE = 20.0
"""Units for which a candidate is taken to be like stable, whatever it has shown."""


@dataclass(frozen=True, slots=True)
class Further:
    units: int | None
    """None: no decision is in sight."""
    seconds: float | None = None


def further(progress: Progress, arms: Sequence[Arm], seconds: float) -> Further | None:
    """None where too little was measured to say."""
    units = sum(_units(progress, arm) for arm in (STABLE, *progress.arms))
    going_on = [arm for arm in arms if arm.standing == "open"]
    if not units or not seconds or any(not _units(progress, arm.name) for arm in going_on):
        return None
    evaluations = dict(progress.evaluations)
    most = max(0.0, (progress.settings.min_seconds - seconds) / seconds * units)
    for arm in going_on:
        # While nothing is known of one criterion, another may still say that it takes long, but not how long.
        needed = [
            _needed(evaluations[arm.name], place, units)
            for place, row in enumerate(arm.rows)
            if row.state is not State.MET
        ]
        if any(value is None for value in needed):
            return None
        requests = progress.of(arm.name).requests
        floor = (progress.settings.min_requests - requests) / requests * units if requests else 0.0
        most = max([most, floor, *(value for value in needed if value is not None)])
    if most > _MOST:
        return Further(None)
    return Further(math.ceil(most), most / units * seconds)


def _units(progress: Progress, arm: str) -> int:
    totals = progress.of(arm)
    return totals.sessions if progress.settings.unit is Unit.SESSION else totals.requests


def _needed(evaluation: Evaluation, place: int, units: int) -> float | None:
    """More units of all arms, of which there were so many, until this criterion is proven or broken; inf: never."""
    found = compiled(evaluation.plan)
    probes = [(found.probes[index], evaluation.states[index]) for index in found.of_criterion[place]]
    proofs = [_gap(evaluation, p, state, units) for p, state in probes if not p.against]
    harms = [_gap(evaluation, p, state, units) for p, state in probes if p.against]
    if any(gap is None for gap in proofs):
        return None
    to_proof = max((gap for gap in proofs if gap is not None), default=math.inf)
    return min([to_proof, *(gap for gap in harms if gap is not None)])


def _gap(evaluation: Evaluation, probe: Probe, state: Any, units: int) -> float | None:
    """None where nothing was measured."""
    seen = evaluation.seen[probe.source]
    stable, candidate = _sum([value for _, value, _ in seen]), _sum([value for _, _, value in seen])
    a, b = units_of(stable), units_of(candidate)
    alone = probe.question.core.counts_one_arm
    if not b or (not alone and not a):
        return None
    forecast = _forecast(probe, state, stable, candidate, b / (a + b) if a else 0.0)
    if math.isinf(forecast.units):
        return math.inf
    left = max(0.0, 1 - max(float(state.max_log_evidence), 0.0) / probe.log_threshold)
    return (forecast.units - forecast.before) * left * units / (b if alone else a + b)


def _sum(values: Sequence[Any]) -> Any:
    total = values[0] if values else 0
    for value in values[1:]:
        total = _joined(total, value) if isinstance(total, dict) else total + value
    return total


def _joined(left: dict[int, float], right: dict[int, float]) -> dict[int, float]:
    return {bin_: left.get(bin_, 0.0) + right.get(bin_, 0.0) for bin_ in {*left, *right}}


def _forecast(probe: Probe, state: Any, stable: Any, candidate: Any, share: float) -> Forecast:
    alpha, question = math.exp(-probe.log_threshold), probe.question
    match question.core:
        case Core.TWO_ARMS:
            return planning.two_arms(state.test, smoothed(stable), _like(stable, candidate), share, alpha)
        case Core.LIMIT:
            return planning.limit(state.test, _like(stable, candidate).mean or 0.0, alpha)
        case Core.BETS:
            return planning.mean_limit(state.test, _like(stable, candidate), alpha)
        case Core.SLOWER:
            units, slow = quantiles.slower_than(candidate, question.limit, question.side)
            return planning.limit(state.test, (slow + 0.5) / (units + 1), alpha)
        case Core.QUANTILE:
            return planning.quantile(state.test, _change(stable, candidate, question.level), share, alpha, stable)
        case Core.TWO_MEANS:
            return _of_means(state.test, stable, candidate, share, alpha)
        case Core.ARRIVALS:
            percent = ratio_of_arrivals(state.counts)
            return NEVER if percent is None else planning.rate_of_arrivals(
                state.test, max(1 + percent / 100, 1e-3), share, alpha
            )  # fmt: skip


def _like(stable: Sample, candidate: Sample) -> Sample:
    """The candidate's units, and some more that are like stable's."""
    if not stable.units:
        return smoothed(candidate)
    believed = smoothed(stable)
    part = _LIKE_STABLE / believed.units
    return candidate + Sample.of({value: number * part for value, number in believed.frequencies})


def _change(stable: Any, candidate: Any, level: float) -> float:
    """Candidate's quantile over stable's; nearer to 1 where few units tell of it."""
    a, b = quantile(stable, level), quantile(candidate, level)
    if not a or not b:
        return 1.0
    told = units_of(candidate)
    return float((b / a) ** (told / (told + _LIKE_STABLE / (1 - level))))


def _of_means(test: Any, stable: Moments, candidate: Moments, share: float, alpha: float) -> Forecast:
    a, b = stable.variance, candidate.variance
    if not a or not b:
        return NEVER
    return planning.mean_difference(
        test, (stable.mean or 0.0, math.sqrt(a)), (candidate.mean or 0.0, math.sqrt(b)), share, alpha
    )
