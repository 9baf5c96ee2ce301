from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import integrate

from deploypipe.stats.limits import LimitProcess, LimitTest, advance, advance_many, log_evidence, replay
from deploypipe.stats.samples import Sample
from deploypipe.stats.two_arms import Side
from tests.stats.simulation import at_most
from tests.stats.test_two_arms import samples

limit_tests = st.builds(LimitTest, st.sampled_from(list(Side)), st.floats(0.001, 0.999))


@pytest.mark.parametrize(("ones", "units"), [(0, 0), (0, 30), (3, 20), (2.5, 20), (20, 20)])
@pytest.mark.parametrize("side", list(Side))
def test_evidence_is_the_mixture_over_means_beyond_the_limit(side, ones, units):
    low, high = (0.05, 1.0) if side is Side.ABOVE else (0.0, 0.05)

    def beta(q, s, f):
        return q ** (s - 0.5) * (1 - q) ** (f - 0.5)

    def mass(s, f):
        return integrate.quad(beta, low, high, args=(s, f), epsabs=0, limit=200)[0]

    by_hand = mass(ones, units - ones) / mass(0, 0) / (0.05**ones * 0.95 ** (units - ones))
    value = log_evidence(np.array([float(ones)]), np.array([float(units)]), LimitTest(side, 0.05))[0]
    assert value == pytest.approx(math.log(by_hand), abs=1e-6)


@given(st.lists(samples(), max_size=10), limit_tests)
def test_evidence_is_always_finite_and_json_able(some, test):
    state = replay(some, test)
    assert math.isfinite(state.log_evidence)
    assert LimitProcess.from_json(json.loads(json.dumps(state.to_json()))) == state


@given(st.lists(samples(), max_size=10), st.integers(0, 10), limit_tests)
def test_carried_state_equals_replay_to_the_last_bit(some, cut, test):
    assert advance(replay(some[:cut], test), some[cut:]) == replay(some, test)


@given(st.lists(st.tuples(limit_tests, st.lists(samples(), max_size=5)), max_size=6))
def test_many_at_once_equal_one_after_the_other_to_the_last_bit(cases):
    together = advance_many([LimitProcess(test) for test, _ in cases], [some for _, some in cases])
    assert together == [replay(some, test) for test, some in cases]


@given(samples(least=1), limit_tests)
def test_mean_of_the_values_is_what_the_evidence_follows(sample, test):
    """More in sum never speaks less for ABOVE; of 0 and 1 or of shares with the same sum alike."""
    state = replay([sample], test)
    alike = replay([Sample.binary(sample.units, min(sample.total, sample.units))], test)
    assert state.log_evidence == pytest.approx(alike.log_evidence, rel=1e-9, abs=1e-9)
    more = replay([sample + Sample.of({1.0: 1})], test).log_evidence
    less = replay([sample + Sample.of({0.0: 1})], test).log_evidence
    assert (more - less) * test.side.sign >= 0


def test_an_underflowing_beta_function_is_no_evidence():
    state = replay([Sample.binary(2_000_000, 10)], LimitTest(Side.ABOVE, 0.9))
    assert state.max_log_evidence == 0
    assert state.log_evidence < -100


@pytest.mark.parametrize("side", list(Side))
@pytest.mark.parametrize("spread", [0.0, 0.5])
def test_at_the_limit_neither_side_is_called_more_often_than_alpha(side, spread):
    rng, runs = np.random.default_rng(21), 1000
    rates = np.full((runs, 400, 10), 0.05)
    if spread:  # shares of ten requests of one user each
        rates = rng.beta(0.05 / spread, 0.95 / spread, rates.shape)
    units = np.broadcast_to(np.arange(10.0, 4001.0, 10.0), (runs, 400))
    sums = (rng.binomial(10, rates) / 10 if spread else rng.binomial(1, rates)).sum(axis=-1).cumsum(axis=-1)
    evidence = log_evidence(sums.astype(float), units, LimitTest(side, 0.05)).max(axis=-1)
    assert at_most(float((evidence >= math.log(20)).mean()), 0.05, runs)


def test_changing_rates_within_the_limit_do_not_fool_it():
    rng, runs = np.random.default_rng(22), 1000
    rates = np.where(np.arange(400) % 40 < 20, 0.05, 0.005)
    errors = rng.binomial(10, rates, (runs, 400)).cumsum(axis=-1).astype(float)
    requests = np.broadcast_to(np.arange(10.0, 4001.0, 10.0), (runs, 400))
    evidence = log_evidence(errors, requests, LimitTest(Side.ABOVE, 0.05)).max(axis=-1)
    assert at_most(float((evidence >= math.log(20)).mean()), 0.05, runs)


def test_dead_candidate_is_called_after_its_second_request():
    test = LimitTest(Side.ABOVE, 0.05)
    assert not replay([Sample.binary(1, 1)], test).reached(0.01)
    assert replay([Sample.binary(1, 1)] * 2, test).reached(0.01)


@pytest.mark.parametrize(
    ("rate", "requests"),
    [(0.08, 370), (0.10, 145), (0.15, 42), (0.20, 21)],
)
def test_a_rate_above_five_percent_is_called_within_twice_the_published_requests(rate, requests):
    """statistics.md 3.3 (D): ln 20 / KL(rate || 5 %)."""
    rng, runs = np.random.default_rng(23), 400
    errors = rng.binomial(1, rate, (runs, 5 * requests)).cumsum(axis=-1).astype(float)
    units = np.broadcast_to(np.arange(1.0, 5 * requests + 1), errors.shape)
    called = log_evidence(errors, units, LimitTest(Side.ABOVE, 0.05)) >= math.log(20)
    assert np.median(np.where(called.any(axis=-1), 1 + called.argmax(axis=-1), 10**6)) <= 2 * requests


@pytest.mark.parametrize("limit", [0.0, 1.0, -0.1, math.nan])
def test_impossible_limits_are_refused(limit):
    with pytest.raises(ValueError, match="limit must lie between 0 and 1"):
        LimitTest(Side.ABOVE, limit)
