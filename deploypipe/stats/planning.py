"""How many units, and minutes, until a decision: said before a test starts, so that nobody waits in vain.

With known rates no method gains more than KL nats per unit on average, so none needs fewer than log(1/alpha) / KL units
(Wald 1945): `wald_bound`. What ours needs is a `Forecast`: the number at which the expected path of its evidence
crosses log(1/alpha), and around it the first passage of a Brownian motion with the same drift and variance, an inverse
Gaussian (Wald 1947; Folks, Chhikara, J. R. Stat. Soc. B 40, 1978): `median` and `power` come from that.

A unit is what the test counts: a session, a request, a rating, an event. Those of both arms are counted together.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import special

from deploypipe.stats import arrivals, bets, factors, limits, means
from deploypipe.stats.histogram import edge
from deploypipe.stats.projection import project
from deploypipe.stats.quantiles import QuantileTest
from deploypipe.stats.samples import Sample
from deploypipe.stats.two_arms import TwoArmTest

Floats = npt.NDArray[np.float64]

USUAL_SPREAD = 0.6
"""Standard deviation of the log of latencies, where nothing is known of them."""
NEVER_UNITS = 1e9
_RAREST = 1e-6
_LEARNING = 1.0
"""Nats that it costs to bet on what was seen instead of on what is true; measured, see tests/stats/test_planning.py."""


@dataclass(frozen=True, slots=True)
class Forecast:
    units: float
    """At which the expected path of the evidence reaches the threshold; inf: never."""
    variance: float
    """Of the evidence gained per unit."""
    log_threshold: float
    bound: float
    """Wald's: no valid method needs fewer units on average."""
    before: float = 0.0
    """Units that come before the first evidence; within `units`."""

    @property
    def feasible(self) -> bool:
        return self.units < NEVER_UNITS

    @property
    def median(self) -> float:
        return self.units_for(0.5)

    def power(self, units: float) -> float:
        """The chance of a decision within so many units: the distribution function of the inverse Gaussian."""
        n, mean = units - self.before, self.units - self.before
        if not self.feasible or n <= _RAREST:
            return 0.0
        shape = self._shape
        if math.isinf(shape):
            return float(n >= mean)
        root = math.sqrt(shape / n)
        first = float(special.ndtr(root * (n / mean - 1)))
        return min(1.0, first + math.exp(2 * shape / mean + float(special.log_ndtr(-root * (n / mean + 1)))))

    def units_for(self, power: float) -> float:
        """Within how many units the decision falls with that chance."""
        if not 0 < power < 1:
            raise ValueError(f"power must lie between 0 and 1, not {power}")
        if not self.feasible:
            return math.inf
        low, high = self.before, self.units
        while self.power(high) < power:
            low, high = high, 2 * high
        for _ in range(60):
            middle = (low + high) / 2
            low, high = (middle, high) if self.power(middle) < power else (low, middle)
        return high

    @property
    def _shape(self) -> float:
        return self.log_threshold**2 / self.variance if self.variance > 0 else math.inf


NEVER = Forecast(math.inf, 0.0, 0.0, math.inf)


def wald_bound(
    stable_rate: float,
    candidate_rate: float,
    *,
    share: float,
    alpha: float,
    difference: float = 0.0,
    ratio: float = 1.0,
) -> float:
    """Units of both arms that any test at level alpha needs on average until it knows on which side of
    candidate = ratio * stable + difference the rates lie; inf on the boundary."""
    growth = growth_per_request(stable_rate, candidate_rate, difference, share, ratio)
    return -math.log(alpha) / growth if growth > 0 else math.inf


def growth_per_request(
    stable_rate: float, candidate_rate: float, margin: float, share: float, ratio: float = 1.0
) -> float:
    """Nats of evidence per request of both arms together: (1 - share) KL(q_A || p_A) + share KL(q_B || p_B)."""
    if not 0 < share < 1:
        return 0.0
    q_a = min(max(stable_rate, _RAREST), 1 - _RAREST)
    q_b = min(max(candidate_rate, _RAREST), 1 - _RAREST)
    if math.isclose(q_b - ratio * q_a, margin, rel_tol=1e-9, abs_tol=1e-12):
        return 0.0
    weights = np.array([1 - share]), np.array([share])
    p_a, p_b = project(*weights, np.array([q_a]), np.array([q_b]), np.array(margin), ratio)
    return (1 - share) * divergence(q_a, p_a.item()) + share * divergence(q_b, p_b.item())


def divergence(q: float, p: float) -> float:
    """KL(q || p) of two Bernoulli rates, both inside (0, 1)."""
    return q * math.log(q / p) + (1 - q) * (math.log1p(-q) - math.log1p(-p))


