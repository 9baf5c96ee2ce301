from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import integrate

from deploypipe.stats.counts import ArmCounts
from deploypipe.stats.limits import LimitProcess, LimitTest, advance, log_evidence, replay
from deploypipe.stats.two_arms import Direction
from tests.stats.simulation import at_most
from tests.stats.test_two_arms import arms

limit_tests = st.builds(LimitTest, st.sampled_from(list(Direction)), st.floats(0.001, 0.999))


@pytest.mark.parametrize(("errors", "requests"), [(0, 0), (0, 30), (3, 20), (20, 20)])
@pytest.mark.parametrize("direction", list(Direction))
def test_evidence_is_the_mixture_over_rates_beyond_the_limit(direction, errors, requests):
    low, high = (0.05, 1.0) if direction is Direction.ABORT else (0.0, 0.05)

    def beta(q, s, f):
        return q ** (s - 0.5) * (1 - q) ** (f - 0.5)

    def mass(s, f):
        return integrate.quad(beta, low, high, args=(s, f), epsabs=0, limit=200)[0]

    by_hand = mass(errors, requests - errors) / mass(0, 0) / (0.05**errors * 0.95 ** (requests - errors))
    value = log_evidence(np.array([float(errors)]), np.array([float(requests)]), LimitTest(direction, 0.05))[0]
    assert value == pytest.approx(math.log(by_hand), abs=1e-6)


@given(st.lists(arms(), max_size=10), limit_tests)
def test_evidence_is_always_finite_and_json_able(some, test):
    state = replay(some, test)
    assert math.isfinite(state.log_evidence)
    assert LimitProcess.from_json(json.loads(json.dumps(state.to_json()))) == state


@given(st.lists(arms(), max_size=10), st.integers(0, 10), limit_tests)
def test_carried_state_equals_replay_to_the_last_bit(some, cut, test):
    assert advance(replay(some[:cut], test), some[cut:]) == replay(some, test)


def test_an_underflowing_beta_function_is_no_evidence():
    state = replay([ArmCounts(2_000_000, 10)], LimitTest(Direction.ABORT, 0.9))
    assert state.max_log_evidence == 0
    assert state.log_evidence < -100


@pytest.mark.parametrize("direction", list(Direction))
def test_at_the_limit_neither_side_is_called_more_often_than_alpha(direction):
    rng, runs = np.random.default_rng(21), 1000
    requests = np.broadcast_to(np.arange(10.0, 4001.0, 10.0), (runs, 400))
    errors = rng.binomial(10, 0.05, (runs, 400)).cumsum(axis=-1).astype(float)
    evidence = log_evidence(errors, requests, LimitTest(direction, 0.05)).max(axis=-1)
    assert at_most(float((evidence >= math.log(20)).mean()), 0.05, runs)


def test_changing_rates_within_the_limit_do_not_fool_it():
    rng, runs = np.random.default_rng(22), 1000
    rates = np.where(np.arange(400) % 40 < 20, 0.05, 0.005)
    errors = rng.binomial(10, rates, (runs, 400)).cumsum(axis=-1).astype(float)
    requests = np.broadcast_to(np.arange(10.0, 4001.0, 10.0), (runs, 400))
    evidence = log_evidence(errors, requests, LimitTest(Direction.ABORT, 0.05)).max(axis=-1)
    assert at_most(float((evidence >= math.log(20)).mean()), 0.05, runs)


def test_dead_candidate_is_called_after_its_second_request():
    test = LimitTest(Direction.ABORT, 0.05)
    assert not replay([ArmCounts(1, 1)], test).reached(0.01)
    assert replay([ArmCounts(1, 1)] * 2, test).reached(0.01)


@pytest.mark.parametrize("limit", [0.0, 1.0, -0.1])
def test_impossible_limits_are_refused(limit):
    with pytest.raises(ValueError, match="limit must"):
        LimitTest(Direction.ABORT, limit)
