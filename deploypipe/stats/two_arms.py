"""Does the candidate's mean lie above (or below) a boundary that stable's mean draws? It holds at every look.

The boundary is candidate = ratio * stable + difference. The block-wise two-sample e-process with projection onto the
convex null: Turner, Ly, Grünwald, "Generic E-variables for exact sequential k-sample tests", J. Stat. Plan. Inf. 230
(2024) 106116; margins: Turner, Grünwald, arXiv 2203.09785; for values in [0, 1], linear bets: Waudby-Smith, Ramdas,
J. R. Stat. Soc. B 86 (2024) 1.

A unit of arm g with value x multiplies the evidence by 1 + l_g (x - p_g), where p lies on the boundary. For 0 and 1
that is the likelihood ratio of q_g = p_g + l_g p_g (1 - p_g) against p_g. Whatever the means theta of a block with n_g
units,

    E[product] = prod (1 + l_g (theta_g - p_g))^n_g <= exp(sum n_g l_g (theta_g - p_g)) <= 1

for every theta in the null: the last step is all that l must obey, n_A l_A = -ratio n_B l_B (first-order optimality of
the projection). So the chance that the evidence ever reaches 1/alpha is at most alpha (Ville 1939), however often one
looks, and means and split may differ from block to block. A block is one window, or several that follow each other when
one is too small to compare the arms; when it closes depends on its numbers of units and on the period alone.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

import numpy as np
import numpy.typing as npt

from deploypipe.stats import factors as block_factors
from deploypipe.stats.blocks import Blocks, close_blocks
from deploypipe.stats.factors import Alternatives, Parameters
from deploypipe.stats.samples import NO_PAIR, Pair

__all__ = [
    "EProcess",
    "Side",
    "TwoArmTest",
    "advance",
    "advance_many",
    "log_evidence",
    "log_factors",
    "replay",
    "start",
    "update",
]

Floats = npt.NDArray[np.float64]

LOG_FLOOR = -700.0
"""exp of less than this is zero in a float; a component this low never matters again."""


class Side(StrEnum):
    """Of the boundary, on which the candidate's mean is shown to lie."""

    ABOVE = "above"
    """Null: candidate <= ratio * stable + difference."""
    BELOW = "below"
    """Null: candidate >= ratio * stable + difference."""

    @property
    def sign(self) -> float:
        return 1.0 if self is Side.ABOVE else -1.0


@dataclass(frozen=True, slots=True)
class TwoArmTest:
    side: Side
    difference: float = 0.0
    """On the scale of the values: 0.02 is two points of a rate."""
    ratio: float = 1.0
    prior_mean: float = 0.01
    """What is believed of the stable arm before the first block; best taken from its own history."""
    prior_units: float = 200.0
    """How many units that belief is worth."""
    block_units: int = 5
    """A block closes when each arm has this many units. Fewer, and chance in the split eats the evidence (the growth
    rate is concave in the split); more, and a verdict waits longer."""

    def __post_init__(self) -> None:
        if not -1 < self.difference < 1:
            raise ValueError(f"difference must lie between -1 and 1, not {self.difference}")
        if not 0 < self.ratio < math.inf:
            raise ValueError(f"ratio must be above 0, not {self.ratio}")
        if self.difference != 0 and self.ratio != 1:
            raise ValueError(f"difference must be 0 or ratio must be 1, not {self.difference} with {self.ratio}")
        if not 0 < self.prior_mean < 1:
            raise ValueError(f"prior_mean must lie between 0 and 1, not {self.prior_mean}")
        if not 0 < self.prior_units < math.inf:
            raise ValueError(f"prior_units must be above 0, not {self.prior_units}")
        if self.block_units < 1:
            raise ValueError(f"block_units must be at least 1, not {self.block_units}")

    @property
    def sign(self) -> float:
        return self.side.sign

    @property
    def alternatives(self) -> Alternatives:
        equal_is_beyond = self.side.sign * (self.difference + (self.ratio - 1)) < 0  # as for non-inferiority
        return Alternatives.NEAR if equal_is_beyond else Alternatives.FAR

    def to_json(self) -> dict[str, Any]:
        return {
            "side": self.side.value,
            "difference": self.difference,
            "ratio": self.ratio,
            "prior_mean": self.prior_mean,
            "prior_units": self.prior_units,
            "block_units": self.block_units,
        }

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> TwoArmTest:
        return cls(
            Side(stored["side"]),
            float(stored["difference"]),
            float(stored["ratio"]),
            float(stored["prior_mean"]),
            float(stored["prior_units"]),
            int(stored["block_units"]),
        )


