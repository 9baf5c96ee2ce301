from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binom

from deploypipe.stats.counts import ArmCounts
from deploypipe.stats.intervals import (
    GRID,
    binomial_bounds,
    difference_sequence,
    extend,
    rate_sequence,
    wilson,
)
from deploypipe.stats.two_arms import DifferenceTest, Direction, replay
from tests.stats.simulation import looks, poisson_windows, windows


def test_grid_has_at_least_41_values_and_is_symmetric():
    assert len(GRID) >= 41
    assert tuple(sorted(-d for d in GRID)) == GRID


def test_nothing_seen_leaves_everything_possible():
    interval = difference_sequence([], alpha=0.05).interval
    assert (interval.low, interval.high) == (-1.0, 1.0)
    assert interval.confidence == pytest.approx(0.9)


def test_extending_equals_computing_afresh_to_the_last_bit():
    some = poisson_windows(np.random.default_rng(41), 330, 9, 1, 0.01, 0.03)
    carried = difference_sequence((), alpha=0.05, margins=[0.004])
    for first in range(0, 330, 7):
        carried = extend(carried, some[first : first + 7])
    assert carried == difference_sequence(some, alpha=0.05, margins=[0.004])


@pytest.mark.parametrize("candidate", [0.001, 0.01, 0.04, 0.1])
def test_ends_agree_with_the_verdicts(candidate):
    some = windows(
        looks(np.random.default_rng(42), runs=1, requests=100, share=0.3, stable=0.01, candidate=[candidate] * 60)[:, 0]
    )
    interval = difference_sequence(some, alpha=0.05, margins=[0.02]).interval
    passed = replay(some, DifferenceTest(Direction.PROMOTE, 0.02)).reached(0.05)
    failed = replay(some, DifferenceTest(Direction.ABORT, 0.02)).reached(0.05)
    assert (interval.high <= 0.02) == passed
    assert (interval.low >= 0.02) == failed


@pytest.mark.parametrize(("stable", "candidate"), [(0.01, 0.01), (0.05, 0.037)])
def test_interval_covers_the_true_difference_at_every_look(stable, candidate):
    """Nested intervals: covered at the last look is covered at all of them."""
    runs = 40
    counts = looks(
        np.random.default_rng(43), runs=runs, requests=200, share=0.2, stable=stable, candidate=[candidate] * 60
    )
    covered = 0
    for run in range(runs):
        interval = difference_sequence(windows(counts[:, run]), alpha=0.05).interval
        covered += interval.low <= candidate - stable <= interval.high
        assert interval.high - interval.low < 0.2
    assert covered / runs >= 0.9 - 3 * (0.9 * 0.1 / runs) ** 0.5


def test_rate_sequence_covers_the_true_rate_at_every_look():
    rng, runs, covered = np.random.default_rng(44), 300, 0
    for _ in range(runs):
        interval = rate_sequence([ArmCounts(20, int(e)) for e in rng.binomial(20, 0.03, 100)], alpha=0.05)
        covered += interval.low <= 0.03 <= interval.high
    assert covered / runs >= 0.9 - 3 * (0.9 * 0.1 / runs) ** 0.5
    assert rate_sequence([], alpha=0.05).high == 1.0


def test_rate_that_jumped_is_not_pretended_to_be_known():
    interval = rate_sequence([ArmCounts(5000, 0), ArmCounts(5000, 5000)], alpha=0.05)
    assert (interval.low, interval.high) == (0.0, 1.0)


@pytest.mark.parametrize(
    ("events", "trials", "low", "high"),
    [  # Newcombe, Statistics in Medicine 17 (1998) 857, table I, method 3
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_wilson_gives_published_intervals(events, trials, low, high):
    interval = wilson(events, trials)
    assert [interval.low, interval.high] == pytest.approx([low, high], abs=5e-5)


def test_wilson_of_nothing_is_everything():
    assert (wilson(0, 0).low, wilson(0, 0).high) == (0.0, 1.0)


@pytest.mark.parametrize(
    ("n", "share"), [(0, 0.1), (1, 0.5), (37, 0.1), (1000, 0.1), (5000, 0.5), (10, 0.0), (10, 1.0)]
)
@pytest.mark.parametrize("alpha", [0.05, 0.001])
def test_binomial_bounds_hold_the_promised_probability(n, share, alpha):
    low, high = binomial_bounds(n, share, alpha)
    assert 0 <= low <= high <= n
    assert binom.cdf(high, n, share) - (binom.cdf(low - 1, n, share) if low else 0.0) >= 1 - alpha - 1e-12
    assert (low, high) == (
        binom.ppf(alpha / 2, n, share) if n and share else low,
        binom.ppf(1 - alpha / 2, n, share) if n else 0,
    )


@pytest.mark.parametrize("wrong", [(-1, 0.1, 0.05), (10, 1.1, 0.05), (10, 0.1, 0.0)])
def test_impossible_bounds_are_refused(wrong):
    with pytest.raises(ValueError, match="need"):
        binomial_bounds(*wrong)
