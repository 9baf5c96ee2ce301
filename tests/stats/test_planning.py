from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deploypipe.stats import arrivals, bets, limits, means, quantiles
from deploypipe.stats.planning import (
    NEVER,
    Forecast,
    divergence,
    error_rates,
    growth_per_request,
    limit,
    mean_difference,
    mean_limit,
    quantile,
    rate_of_arrivals,
    two_arms,
    wald_bound,
)
from deploypipe.stats.quantiles import QuantileTest
from deploypipe.stats.samples import Moments, MomentsPair, Sample
from deploypipe.stats.two_arms import Side, TwoArmTest
from tests.stats import test_quantiles as latencies
from tests.stats.simulation import binary, first_reached, looks

ALPHA = 0.05

PAIRS = [(0.01, 0.01), (0.01, 0.02), (0.01, 0.03), (0.01, 0.06), (0.002, 0.002)]
TABLE = {  # statistics.md (H): margin half a point, alpha 0.05, total requests
    0.05: (64_480, 81_236, 10_604, 1_623, 24_152),
    0.1: (33_308, 42_326, 5_565, 867, 12_212),
    0.25: (14_920, 19_563, 2_639, 435, 5_074),
    0.5: (9_764, 13_825, 1_967, 355, 2_763),
}


@pytest.mark.parametrize("share", TABLE)
def test_requests_to_decide_are_those_of_the_table(share):
    found = [wald_bound(*pair, share=share, alpha=0.05, difference=0.005) for pair in PAIRS]
    assert found == [pytest.approx(number, abs=1) for number in TABLE[share]]


@pytest.mark.parametrize(("rate", "published"), [(0.06, 3019), (0.08, 370), (0.10, 145), (0.15, 42), (0.20, 21)])
def test_requests_of_one_arm_are_those_of_the_reference(rate, published):
    """statistics.md (D): limit 5 %, alpha 0.05."""
    assert -math.log(0.05) / divergence(rate, 0.05) == pytest.approx(published, abs=1)


def test_at_the_margin_no_number_of_requests_decides():
    assert wald_bound(0.01, 0.015, share=0.1, alpha=0.05, difference=0.005) == math.inf


@pytest.mark.parametrize("rate", [0.0, 1.0])
def test_extreme_rates_are_planned_too(rate):
    assert wald_bound(rate, rate, share=0.1, alpha=0.05, difference=0.02) > 0


def test_without_traffic_there_is_no_growth_and_no_end():
    assert growth_per_request(0.01, 0.01, 0.005, 0.0) == 0
    assert growth_per_request(0.01, 0.01, 0.005, 1.0) == 0


# A forecast against simulated tests


def agrees(forecast: Forecast, units, within: float = 0.25) -> None:
    """Half of the runs are decided by the forecast's median, and about four of five by its 80 % point."""
    assert np.median(units) == pytest.approx(forecast.median, rel=within)
    assert (units <= 1.15 * forecast.units_for(0.8)).mean() >= 0.68
    assert forecast.bound <= forecast.units * (1 + 1e-9), "nothing can be faster than Wald's bound"


@pytest.mark.parametrize(
    ("test", "stable", "candidate", "share", "within"),
    [
        (TwoArmTest(Side.ABOVE), 0.01, 0.03, 0.1, 0.25),
        (TwoArmTest(Side.ABOVE, 0.005), 0.01, 0.02, 0.5, 0.25),
        (TwoArmTest(Side.ABOVE, 0.005), 0.01, 0.03, 0.5, 0.25),
        (TwoArmTest(Side.BELOW, 0.005), 0.01, 0.01, 0.5, 0.25),
        (TwoArmTest(Side.BELOW, 0.02), 0.002, 0.002, 0.1, 0.25),
        (TwoArmTest(Side.BELOW, ratio=1.5), 0.05, 0.05, 0.5, 0.25),
        (TwoArmTest(Side.ABOVE), 0.001, 0.1, 0.1, 0.6),  # a handful of failures decides
    ],
)
def test_error_rates_are_decided_when_the_forecast_says(test, stable, candidate, share, within):
    forecast = error_rates(test, stable, candidate, share, ALPHA)
    requests = max(10, int(forecast.median / 40))
    counts = looks(
        np.random.default_rng(1), runs=200, requests=requests, share=share, stable=stable, candidate=[candidate] * 160
    )
    look = first_reached(binary(counts).closed(test.block_units), test, ALPHA)
    agrees(forecast, requests * (1 + look), within)


