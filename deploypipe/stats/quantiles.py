"""Is the candidate's latency quantile more (or less) than `ratio` times stable's? An answer that holds at every look.

Before each block a threshold x is taken from stable's past: its quantile. Then the share of the candidate's units that
need at least ratio * x is held against the share of stable's that need at least x, by the two-arm test of `two_arms`
with the boundary candidate = stable. The threshold is predictable and both shares are of the same block, so a time of
day that slows both arms, or a split that changes, deceives nobody. The null hypothesis, exactly:

    ABOVE: at no threshold in force was the candidate's share slower than ratio * x above stable's share slower than x.
    BELOW: at no threshold in force was it below.

A candidate whose latencies are stable's times `ratio` lies on that boundary at every threshold. One of another shape
may lie on it at its quantile and beyond it at a threshold nearby: of latencies that spread a third as wide (lognormal,
0.2 against 0.6), exactly at the margin, a quarter of runs are called at alpha 0.05; three percent within the margin a
tenth at most, six percent within it one in a hundred.

With a `slack` of s milliseconds it is max(ratio * x, x + s) instead of ratio * x: no less predictable, so that all of
this holds as it did, and a few milliseconds are no harm where x is small.

Quantiles by thresholds and two arms: Howard, Ramdas, "Sequential estimation of quantiles", Bernoulli 28(3), 2022, arXiv
1906.09712.

Thresholds are edges of bins, and the ratio is a whole number of bins, rounded to the null's side: up for ABOVE, down
for BELOW (`QuantileTest.effective_ratio`, within 1.1 % of the ratio). Then binned counts are exact.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any, TypeVar

import numpy.typing as npt

from deploypipe.stats import two_arms
from deploypipe.stats.blocks import close_blocks
from deploypipe.stats.histogram import BINS_PER_DOUBLING, bin_of, edge
from deploypipe.stats.samples import HistogramPair, Pair, Sample
from deploypipe.stats.two_arms import EProcess, Side, TwoArmTest

Bins = Mapping[int, float]
Units = TypeVar("Units", float, npt.NDArray[Any])

_LEAST_PAST = 10.0
_LEAST_SLOW = 5.0
_ROUNDING = 1e-9
MEMORY = 40.0
"""How many slow units of stable the threshold is taken from, twice that at most: enough to be steady, few enough to
follow a daily pattern."""


@dataclass(frozen=True, slots=True)
class QuantileTest:
    side: Side
    level: float
    """0.95 for the 95th percentile."""
    ratio: float
    """1.2: twenty percent more than stable's."""
    block_units: int = 5
    slack: float = 0.0
    """Milliseconds by which the candidate may be slower whatever the ratio says."""

    def __post_init__(self) -> None:
        if not 0 < self.level < 1:
            raise ValueError(f"level must lie between 0 and 1, not {self.level}")
        if not 0 < self.ratio < math.inf:
            raise ValueError(f"ratio must be above 0, not {self.ratio}")
        if self.block_units < 1:
            raise ValueError(f"block_units must be at least 1, not {self.block_units}")
        if not 0 <= self.slack < math.inf:
            raise ValueError(f"slack must be at least 0 and finite, not {self.slack}")
        if self.slack and self.ratio < 1:
            raise ValueError(f"slack is {self.slack}: with a ratio of {self.ratio}, below 1, it must be 0")

    @property
    def shift(self) -> int:
        """The ratio in bins, rounded to the null's side."""
        return shift_of(self.ratio, self.side)

    @property
    def effective_ratio(self) -> float:
        """What is really tested."""
        return edge(self.shift)

    def beyond(self, threshold: int) -> int:
        """The bin from which on the candidate's units are slow, where stable's are from `threshold` on."""
        shifted = threshold + self.shift
        return max(shifted, _edge_next_to(edge(threshold) + self.slack, self.side)) if self.slack else shifted

    @property
    def least_past(self) -> float:
        """Units of stable that must be seen before the first threshold."""
        return max(_LEAST_PAST, _LEAST_SLOW / (1 - self.level))

    @property
    def memory(self) -> float:
        """Units of stable in one generation of the past; a threshold is taken from one to two of them."""
        return MEMORY / (1 - self.level)

    @property
    def inner(self) -> TwoArmTest:
        return TwoArmTest(self.side, prior_mean=1 - self.level, block_units=self.block_units)

    def to_json(self) -> dict[str, Any]:
        return {
            "side": self.side.value,
            "level": self.level,
            "ratio": self.ratio,
            "block_units": self.block_units,
            "slack": self.slack,
        }

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> QuantileTest:
        return cls(
            Side(stored["side"]),
            float(stored["level"]),
            float(stored["ratio"]),
            int(stored["block_units"]),
            float(stored["slack"]),
        )


