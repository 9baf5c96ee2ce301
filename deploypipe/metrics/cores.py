"""One interface to the tests of `deploypipe.stats`: each answers a question about a stream of items."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from deploypipe.stats import arrivals, bets, limits, means, quantiles, two_arms
from deploypipe.stats.samples import HistogramPair, MomentsPair, Pair, Sample
from deploypipe.stats.two_arms import Side

_PRIOR_EVENTS = 2.0
"""What is believed of stable before anything is known is worth as many units as hold so many events."""


@dataclass(frozen=True, slots=True)
class Counted:
    """How often something happened in each arm."""

    stable: int
    candidate: int
    share: float
    """The candidate's part of what both arms together were promised; 0 where it is not known."""
    period: int = 0


Item = Pair | HistogramPair | MomentsPair | Counted


class Core(StrEnum):
    TWO_ARMS = "two_arms"
    QUANTILE = "quantile"
    ARRIVALS = "arrivals"
    TWO_MEANS = "two_means"
    LIMIT = "limit"
    BETS = "bets"
    SLOWER = "slower"
    """One arm's quantile against a fixed value, as a limit on the share that is slower."""

    @property
    def asymptotic(self) -> bool:
        return self is Core.TWO_MEANS

    @property
    def counts_one_arm(self) -> bool:
        """The candidate's units alone."""
        return self in (Core.LIMIT, Core.BETS, Core.SLOWER)


@dataclass(frozen=True, slots=True)
class Question:
    core: Core
    side: Side
    """Of the boundary, on which the evidence says that the candidate lies."""
    difference: float = 0.0
    ratio: float = 1.0
    limit: float = 0.0
    """On the scale from 0 to 1; of SLOWER in milliseconds."""
    level: float = 0.0
    typical: float = 0.01
    slack: float = 0.0
    """Of QUANTILE, milliseconds."""


def start(question: Question) -> Any:
    side, ratio = question.side, question.ratio
    match question.core:
        case Core.TWO_ARMS:
            typical = question.typical
            return two_arms.start(
                two_arms.TwoArmTest(
                    side, question.difference, ratio, prior_mean=typical, prior_units=_PRIOR_EVENTS / typical
                )
            )
        case Core.QUANTILE:
            return quantiles.start(quantiles.QuantileTest(side, question.level, ratio, slack=question.slack))
        case Core.ARRIVALS:
            return arrivals.start(arrivals.ArrivalTest(side, ratio))
        case Core.TWO_MEANS:
            return means.start(means.MeanTest(side, question.difference, ratio))
        case Core.LIMIT:
            return limits.start(limits.LimitTest(side, question.limit))
        case Core.BETS:
            return bets.start(bets.MeanTest(side, question.limit))
        case Core.SLOWER:
            return limits.start(limits.LimitTest(side, 1 - question.level))


def advance_many(
    core: Core, questions: Sequence[Question], states: Sequence[Any], items_of_each: Sequence[Sequence[Any]]
) -> list[Any]:
    """All of the same core; the same bits as one after the other."""
    match core:
        case Core.TWO_ARMS:
            return two_arms.advance_many(states, items_of_each)
        case Core.QUANTILE:
            return quantiles.advance_many(states, items_of_each)
        case Core.ARRIVALS:
            return arrivals.advance_many(states, [[_arrived(item) for item in items] for items in items_of_each])
        case Core.TWO_MEANS:
            return means.advance_many(states, items_of_each)
        case Core.LIMIT:
            return limits.advance_many(states, [[item.candidate for item in items] for items in items_of_each])
        case Core.BETS:
            return bets.advance_many(states, [[item.candidate for item in items] for items in items_of_each])
        case Core.SLOWER:
            slow = [
                [_slower(question, item) for item in items]
                for question, items in zip(questions, items_of_each, strict=True)
            ]
            return limits.advance_many(states, slow)


_FROM_JSON: dict[Core, Callable[[Any], Any]] = {
    Core.TWO_ARMS: two_arms.EProcess.from_json,
    Core.QUANTILE: quantiles.QuantileProcess.from_json,
    Core.ARRIVALS: arrivals.ArrivalProcess.from_json,
    Core.TWO_MEANS: means.MeanProcess.from_json,
    Core.LIMIT: limits.LimitProcess.from_json,
    Core.BETS: bets.MeanProcess.from_json,
    Core.SLOWER: limits.LimitProcess.from_json,
}


def state_from_json(question: Question, stored: Any) -> Any:
    return _FROM_JSON[question.core](stored)


def _arrived(item: Counted) -> arrivals.Arrived:
    return arrivals.Arrived(item.share, item.stable, item.candidate)


def _slower(question: Question, item: HistogramPair) -> Sample:
    return Sample.binary(*quantiles.slower_than(item.candidate, question.limit, question.side))
