"""Monte Carlo: wrong decisions stay below alpha when every window is looked at, and right ones come soon enough."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from deploypipe.stats.projection import project
from deploypipe.stats.two_arms import Side, TwoArmTest, replay
from tests.stats.simulation import (
    at_most,
    binary,
    first_reached,
    looks,
    merged,
    poisson_pairs,
    sessions,
    share_reached,
)

RUNS = 1000
LOOKS = 200
ALPHA = 0.05

RAMP = np.repeat([0.1, 0.25, 0.5], [80, 60, 60])
DRIFT = np.repeat([1.0, 5.0, 0.5], [70, 70, 60])  # of both arms, at other moments than the ramp's

SCENES: dict[str, tuple[Any, Any]] = {
    "a hundredth": (0.01, 1.0),
    "constant": (0.1, 1.0),
    "ramp and drift": (RAMP, DRIFT),
}


@pytest.mark.parametrize("scene", SCENES)
@pytest.mark.parametrize(
    ("base", "margin"),
    [(0.01, {"difference": 0.005}), (0.002, {"difference": 0.02}), (0.01, {"ratio": 1.5}), (0.0003, {})],
)
@pytest.mark.parametrize("side", list(Side))
def test_at_the_margin_neither_verdict_comes_more_often_than_alpha(scene, base, margin, side):
    share, drift = SCENES[scene]
    test = TwoArmTest(side, **margin)
    stable = base * np.broadcast_to(drift, LOOKS)
    candidate = test.ratio * stable + test.difference
    rng = np.random.default_rng(11)
    counts = looks(rng, runs=RUNS, requests=200, share=share, stable=stable, candidate=candidate)
    assert at_most(share_reached(binary(counts).closed(test.block_units), test, ALPHA), ALPHA, RUNS)


@pytest.mark.parametrize("spread", [0.0, 0.3, 0.9])
@pytest.mark.parametrize("margin", [{"difference": 0.01}, {"ratio": 1.5}, {}])
@pytest.mark.parametrize("side", list(Side))
def test_sessions_of_users_who_differ_keep_the_level(side, margin, spread):
    """Heavy-tailed in size, and a user whose first request failed is likely to see the next one fail."""
    test, runs = TwoArmTest(side, **margin), 400
    stable = 0.02 * np.repeat([1.0, 2.0, 0.5], 20)
    rng = np.random.default_rng(12)
    candidate = test.ratio * stable + test.difference
    blocks = sessions(rng, runs=runs, units=60, share=0.2, stable=stable, candidate=candidate, spread=spread)
    assert at_most(share_reached(blocks.closed(test.block_units), test, ALPHA), ALPHA, runs)


@pytest.mark.parametrize("share", [0.01, 0.5])
def test_no_failure_at_all_never_shows_that_one_arm_is_worse(share):
    counts = looks(np.random.default_rng(10), runs=20, requests=500, share=share, stable=0.0, candidate=[0.0] * 200)
    blocks = binary(counts).closed(5)
    assert share_reached(blocks, TwoArmTest(Side.ABOVE), ALPHA) == 0
    assert share_reached(blocks, TwoArmTest(Side.BELOW), ALPHA) == 0
    assert share_reached(blocks, TwoArmTest(Side.BELOW, 0.02), ALPHA) == 1


@pytest.mark.parametrize("scene", SCENES)
def test_equal_version_is_not_aborted_and_passes(scene):
    share, drift = SCENES[scene]
    stable = 0.002 * np.broadcast_to(drift, LOOKS)
    counts = looks(np.random.default_rng(12), runs=300, requests=1000, share=share, stable=stable, candidate=stable)
    assert at_most(share_reached(binary(counts), TwoArmTest(Side.ABOVE, 0.005), ALPHA), ALPHA, 300)
    assert share_reached(binary(counts), TwoArmTest(Side.BELOW, 0.005), ALPHA) > 0.85


@pytest.mark.parametrize("side", list(Side))
def test_any_batching_of_sparse_traffic_keeps_the_level(side):
    """Five requests a second and a look each second: half of the windows hold no candidate request at all."""
    rng, runs, wrong = np.random.default_rng(13), 200, 0
    for _ in range(runs):
        some = poisson_pairs(rng, 500, 4.5, 0.5, 0.01, 0.03)
        batches = merged(some, rng.integers(1, 5, 100).tolist())
        wrong += replay(batches, TwoArmTest(side, 0.02)).reached(ALPHA)
    assert at_most(wrong / runs, ALPHA, runs)


def test_order_of_windows_and_of_arms_within_a_period_does_not_fool_it():
    """All of the candidate's failures first, or last, or as they came: a version within the margin is not called."""
    rng, runs = np.random.default_rng(17), 400
    counts = looks(rng, runs=runs, requests=200, share=0.3, stable=0.02, candidate=[0.025] * 100)
    for order in (counts[:, :, ::-1], counts[:, :, rng.permutation(100)]):
        assert at_most(share_reached(binary(order), TwoArmTest(Side.ABOVE, 0.005), ALPHA), ALPHA, runs)
        assert at_most(share_reached(binary(order), TwoArmTest(Side.BELOW, 0.005), ALPHA), ALPHA, runs)


