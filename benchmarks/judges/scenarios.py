"""Simulated traffic: what one cell of the table feeds to every judge.

Everything is drawn for many runs at once; a stream's arrays have the shape (runs, windows). Requests arrive by Poisson,
each is put into an arm by the split of its window, and fails with its arm's rate of that window: with binomial draws
the cost does not depend on traffic. Latencies are lognormal and are drawn one by one. Correlated traffic: see
`sessions`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.judges import sessions
from deploypipe.stats.histogram import BINS_PER_DOUBLING

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[Any]
Bools = npt.NDArray[np.bool_]

MARGIN = 0.005
"""0.5 points: the mission's `max_error_rate_increase`."""
RATIO = 1.2
"""P95 at most 20 % longer: the mission's `max_latency_increase_percent`."""
LEVEL = 0.95

TYPICAL_MS, SIGMA = 130.0, 0.5
"""Of the lognormal latency. Its P99 is 416 ms, so that Flagger's documented limit of 500 ms lies 20 % above: the
kindest place for it."""
FIRST_BIN, BINS = 320, 384
"""Bins of `deploypipe.stats.histogram` that are kept: 32 ms to 2 s."""

RAMP = (0.05, 0.10, 0.25, 0.50)


@dataclass(frozen=True, slots=True)
class Latency:
    """The candidate's, against stable's."""

    scale: float = 1.0
    tail_share: float = 0.0
    """This share of the candidate's requests takes `tail_scale` times as long on top."""
    tail_scale: float = 1.0


