"""Is the candidate's error rate worse than the stable one's by more than a margin? An answer that holds at every look.

The block-wise two-sample e-process with projection onto the convex null: Turner, Ly, Grünwald, "Generic E-variables for
exact sequential k-sample tests", J. Stat. Plan. Inf. 230 (2024) 106116; margins: Turner, Grünwald, arXiv 2203.09785.

Each block multiplies the evidence by a factor whose mean is at most 1 whenever the block's pair of rates lies in the
null, so the chance that the evidence ever reaches 1/alpha is at most alpha (Ville 1939), however often one looks. The
rates and the split may differ from block to block. A block is one window, or several that follow each other when one is
too small to compare the arms; when a block closes depends on its numbers of requests alone, never on its errors.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

import numpy as np
import numpy.typing as npt

from deploypipe.stats.counts import EMPTY, ArmCounts, Window

Floats = npt.NDArray[np.float64]

LOG_FLOOR = -700.0
"""exp of less than this is zero in a float; a component this low never matters again."""

_OBSERVED_WEIGHT = 0.1
_OBSERVED_PRIOR = 20.0
_MOST_STEPS = 120
_TINY = 1e-15
_ABORT_MULTIPLES = np.array([2.0, 3.0, 5.0, 9.0, 17.0, 40.0])
_PROMOTE_OFFSETS = np.array([0.0, -0.5, 0.5])
_WORSE_RATIOS = np.array([1.25, 1.5, 2.0, 3.0, 5.0, 10.0])
_BETTER_RATIOS = np.array([0.75, 0.5, 0.25, 0.1])


class Direction(StrEnum):
    """What the evidence speaks for."""

    ABORT = "abort"
    """Null: candidate - stable <= margin."""
    PROMOTE = "promote"
    """Null: candidate - stable >= margin."""


@dataclass(frozen=True, slots=True)
class DifferenceTest:
    direction: Direction
    margin: float
    """In probability: 0.02 is two points. Below zero for PROMOTE, the candidate must be better by that much."""
    prior_errors: float = 2.0
    prior_requests: float = 200.0
    """What is believed of the stable arm before the first block; best taken from its own history."""
    block_requests: int = 5
    """A block closes when each arm has this many requests. Fewer, and chance in the split eats the evidence (the growth
    rate is concave in the split); more, and a verdict waits longer."""

    def __post_init__(self) -> None:
        if not -1 < self.margin < 1:
            raise ValueError(f"margin must lie between -1 and 1, not {self.margin}")
        if not 0 < self.prior_errors < self.prior_requests:
            raise ValueError(f"prior_errors must lie between 0 and prior_requests, not {self.prior_errors}")
        if self.block_requests < 1:
            raise ValueError(f"block_requests must be at least 1, not {self.block_requests}")

    def to_json(self) -> dict[str, Any]:
        return {
            "direction": self.direction.value,
            "margin": self.margin,
            "prior_errors": self.prior_errors,
            "prior_requests": self.prior_requests,
            "block_requests": self.block_requests,
        }

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> DifferenceTest:
        return cls(
            Direction(stored["direction"]),
            float(stored["margin"]),
            float(stored["prior_errors"]),
            float(stored["prior_requests"]),
            int(stored["block_requests"]),
        )


@dataclass(frozen=True, slots=True)
class EProcess:
    """All that must be kept between two looks."""

    test: DifferenceTest
    log_components: tuple[float, ...]
    """log e-value of each alternative, its weight included; the evidence is their mean."""
    past: Window = EMPTY
    """Counts of the closed blocks: what the next alternatives are chosen from."""
    pending: Window = EMPTY
    """Counts of the block that is still open: seen, but not yet evidence."""
    blocks: int = 0
    max_log_evidence: float = 0.0

    @property
    def log_evidence(self) -> float:
        return float(_log_mean(np.array(self.log_components)))

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
            "past": self.past.to_json(),
            "pending": self.pending.to_json(),
            "blocks": self.blocks,
            "max_log_evidence": self.max_log_evidence,
        }

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> EProcess:
        return cls(
            DifferenceTest.from_json(stored["test"]),
            tuple(float(value) for value in stored["log_components"]),
            Window.from_json(stored["past"]),
            Window.from_json(stored["pending"]),
            int(stored["blocks"]),
            float(stored["max_log_evidence"]),
        )


def start(test: DifferenceTest) -> EProcess:
    fixed = alternatives(np.array([0.01]), test).shape[-1]
    count = fixed + 1
    weights = (*[(1 - _OBSERVED_WEIGHT) / fixed] * fixed, _OBSERVED_WEIGHT)
    return EProcess(test, tuple(math.log(count * weight) for weight in weights))


def update(state: EProcess, window: Window) -> EProcess:
    return advance(state, (window,))


def replay(windows: Iterable[Window], test: DifferenceTest) -> EProcess:
    """The same, to the last bit, as `update` with one window after the other."""
    return advance(start(test), windows)


def advance(state: EProcess, windows: Iterable[Window]) -> EProcess:
    return advance_all((state,), windows)[0]


def advance_all(states: Sequence[EProcess], windows: Iterable[Window]) -> tuple[EProcess, ...]:
    """Several tests of the same windows at once; they must have seen the same ones before."""
    if not states:
        return ()
    first = states[0]
    seen = (first.past, first.pending, first.test.block_requests)
    if any((state.past, state.pending, state.test.block_requests) != seen for state in states):
        raise ValueError("tests that advance together must have seen the same windows, in the same blocks")
    blocks, pending = _close_blocks(first.pending, windows, first.test.block_requests)
    if not blocks:
        return tuple(replace(state, pending=pending) for state in states)
    counts = np.array(blocks, dtype=np.float64).T.copy()
    closed = [int(value) for value in counts.sum(axis=1)]
    past = first.past + Window(ArmCounts(closed[0], closed[1]), ArmCounts(closed[2], closed[3]))
    after: dict[int, EProcess] = {}
    for group in _alike(states):
        tests = [states[index].test for index in group]
        factors = log_factors(counts, tests[0], past=first.past, margins=np.array([test.margin for test in tests]))
        before = np.array([states[index].log_components for index in group])[:, None, :]
        components = np.add.accumulate(np.concatenate([before, factors], axis=1), axis=1)[:, 1:]
        most = _log_mean(components).max(axis=-1)
        for index, last, maximum in zip(group, components[:, -1].tolist(), most.tolist(), strict=True):
            state = states[index]
            after[index] = EProcess(
                state.test,
                tuple(last),
                past,
                pending,
                state.blocks + len(blocks),
                max(state.max_log_evidence, maximum),
            )
    return tuple(after[index] for index in range(len(states)))


def _alike(states: Sequence[EProcess]) -> list[list[int]]:
    """Places of the states that can share one array: they differ in the size of the margin only."""
    groups: dict[tuple[object, ...], list[int]] = {}
    for index, state in enumerate(states):
        test = state.test
        key = (
            test.direction,
            math.copysign(1, test.margin) if test.margin else 0,
            test.prior_errors,
            test.prior_requests,
        )
        groups.setdefault(key, []).append(index)
    return list(groups.values())


def log_factors(counts: Floats, test: DifferenceTest, *, past: Window = EMPTY, margins: Floats | None = None) -> Floats:
    """log of each block's factor for each alternative, shape (…, blocks, alternatives).

    `counts` holds stable requests, stable errors, candidate requests, candidate errors, each of shape (…, blocks). The
    alternatives of a block come from the blocks before it and from `past`, never from the block itself. Several margins
    of the same sign as the test's make one more axis, the first.
    """
    d = np.array(test.margin) if margins is None else margins.reshape(-1, *[1] * counts[0].ndim, 1)
    stable_n, stable_s, candidate_n, candidate_s = (np.ascontiguousarray(row) for row in counts)
    before_n = np.cumsum(stable_n, axis=-1) - stable_n + past.stable.requests
    before_s = np.cumsum(stable_s, axis=-1) - stable_s + past.stable.errors
    q_stable = ((test.prior_errors + before_s) / (test.prior_requests + before_n))[..., None]
    q_candidate = _alternatives(q_stable, test.direction, test.margin, d)
    # The last alternative is what the candidate has shown so far: no fixed list is near every truth.
    past_n = (np.cumsum(candidate_n, axis=-1) - candidate_n + past.candidate.requests)[..., None]
    past_s = (np.cumsum(candidate_s, axis=-1) - candidate_s + past.candidate.errors)[..., None]
    observed = (_OBSERVED_PRIOR * q_stable + past_s) / (_OBSERVED_PRIOR + past_n)
    observed = np.broadcast_to(np.clip(observed, 1e-9, 1 - 1e-9), (*q_candidate.shape[:-1], 1))
    q_candidate = np.concatenate([q_candidate, observed], axis=-1)
    stable_n, stable_s, candidate_n, candidate_s = (
        row[..., None] for row in (stable_n, stable_s, candidate_n, candidate_s)
    )
    p_stable, p_candidate = project(stable_n, candidate_n, q_stable, q_candidate, d)
    factors: Floats = _log_likelihood_ratio(stable_s, stable_n, q_stable, p_stable)
    factors = factors + _log_likelihood_ratio(candidate_s, candidate_n, q_candidate, p_candidate)
    # An alternative inside the null says nothing; neither does a block that compares nothing.
    difference = q_candidate - q_stable
    outside = difference > d if test.direction is Direction.ABORT else difference < d
    result: Floats = np.where(outside & (stable_n > 0) & (candidate_n > 0), factors, 0.0)
    return result


def alternatives(q_stable: Floats, test: DifferenceTest) -> Floats:
    """The candidate's rate under each fixed alternative, given the stable one's; shape (…, alternatives).

    An alternative that does not exist (a candidate better by two points than a stable arm at one percent) is given as a
    rate on the null's side, which counts as no evidence.
    """
    return _alternatives(q_stable[..., None], test.direction, test.margin, np.array(test.margin))


def _alternatives(q: Floats, direction: Direction, sign: float, d: Floats) -> Floats:
    if direction is Direction.ABORT:
        if sign > 0:
            raw = q + d * _ABORT_MULTIPLES
        elif sign == 0:
            raw = q * _WORSE_RATIOS
        else:
            raw = q + d * _PROMOTE_OFFSETS
        ceiling = 1 - 0.01 * np.maximum(1 - q - np.maximum(d, 0.0), 1e-6)
        return _between(raw, q * 0.1, ceiling)
    if sign > 0:
        raw = q + d * _PROMOTE_OFFSETS
    elif sign == 0:
        raw = q * _BETTER_RATIOS
    else:
        raw = q + d * _ABORT_MULTIPLES
    floor = 0.1 * np.maximum(q + np.minimum(d, 0.0), 1e-6)
    return _between(raw, floor, 1 - 0.01 * (1 - q))


def project(
    stable_n: Floats, candidate_n: Floats, q_stable: Floats, q_candidate: Floats, margin: Floats
) -> tuple[Floats, Floats]:
    """The pair on candidate = stable + margin that is nearest to q: argmin of n_A KL(q_A|p_A) + n_B KL(q_B|p_B).

    That sum is convex along the line, and its derivative has the sign of a cubic without poles. The one root lies
    between q_A and q_B - margin, as far as both rates stay in [0, 1].
    """
    stable_n, candidate_n, q_stable, q_candidate, margin = np.broadcast_arrays(
        stable_n, candidate_n, q_stable, q_candidate, margin
    )
    # p_A = u + a and p_B = u + b, 0 < u < 1 - |margin|: no small rate is ever the difference of two large ones
    a, b, top = np.maximum(0.0, -margin), np.maximum(0.0, margin), 1 - np.abs(margin)
    share = stable_n / np.maximum(stable_n + candidate_n, np.finfo(float).tiny)
    left = np.clip(np.minimum(q_stable - a, q_candidate - b), 0.0, top)
    right = np.clip(np.maximum(q_stable - a, q_candidate - b), 0.0, top)
    flat = (values.ravel() for values in (share, q_stable, q_candidate, left, right, a, b))
    u = np.clip(_root(*flat).reshape(share.shape), _TINY, top - _TINY)
    return u + a, u + b


def _root(
    share: Floats, q_stable: Floats, q_candidate: Floats, left: Floats, right: Floats, a: Floats, b: Floats
) -> Floats:
    """Newton's method, with bisection where it does not halve its step ("rtsafe", Numerical Recipes 9.4).

    Each element stops at its own convergence, so its bits do not depend on its neighbours in the array.
    """
    u = np.clip(share * (q_stable - a) + (1 - share) * (q_candidate - b), left, right)
    u = np.where((u > left) & (u < right), u, 0.5 * (left + right))
    result = u.copy()
    active = np.arange(len(result))
    last_step = right - left
    for _ in range(_MOST_STEPS):
        p, r = u + a, u + b
        vp, vr = p * (1 - p), r * (1 - r)
        above_p, above_r = p - q_stable, r - q_candidate
        value = share * above_p * vr + (1 - share) * above_r * vp
        slope = share * (vr + above_p * (1 - 2 * r)) + (1 - share) * (vp + above_r * (1 - 2 * p))
        left = np.where(value < 0, u, left)
        right = np.where(value > 0, u, right)
        newton = u - value / np.where(slope > 0, slope, 1.0)
        safe = (slope > 0) & (newton > left) & (newton < right) & (2 * np.abs(value) < np.abs(last_step) * slope)
        following = np.where(value == 0, u, np.where(safe, newton, 0.5 * (left + right)))
        last_step = following - u
        u = following
        result[active] = u
        going = np.abs(last_step) > 1e-14 * u
        if not going.any():
            break
        if not going.all():
            active = active[going]
            u, last_step, left, right, share, q_stable, q_candidate, a, b = (
                values[going] for values in (u, last_step, left, right, share, q_stable, q_candidate, a, b)
            )
    return result


def _log_likelihood_ratio(errors: Floats, requests: Floats, q: Floats, p: Floats) -> Floats:
    ratio: Floats = errors * np.log(q / p) + (requests - errors) * (np.log1p(-q) - np.log1p(-p))
    return ratio


def _log_mean(components: Floats) -> Floats:
    """log of the mean of e-values over the last axis, added in a fixed order: any batching gives the same bits."""
    top: Floats = components.max(axis=-1)
    scaled: Floats = np.zeros_like(top)
    for column in range(components.shape[-1]):
        scaled = scaled + np.exp(np.maximum(components[..., column] - top, LOG_FLOOR))
    mean: Floats = top + np.log(scaled / components.shape[-1])
    return mean


def _between(values: Floats, low: Floats, high: Floats) -> Floats:
    bounded: Floats = np.minimum(np.maximum(values, low), high)
    return bounded


def _close_blocks(
    pending: Window, windows: Iterable[Window], least: int
) -> tuple[Sequence[tuple[int, int, int, int]], Window]:
    blocks = []
    a_n, a_s = pending.stable.requests, pending.stable.errors
    b_n, b_s = pending.candidate.requests, pending.candidate.errors
    for window in windows:
        a_n += window.stable.requests
        a_s += window.stable.errors
        b_n += window.candidate.requests
        b_s += window.candidate.errors
        if a_n >= least and b_n >= least:
            blocks.append((a_n, a_s, b_n, b_s))
            a_n = a_s = b_n = b_s = 0
    return blocks, Window(ArmCounts(a_n, a_s), ArmCounts(b_n, b_s))
