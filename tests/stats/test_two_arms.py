from __future__ import annotations

import json
import math
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import brentq
from scipy.stats import binom

from deploypipe.stats.counts import EMPTY, ArmCounts, Window
from deploypipe.stats.two_arms import (
    DifferenceTest,
    Direction,
    EProcess,
    advance,
    alternatives,
    log_factors,
    project,
    replay,
    start,
    update,
)
from tests.stats.simulation import poisson_windows

directions = st.sampled_from(list(Direction))
margins = st.one_of(
    st.sampled_from([0.0, 0.005, 0.02, -0.02, 0.5, 0.9, -0.9]), st.floats(min_value=-0.99, max_value=0.99)
)
tests = st.builds(DifferenceTest, directions, margins)


@st.composite
def arms(draw, most=60):
    requests = draw(st.integers(0, most))
    return ArmCounts(requests, draw(st.integers(0, requests)))


windows = st.builds(Window, arms(), arms())


@given(st.lists(windows, max_size=12), tests)
def test_evidence_is_always_a_finite_number(some, test):
    state = replay(some, test)
    assert all(math.isfinite(value) for value in state.log_components)
    assert math.isfinite(state.log_evidence)
    assert 0 <= state.p_value <= 1
    assert state.max_log_evidence >= 0


@given(
    tests,
    st.integers(1, 6),
    st.integers(1, 6),
    st.builds(Window, arms(most=300), arms(most=300)),
    st.floats(0, 1, allow_subnormal=False).map(lambda value: round(value, 6)),
    st.floats(0, 1, allow_subnormal=False).map(lambda value: round(value, 6)),
    st.booleans(),
)
@settings(max_examples=200)
def test_mean_factor_is_at_most_one_everywhere_in_the_null(test, a, b, history, x, y, on_boundary):
    """The property that all validity follows from, by summing over every possible outcome of a block."""
    low, high = max(0.0, -test.margin), min(1.0, 1 - test.margin)
    p_stable = low + x * (high - low)
    p_candidate = min(max(p_stable + test.margin, 0.0), 1.0)
    if not on_boundary:
        p_candidate = p_candidate * y if test.direction is Direction.ABORT else p_candidate + y * (1 - p_candidate)
    s, t = (grid.ravel() for grid in np.meshgrid(np.arange(a + 1.0), np.arange(b + 1.0)))
    chance = binom.pmf(s, a, p_stable) * binom.pmf(t, b, p_candidate)
    counts = np.array([np.full_like(s, a), s, np.full_like(s, b), t])[:, :, None]
    factors = np.exp(log_factors(counts, test, past=history))[:, 0, :]
    assert (chance @ factors <= 1 + 1e-9).all()


@given(tests, st.floats(1e-6, 1 - 1e-6), st.integers(1, 10**6), st.integers(1, 10**6))
def test_projection_is_the_nearest_pair_on_the_boundary(test, q, a, b):
    q_candidate = alternatives(np.array([q]), test)[0]
    ones = np.ones_like(q_candidate)
    p_stable, p_candidate = project(a * ones, b * ones, q * ones, q_candidate, np.array(test.margin))
    assert np.allclose(p_candidate - p_stable, test.margin, atol=1e-12)
    assert ((p_stable > 0) & (p_stable <= 1) & (p_candidate > 0) & (p_candidate <= 1)).all()
    for u, q_b in zip(p_stable - max(0.0, -test.margin), q_candidate, strict=True):
        low, high = max(0.0, -test.margin), max(0.0, test.margin)

        def derivative(x, q_b=q_b, low=low, high=high):
            p, r = x + low, x + high
            return a * (p - q) * r * (1 - r) + b * (r - q_b) * p * (1 - p)

        top = 1 - abs(test.margin)
        if derivative(1e-15) < 0 < derivative(top - 1e-15):
            assert u == pytest.approx(brentq(derivative, 1e-15, top - 1e-15, xtol=1e-16, rtol=1e-15), abs=1e-9)


@given(st.integers(1, 200), st.data(), st.floats(0.001, 0.5))
def test_one_more_candidate_error_never_lowers_the_evidence_for_abort(n, data, margin):
    test = DifferenceTest(Direction.ABORT, margin, block_requests=1)
    stable = data.draw(arms().filter(lambda arm: arm.requests > 0))
    errors = data.draw(st.integers(0, n - 1))
    fewer, more = (replay([Window(stable, ArmCounts(n, e))], test).log_evidence for e in (errors, errors + 1))
    assert more >= fewer


