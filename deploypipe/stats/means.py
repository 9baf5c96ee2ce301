"""Does the mean of a quantity without bounds, such as a cost, lie above (or below) a boundary that stable's mean draws?

The boundary is candidate = ratio * stable + difference. Asymptotic, hence to be labelled so: the level holds once each
arm has `burn_in` units, and the heavier the tail the more of them it takes. At the boundary and alpha 0.05, normal,
exponential and lognormal quantities (sigma 0.6) were called in at most 4.5 % of runs, lognormal ones with sigma 1 in at
most 6 %; and what happens to less than one unit in `burn_in` may be in nobody's variance yet. Waudby-Smith, Arbour,
Sinha, Kennedy, Ramdas, "Time-uniform central limit theory and asymptotic confidence sequences", Ann. Stat. 52(6), 2024,
arXiv 2103.06476; the mixture over effects on one side: Robbins 1970; Howard, Ramdas, McAuliffe, Sekhon, Ann. Stat.
49(2).

Each block is one comparison: D = mean of its candidate units - ratio * mean of its stable units - difference, whose
variance is estimated within the block. Blocks are added with weights that are known before them (their sizes, over the
variance that past units had), so that neither a split that changes nor a drift of both arms biases the sum. Only the
first block, the burn-in, has no past: its weight and both k come from itself, which asymptotically says nothing. With
S = sum w D and V = sum w^2 var(D) the evidence is the mean over two k of 2 sqrt(k/(V+k)) exp(S^2/(2(V+k)))
Phi(S/sqrt(V+k)): mixtures of exp(l S - l^2 V/2) over a half-normal l of scale 1/sqrt(k). One scale is the size of an
effect that matters; the other is the standard error of the burn-in, since where units vary so much that the first
would take ages to be seen, larger ones must not wait for that.

The burn-in lasts until something else than zeros was seen. Where the boundary is a ratio, zeros alone are D = 0, so
that the wait for the first window with more in it, of whichever arm, favours neither side.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from scipy import optimize, special

from deploypipe.stats.intervals import Interval
from deploypipe.stats.samples import NO_MOMENTS_PAIR, NOTHING, Moments, MomentsPair
from deploypipe.stats.two_arms import Side

_LEAST_BLOCK = 5
_USUAL_EFFECT = 0.1
"""Of stable's mean, where the boundary itself does not say what size of an effect matters."""
_LEAST_EFFECT = 1e-3
"""Of stable's mean: a boundary as near as that to equal arms does not say it."""
_SMALLEST = 1e-30
_QUIET = 0.3
"""Of the effect: with a standard deviation below that everything is seen at once, and blocks weigh as if it were that,
so that a time in which nothing varied does not outweigh all that comes later."""
_LEAST_SPREAD = 1e-3
"""Standard deviation over mean, at least: a quantity that has been the same so far may still vary."""


@dataclass(frozen=True, slots=True)
class MeanTest:
    side: Side
    difference: float = 0.0
    """In the quantity's own unit."""
    ratio: float = 1.0
    burn_in: int = 100
    """Units of each arm in the first block, at least."""
    block_units: int = _LEAST_BLOCK
    """Units of each arm in every other block, at least; two are needed for a variance."""

    def __post_init__(self) -> None:
        if not math.isfinite(self.difference):
            raise ValueError(f"difference must be a finite number, not {self.difference}")
        if not 0 < self.ratio < math.inf:
            raise ValueError(f"ratio must be above 0, not {self.ratio}")
        if self.difference != 0 and self.ratio != 1:
            raise ValueError(f"difference must be 0 or ratio must be 1, not {self.difference} with {self.ratio}")
        if self.block_units < 2 or self.burn_in < self.block_units:
            raise ValueError(
                f"block_units must be at least 2 and at most burn_in, not {self.block_units} and {self.burn_in}"
            )

    def to_json(self) -> dict[str, Any]:
        return {
            "side": self.side.value,
            "difference": self.difference,
            "ratio": self.ratio,
            "burn_in": self.burn_in,
            "block_units": self.block_units,
        }

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> MeanTest:
        return cls(
            Side(stored["side"]),
            float(stored["difference"]),
            float(stored["ratio"]),
            int(stored["burn_in"]),
            int(stored["block_units"]),
        )


@dataclass(frozen=True, slots=True)
class Sums:
    """Weighted, over the closed blocks."""

    weight: float = 0.0
    stable: float = 0.0
    """Of weight * mean."""
    candidate: float = 0.0
    stable_variance: float = 0.0
    """Of weight^2 * variance of the mean."""
    candidate_variance: float = 0.0