@dataclass(frozen=True, slots=True)
class EProcess:
    """All that must be kept between two looks."""

    test: TwoArmTest
    log_components: tuple[float, ...]
    """log e-value of each alternative, its weight included; the evidence is their sum."""
    past: tuple[float, ...] = (0.0,) * 6
    """Units, sum and sum of squares of the stable arm, then of the candidate, in closed blocks: what the next
    alternatives are chosen from."""
    pending: Pair = NO_PAIR
    """The block that is still open: seen, but not yet evidence."""
    blocks: int = 0
    max_log_evidence: float = 0.0

    @property
    def log_evidence(self) -> float:
        return float(log_sum(np.array(self.log_components)))

    @property
    def p_value(self) -> float:
        """Anytime-valid: min(1, 1 / the most evidence so far)."""
        return math.exp(-max(self.max_log_evidence, 0.0))

    def reached(self, alpha: float) -> bool:
        return self.max_log_evidence >= -math.log(alpha)

    def to_json(self) -> dict[str, Any]:
        return {
            "test": self.test.to_json(),
            "log_components": list(self.log_components),
            "past": list(self.past),
            "pending": self.pending.to_json(),
            "blocks": self.blocks,
            "max_log_evidence": self.max_log_evidence,
        }

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> EProcess:
        return cls(
            TwoArmTest.from_json(stored["test"]),
            tuple(float(value) for value in stored["log_components"]),
            tuple(float(value) for value in stored["past"]),
            Pair.from_json(stored["pending"]),
            int(stored["blocks"]),
            float(stored["max_log_evidence"]),
        )


def start(test: TwoArmTest) -> EProcess:
    return EProcess(test, tuple(math.log(weight) for weight in test.alternatives.weights))


def update(state: EProcess, pair: Pair) -> EProcess:
    return advance(state, (pair,))


def replay(pairs: Iterable[Pair], test: TwoArmTest) -> EProcess:
    """The same, to the last bit, as `update` with one window after the other."""
    return advance(start(test), pairs)


def advance(state: EProcess, pairs: Iterable[Pair]) -> EProcess:
    return advance_many((state,), (list(pairs),))[0]


def advance_many(states: Sequence[EProcess], pairs_of_each: Sequence[Sequence[Pair]]) -> list[EProcess]:
    """Many tests, each of its own windows, in one pass; the same bits as one after the other."""
    if len(states) != len(pairs_of_each):
        raise ValueError(f"pairs_of_each must have one item for each of {len(states)} states, not {len(pairs_of_each)}")
    after = list(states)
    closed: dict[int, list[Pair]] = {}
    for index, (state, pairs) in enumerate(zip(states, pairs_of_each, strict=True)):
        blocks, pending = close_blocks(state.pending, pairs, state.test.block_units)
        after[index] = replace(state, pending=pending)
        if blocks:
            closed[index] = blocks
    for group in _alike(states, closed):
        _advance_group(group, after, closed)
    return after


def _alike(states: Sequence[EProcess], closed: Mapping[int, list[Pair]]) -> list[list[int]]:
    """Places of the states that can share one array: same list of alternatives, same number of blocks."""
    groups: dict[tuple[Alternatives, int], list[int]] = {}
    for index, blocks in closed.items():
        groups.setdefault((states[index].test.alternatives, len(blocks)), []).append(index)
    return list(groups.values())


def _advance_group(group: list[int], after: list[EProcess], closed: Mapping[int, list[Pair]]) -> None:
    many = len(closed[group[0]])
    past = np.array([after[index].past for index in group])
    blocks = Blocks.of([pair for index in group for pair in closed[index]])
    shape = (len(group), many, blocks.values.shape[-1])
    blocks = Blocks(blocks.values.reshape(shape), blocks.stable.reshape(shape), blocks.candidate.reshape(shape))
    tests = [after[index].test for index in group]
    sums = block_factors.sums(blocks)
    history = np.add.accumulate(np.concatenate([past[:, None, :], sums], axis=1), axis=1)
    factors = block_factors.log_factors(blocks, sums, history[:, :-1], Parameters.of(tests))
    before = np.array([after[index].log_components for index in group])[:, None, :]
    components = np.add.accumulate(np.concatenate([before, factors], axis=1), axis=1)[:, 1:]
    most = log_sum(components).max(axis=-1)
    for place, index in enumerate(group):
        state = after[index]
        after[index] = EProcess(
            state.test,
            tuple(components[place, -1].tolist()),
            tuple(history[place, -1].tolist()),
            state.pending,
            state.blocks + many,
            max(state.max_log_evidence, float(most[place])),
        )


def log_factors(blocks: Blocks, test: TwoArmTest, *, past: Sequence[float] | Floats = (0.0,) * 6) -> Floats:
    """log of each block's factor for each alternative, shape (…, blocks, alternatives).

    The alternatives of a block come from the blocks before it and from `past`, never from the block itself. A block
    without units of both arms has the factor 1.
    """
    sums = block_factors.sums(blocks)
    first = np.broadcast_to(np.asarray(past, dtype=np.float64), (*sums.shape[:-2], 1, 6))
    history = np.add.accumulate(np.concatenate([first, sums], axis=-2), axis=-2)[..., :-1, :]
    return block_factors.log_factors(blocks, sums, history, Parameters.one(test))


def log_evidence(blocks: Blocks, test: TwoArmTest) -> Floats:
    """After each block, shape (…, blocks)."""
    weights = np.array(start(test).log_components)
    factors = log_factors(blocks, test)
    return log_sum(np.add.accumulate(factors, axis=-2) + weights)


def log_sum(components: Floats) -> Floats:
    """log of the sum of e-values over the last axis, added in a fixed order: any batching gives the same bits."""
    top: Floats = components.max(axis=-1)
    scaled: Floats = np.zeros_like(top)
    for column in range(components.shape[-1]):
        scaled = scaled + np.exp(np.maximum(components[..., column] - top, LOG_FLOOR))
    result: Floats = top + np.log(scaled)
    return result
