"""What a block does to the evidence of a two-arm test, for each of its alternatives; `two_arms` says why it holds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

import numpy as np
import numpy.typing as npt

from deploypipe.stats.blocks import Blocks
from deploypipe.stats.projection import approach, project

Floats = npt.NDArray[np.float64]

_ROWS = 4096
"""At a time: what fits the processor's cache."""
_OBSERVED_PRIOR = 20.0
_MOST_OF_LIMIT = 0.97
_SURELY_INSIDE = 1 - 1e-9
_SPREAD_PRIOR = 0.1
_LEAST_SPREAD = 0.05


HARM_ODDS = np.log(np.array([1.1, 1.5, 2.2, 3.3, 6.0, 14.0]))
NEAR_STEPS = np.array([0.0, 0.5, -0.5])
SEEN_STEPS = np.array([0.0, 0.5])


class Alternatives(StrEnum):
    """What the candidate's mean may be if it lies beyond the boundary; one of them is always what it has shown."""

    FAR = "far"
    """Multiples of the boundary's odds: for harm of unknown size."""
    NEAR = "near"
    """Equal arms, and a little to both sides: where equal arms lie beyond the boundary."""
    SEEN = "seen"
    """What it has shown, half of that, and equal arms: for boundaries that are many, as in an interval."""

    @property
    def weights(self) -> Floats:
        return _WEIGHTS[self]


_WEIGHTS = {
    Alternatives.FAR: np.array([0.13, 0.18, 0.26, 0.17, 0.1, 0.06, 0.1]),
    Alternatives.NEAR: np.array([0.5, 0.2, 0.15, 0.15]),
    Alternatives.SEEN: np.array([0.3, 0.3, 0.4]),
}


class Test(Protocol):
    @property
    def sign(self) -> float: ...
    @property
    def difference(self) -> float: ...
    @property
    def ratio(self) -> float: ...
    @property
    def prior_mean(self) -> float: ...
    @property
    def prior_units(self) -> float: ...
    @property
    def alternatives(self) -> Alternatives: ...


_NUMBERS = ("sign", "difference", "ratio", "prior_mean", "prior_units")


@dataclass(frozen=True, slots=True)
class Parameters:
    """Of one test or of several; arrays that broadcast to (…, blocks)."""

    alternatives: Alternatives
    sign: Floats
    difference: Floats
    ratio: Floats
    prior_mean: Floats
    prior_units: Floats

    @classmethod
    def of(cls, tests: Sequence[Test]) -> Parameters:
        """Shape (tests, 1)."""
        columns = (np.array([[getattr(test, name)] for test in tests], dtype=np.float64) for name in _NUMBERS)
        return cls(tests[0].alternatives, *columns)

    @classmethod
    def one(cls, test: Test) -> Parameters:
        """Shape ()."""
        return cls(test.alternatives, *(np.array(getattr(test, name), dtype=np.float64) for name in _NUMBERS))


def sums(blocks: Blocks) -> Floats:
    """Units, sum and sum of squares of the stable arm, then of the candidate: shape (…, blocks, 6)."""
    result = np.zeros((*blocks.stable.shape[:-1], 6))
    for place in range(blocks.values.shape[-1]):  # one after the other: padding with nothing keeps the bits
        value = blocks.values[..., place]
        for arm, numbers in ((0, blocks.stable), (3, blocks.candidate)):
            number = numbers[..., place]
            result[..., arm] += number
            result[..., arm + 1] += number * value
            result[..., arm + 2] += number * value * value
    return result


def log_factors(blocks: Blocks, block_sums: Floats, past: Floats, given: Parameters) -> Floats:
    """Shape (…, blocks, alternatives). `past` are the sums of all that came before each block."""
    shape = blocks.stable.shape[:-1]
    width = blocks.stable.shape[-1]
    values = np.broadcast_to(blocks.values, blocks.stable.shape).reshape(-1, width)
    stable, candidate = blocks.stable.reshape(-1, width), blocks.candidate.reshape(-1, width)
    now, before = block_sums.reshape(-1, 6), past.reshape(-1, 6)
    columns = [
        np.broadcast_to(column, shape).reshape(-1, 1)
        for column in (given.sign, given.difference, given.ratio, given.prior_mean, given.prior_units)
    ]
    parts = []
    for first in range(0, len(now), _ROWS):
        rows = slice(first, first + _ROWS)
        some = Parameters(given.alternatives, *(column[rows] for column in columns))
        p_a, p_b, bet_a, bet_b = bets(now[rows, 0, None], now[rows, 3, None], before[rows], some)
        total = np.zeros_like(p_a)
        for place in range(width):
            value = values[rows, place, None]
            total += stable[rows, place, None] * np.log1p(bet_a * (value - p_a))
            total += candidate[rows, place, None] * np.log1p(bet_b * (value - p_b))
        parts.append(total)
    count = len(given.alternatives.weights)
    return np.concatenate([np.zeros((0, count)), *parts]).reshape(*shape, count)