@given(st.lists(windows, max_size=8), st.integers(0, 8), tests)
def test_windows_without_requests_change_nothing(some, place, test):
    assert replay([*some[:place], EMPTY, *some[place:]], test) == replay(some, test)


@given(st.lists(arms(), max_size=8), tests, st.booleans())
def test_one_arm_alone_is_no_evidence(some, test, is_stable):
    state = replay([Window(stable=arm) if is_stable else Window(candidate=arm) for arm in some], test)
    assert state.log_evidence == pytest.approx(0, abs=1e-15)
    assert state.max_log_evidence == 0


@given(st.lists(windows, max_size=30), st.lists(st.integers(0, 10), max_size=6), tests)
def test_carried_state_equals_replay_to_the_last_bit(some, cuts, test):
    state, first = start(test), 0
    for cut in cuts:
        state = advance(state, some[first : first + cut])
        state = EProcess.from_json(json.loads(json.dumps(state.to_json())))
        first += cut
    assert advance(state, some[first:]) == replay(some, test)


def test_window_after_window_equals_replay_to_the_last_bit():
    some = poisson_windows(np.random.default_rng(5), 2000, 9, 1, 0.01, 0.02)
    for direction in Direction:
        state = start(DifferenceTest(direction, 0.005))
        for window in some:
            state = update(state, window)
        assert state == replay(some, state.test)


def test_counts_of_every_window_are_kept_once():
    some = poisson_windows(np.random.default_rng(6), 300, 3, 0.4, 0.1, 0.2)
    state = replay(some, DifferenceTest(Direction.ABORT, 0.02))
    assert state.past + state.pending == sum(some, start=EMPTY)


def test_alternatives_come_from_the_past_alone():
    test = DifferenceTest(Direction.PROMOTE, 0.02, block_requests=1)
    clean, dirty = Window(ArmCounts(50, 0), ArmCounts(50, 0)), Window(ArmCounts(50, 20), ArmCounts(50, 0))
    # 2/200 for the first block whatever it holds; for the second, what the first one held
    first = replay([clean], test).log_evidence
    p_stable, p_candidate = project(
        np.array([50.0]), np.array([50.0]), np.array([0.01]), np.array([[0.01], [0.001], [0.02]]), np.array(0.02)
    )
    by_hand = [
        50 * math.log((1 - 0.01) / (1 - a.item())) + 50 * math.log((1 - q) / (1 - b.item()))
        for q, a, b in zip((0.01, 0.001, 0.02), p_stable, p_candidate, strict=True)
    ]
    # three fixed alternatives share 0.9; the fourth, what the candidate has shown, begins at stable's 0.01 too
    e_values = [math.exp(value) for value in by_hand]
    assert first == pytest.approx(math.log(0.3 * sum(e_values) + 0.1 * e_values[0]), abs=1e-12)
    assert replay([dirty, clean], test).past.stable == ArmCounts(100, 20)


@pytest.mark.parametrize("margin", [0.999, 0.9, 0.5, -0.5, -0.999])
@pytest.mark.parametrize("direction", list(Direction))
def test_extreme_margins_stay_in_bounds(direction, margin):
    some = [Window(ArmCounts(50, 50), ArmCounts(50, 0)), Window(ArmCounts(50, 0), ArmCounts(50, 50))] * 3
    state = replay(some, DifferenceTest(direction, margin))
    assert math.isfinite(state.log_evidence)


@pytest.mark.parametrize(
    "wrong",
    [{"margin": 1.0}, {"margin": -1.0}, {"margin": 0.1, "prior_errors": 0.0}, {"margin": 0.1, "block_requests": 0}],
)
def test_impossible_tests_are_refused(wrong):
    with pytest.raises(ValueError, match="must"):
        DifferenceTest(Direction.ABORT, **wrong)


def test_two_thousand_windows_replay_in_fifty_milliseconds():
    some = poisson_windows(np.random.default_rng(7), 2000, 45, 6, 0.01, 0.01)
    best = math.inf
    for _ in range(7):
        begin = time.process_time()
        replay(some, DifferenceTest(Direction.ABORT, 0.005))
        best = min(best, time.process_time() - begin)
    assert best < 0.05
