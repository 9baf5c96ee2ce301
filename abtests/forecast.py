"""What one criterion costs: units until an identical version has proven it, and until harm is called.

Each test that the plan comes to is asked of `deploypipe.stats.planning`, with the live version's measured traffic in
the place of stable, and in the place of the candidate the same traffic, or the same made worse.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from deploypipe.metrics import cores
from deploypipe.metrics.cores import Core
from deploypipe.metrics.definitions import Family, Metric, Reading, Unit, Value, metric_named
from deploypipe.metrics.probes import Compiled, Probe, Source, compiled
from deploypipe.metrics.questions import Criterion, Kind, Plan
from deploypipe.metrics.windows import ArmWindow, add_units
from deploypipe.metrics.wording import in_unit, quantile, units_of
from deploypipe.stats import exact_power, planning
from deploypipe.stats.histogram import bin_of
from deploypipe.stats.planning import NEVER, Forecast
from deploypipe.stats.samples import Moments, Sample
from deploypipe.stats.two_arms import Side

SLOWER = 1.5
"""How much slower the version is that is said to be caught: "+50 %"."""
_EIGHTH = 1 / 8
"""Of a scale, such as half a star of the four between one and five."""
_SURE = 1e-6


@dataclass(frozen=True, slots=True)
class Traffic:
    """Of the live version, as it was measured."""

    seconds: float
    arm: ArmWindow

    @property
    def requests(self) -> int:
        return self.arm.requests

    @property
    def sessions(self) -> int:
        return self.arm.fresh.first[0] + self.arm.returning.first[0]

    def units(self, unit: Unit) -> int:
        return self.sessions if unit is Unit.SESSION else self.requests

    def per_minute(self, count: float) -> float:
        return 60 * count / self.seconds if self.seconds > 0 else 0.0

    @property
    def requests_per_session(self) -> float:
        return self.requests / self.sessions if self.sessions else 1.0

    def read(self, metric: Metric, unit: Unit, reading: Reading) -> Value:
        if unit is Unit.SESSION:
            return metric.sessions(add_units(self.arm.fresh, self.arm.returning), reading)
        return metric.requests(self.arm)

    def latency_ms(self, level: float) -> float | None:
        """Of single requests."""
        return quantile(self.arm.latency, level)


@dataclass(frozen=True, slots=True)
class Cost:
    """Of one test, in units of stable and one candidate together."""

    forecast: Forecast = NEVER
    units_each: float = 1.0
    """Units for each thing that the test counts: it may count the candidate's alone, or only ratings."""
    waits: bool = False
    """A unit counts only when its session's observation has ended."""

    def units(self, power: float = 0.5) -> float:
        """Within how many units the decision falls with that chance."""
        return self.forecast.units_for(power) * self.units_each

    def power(self, units: float) -> float:
        return self.forecast.power(units / self.units_each)


NO_COST = Cost()


