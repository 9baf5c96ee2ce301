"""One plan at one split: requests and minutes until each criterion is decided, and the chance that it is in time."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property

from abtests.forecast import Cost, Costs, Traffic, costs
from deploypipe.metrics.closing import usual_share
from deploypipe.metrics.definitions import Unit
from deploypipe.metrics.questions import Criterion, Plan

_MOST_HALVINGS = 60


@dataclass(frozen=True, slots=True)
class Asked:
    """What is put up for the experiment, besides its plan."""

    share: float
    """Of sessions that are not held out, those that meet any candidate; the arms have equal parts of it."""
    max_minutes: float = 30.0
    min_minutes: float = 0.0
    min_requests: int = 0
    """Of each candidate, before it may be promoted."""
    holdout: float = 0.0
    """Share of all sessions that no comparison counts."""
    session_minutes: float = 0.0
    """From a session's first request until it counts as a whole."""
    remembered: float = math.inf
    """Sessions of one test, of all arms, from which on a sample counts: settings.SESSIONS_REMEMBERED."""
    closing_share: float | None = None
    """As the settings have it. None: the usual one for the candidate's traffic."""


@dataclass(frozen=True, slots=True)
class Needs:
    """Until something is decided in half of all cases; inf where it never is, or need not be."""

    requests: float
    """Of all arms."""
    minutes: float

    @property
    def known(self) -> bool:
        return math.isfinite(self.requests)


ENDLESS = Needs(math.inf, math.inf)


@dataclass(frozen=True, slots=True)
class CriterionForecast:
    criterion: Criterion
    costs: Costs
    to_pass: Needs
    to_catch: Needs
    caught_in_time: float
    """The chance that the harm is called by the end."""
    problem: str
    """Why a promotion waits for it for ever."""


class SplitForecast:
    def __init__(self, plan: Plan, traffic: Traffic, asked: Asked) -> None:
        self.traffic, self.asked = traffic, asked
        self.rate = traffic.per_minute(traffic.requests) * (1 - asked.holdout)
        """Requests per minute of all arms."""
        self.per_unit = max(traffic.requests_per_session, 1.0) if plan.unit is Unit.SESSION else 1.0
        """Requests."""
        self.remembered = asked.remembered if plan.unit is Unit.SESSION else math.inf
        self.candidate = asked.share / plan.arms
        self.of_pair = self.candidate + 1 - asked.share
        """Share of units that a candidate and stable have together."""
        kept = asked.closing_share
        if kept is None:  # as it is settled when the experiment begins
            kept = usual_share(asked.max_minutes * self.rate / self.per_unit * asked.share)
        self.plan = replace(plan, closing=kept)
        self.costs = [
            costs(self.plan, index, traffic, share=self.candidate / self.of_pair) for index in range(len(plan.criteria))
        ]

    def needs(self, cost: Cost) -> Needs:
        requests = arriving(cost.units() / self.of_pair, self.remembered) * self.per_unit
        if cost.waits:
            requests += self.rate * self.asked.session_minutes
        return self._after(requests)

    def _after(self, requests: float) -> Needs:
        return Needs(requests, requests / self.rate) if math.isfinite(requests) and self.rate > 0 else ENDLESS

    @property
    def floor(self) -> Needs:
        """Before that nothing is promoted."""
        return self._after(max(self.asked.min_requests / self.candidate, self.asked.min_minutes * self.rate))

    @property
    def proofs(self) -> list[tuple[Criterion, Cost]]:
        pairs = zip(self.plan.criteria, self.costs, strict=True)
        return [(criterion, found.to_pass) for criterion, found in pairs if criterion.proves]

    @cached_property
    def to_promote(self) -> Needs:
        """Until everything is proven, not only what takes longest: in half of all cases one of the others is last."""
        floor = self.floor
        if any(math.isinf(self.needs(cost).requests) for _, cost in self.proofs) or not self.rate:
            return ENDLESS
        low, high = floor.minutes, max(floor.minutes, *(self.needs(cost).minutes for _, cost in self.proofs), 1e-3)
        if self._proven_by(low) >= 0.5:
            return floor
        while self._proven_by(high) < 0.5:
            low, high = high, 2 * high
        while high - low > 1e-3 * high:
            middle = (low + high) / 2
            low, high = (middle, high) if self._proven_by(middle) < 0.5 else (low, middle)
        return self._after(high * self.rate)

    @cached_property
    def chance(self) -> float:
        """That a version which deserves it is promoted within the time allowed."""
        if self.floor.minutes > self.asked.max_minutes or any(found.problem for found in self.costs):
            return 0.0
        return self._proven_by(self.asked.max_minutes)

    def _proven_by(self, minutes: float) -> float:
        """The chance that everything is, taking proofs for independent."""
        return math.prod(self._decided_by(minutes, cost) for _, cost in self.proofs)

    def _decided_by(self, minutes: float, cost: Cost) -> float:
        left = minutes - (self.asked.session_minutes if cost.waits else 0.0)
        units = counted(max(0.0, left) * self._units_per_minute, self.remembered)
        return cost.power(units * self.of_pair)

    @property
    def _units_per_minute(self) -> float:
        return self.rate / self.per_unit

    def criterion(self, index: int) -> CriterionForecast:
        criterion, found = self.plan.criteria[index], self.costs[index]
        to_pass = self.needs(found.to_pass) if criterion.proves and not found.problem else ENDLESS
        problem = found.problem
        if criterion.proves and not to_pass.known and not problem:
            problem = "an identical version lies at its very limit"
        if not criterion.aborts:
            return CriterionForecast(criterion, found, to_pass, ENDLESS, 0.0, problem)
        return CriterionForecast(criterion, found, to_pass, self.needs(found.to_catch), self._caught(found), problem)

    def _caught(self, found: Costs) -> float:
        """On the way or by the closing look: the larger chance of the two, for they mostly see the same."""
        on_the_way = self._decided_by(self.asked.max_minutes, found.to_catch)
        if found.closing is None:
            return on_the_way
        units = self.asked.max_minutes * self._units_per_minute
        return max(on_the_way, found.closing.power(units * (1 - self.asked.share), units * self.candidate))


# Of a test with very many sessions a sample counts, which is halved whenever it is full (`metrics.units.Sample`): while
# the number of all sessions doubles, half of `most` more are counted.


def counted(sessions: float, most: float) -> float:
    if sessions <= most:
        return sessions
    halvings = math.floor(math.log2(sessions / most)) + 1
    return most * (1 + (halvings - 1) / 2) + (sessions - most * 2.0 ** (halvings - 1)) / 2.0**halvings


def arriving(units: float, most: float) -> float:
    """How many sessions must come for so many to be counted."""
    if units <= most or math.isinf(units):
        return units
    halvings = math.floor((units - most) / (most / 2)) + 1
    if halvings > _MOST_HALVINGS:
        return math.inf
    return most * 2.0 ** (halvings - 1) + (units - most * (1 + (halvings - 1) / 2)) * 2.0**halvings