@pytest.mark.parametrize(("side", "rate", "within"), [(Side.ABOVE, 0.1, 0.25), (Side.ABOVE, 0.2, 0.25),
                                                      (Side.BELOW, 0.03, 0.25), (Side.BELOW, 0.01, 0.5)])  # fmt: skip
def test_one_arm_is_decided_when_the_forecast_says(side, rate, within):
    test = limits.LimitTest(side, 0.05)
    forecast = limit(test, rate, ALPHA)
    units = np.arange(1.0, int(6 * forecast.median) + 1)
    ones = np.random.default_rng(2).binomial(1, rate, (300, len(units))).cumsum(axis=1).astype(float)
    agrees(forecast, first(limits.log_evidence(ones, np.broadcast_to(units, ones.shape), test), units), within)


@pytest.mark.parametrize(
    ("side", "chances"), [(Side.ABOVE, [0.03, 0.05, 0.1, 0.3, 0.52]), (Side.BELOW, [0.1, 0.1, 0.2, 0.3, 0.3])]
)
def test_ratings_are_decided_when_the_forecast_says(side, chances):
    test, stars = bets.MeanTest(side, 0.75), np.arange(5) / 4
    forecast = mean_limit(test, Sample.of(dict(zip(stars.tolist(), chances, strict=True))), ALPHA)
    units = np.arange(1.0, int(8 * forecast.median) + 1)
    drawn = np.random.default_rng(3).choice(5, (200, len(units)), p=chances)
    seen = (drawn[..., None] == np.arange(5)).cumsum(axis=1).astype(float)
    agrees(forecast, first(bets.log_evidence(stars, seen, test), units))


def first(evidence, units):
    over = evidence >= -math.log(ALPHA)
    return np.where(over.any(axis=1), units[over.argmax(axis=1)], 1e9)


@pytest.mark.parametrize(
    ("test", "spread", "true", "share", "within"),
    [
        (means.MeanTest(Side.BELOW, ratio=1.2), 1.0, 1.0, 0.5, 0.25),
        (means.MeanTest(Side.ABOVE, ratio=1.2), 1.0, 1.6, 0.1, 0.25),
        (means.MeanTest(Side.ABOVE), 0.5, 1.2, 0.5, 0.5),  # right after the burn-in
        (means.MeanTest(Side.ABOVE), 4.0, 2.0, 0.5, 0.5),  # a tail so heavy that the usual unit costs far less
    ],
)
def test_costs_are_decided_when_the_forecast_says(test, spread, true, share, within):
    forecast = mean_difference(test, (1.0, spread), (true, spread * true), share, ALPHA)
    size = max(20, int(forecast.median / 40))
    numbers, rng = (size - round(size * share), round(size * share)), np.random.default_rng(4)
    sigma = math.sqrt(math.log1p(spread**2))
    decided = []
    for _ in range(80):
        state, look = means.start(test), 0
        while not state.reached(ALPHA) and look < 200:
            arms = [f * rng.lognormal(-(sigma**2) / 2, sigma, n) for n, f in zip(numbers, (1.0, true), strict=True)]
            stable, candidate = (Moments(len(arm), float(arm.sum()), float((arm * arm).sum())) for arm in arms)
            state, look = means.update(state, MomentsPair(stable, candidate)), look + 1
        decided.append(size * look)
    agrees(forecast, np.array(decided), within)


