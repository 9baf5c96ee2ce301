from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import binom

from deploypipe.stats import mean_intervals
from deploypipe.stats.blocks import Blocks
from deploypipe.stats.intervals import (
    DIFFERENCES,
    RATIOS,
    Scale,
    TwoArmSequence,
    binomial_bounds,
    extend,
    extend_many,
    start,
    wilson,
)
from deploypipe.stats.mean_intervals import Means, MeanSequence
from deploypipe.stats.samples import Sample
from deploypipe.stats.two_arms import Side, TwoArmTest, replay
from deploypipe.stats.two_arms import start as start_test
from tests.stats.simulation import binary, looks, pairs, poisson_pairs


def one_run(counts, run=0):
    blocks = binary(counts)
    return pairs(Blocks(blocks.values, blocks.stable[run], blocks.candidate[run]))


def test_grids_have_enough_values_and_are_symmetric():
    assert len(DIFFERENCES) >= 41
    assert tuple(sorted(-d for d in DIFFERENCES)) == DIFFERENCES
    assert [1 / r for r in reversed(RATIOS)] == pytest.approx(RATIOS)


@pytest.mark.parametrize(("scale", "ends"), [(Scale.DIFFERENCE, (-1.0, 1.0)), (Scale.RATIO, (0.0, np.inf))])
def test_nothing_seen_leaves_everything_possible(scale, ends):
    interval = start(scale, alpha=0.05).interval
    assert (interval.low, interval.high) == ends
    assert interval.confidence == pytest.approx(0.9)


@pytest.mark.parametrize("scale", list(Scale))
def test_extending_equals_computing_afresh_to_the_last_bit(scale):
    some = poisson_pairs(np.random.default_rng(41), 330, 9, 1, 0.01, 0.03)
    carried = start(scale, alpha=0.05)
    for first in range(0, 330, 7):
        carried = TwoArmSequence.from_json(json.loads(json.dumps(carried.to_json())))
        carried = extend(carried, some[first : first + 7])
    assert carried == extend(start(scale, alpha=0.05), some)


def test_many_at_once_equal_one_after_the_other_to_the_last_bit():
    rng = np.random.default_rng(45)
    cases = [
        (start(scale, alpha=alpha), poisson_pairs(rng, n, 20, 5, 0.02, rate))
        for scale, alpha, n, rate in [
            (Scale.DIFFERENCE, 0.05, 40, 0.02), (Scale.RATIO, 0.05, 25, 0.2), (Scale.DIFFERENCE, 0.01, 40, 0.3)
        ]
    ]  # fmt: skip
    together = extend_many([sequence for sequence, _ in cases], [some for _, some in cases])
    assert together == [extend(sequence, some) for sequence, some in cases]


@pytest.mark.parametrize("candidate", [0.001, 0.01, 0.04, 0.1])
def test_ends_agree_with_the_verdicts(candidate):
    counts = looks(np.random.default_rng(42), runs=1, requests=100, share=0.3, stable=0.01, candidate=[candidate] * 60)
    some = one_run(counts)
    below, above = (replay(some, TwoArmTest(side, 0.02)) for side in (Side.BELOW, Side.ABOVE))
    interval = extend(start(Scale.DIFFERENCE, alpha=0.05), some).agreeing_with([below, above])
    assert (interval.high <= 0.02) == below.reached(0.05)
    assert (interval.low >= 0.02) == above.reached(0.05)


def test_verdicts_that_contradict_each_other_leave_everything_possible():
    """Better by more than the margin at first, worse by more later."""
    better, worse = (
        replace(start_test(TwoArmTest(side, edge)), max_log_evidence=9.0)
        for side, edge in ((Side.BELOW, -0.02), (Side.ABOVE, 0.02))
    )
    interval = start(Scale.DIFFERENCE, alpha=0.05).agreeing_with([better, worse])
    assert (interval.low, interval.high) == (-1.0, 1.0)


@pytest.mark.parametrize(("stable", "candidate"), [(0.01, 0.01), (0.05, 0.037)])
@pytest.mark.parametrize("scale", list(Scale))
def test_interval_covers_the_truth_at_every_look(scale, stable, candidate):
    """Nested intervals: covered at the last look is covered at all of them."""
    runs, covered = 40, 0
    counts = looks(
        np.random.default_rng(43), runs=runs, requests=200, share=0.2, stable=stable, candidate=[candidate] * 60
    )
    truth = candidate - stable if scale is Scale.DIFFERENCE else candidate / stable
    for run in range(runs):
        interval = extend(start(scale, alpha=0.05), one_run(counts, run)).interval
        covered += interval.low <= truth <= interval.high
        assert interval.high - interval.low < (0.2 if scale is Scale.DIFFERENCE else 10)
    assert covered / runs >= 0.9 - 3 * (0.9 * 0.1 / runs) ** 0.5


def mean_interval(means, samples):
    return mean_intervals.extend(mean_intervals.start(means, alpha=0.05), samples).interval


def test_mean_of_one_arm_is_covered_at_every_look():
    rng, runs, covered = np.random.default_rng(44), 200, 0
    for _ in range(runs):
        interval = mean_interval(Means.RATE, [Sample.binary(20, int(e)) for e in rng.binomial(20, 0.03, 100)])
        covered += interval.low <= 0.03 <= interval.high
    assert covered / runs >= 0.9 - 3 * (0.9 * 0.1 / runs) ** 0.5
    assert mean_interval(Means.RATE, []).high == 1.0


def test_mean_rating_is_covered_and_narrows():
    rng = np.random.default_rng(46)
    stars = rng.choice(5, (400, 5), p=[0.05, 0.05, 0.1, 0.3, 0.5]) / 4
    some = [Sample.of({v: float(n) for v, n in zip(*np.unique(row, return_counts=True), strict=True)}) for row in stars]
    wide, narrow = mean_interval(Means.BOUNDED, some[:10]), mean_interval(Means.BOUNDED, some)
    assert wide.low <= narrow.low <= 0.7875 <= narrow.high <= wide.high
    assert narrow.high - narrow.low < 0.08


def test_carried_mean_survives_json_to_the_last_bit():
    some = [Sample.binary(20, n) for n in (0, 3, 1, 9, 2)]
    carried = mean_intervals.start(Means.RATE, alpha=0.05)
    for sample in some:
        carried = MeanSequence.from_json(json.loads(json.dumps(mean_intervals.extend(carried, [sample]).to_json())))
    assert carried == mean_intervals.extend(mean_intervals.start(Means.RATE, alpha=0.05), some)


def test_rate_that_jumped_is_not_pretended_to_be_known():
    interval = mean_interval(Means.RATE, [Sample.binary(5000, 0), Sample.binary(5000, 5000)])
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
