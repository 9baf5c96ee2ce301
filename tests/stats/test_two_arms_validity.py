"""Monte Carlo: wrong decisions stay below alpha when every window is looked at, and right ones come soon enough."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from deploypipe.stats.two_arms import DifferenceTest, Direction, replay
from tests.stats.simulation import at_most, first_reached, looks, merged, poisson_windows, share_reached

RUNS = 1000
LOOKS = 200
ALPHA = 0.05

RAMP = np.repeat([0.1, 0.25, 0.5], [80, 60, 60])
DRIFT = np.repeat([1.0, 5.0, 0.5], [70, 70, 60])  # of both arms, at other moments than the ramp's

SCENES: dict[str, tuple[Any, Any]] = {
    "constant": (0.1, 1.0),
    "ramp": (RAMP, 1.0),
    "ramp and drift": (RAMP, DRIFT),
}


@pytest.mark.parametrize("scene", SCENES)
@pytest.mark.parametrize(("base", "margin"), [(0.01, 0.005), (0.002, 0.02)])
@pytest.mark.parametrize("direction", list(Direction))
def test_at_the_margin_neither_verdict_comes_more_often_than_alpha(scene, base, margin, direction):
    share, drift = SCENES[scene]
    stable = base * np.broadcast_to(drift, LOOKS)
    rng = np.random.default_rng(11)
    counts = looks(rng, runs=RUNS, requests=200, share=share, stable=stable, candidate=stable + margin)
    assert at_most(share_reached(counts, DifferenceTest(direction, margin), ALPHA), ALPHA, RUNS)


@pytest.mark.parametrize("scene", SCENES)
def test_equal_version_is_not_aborted_and_passes(scene):
    share, drift = SCENES[scene]
    stable = 0.002 * np.broadcast_to(drift, LOOKS)
    counts = looks(np.random.default_rng(12), runs=300, requests=200, share=share, stable=stable, candidate=stable)
    assert at_most(share_reached(counts, DifferenceTest(Direction.ABORT, 0.005), ALPHA), ALPHA, 300)
    assert share_reached(counts, DifferenceTest(Direction.PROMOTE, 0.005), ALPHA) > 0.95


@pytest.mark.parametrize("direction", list(Direction))
def test_any_batching_of_sparse_traffic_keeps_the_level(direction):
    """Five requests a second and a look each second: half of the windows hold no candidate request at all."""
    rng, runs, wrong = np.random.default_rng(13), 200, 0
    for _ in range(runs):
        some = poisson_windows(rng, 1500, 4.5, 0.5, 0.01, 0.03)
        batches = merged(some, rng.integers(1, 5, 200).tolist())
        wrong += replay(batches, DifferenceTest(direction, 0.02)).reached(ALPHA)
    assert at_most(wrong / runs, ALPHA, runs)


def test_equal_version_passes_two_points_within_two_thousand_requests_in_the_median():
    counts = looks(np.random.default_rng(14), runs=400, requests=50, share=0.1, stable=0.002, candidate=[0.002] * 120)
    requests = 50 * (1 + first_reached(counts, DifferenceTest(Direction.PROMOTE, 0.02), ALPHA))
    assert np.median(requests) <= 2000


def test_one_stream_in_twelve_failing_is_aborted_within_a_hundred_candidate_requests_in_the_median():
    counts = looks(np.random.default_rng(15), runs=400, requests=50, share=0.1, stable=0.0, candidate=[1 / 12] * 120)
    look = first_reached(counts, DifferenceTest(Direction.ABORT, 0.02), 0.8 * ALPHA)
    candidate = counts[2].cumsum(axis=-1)[np.arange(400), np.minimum(look, 119)]
    assert (look < 120).mean() > 0.99
    assert np.median(candidate) <= 100


def test_six_times_the_error_rate_is_caught_as_soon_as_reference_runs_did():
    """statistics.md 3.6: 1 % against 6 %, margin half a point, 90/10: aborted in all runs, median 1,200 requests."""
    counts = looks(np.random.default_rng(16), runs=300, requests=200, share=0.1, stable=0.01, candidate=[0.06] * 100)
    look = first_reached(counts, DifferenceTest(Direction.ABORT, 0.005), ALPHA)
    assert (look < 100).all()
    assert 200 * (1 + np.median(look)) <= 1400