@dataclass(frozen=True, slots=True)
class Closing:
    """The exact test at the planned end."""

    stable_rate: float
    candidate_rate: float
    difference: float
    above: bool
    alpha: float

    def power(self, stable_units: float, candidate_units: float) -> float:
        return exact_power.power(
            round(stable_units), self.stable_rate, round(candidate_units), self.candidate_rate, self.difference,
            above=self.above, alpha=self.alpha,
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Costs:
    to_pass: Cost
    to_catch: Cost
    passes: str
    """Which version is thought to pass: "identical" or "better"."""
    harm: str
    """What is caught: "twice the error rate"."""
    problem: str = ""
    """Why a promotion waits for it for ever: it cannot be proven, or does not hold as measured."""
    closing: Closing | None = None
    """Of the same harm; None where it has no closing look."""


NO_DATA = "nothing of it was measured of the live version lately"
NOT_KEPT = "the live version itself does not keep this"
SO_GOOD = "the live version is so good that nothing can be better by that much"


def costs(plan: Plan, index: int, traffic: Traffic, *, share: float) -> Costs:
    """`share`: the candidate's of the units of these two arms."""
    criterion = plan.criteria[index]
    metric = metric_named(criterion.metric)
    last = traffic.read(metric, plan.unit, metric.readings(plan.unit)[-1])
    if not traffic.units(plan.unit) or not units_of(last):
        return Costs(NO_COST, NO_COST, "identical", "", NO_DATA)
    good, harm = _better(criterion, metric, last), _worse(criterion, metric, last)
    tests = compiled(plan)
    probes = [tests.probes[place] for place in tests.of_criterion[index]]
    proof = [_cost(one, tests, plan.unit, traffic, good.factor, share) for one in probes if not one.against]
    abort = [_cost(one, tests, plan.unit, traffic, harm.factor, share) for one in probes if one.against]
    return Costs(
        max(proof, key=Cost.units, default=NO_COST),
        min(abort, key=Cost.units, default=NO_COST),
        good.words,
        harm.words,
        _problem(criterion, metric, last),
        _closing(tests, index, plan.unit, traffic, harm.factor),
    )


# --- What the candidate is thought to be ------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Change:
    """Of the live version's own value, on the scale where more is worse."""

    factor: float
    words: str


_SAME = _Change(1.0, "identical")


def _better(criterion: Criterion, metric: Metric, value: Value) -> _Change:
    """The version that shall be promoted: an identical one, unless more is asked."""
    if criterion.kind is not Kind.IMPROVEMENT:
        return _SAME
    mean = _badness(metric, value, criterion)
    wanted = mean - (2 * _step(criterion, metric, mean) or abs(mean) / 2)
    if mean > 0:
        wanted = max(wanted, mean / 100)  # nothing is better than none of it
    return _Change(wanted / mean if mean else 1.0, "better")


def _worse(criterion: Criterion, metric: Metric, value: Value) -> _Change:
    """The harm that is said to be caught: what people ask for first where it is harm, otherwise what lies as far beyond
    what is allowed as that lies beyond today's value."""
    mean = _badness(metric, value, criterion)
    if not mean:
        return _Change(1.0, "")
    if criterion.kind is Kind.LIMIT:
        boundary = _limit(criterion, metric)
        far = boundary * (SLOWER if metric.family is Family.QUANTILE else 2)
        if metric.bounded and not metric.event:
            far = boundary + _EIGHTH
    else:
        step = _step(criterion, metric, mean)
        boundary, far = mean + step, mean + 2 * step
    if metric.bounded:
        if boundary >= 1:
            return _Change(1.0, "")
        far = min(far, (boundary + 1) / 2)
    if metric.event in ("failed", "succeeded") and 2 * mean > boundary:
        return _Change(2.0, "twice the error rate")
    if metric.family is Family.QUANTILE and SLOWER * mean > boundary:
        return _Change(SLOWER, f"a {metric.label} {100 * (SLOWER - 1):.0f} % higher")
    return _Change(far / mean, _called(criterion, metric, far))


def _called(criterion: Criterion, metric: Metric, badness: float) -> str:
    if metric.event in ("failed", "succeeded"):
        return f"an error rate of {100 * badness:.3g} %"
    if metric.family is Family.QUANTILE:
        return f"a P{100 * (criterion.level or 0.5):g} {metric.label} of {in_unit(float(f'{badness:.3g}'), 'ms')}"
    if metric.family is Family.ARRIVALS:
        return f"a {metric.label} {100 * abs(badness - 1):.3g} % {'higher' if metric.lower_is_better else 'lower'}"
    shown = badness
    if metric.bounded:
        low, high = metric.scale
        shown = low + (badness if metric.lower_is_better else 1 - badness) * (high - low)
    elif not metric.lower_is_better:
        shown = -badness
    return f"a {metric.label} of {in_unit(float(f'{shown:.3g}'), metric.unit)}"


def _badness(metric: Metric, value: Value, criterion: Criterion) -> float:
    """The value, on a scale from 0 to 1 where it has ends, and so that more is worse: of a quantity without bounds of
    which more is better, the negative of it. Of arrivals it is 1."""
    if isinstance(value, Sample):
        mean = smoothed(value).mean or 0.0
        return mean if metric.lower_is_better else 1 - mean
    if isinstance(value, Moments):
        mean = value.mean or 0.0
        return mean if metric.lower_is_better else -mean
    if isinstance(value, Mapping):
        return quantile(value, criterion.level or 0.5) or 0.0
    return 1.0


def _step(criterion: Criterion, metric: Metric, mean: float) -> float:
    """The margin, on the scale of `_badness`."""
    if criterion.relative:
        base = 1 - mean if metric.bounded and not metric.lower_is_better else abs(mean)
        return base * criterion.margin / 100
    low, high = metric.scale if metric.bounded else (0.0, 1.0)
    return criterion.margin / (high - low)


def _limit(criterion: Criterion, metric: Metric) -> float:
    if not metric.bounded:
        return criterion.margin
    low, high = metric.scale
    limit = (criterion.margin - low) / (high - low)
    return limit if metric.lower_is_better else 1 - limit


def _problem(criterion: Criterion, metric: Metric, value: Value) -> str:
    mean = _badness(metric, value, criterion)
    if criterion.kind is Kind.LIMIT:
        limit = _limit(criterion, metric)
        beyond = mean >= limit if metric.bounded or metric.lower_is_better else mean <= limit
        return NOT_KEPT if beyond and _shown(metric, value) else ""
    if criterion.kind is Kind.IMPROVEMENT and metric.bounded and _step(criterion, metric, mean) >= mean:
        return SO_GOOD
    return ""


def _shown(metric: Metric, value: Value) -> bool:
    """Whether anything bad was seen at all: one good request alone is no sign that a live version is bad."""
    if not isinstance(value, Sample) or value.mean is None:
        return True
    return value.mean > 0 if metric.lower_is_better else value.mean < 1


# --- Tests ------------------------------------------------------------------------------------------------------------


def _cost(probe: Probe, tests: Compiled, unit: Unit, traffic: Traffic, factor: float, share: float) -> Cost:
    source = tests.sources[probe.source]
    value = traffic.read(source.metric, unit, source.reading)
    counted = units_of(value)
    if not counted or not 0 < share < 1:
        return NO_COST
    # What users say comes of few of them; every other unit says nothing.
    telling = 1.0 if source.reading in (Reading.FIRST, Reading.WHOLE) else counted / traffic.units(unit)
    arms = 1 / share if probe.question.core.counts_one_arm else 1.0
    return Cost(_forecast(probe, value, source, factor, share), arms / telling, source.reading is Reading.WHOLE)


def _closing(tests: Compiled, index: int, unit: Unit, traffic: Traffic, factor: float) -> Closing | None:
    if (planned := tests.closing[index]) is None:
        return None
    place, alpha = planned
    source = tests.sources[place]
    value = traffic.read(source.metric, unit, source.reading)
    if not isinstance(value, Sample) or not value.units:
        return None
    stable, candidate = _arms(value, source, factor)
    mine = [tests.probes[i] for i in tests.of_criterion[index]]
    question = next(probe.question for probe in mine if probe.against and probe.source == place)
    above = question.side is Side.ABOVE
    return Closing(stable.mean or 0.0, candidate.mean or 0.0, question.difference, above, alpha)


def _forecast(probe: Probe, value: Value, source: Source, factor: float, share: float) -> Forecast:
    alpha, question = math.exp(-probe.log_threshold), probe.question
    test = cores.start(question).test
    if isinstance(value, Sample):
        stable, candidate = _arms(value, source, factor)
        match question.core:
            case Core.TWO_ARMS:
                return planning.two_arms(test, stable, candidate, share, alpha)
            case Core.LIMIT:
                return planning.limit(test, candidate.mean or 0.0, alpha)
            case _:
                return planning.mean_limit(test, candidate, alpha)
    if isinstance(value, Moments):
        mean, deviation = value.mean or 0.0, math.sqrt(value.variance or 0.0)
        if not deviation:
            return NEVER
        return planning.mean_difference(test, (mean, deviation), (mean * factor, deviation), share, alpha)
    if isinstance(value, Mapping):
        if question.core is Core.QUANTILE:
            return planning.quantile(test, factor, share, alpha, value)
        return planning.limit(test, _slower_share(value, question.limit / factor), alpha)
    return planning.rate_of_arrivals(test, factor if source.metric.lower_is_better else 1 / factor, share, alpha)


def _arms(value: Sample, source: Source, factor: float) -> tuple[Sample, Sample]:
    """Stable and candidate as the test reads them."""
    stable = smoothed(value)
    candidate = changed(stable, factor, more_is_worse=source.metric.lower_is_better)
    return (stable.mirrored, candidate.mirrored) if source.mirrored else (stable, candidate)


def smoothed(sample: Sample) -> Sample:
    """Nobody has seen enough to say "never": half a unit of the best and half of the worst more."""
    return sample + Sample.of({0.0: 0.5, 1.0: 0.5})


def changed(sample: Sample, factor: float, *, more_is_worse: bool = True) -> Sample:
    """The same units with a mean that is `factor` times as bad: so many more of them, or fewer, have a bad value."""
    if factor == 1.0:
        return sample
    bad = sample if more_is_worse else sample.mirrored
    mean = bad.mean or 0.0
    wanted = min(max(factor * mean, _SURE), 1 - _SURE)
    values = dict(bad.frequencies)
    nothing = values.pop(0.0, 0.0)
    troubled = sum(values.values())
    if troubled and troubled * wanted / mean <= troubled + nothing:
        scale = wanted / mean
        found = Sample.of({0.0: nothing + troubled * (1 - scale), **{x: n * scale for x, n in values.items()}})
    else:
        part = (wanted - mean) / (1 - mean)
        found = Sample.of({x: n * (1 - part) for x, n in bad.frequencies}) + Sample.of({1.0: bad.units * part})
    return found if more_is_worse else found.mirrored


def _slower_share(bins: Mapping[int, float], ms: float) -> float:
    """Half a unit more, for what has not been seen yet."""
    limit = bin_of(ms)
    return (sum(count for bin_, count in bins.items() if bin_ >= limit) + 0.5) / (sum(bins.values()) + 1)