@dataclass(frozen=True, slots=True)
class MeanProcess:
    test: MeanTest
    sums: Sums = Sums()
    deviations: float = 0.0
    """Of each arm's units from the mean of their block, squared and added."""
    freedom: int = 0
    """Units less two for each block, one for each arm."""
    effects: tuple[float, ...] = ()
    """Scales of the mixtures, in the quantity's own unit; fixed with the first block."""
    pending: MomentsPair = NO_MOMENTS_PAIR
    blocks: int = 0
    max_log_evidence: float = 0.0

    @property
    def estimate(self) -> tuple[float, float] | None:
        """Means of stable and candidate, blocks weighted as in the test; None before the first block."""
        sums = self.sums
        return (sums.stable / sums.weight, sums.candidate / sums.weight) if sums.weight else None

    @property
    def log_evidence(self) -> float:
        if not self.blocks:
            return 0.0
        score, variance = _score(self.sums, self.test.difference, self.test.ratio)
        return log_evidence_of(self.test.side.sign * score, variance, self.effects)

    @property
    def p_value(self) -> float:
        return math.exp(-max(self.max_log_evidence, 0.0))

    def reached(self, alpha: float) -> bool:
        return self.max_log_evidence >= -math.log(alpha)

    def to_json(self) -> dict[str, Any]:
        sums = self.sums
        return {
            "test": self.test.to_json(),
            "sums": [sums.weight, sums.stable, sums.candidate, sums.stable_variance, sums.candidate_variance],
            "deviations": self.deviations,
            "freedom": self.freedom,
            "effects": list(self.effects),
            "pending": [self.pending.stable.to_json(), self.pending.candidate.to_json(), self.pending.period],
            "blocks": self.blocks,
            "max_log_evidence": self.max_log_evidence,
        }

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> MeanProcess:
        stable, candidate, period = stored["pending"]
        return cls(
            MeanTest.from_json(stored["test"]),
            Sums(*(float(value) for value in stored["sums"])),
            float(stored["deviations"]),
            int(stored["freedom"]),
            tuple(float(effect) for effect in stored["effects"]),
            MomentsPair(Moments.from_json(stable), Moments.from_json(candidate), int(period)),
            int(stored["blocks"]),
            float(stored["max_log_evidence"]),
        )


def start(test: MeanTest) -> MeanProcess:
    return MeanProcess(test)


def update(state: MeanProcess, pair: MomentsPair) -> MeanProcess:
    """A block that is open when the period changes is dropped if it is too small for a variance or for the burn-in."""
    pending = state.pending
    if pair.period != pending.period:
        if _suffices(state, pending, 2):
            state = _closed(state, pending)
        pending = MomentsPair(NOTHING, NOTHING, pair.period)
    joined = MomentsPair(pending.stable + pair.stable, pending.candidate + pair.candidate, pair.period)
    if not _suffices(state, joined, state.test.block_units):
        return replace(state, pending=joined)
    return _closed(replace(state, pending=MomentsPair(NOTHING, NOTHING, pair.period)), joined)


def _suffices(state: MeanProcess, block: MomentsPair, units: int) -> bool:
    if state.blocks:
        return min(block.stable.units, block.candidate.units) >= units
    seen = block.stable.squares > 0 or block.candidate.squares > 0 or state.test.difference != 0
    return seen and min(block.stable.units, block.candidate.units) >= state.test.burn_in


def advance(state: MeanProcess, pairs: Iterable[MomentsPair]) -> MeanProcess:
    for pair in pairs:
        state = update(state, pair)
    return state


def advance_many(states: Sequence[MeanProcess], pairs_of_each: Sequence[Sequence[MomentsPair]]) -> list[MeanProcess]:
    if len(states) != len(pairs_of_each):
        raise ValueError(f"pairs_of_each must have one item for each of {len(states)} states, not {len(pairs_of_each)}")
    return [advance(state, pairs) for state, pairs in zip(states, pairs_of_each, strict=True)]


def replay(pairs: Iterable[MomentsPair], test: MeanTest) -> MeanProcess:
    return advance(start(test), pairs)