@pytest.mark.parametrize(
    ("side", "boundary", "ratio", "share"),
    [(Side.ABOVE, 1.0, 2.0, 0.1), (Side.ABOVE, 1.0, 1.3, 0.5), (Side.BELOW, 1.2, 1.0, 0.5)],
)
def test_counts_in_time_are_decided_when_the_forecast_says(side, boundary, ratio, share):
    test = arrivals.ArrivalTest(side, boundary)
    forecast = rate_of_arrivals(test, ratio, share, ALPHA)
    size, rng = max(1, int(forecast.median / 40)), np.random.default_rng(5)
    decided = []
    for _ in range(100):
        state, look = arrivals.start(test), 0
        while not state.reached(ALPHA) and look < 200:
            candidate = int(rng.binomial(size, share * ratio / (1 - share + share * ratio)))
            state, look = arrivals.update(state, arrivals.Arrived(share, size - candidate, candidate)), look + 1
        decided.append(size * look)
    agrees(forecast, np.array(decided))


@pytest.mark.parametrize(("side", "true", "share"), [(Side.BELOW, 1.0, 0.5), (Side.ABOVE, 1.5, 0.5)])
def test_latencies_are_decided_when_the_forecast_says(side, true, share):
    test = QuantileTest(side, 0.95, 1.2)
    forecast = quantile(test, true, share, ALPHA)
    size = max(20, int(forecast.median / 25))
    candidate = latencies.lognormal(200 * true, latencies.FINE)
    some = latencies.streams(runs=60, share=share, candidate=candidate, size=size, many=80, seed=7, grid=latencies.FINE)
    decided = []
    for run in some:
        state, look = quantiles.start(test), 0
        while not state.reached(ALPHA) and look < len(run):
            state, look = quantiles.update(state, run[look]), look + 1
        decided.append(size * look)
    agrees(forecast, np.array(decided), 0.35)


def test_latencies_that_are_known_give_nearly_the_forecast_of_the_usual_ones():
    """Where the histogram is that of the usual shape."""
    usual = dict(zip(latencies.FINE.tolist(), (1e4 * latencies.lognormal(grid=latencies.FINE)).tolist(), strict=True))
    for side, change in ((Side.BELOW, 1.0), (Side.ABOVE, 1.5)):
        test = QuantileTest(side, 0.95, 1.2)
        known, assumed = (quantile(test, change, 0.5, ALPHA, stable) for stable in (usual, None))
        assert known.units == pytest.approx(assumed.units, rel=0.05)
        assert known.before == assumed.before == pytest.approx(200)


# What a forecast says


forecasts = st.sampled_from(
    [
        error_rates(TwoArmTest(Side.ABOVE, 0.005), 0.01, 0.03, 0.1, ALPHA),
        error_rates(TwoArmTest(Side.BELOW, 0.02), 0.002, 0.002, 0.5, ALPHA),
        quantile(QuantileTest(Side.ABOVE, 0.95, 1.2), 1.5, 0.1, ALPHA),
        limit(limits.LimitTest(Side.ABOVE, 0.05), 0.2, ALPHA),
    ]
)


@given(forecasts, st.floats(0.01, 0.99))
def test_power_of_the_units_for_a_power_is_that_power(forecast, power):
    assert forecast.power(forecast.units_for(power)) == pytest.approx(power, abs=1e-6)


@given(forecasts, st.floats(0, 1e6), st.floats(0, 1e6))
def test_more_units_never_have_less_power(forecast, one, other):
    fewer, more = sorted((one, other))
    assert 0 <= forecast.power(fewer) <= forecast.power(more) <= 1
    assert forecast.power(forecast.before) == 0


def test_without_variance_the_decision_comes_at_once():
    forecast = Forecast(units=100.0, variance=0.0, log_threshold=3.0, bound=100.0)
    assert (forecast.power(99.0), forecast.power(100.0)) == (0.0, 1.0)


@pytest.mark.parametrize("power", [0.0, 1.0, -1.0, math.nan])
def test_impossible_powers_are_refused(power):
    with pytest.raises(ValueError, match="power must lie between 0 and 1, not"):
        limit(limits.LimitTest(Side.ABOVE, 0.05), 0.2, ALPHA).units_for(power)


