"""What an experiment will cost, said before it starts: for every goal and guardrail, requests and minutes at today's
traffic and this split, until an identical version is promoted and until harm is caught."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from abtests import design_words
from abtests.design_words import SURE_ENOUGH
from abtests.forecast import Traffic
from abtests.split_forecast import Asked, CriterionForecast, SplitForecast
from deploypipe.metrics.questions import Plan
from deploypipe.metrics.wording import wanted

__all__ = ["SPLITS", "Asked", "Design", "MetricForecast", "TrafficFacts", "design", "usual_splits"]

SPLITS: tuple[float, ...] = (0.05, 0.1, 0.2, 0.25, 0.5)
"""Usual shares of all candidates together."""


@dataclass(frozen=True, slots=True)
class MetricForecast:
    name: str
    metric: str
    role: str
    proves: bool
    requests_to_pass: int | None
    """Of all arms together, until an identical version has proven it. None: it need not be proven, or never is."""
    minutes_to_pass: float | None
    harm: str
    """What is caught: "twice the error rate"."""
    requests_to_catch: int | None
    """None: it cannot abort, or this harm lies within what is allowed."""
    minutes_to_catch: float | None
    caught_in_time: float | None
    """The chance that this harm is called by the end, with the exact test at the end where there is one."""
    sentence: str
    problem: str
    """Why a promotion waits for it for ever; empty where it does not."""


@dataclass(frozen=True, slots=True)
class TrafficFacts:
    minutes: float
    """Length of the stretch that was measured."""
    requests: int
    sessions: int
    requests_per_minute: float
    sessions_per_minute: float
    error_rate: float | None
    latency_p95_ms: float | None
    ratings: int
    sentence: str


@dataclass(frozen=True, slots=True)
class Design:
    share: float
    """Of all candidates together."""
    arms: int
    unit: str
    metrics: tuple[MetricForecast, ...]
    slowest: str
    """Of several criteria that need proof, the name of the one that a promotion waits for longest; or empty."""
    requests_to_promote: int | None
    minutes_to_promote: float | None
    chance: float
    """That an identical version is promoted within the time allowed."""
    feasible: bool
    """That chance is enough."""
    suggested_share: float | None
    """The smallest usual split with which it is, when with this one it is not."""
    closing_share: float
    """Part of an abort's alpha that is kept for one exact test at the end."""
    sentence: str
    """The answer in one paragraph."""
    warnings: tuple[str, ...]
    traffic: TrafficFacts | None = None

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def usual_splits(arms: int) -> tuple[float, ...]:
    """With several candidates also the one in which all versions have the same."""
    return tuple(sorted({*SPLITS, round(arms / (arms + 1), 2)}))


def design(plan: Plan, traffic: Traffic, asked: Asked, *, splits: Sequence[float] | None = None) -> Design:
    """`plan.closing` is settled anew for each split, by `asked.closing_share`."""
    if not traffic.requests:
        return _without_traffic(plan, asked)
    here = SplitForecast(plan, traffic, asked)
    criteria = [here.criterion(index) for index in range(len(plan.criteria))]
    tried = [here]
    if here.chance < SURE_ENOUGH and not any(one.problem for one in criteria):
        shares = sorted({*(usual_splits(plan.arms) if splits is None else splits)} - {asked.share})
        tried += [SplitForecast(plan, traffic, replace(asked, share=share)) for share in shares]
    suggested = next((other for other in tried if other.chance >= SURE_ENOUGH and other is not here), None)
    best = max(tried, key=lambda split: (split.chance, -split.to_promote.minutes, -split.asked.share))
    last = design_words.slowest(criteria)
    return Design(
        share=asked.share,
        arms=plan.arms,
        unit=plan.unit.value,
        metrics=tuple(_metric(one, asked.max_minutes) for one in criteria),
        slowest=wanted(last.criterion) if last else "",
        requests_to_promote=_whole(here.to_promote.requests),
        minutes_to_promote=_finite(here.to_promote.minutes),
        chance=here.chance,
        feasible=here.chance >= SURE_ENOUGH,
        suggested_share=suggested.asked.share if suggested else None,
        closing_share=here.plan.closing,
        sentence=design_words.told(here, criteria, suggested, best),
        warnings=tuple(design_words.warnings(here)),
        traffic=facts(traffic),
    )


def _metric(one: CriterionForecast, longest: float) -> MetricForecast:
    return MetricForecast(
        name=wanted(one.criterion),
        metric=one.criterion.metric,
        role=one.criterion.role.value,
        proves=one.criterion.proves,
        requests_to_pass=_whole(one.to_pass.requests),
        minutes_to_pass=_finite(one.to_pass.minutes),
        harm=one.costs.harm if one.criterion.aborts else "",
        requests_to_catch=_whole(one.to_catch.requests),
        minutes_to_catch=_finite(one.to_catch.minutes),
        caught_in_time=one.caught_in_time if one.to_catch.known else None,
        sentence=design_words.of_criterion(one, longest),
        problem=one.problem,
    )


def facts(traffic: Traffic) -> TrafficFacts:
    return TrafficFacts(
        minutes=traffic.seconds / 60,
        requests=traffic.requests,
        sessions=traffic.sessions,
        requests_per_minute=traffic.per_minute(traffic.requests),
        sessions_per_minute=traffic.per_minute(traffic.sessions),
        error_rate=traffic.arm.failed / traffic.requests if traffic.requests else None,
        latency_p95_ms=traffic.latency_ms(0.95),
        ratings=sum(traffic.arm.feedback.ratings.values()),
        sentence=design_words.of_traffic(traffic),
    )


def _without_traffic(plan: Plan, asked: Asked) -> Design:
    return Design(
        share=asked.share,
        arms=plan.arms,
        unit=plan.unit.value,
        metrics=(),
        slowest="",
        requests_to_promote=None,
        minutes_to_promote=None,
        chance=0.0,
        feasible=False,
        suggested_share=None,
        closing_share=plan.closing,
        sentence="No request has reached the live version lately: without traffic nothing is ever decided, and how much"
        " is needed depends on how often it fails.",
        warnings=(),
    )


def _whole(value: float) -> int | None:
    return math.ceil(value) if math.isfinite(value) else None


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