def test_equal_version_passes_two_points_within_two_thousand_requests_in_the_median():
    counts = looks(np.random.default_rng(14), runs=400, requests=50, share=0.1, stable=0.002, candidate=[0.002] * 120)
    requests = 50 * (1 + first_reached(binary(counts), TwoArmTest(Side.BELOW, 0.02), ALPHA))
    assert np.median(requests) <= 2000


def test_one_stream_in_twelve_failing_is_aborted_within_a_hundred_candidate_requests_in_the_median():
    counts = looks(np.random.default_rng(15), runs=400, requests=50, share=0.1, stable=0.0, candidate=[1 / 12] * 120)
    look = first_reached(binary(counts), TwoArmTest(Side.ABOVE, 0.02), 0.8 * ALPHA)
    candidate = counts[2].cumsum(axis=-1)[np.arange(400), np.minimum(look, 119)]
    assert (look < 120).mean() > 0.99
    assert np.median(candidate) <= 100


@pytest.mark.parametrize(
    ("side", "candidate", "share", "most"),
    [
        (Side.ABOVE, 0.06, 0.1, 1200),
        (Side.ABOVE, 0.03, 0.1, 6400),
        (Side.ABOVE, 0.15, 0.1, 400),
        (Side.BELOW, 0.01, 0.1, 26_800),
        (Side.BELOW, 0.01, 0.5, 9200),
        (Side.ABOVE, 0.02, 0.5, 16_400),
    ],
)
def test_as_soon_as_in_the_reference(side, candidate, share, most):
    """statistics.md 3.6: stable at 1 %, margin half a point, a look every 200 requests: median requests."""
    many = math.ceil(2.5 * most / 200)
    counts = looks(
        np.random.default_rng(16), runs=400, requests=200, share=share, stable=0.01, candidate=[candidate] * many
    )
    look = first_reached(binary(counts), TwoArmTest(side, 0.005), ALPHA)
    # The reference had no alternative for session means: an eighth more is allowed.
    assert 200 * (1 + np.median(look)) <= 1.125 * most


def wald(stable, candidate, test, share, alpha):
    """log(1/alpha) over the evidence that one request gains if both rates are known (Wald 1945)."""
    p = project(1 - share, share, stable, candidate, test.difference, test.ratio)
    growth = sum(
        weight * (q * math.log(q / float(at)) + (1 - q) * math.log((1 - q) / (1 - float(at))))
        for weight, q, at in zip((1 - share, share), (stable, candidate), p, strict=True)
    )
    return -math.log(alpha) / growth


@pytest.mark.parametrize("share", [0.01, 0.1, 0.5])
@pytest.mark.parametrize(
    ("stable", "candidate", "margin"),
    [
        (0.001, 0.006, 0.0),
        (0.001, 0.005, 0.0),
        (0.005, 0.025, 0.005),
        (0.01, 0.02, 0.0),
        (0.01, 0.02, 0.005),
        (0.01, 0.05, 0.005),
        (0.05, 0.1, 0.005),
        (0.05, 0.25, 0.005),
    ],
)
def test_regression_is_called_within_twice_walds_bound_in_the_median(stable, candidate, margin, share):
    test = TwoArmTest(Side.ABOVE, margin, prior_mean=stable)
    bound = wald(stable, candidate, test, share, ALPHA)
    requests = max(20, int(bound / 20))
    counts = looks(
        np.random.default_rng(18), runs=150, requests=requests, share=share, stable=stable, candidate=[candidate] * 60
    )
    look = first_reached(binary(counts).closed(test.block_units), test, ALPHA)
    assert requests * (1 + np.median(look)) <= 2 * bound