def interval(state: MeanProcess, alpha: float, *, relative: bool = False) -> Interval:
    """Of candidate - stable, or of candidate / stable: what neither side's test would reject now. Confidence
    1 - 2 alpha, asymptotically, at every look. A ratio is known only of means above zero."""
    if not 0 < alpha < 0.5:
        raise ValueError(f"alpha must lie between 0 and 0.5, not {alpha}")
    estimate = state.estimate
    no_sign = estimate is not None and min(estimate) < 0
    unknown = Interval(0.0 if relative and not no_sign else -math.inf, math.inf, 1 - 2 * alpha)
    if estimate is None:
        return unknown
    stable, candidate = estimate
    if not relative:
        _, variance = _score(state.sums, 0.0, 1.0)
        reach = _boundary(variance, state.effects, alpha) / state.sums.weight
        return Interval(candidate - stable - reach, candidate - stable + reach, 1 - 2 * alpha)
    if min(stable, candidate) <= 0:
        return unknown
    centre = candidate / stable
    return Interval(
        _ratio_end(state, centre, Side.ABOVE, alpha), _ratio_end(state, centre, Side.BELOW, alpha), 1 - 2 * alpha
    )


def effect_size(test: MeanTest, stable_mean: float) -> float:
    """What separates equal arms from the boundary; a tenth of stable's mean where the boundary lets no room."""
    room, mean = abs(test.difference + (test.ratio - 1) * stable_mean), abs(stable_mean)
    return max(room if room > _LEAST_EFFECT * mean else _USUAL_EFFECT * mean or 1.0, _SMALLEST)


def log_evidence_of(score: float, variance: float, effects: Sequence[float]) -> float:
    logs = [log_mixture(score, variance, effect) for effect in effects]
    top = max(logs)
    return top + math.log(math.fsum(math.exp(one - top) for one in logs) / len(logs))


def log_mixture(score: float, variance: float, effect: float) -> float:
    k = 1 / effect**2
    z = score / math.sqrt(variance + k)
    return math.log(2) + 0.5 * math.log(k / (variance + k)) + 0.5 * z * z + float(special.log_ndtr(z))


def _closed(state: MeanProcess, block: MomentsPair) -> MeanProcess:
    test, a, b = state.test, block.stable, block.candidate
    mean_a, mean_b = a.total / a.units, b.total / b.units
    within_a, within_b = a.variance or 0.0, b.variance or 0.0
    deviations, freedom = within_a * (a.units - 1) + within_b * (b.units - 1), a.units + b.units - 2
    if state.blocks:
        effects, known = state.effects, state.deviations / state.freedom
    else:
        effects, known = (effect_size(test, mean_a or mean_b * b.units / (a.units + b.units)),), deviations / freedom
    floor = (_LEAST_SPREAD * max(abs(mean_a), abs(mean_b), effects[0])) ** 2
    variance_a, variance_b = max(within_a, floor) / a.units, max(within_b, floor) / b.units
    if not state.blocks:
        effects = (*effects, math.sqrt(variance_b + test.ratio**2 * variance_a))
    weight = 1 / ((1 / b.units + test.ratio**2 / a.units) * max(known, (_QUIET * effects[0]) ** 2))
    old = state.sums
    sums = Sums(
        old.weight + weight,
        old.stable + weight * mean_a,
        old.candidate + weight * mean_b,
        old.stable_variance + weight**2 * variance_a,
        old.candidate_variance + weight**2 * variance_b,
    )
    after = MeanProcess(
        test,
        sums,
        state.deviations + deviations,
        state.freedom + freedom,
        effects,
        state.pending,
        state.blocks + 1,
        state.max_log_evidence,
    )
    return replace(after, max_log_evidence=max(after.max_log_evidence, after.log_evidence))


def _score(sums: Sums, difference: float, ratio: float) -> tuple[float, float]:
    score = sums.candidate - ratio * sums.stable - difference * sums.weight
    return score, sums.candidate_variance + ratio**2 * sums.stable_variance


def _boundary(variance: float, effects: Sequence[float], alpha: float) -> float:
    """The score at which the evidence is 1 / alpha."""
    scale = math.sqrt(variance + 1 / max(effects) ** 2)

    def short(z: float) -> float:
        return log_evidence_of(z * scale, variance, effects) + math.log(alpha)

    high = 1.0
    while short(high) < 0:
        high *= 2
    return float(optimize.brentq(short, 0.0, high)) * scale


def _ratio_end(state: MeanProcess, centre: float, side: Side, alpha: float) -> float:
    """The ratio at which that side's evidence is just 1 / alpha; 0 or inf where none is."""

    def beyond(log_factor: float) -> float:
        score, variance = _score(state.sums, 0.0, centre * math.exp(log_factor))
        return side.sign * score - _boundary(variance, state.effects, alpha)

    far = -side.sign * 5.0
    if beyond(far) < 0:
        return 0.0 if side is Side.ABOVE else math.inf
    return centre * math.exp(float(optimize.brentq(beyond, 0.0, far)))