def two_arms(test: TwoArmTest, stable: Sample, candidate: Sample, share: float, alpha: float) -> Forecast:
    """`stable` and `candidate` say how often a unit has each value: `Sample.binary(1, rate)` for rates."""
    q_a, q_b = _inside(stable.mean), _inside(candidate.mean)
    threshold = -math.log(alpha)
    bound = wald_bound(q_a, q_b, share=share, alpha=alpha, difference=test.difference, ratio=test.ratio)
    if not 0 < share < 1 or test.side.sign * (q_b - test.ratio * q_a - test.difference) <= 0:
        return NEVER
    values = np.array(sorted({0.0, 1.0, *dict(stable.frequencies), *dict(candidate.frequencies)}))
    drawn_a, drawn_b = _probabilities(stable, values, q_a), _probabilities(candidate, values, q_b)
    past = 1e9 * np.array([[1.0, q_a, drawn_a @ values**2, 1.0, q_b, drawn_b @ values**2]])
    sizes = np.array([[1 - share]]), np.array([[share]])
    p_a, p_b, bet_a, bet_b = (array[0, :, None] for array in factors.bets(*sizes, past, factors.Parameters.of([test])))
    gain_a, gain_b = np.log1p(bet_a * (values - p_a)), np.log1p(bet_b * (values - p_b))
    mean_a, mean_b = gain_a @ drawn_a, gain_b @ drawn_b
    growth = (1 - share) * mean_a + share * mean_b
    spread = (1 - share) * (gain_a**2 @ drawn_a - mean_a**2) + share * (gain_b**2 @ drawn_b - mean_b**2)
    weights = np.log(test.alternatives.weights)
    weights[-1] -= _LEARNING
    units = _crossing(lambda n: float(special.logsumexp(weights + n * growth)), threshold)
    best = int(np.argmax(weights + units * growth)) if math.isfinite(units) else 0
    return Forecast(units, _per_unit(spread[best], growth[best], units, threshold), threshold, bound)


def error_rates(test: TwoArmTest, stable_rate: float, candidate_rate: float, share: float, alpha: float) -> Forecast:
    return two_arms(test, Sample.binary(1, stable_rate), Sample.binary(1, candidate_rate), share, alpha)


def quantile(
    test: QuantileTest, change: float, share: float, alpha: float, stable: Mapping[int, float] | None = None
) -> Forecast:
    """Of a candidate whose latencies are `change` times stable's; without stable's histogram they are lognormal."""
    nearer = test.effective_ratio / change
    if stable:
        slow_a, slow_b = _tails(stable, test.level, nearer)
    else:
        z = float(special.ndtri(test.level))
        slow_a, slow_b = 1 - test.level, float(special.ndtr(-z - math.log(nearer) / USUAL_SPREAD))
    found = error_rates(test.inner, slow_a, slow_b, share, alpha)
    before = test.least_past / (1 - share) if share < 1 else math.inf
    return Forecast(found.units + before, found.variance, found.log_threshold, found.bound, before)


def limit(test: limits.LimitTest, rate: float, alpha: float) -> Forecast:
    """Units of the one arm."""
    q, p = _inside(rate), test.limit
    if test.side.sign * (q - p) <= 0:
        return NEVER
    threshold, growth = -math.log(alpha), divergence(q, p)
    units = _crossing(lambda n: float(limits.log_evidence(np.array(n * q), np.array(n), test)), threshold)
    spread = q * (1 - q) * (math.log(q / p) - math.log1p(-q) + math.log1p(-p)) ** 2
    return Forecast(units, _per_unit(spread, growth, units, threshold), threshold, threshold / growth)


def mean_limit(test: bets.MeanTest, values: Sample, alpha: float) -> Forecast:
    """Units of the one arm; `values` says how often a unit has each, ratings brought to the scale from 0 to 1."""
    mean = values.mean
    if mean is None or test.side.sign * (mean - test.limit) <= 0:
        return NEVER
    at = np.array([value for value, _ in values.frequencies])
    drawn = np.array([number for _, number in values.frequencies]) / values.units
    threshold = -math.log(alpha)
    units = _crossing(lambda n: float(bets.log_evidence(at, n * drawn, test)), threshold)
    tilt = _best_bet(at, drawn, test.limit)
    gain = np.log1p(tilt * (at - test.limit))
    growth = float(gain @ drawn)
    spread = float(gain**2 @ drawn) - growth**2
    return Forecast(units, _per_unit(spread, growth, units, threshold), threshold, threshold / growth)