def bets(n_a: Floats, n_b: Floats, past: Floats, given: Parameters) -> tuple[Floats, Floats, Floats, Floats]:
    """The point p on the boundary and the bets of each alternative, from the past and from the block's sizes alone."""
    past_a, sum_a, _, past_b, sum_b, _ = (past[:, i, None] for i in range(6))
    believed = given.prior_mean * given.prior_units
    q_a = (believed + sum_a) / (given.prior_units + past_a)
    boundary = given.ratio * q_a + given.difference
    observed = (_OBSERVED_PRIOR * q_a + sum_b) / (_OBSERVED_PRIOR + past_b)
    observed = np.clip(observed, 1e-9, 1 - 1e-9)
    if given.alternatives is Alternatives.SEEN:
        q_b = np.concatenate([_between(observed, boundary), q_a], axis=-1)
        p_a, p_b = approach(n_a, n_b, q_a, q_b, given.difference, given.ratio)
    else:
        fixed = _near(q_a, boundary) if given.alternatives is Alternatives.NEAR else _far(boundary, given.sign)
        q_b = np.concatenate([fixed, observed], axis=-1)
        p_a, p_b = project(n_a, n_b, q_a, q_b, given.difference, given.ratio)

    outside = (given.sign * (q_b - boundary) > 0) & (n_a > 0) & (n_b > 0)
    odds = given.ratio * n_b / np.maximum(n_a, 1e-300)
    # The largest bet with which no value takes all of the evidence.
    least_b, least_a = np.where(given.sign > 0, p_b, 1 - p_b), np.where(given.sign > 0, 1 - p_a, p_a)
    limit = 1 / np.maximum(least_b, odds * least_a)
    bet = np.abs(q_b - p_b) / (p_b * (1 - p_b))
    spread = _spread(past, q_a, observed)
    bet = np.minimum(np.minimum(bet / spread, np.maximum(bet, _MOST_OF_LIMIT * limit)), _SURELY_INSIDE * limit)
    bet_b = np.where(outside, given.sign * bet, 0.0)
    return p_a, p_b, -odds * bet_b, bet_b


def _spread(past: Floats, q_a: Floats, q_b: Floats) -> Floats:
    """Variance over that of 0 and 1 with the same mean: exactly 1 for values of 0 and 1, a tenth for the means of ten
    independent ones, between the two for what is correlated. Bets are as much larger (GRAPA, Waudby-Smith, Ramdas)."""
    _, sum_a, squares_a, _, sum_b, squares_b = (past[:, i, None] for i in range(6))
    # E[x^2] / E[x]
    size_a = (_SPREAD_PRIOR + squares_a) / (_SPREAD_PRIOR + sum_a)
    size_b = (_SPREAD_PRIOR * size_a + squares_b) / (_SPREAD_PRIOR + sum_b)
    spread = np.maximum((size_a - q_a) / (1 - q_a), (size_b - q_b) / (1 - q_b))
    clipped: Floats = np.clip(spread, _LEAST_SPREAD, 1.0)
    return clipped


def _far(boundary: Floats, sign: Floats) -> Floats:
    """Odds that are multiples of the boundary's."""
    start = np.clip(boundary, 1e-9, 1 - 1e-9)
    odds = np.log(start) - np.log1p(-start) + sign * HARM_ODDS
    rates: Floats = 1 / (1 + np.exp(-odds))
    return rates


def _near(q_a: Floats, boundary: Floats) -> Floats:
    """Equal arms, and somewhat nearer to the boundary and farther from it."""
    raw = q_a + NEAR_STEPS * (boundary - q_a)
    return np.clip(raw, 0.1 * q_a, 1 - 0.1 * (1 - q_a))


def _between(observed: Floats, boundary: Floats) -> Floats:
    return observed + SEEN_STEPS * (np.clip(boundary, 1e-9, 1 - 1e-9) - observed)
