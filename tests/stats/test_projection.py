from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import brentq

from deploypipe.stats.projection import approach, project

rates = st.floats(1e-6, 1 - 1e-6)
numbers = st.integers(1, 10**6)
lines = st.one_of(
    st.tuples(st.sampled_from([0.005, 0.02, -0.02, 0.5, -0.9]) | st.floats(-0.99, 0.99), st.just(1.0)),
    st.tuples(st.just(0.0), st.floats(0.02, 50)),
)


@given(lines, rates, rates, numbers, numbers)
def test_projection_is_the_nearest_pair_on_the_boundary(line, q_a, q_b, a, b):
    d, r = line
    p_a, p_b = (float(value) for value in project(a, b, q_a, q_b, d, r))
    assert p_b == pytest.approx(r * p_a + d, abs=1e-12)
    assert 0 < p_a <= 1
    assert 0 < p_b <= 1
    low, high = max(0.0, -d / r), min(1.0, (1 - d) / r)

    def derivative(u):  # of a KL(q_a || u) + b KL(q_b || r u + d), times u (1 - u) (r u + d) (1 - r u - d)
        v = r * u + d
        return a * (u - q_a) * v * (1 - v) + b * r * (v - q_b) * u * (1 - u)

    inside = 1e-9 * (high - low)
    if derivative(low + inside) < 0 < derivative(high - inside):
        assert p_a == pytest.approx(brentq(derivative, low + inside, high - inside, xtol=1e-15, rtol=1e-14), abs=1e-9)


@given(rates, rates, numbers, numbers)
def test_for_equal_arms_it_is_the_pooled_rate(q_a, q_b, a, b):
    p_a, p_b = project(a, b, q_a, q_b, 0.0)
    assert p_a == p_b == pytest.approx((a * q_a + b * q_b) / (a + b), rel=1e-9)


@given(lines, rates, rates, numbers, numbers)
def test_approach_is_a_pair_on_the_boundary_between_both_rates(line, q_a, q_b, a, b):
    d, r = line
    p_a, p_b = (v.item() for v in approach(*(np.array([float(v)]) for v in (a, b, q_a, q_b, d, r))))
    assert p_b == pytest.approx(r * p_a + d, abs=1e-9)
    assert 0 < p_a < 1
    assert 0 < p_b < 1


def test_approach_is_near_the_projection_where_rates_are_near_the_boundary():
    a, b, q_a, q_b = (np.array([value]) for value in (900.0, 100.0, 0.01, 0.012))
    exact, rough = (f(a, b, q_a, q_b, np.array([0.005]), np.array([1.0])) for f in (project, approach))
    assert rough[0] == pytest.approx(exact[0], rel=0.02)


def test_each_element_keeps_its_bits_in_any_company():
    rng = np.random.default_rng(1)
    given_ = rng.integers(1, 1000, 60), rng.integers(1, 100, 60), rng.random(60), rng.random(60)
    differences = np.where(rng.random(60) < 0.5, 0.0, rng.uniform(-0.5, 0.5, 60))
    together = project(*given_, differences)
    for i in range(60):
        a, b, q_a, q_b = (values[i : i + 1] for values in given_)
        alone = project(a, b, q_a, q_b, differences[i : i + 1])
        assert (together[0][i], together[1][i]) == (alone[0][0], alone[1][0])