@dataclass(frozen=True, slots=True)
class Past:
    """Stable's latencies, in two generations: when the younger is full it becomes the elder, and the elder goes."""

    recent: Bins = field(default_factory=dict)
    earlier: Bins = field(default_factory=dict)

    def grown(self, new: Bins, memory: float) -> Past:
        if not new:
            return self
        recent = dict(self.recent)
        for bin_, units in new.items():
            recent[bin_] = recent.get(bin_, 0.0) + units
        return Past({}, recent) if math.fsum(recent.values()) >= memory else Past(recent, self.earlier)

    def threshold(self, level: float, side: Side, least: float) -> int | None:
        """The edge next to the quantile: for ABOVE the lowest with at most 1 - level at or beyond it, for BELOW the
        highest with at least that much. So both are right even where every latency falls into one bin."""
        recent, earlier = self.recent, self.earlier
        total = math.fsum(chain(recent.values(), earlier.values()))
        if total < least:
            return None
        most = allowed_beyond(total, level, side)
        beyond = 0.0
        bin_ = 0
        for bin_ in sorted(recent.keys() | earlier.keys(), reverse=True):  # a few of them: the slow end
            beyond += recent.get(bin_, 0.0) + earlier.get(bin_, 0.0)
            if side is Side.ABOVE and beyond > most:
                return bin_ + 1
            if side is Side.BELOW and beyond >= most:
                return bin_
        return bin_  # only rounding comes here

    def to_json(self) -> list[list[list[float]]]:
        return [[[bin_, units] for bin_, units in sorted(bins.items())] for bins in (self.recent, self.earlier)]

    @classmethod
    def from_json(cls, stored: Iterable[Iterable[Any]]) -> Past:
        recent, earlier = ({int(bin_): float(units) for bin_, units in bins} for bins in stored)
        return cls(recent, earlier)


def allowed_beyond(total: Units, level: float, side: Side) -> Units:
    """How many of the units may lie beyond their quantile. Of a hundred exactly five lie beyond the P95, although 1 -
    0.95 is a little more than 0.05 in a float."""
    return total * ((1 - level) * (1 + (_ROUNDING if side is Side.ABOVE else -_ROUNDING)))


@dataclass(frozen=True, slots=True)
class QuantileProcess:
    """All that must be kept between two looks."""

    test: QuantileTest
    inner: EProcess
    past: Past = Past()
    threshold: int | None = None
    """Bin at whose edge the open block's units are called slow; None before the first."""

    @property
    def log_evidence(self) -> float:
        return self.inner.log_evidence

    @property
    def max_log_evidence(self) -> float:
        return self.inner.max_log_evidence

    @property
    def blocks(self) -> int:
        return self.inner.blocks

    @property
    def p_value(self) -> float:
        return self.inner.p_value

    def reached(self, alpha: float) -> bool:
        return self.inner.reached(alpha)

    def to_json(self) -> dict[str, Any]:
        return {
            "test": self.test.to_json(),
            "inner": self.inner.to_json(),
            "past": self.past.to_json(),
            "threshold": self.threshold,
        }

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> QuantileProcess:
        threshold = stored["threshold"]
        return cls(
            QuantileTest.from_json(stored["test"]),
            EProcess.from_json(stored["inner"]),
            Past.from_json(stored["past"]),
            None if threshold is None else int(threshold),
        )