def mean_difference(
    test: means.MeanTest,
    stable: tuple[float, float],
    candidate: tuple[float, float],
    share: float,
    alpha: float,
) -> Forecast:
    """Of quantities without bounds; mean and standard deviation of each arm's units."""
    (mean_a, sd_a), (mean_b, sd_b) = stable, candidate
    excess = test.side.sign * (mean_b - test.ratio * mean_a - test.difference)
    if not 0 < share < 1 or excess <= 0:
        return NEVER
    variance = sd_b**2 / share + test.ratio**2 * sd_a**2 / (1 - share)
    threshold, information = -math.log(alpha), 1 / max(variance, 1e-300)
    burn_in = test.burn_in / min(share, 1 - share)
    effects = means.effect_size(test, mean_a), math.sqrt(max(variance, 1e-300) / burn_in)
    crossing = _crossing(lambda n: means.log_evidence_of(excess * n * information, n * information, effects), threshold)
    bound = threshold / (0.5 * excess**2 * information)
    units = max(crossing, burn_in)
    return Forecast(units, _per_unit(excess**2 * information, threshold / bound, units, threshold), threshold, bound)


def rate_of_arrivals(test: arrivals.ArrivalTest, ratio: float, share: float, alpha: float) -> Forecast:
    """Units are events of both arms; `ratio` is the true one, per unit of exposure."""
    if not 0 < share < 1 or test.side.sign * (ratio - test.ratio) <= 0:
        return NEVER
    q, p = (share * r / (1 - share + share * r) for r in (ratio, test.ratio))
    threshold, growth = -math.log(alpha), divergence(q, p)
    units = _crossing(lambda n: arrivals.log_evidence_of([(share, n * (1 - q), n * q)], test), threshold)
    spread = q * (1 - q) * (math.log(q / p) - math.log1p(-q) + math.log1p(-p)) ** 2
    return Forecast(units, _per_unit(spread, growth, units, threshold), threshold, threshold / growth)


def _crossing(evidence: Callable[[float], float], threshold: float) -> float:
    """The first number of units, within a thousandth, at which the expected evidence is that much; inf beyond
    NEVER_UNITS."""
    high = 1.0
    while evidence(high) < threshold:
        high *= 2
        if high > NEVER_UNITS:
            return math.inf
    low = high / 2 if high > 1 else 0.0
    while high - low > 1e-3 * high:
        middle = (low + high) / 2
        low, high = (middle, high) if evidence(middle) < threshold else (low, middle)
    return high


def _per_unit(spread: float, growth: float, units: float, threshold: float) -> float:
    """The forecast's path rises by threshold / units a unit, the true one by `growth` after a start that costs more:
    the spread around the crossing is that of the true path, seen at its slope."""
    if not math.isfinite(units) or growth <= 0:
        return 0.0
    return float(spread * (threshold / (units * growth)) ** 2)


def _inside(rate: float | None) -> float:
    return min(max(rate or 0.0, _RAREST), 1 - _RAREST)


def _probabilities(sample: Sample, values: Floats, mean: float) -> Floats:
    drawn = np.array([dict(sample.frequencies).get(value, 0.0) for value in values]) / sample.units
    if drawn[0] == 1 or drawn[-1] == 1:  # never and always are as near to 0 and 1 as plans go
        drawn = np.zeros_like(drawn)
        drawn[0], drawn[-1] = 1 - mean, mean
    return drawn


def _tails(stable: Mapping[int, float], level: float, nearer: float) -> tuple[float, float]:
    """Shares of stable's units beyond its quantile, and beyond `nearer` times that."""
    bins = np.array(sorted(stable), dtype=np.float64)
    units = np.array([stable[int(bin_)] for bin_ in bins])
    edges = np.concatenate([bins, [bins[-1] + 1]])
    below = np.concatenate([[0.0], np.cumsum(units)]) / units.sum()
    quantile_at = float(np.interp(level, below, edges))
    moved = quantile_at + math.log(nearer) / math.log(edge(1))
    return 1 - level, max(0.0, 1 - float(np.interp(moved, edges, below)))  # rounding: the sums may exceed 1


def _best_bet(at: Floats, drawn: Floats, limit: float) -> float:
    """That lets the evidence grow fastest (Kelly 1956)."""
    low, high = -0.999 / max(1 - limit, 1e-12), 0.999 / limit
    for _ in range(60):
        middle = (low + high) / 2
        slope = float(((at - limit) / (1 + middle * (at - limit))) @ drawn)
        low, high = (middle, high) if slope > 0 else (low, middle)
    return (low + high) / 2