@dataclass(frozen=True, slots=True)
class Scenario:
    name: str
    base: float
    """Stable's error rate."""
    effect: float = 0.0
    """Added to it for the candidate: 0.01 is one point."""
    per_minute: float = 200.0
    share: float = 0.1
    minutes: int = 60
    window_seconds: int = 15
    ramp: bool = False
    """The split goes through RAMP in four equal parts, whatever `share` says."""
    drift: float = 1.0
    """Both arms' base rate, or their latency, swings between base / drift and base * drift, once over the whole time,
    and traffic swings by a half either way: a day, made short."""
    outage: tuple[int, int] | None = None
    """Minutes within which nothing was measured."""
    sessions: bool = False
    latency: Latency | None = None
    """None: a cell about error rates, of which no latencies are drawn."""

    @property
    def windows(self) -> int:
        return self.minutes * 60 // self.window_seconds

    @property
    def first_telling_minutes(self) -> float:
        """The end of the first window that can tell anything: from one before it a latency threshold is taken."""
        return (1 if self.latency is None else 2) * self.window_seconds / 60

    @property
    def per_minute_windows(self) -> int:
        return 60 // self.window_seconds

    @property
    def shares(self) -> Floats:
        if not self.ramp:
            return np.full(self.windows, self.share)
        return np.repeat(RAMP, self.windows // len(RAMP))

    @property
    def periods(self) -> Ints:
        if not self.ramp:
            return np.zeros(self.windows, dtype=np.int64)
        return np.repeat(np.arange(len(RAMP)), self.windows // len(RAMP))

    @property
    def _phase(self) -> Floats:
        return np.sin(2 * math.pi * (np.arange(self.windows) + 0.5) / self.windows)

    @property
    def base_rates(self) -> Floats:
        """Per window. Arms drift together, so that their difference is `effect` all the time."""
        return np.asarray(self.base * self.drift**self._phase)

    @property
    def typical_doublings(self) -> Floats:
        """Per window: log2 of stable's median latency in milliseconds. The arms' ratio is the same all the time."""
        return np.asarray(math.log2(TYPICAL_MS) + math.log2(self.drift) * self._phase)

    @property
    def arrivals(self) -> Floats:
        """Expected requests per window."""
        swing = 1 + 0.5 * self._phase * (self.drift > 1)
        return np.asarray(self.per_minute * self.window_seconds / 60 * swing)

    @property
    def measured(self) -> Bools:
        minute = np.arange(self.windows) * self.window_seconds / 60
        if self.outage is None:
            return np.ones(self.windows, dtype=bool)
        return np.asarray((minute < self.outage[0]) | (minute >= self.outage[1]))

    @property
    def unchanged(self) -> bool:
        """The candidate is an identical version."""
        return self.effect == 0 and self.latency in (None, Latency())

    @property
    def beyond(self) -> bool:
        """The candidate is worse than allowed."""
        return self._excess > 1e-9

    @property
    def at_or_beyond(self) -> bool:
        """It must not be promoted."""
        return self._excess > -1e-9

    @property
    def _excess(self) -> float:
        if self.latency is not None:
            return slow_share(self.latency) - slow_share(Latency(RATIO))
        return self.effect - MARGIN


@dataclass(frozen=True, slots=True, eq=False)
class Arm:
    """Equal to itself alone, so that what is computed of it can be kept."""

    requests: Ints
    errors: Ints
    latency: Ints | None = None
    """Shape (runs, windows, BINS): requests that took as long as bin FIRST_BIN + i says."""
    sessions: sessions.Readings | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Stream:
    scenario: Scenario
    stable: Arm
    candidate: Arm
    total: Ints = field(init=False)
    """Requests of both arms up to and with each window."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "total", np.cumsum(self.stable.requests + self.candidate.requests, axis=1))

    @property
    def runs(self) -> int:
        return int(self.stable.requests.shape[0])


def draw(scenario: Scenario, runs: int, seed: int | tuple[int, ...]) -> Stream:
    random = np.random.default_rng(seed)
    if scenario.sessions:
        return _of_sessions(scenario, runs, random)
    arrivals = random.poisson(scenario.arrivals * scenario.measured, size=(runs, scenario.windows))
    candidate_n = random.binomial(arrivals, scenario.shares)
    stable_n = arrivals - candidate_n
    rates = scenario.base_rates
    stable_s = random.binomial(stable_n, rates)
    candidate_s = random.binomial(candidate_n, rates + scenario.effect)
    if scenario.latency is None:
        return Stream(scenario, Arm(stable_n, stable_s), Arm(candidate_n, candidate_s))
    return Stream(
        scenario,
        Arm(stable_n, stable_s, _latencies(stable_n - stable_s, scenario, Latency(), random)),
        Arm(candidate_n, candidate_s, _latencies(candidate_n - candidate_s, scenario, scenario.latency, random)),
    )


def _latencies(answered: Ints, scenario: Scenario, latency: Latency, random: np.random.Generator) -> Ints:
    cells = np.repeat(np.arange(answered.size), answered.ravel())
    typical = np.tile(scenario.typical_doublings + math.log2(latency.scale), len(answered))
    doublings = random.standard_normal(len(cells)) * (SIGMA / math.log(2)) + typical[cells]
    if latency.tail_share:
        doublings += (random.random(len(cells)) < latency.tail_share) * math.log2(latency.tail_scale)
    bins = np.clip(np.floor(doublings * BINS_PER_DOUBLING).astype(np.int64) - FIRST_BIN, 0, BINS - 1)
    counts = np.bincount(cells * BINS + bins, minlength=answered.size * BINS)
    return counts.astype(np.int32).reshape(*answered.shape, BINS)


def _of_sessions(scenario: Scenario, runs: int, random: np.random.Generator) -> Stream:
    shape = (runs, scenario.windows)
    per_session = sessions.MEAN_SIZE
    arrivals = random.poisson(scenario.arrivals / per_session, size=shape)
    candidate_n = random.binomial(arrivals, scenario.shares)
    drawn = []
    for count, effect in ((arrivals - candidate_n, 0.0), (candidate_n, scenario.effect)):
        requests, errors, readings = sessions.draw(
            count, scenario.base_rates, effect, scenario.window_seconds, scenario.measured, random
        )
        drawn.append(Arm(requests, errors, None, readings))
    return Stream(scenario, *drawn)


def slow_share(latency: Latency) -> float:
    """Share of the candidate's requests slower than RATIO times stable's P95: what the latency criterion asks."""
    from_median = math.log(RATIO) + SIGMA * _normal_quantile(LEVEL)

    def above(scale: float) -> float:
        return 0.5 * math.erfc((from_median - math.log(scale)) / SIGMA / math.sqrt(2))

    return (1 - latency.tail_share) * above(latency.scale) + latency.tail_share * above(
        latency.scale * latency.tail_scale
    )


def _normal_quantile(level: float) -> float:
    from statistics import NormalDist

    return NormalDist().inv_cdf(level)