COST, STARS = (1.0, 0.5), Sample.of({0.5: 1, 1.0: 1})


@pytest.mark.parametrize(
    "forecast",
    [
        error_rates(TwoArmTest(Side.ABOVE, 0.005), 0.01, 0.015, 0.1, ALPHA),
        error_rates(TwoArmTest(Side.ABOVE, 0.005), 0.01, 0.01, 0.1, ALPHA),
        error_rates(TwoArmTest(Side.BELOW, 0.005), 0.01, 0.02, 0.1, ALPHA),
        error_rates(TwoArmTest(Side.ABOVE), 0.01, 0.02, 0.0, ALPHA),
        error_rates(TwoArmTest(Side.ABOVE), 0.01, 0.02, 1.0, ALPHA),
        limit(limits.LimitTest(Side.ABOVE, 0.05), 0.05, ALPHA),
        limit(limits.LimitTest(Side.BELOW, 0.05), 0.06, ALPHA),
        mean_limit(bets.MeanTest(Side.BELOW, 0.75), STARS, ALPHA),
        mean_limit(bets.MeanTest(Side.ABOVE, 0.75), Sample(), ALPHA),
        mean_difference(means.MeanTest(Side.ABOVE), COST, COST, 0.5, ALPHA),
        mean_difference(means.MeanTest(Side.BELOW, ratio=1.2), COST, (1.3, 0.5), 0.5, ALPHA),
        mean_difference(means.MeanTest(Side.ABOVE), COST, (2.0, 0.5), 0.0, ALPHA),
        rate_of_arrivals(arrivals.ArrivalTest(Side.ABOVE, 1.2), 1.2, 0.5, ALPHA),
        rate_of_arrivals(arrivals.ArrivalTest(Side.BELOW, 1.2), 2.0, 0.5, ALPHA),
        rate_of_arrivals(arrivals.ArrivalTest(Side.ABOVE), 2.0, 1.0, ALPHA),
    ],
)
def test_what_is_not_so_is_never_shown(forecast):
    assert forecast == NEVER
    assert not forecast.feasible
    assert (forecast.units_for(0.8), forecast.power(1e12)) == (math.inf, 0.0)


@pytest.mark.parametrize(("stable", "candidate"), [(0.0, 0.0), (0.0, 1.0), (1.0, 1.0), (0.0, 0.5)])
def test_forecasts_of_extreme_rates_are_finite(stable, candidate):
    side = Side.ABOVE if candidate > stable else Side.BELOW
    forecast = error_rates(TwoArmTest(side, 0.02), stable, candidate, 0.1, ALPHA)
    assert 0 < forecast.median < 1e6


def test_sessions_whose_failures_are_spread_need_fewer_units_than_those_that_fail_as_a_whole():
    """The same error rate, a tenth at a time."""
    test = TwoArmTest(Side.ABOVE)
    whole = error_rates(test, 0.02, 0.05, 0.5, ALPHA)
    spread = two_arms(test, Sample.of({0.0: 8, 0.1: 2}), Sample.of({0.0: 5, 0.1: 5}), 0.5, ALPHA)
    assert spread.units < whole.units / 3


@given(st.floats(0.001, 0.5), st.floats(0.001, 0.5), st.sampled_from([0.01, 0.1, 0.5]))
def test_no_forecast_beats_walds_bound(stable, candidate, share):
    for side in Side:
        forecast = error_rates(TwoArmTest(side, 0.02), stable, candidate, share, ALPHA)
        assert forecast.units >= forecast.bound
        if forecast.feasible:
            bound = wald_bound(stable, candidate, share=share, alpha=ALPHA, difference=0.02)
            assert forecast.bound == pytest.approx(bound)


@given(st.floats(0.001, 0.999), st.floats(0.001, 0.999))
def test_divergence_is_nothing_only_between_equals(q, p):
    assert divergence(q, q) == 0
    assert divergence(q, p) >= -1e-15
    assert divergence(q, p) == pytest.approx(divergence(1 - q, 1 - p), abs=1e-9)