def start(test: QuantileTest, stable_before: Bins | None = None) -> QuantileProcess:
    """With stable's latencies from before the comparison, the first window already counts."""
    past = Past().grown(stable_before, math.inf) if stable_before else Past()
    return QuantileProcess(test, two_arms.start(test.inner), past)


def update(state: QuantileProcess, pair: HistogramPair) -> QuantileProcess:
    return advance(state, (pair,))


def replay(pairs: Iterable[HistogramPair], test: QuantileTest) -> QuantileProcess:
    return advance(start(test), pairs)


def advance(state: QuantileProcess, pairs: Iterable[HistogramPair]) -> QuantileProcess:
    return advance_many((state,), (list(pairs),))[0]


def advance_many(
    states: Sequence[QuantileProcess], pairs_of_each: Sequence[Sequence[HistogramPair]]
) -> list[QuantileProcess]:
    """Many tests, each of its own windows, in one pass; the same bits as one after the other."""
    if len(states) != len(pairs_of_each):
        raise ValueError(f"pairs_of_each must have one item for each of {len(states)} states, not {len(pairs_of_each)}")
    split = [_halved(state, pairs) for state, pairs in zip(states, pairs_of_each, strict=True)]
    inner = two_arms.advance_many([state.inner for state in states], [pairs for _, _, pairs in split])
    return [
        QuantileProcess(state.test, process, past, threshold)
        for state, process, (past, threshold, _) in zip(states, inner, split, strict=True)
    ]


def _halved(state: QuantileProcess, windows: Sequence[HistogramPair]) -> tuple[Past, int | None, list[Pair]]:
    """The past and the threshold after the windows, and each as slow and quick units. While a block is open its
    threshold stays: a block has one question."""
    test, past, threshold, pending = state.test, state.past, state.threshold, state.inner.pending
    pairs = []
    for place, window in enumerate(windows):
        if window.period != pending.period or not (pending.stable.frequencies or pending.candidate.frequencies):
            threshold = past.threshold(test.level, test.side, test.least_past)
        if threshold is not None:
            pair = Pair(
                _binary(window.stable, threshold), _binary(window.candidate, test.beyond(threshold)), window.period
            )
            pairs.append(pair)
            if place + 1 < len(windows):  # whether the next one may have a new threshold
                _, pending = close_blocks(pending, (pair,), test.block_units)
        past = past.grown(window.stable, test.memory)
    return past, threshold, pairs


def _binary(bins: Bins, threshold: int) -> Sample:
    """Sums that do not depend on the order of the bins, which a file may change."""
    units = math.fsum(bins.values())
    slow = math.fsum([number for bin_, number in bins.items() if bin_ >= threshold])
    return Sample.binary(units, min(slow, units))


def shift_of(ratio: float, side: Side) -> int:
    exact = math.log2(ratio) * BINS_PER_DOUBLING
    nearest = round(exact)
    if math.isclose(exact, nearest, abs_tol=1e-9):
        return nearest
    return math.ceil(exact) if side is Side.ABOVE else math.floor(exact)


def binned(samples: Iterable[float]) -> dict[int, float]:
    """Latencies in milliseconds as a histogram."""
    counts: dict[int, float] = {}
    for ms in samples:
        bin_ = bin_of(ms)
        counts[bin_] = counts.get(bin_, 0.0) + 1.0
    return counts


def slower_than(histogram: Bins, ms: float, side: Side) -> tuple[float, float]:
    """Units, and those slower than `ms`, for a one-arm test of "level p <= ms": rounded to the null's side, so a unit
    in the bin that holds `ms` is quick for ABOVE (to abort) and slow for BELOW (to promote)."""
    sample = _binary(histogram, _edge_next_to(ms, side))
    return sample.units, sample.total


def _edge_next_to(ms: float, side: Side) -> int:
    """The bin that begins there, rounded to the null's side."""
    bin_ = bin_of(ms)
    return bin_ + 1 if side is Side.ABOVE and ms > edge(bin_) else bin_
