"""One arm's mean. tests/stats/test_intervals.py has more of it, beside the intervals of two arms."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from deploypipe.stats import bets, limits
from deploypipe.stats.mean_intervals import Means, MeanSequence, extend, extend_many, start
from deploypipe.stats.samples import Sample
from deploypipe.stats.two_arms import Side
from tests.stats.simulation import at_most
from tests.stats.test_two_arms import samples

ALPHA = 0.05

kinds = st.sampled_from(list(Means))
alphas = st.sampled_from([0.001, 0.05, 0.2])


@st.composite
def fitting(draw, means, least=0):
    """Rates are of 0 and 1."""
    return draw(samples(least=least)) if means is Means.BOUNDED else binary(draw, least)


def binary(draw, least):
    units = draw(st.integers(least, 60))
    return Sample.binary(units, draw(st.integers(0, units)))


cases = kinds.flatmap(lambda means: st.tuples(st.just(means), st.lists(fitting(means), max_size=8)))


def reached(means: Means, some: list[Sample], side: Side, limit: float, alpha: float) -> bool:
    if means is Means.RATE:
        return limits.replay(some, limits.LimitTest(side, limit)).reached(alpha)
    return bets.replay(some, bets.MeanTest(side, limit)).reached(alpha)


@given(cases, alphas, st.floats(0.001, 0.999))
@settings(max_examples=200)
def test_ends_say_what_the_one_sided_tests_have_said_at_any_look(case, alpha, limit):
    means, some = case
    sequence = extend(start(means, alpha=alpha), some)
    assume(min(abs(limit - sequence.low), abs(limit - sequence.high)) > 1e-6)
    assert reached(means, some, Side.ABOVE, limit, alpha) == (limit < sequence.low)
    assert reached(means, some, Side.BELOW, limit, alpha) == (limit > sequence.high)
    assert sequence.interval.confidence == pytest.approx(1 - 2 * alpha)


@given(samples(least=1), st.floats(0.001, 0.999), st.floats(0.001, 0.999))
def test_of_two_limits_the_lower_is_rejected_first(sample, one, other):
    """What bisection needs: whoever has shown that the mean lies above a limit has shown it of every lower one."""
    low, high = sorted((one, other))
    for means in Means:
        if means is Means.RATE and any(0 < value < 1 for value, _ in sample.frequencies):
            continue
        if reached(means, [sample], Side.ABOVE, high, 0.5):
            assert reached(means, [sample], Side.ABOVE, low, 0.5)
        if reached(means, [sample], Side.BELOW, low, 0.5):
            assert reached(means, [sample], Side.BELOW, high, 0.5)


@given(cases)
def test_interval_only_narrows(case):
    means, some = case
    sequence = start(means, alpha=ALPHA)
    for sample in some:
        after = extend(sequence, [sample])
        assert sequence.low <= after.low
        assert after.high <= sequence.high
        sequence = after


@given(cases)
def test_mirrored_values_have_the_mirrored_interval(case):
    means, some = case
    found = extend(start(means, alpha=ALPHA), some)
    mirrored = extend(start(means, alpha=ALPHA), [sample.mirrored for sample in some])
    assert (mirrored.low, mirrored.high) == pytest.approx((1 - found.high, 1 - found.low), abs=1e-7)


@given(cases, st.lists(st.integers(0, 4), max_size=4))
def test_any_batching_of_the_windows_gives_the_same_bits(case, cuts):
    means, some = case
    sequence, first = start(means, alpha=ALPHA), 0
    for cut in cuts:
        sequence = extend(sequence, some[first : first + cut])
        sequence = MeanSequence.from_json(json.loads(json.dumps(sequence.to_json())))
        first += cut
    assert extend(sequence, some[first:]) == extend(start(means, alpha=ALPHA), some)


@given(st.lists(st.tuples(cases, alphas), max_size=4))
@settings(max_examples=40)
def test_many_at_once_equal_one_after_the_other(several):
    before = [start(means, alpha=alpha) for (means, _), alpha in several]
    together = extend_many(before, [some for (_, some), _ in several])
    assert together == [extend(one, some) for one, ((_, some), _) in zip(before, several, strict=True)]


@given(cases, st.integers(0, 8))
def test_a_window_without_units_changes_nothing(case, place):
    means, some = case
    more = [*some[:place], Sample(), *some[place:]]
    assert extend(start(means, alpha=ALPHA), more) == extend(start(means, alpha=ALPHA), some)


def test_of_nothing_everything_is_possible():
    for means in Means:
        assert (start(means, alpha=ALPHA).interval.low, start(means, alpha=ALPHA).interval.high) == (0.0, 1.0)


@pytest.mark.parametrize(("failures", "low", "high"), [(0, 0.0, 0.06), (100, 0.94, 1.0), (50, 0.34, 0.66)])
def test_a_hundred_units_are_known_to_within_a_few_points(failures, low, high):
    interval = extend(start(Means.RATE, alpha=ALPHA), [Sample.binary(100, failures)]).interval
    assert low <= interval.low <= failures / 100 <= interval.high <= high


@pytest.mark.parametrize("means", list(Means))
@pytest.mark.parametrize("rate", [0.002, 0.3])
def test_mean_is_covered_at_every_look(means, rate):
    """Nested intervals: covered at the last look is covered at all. Also one that wanders: it is covered while it stays
    what it was; here each user has a rate of their own."""
    rng, runs = np.random.default_rng(7), 150
    owners = rng.beta(rate, 1 - rate, (runs, 40, 20))  # correlated within a unit's ten requests
    values = rng.binomial(10, owners) / 10 if means is Means.BOUNDED else rng.binomial(1, owners).astype(float)
    streams = [
        [Sample.of(dict(zip(*map(np.ndarray.tolist, np.unique(row, return_counts=True)), strict=True))) for row in run]
        for run in values
    ]
    found = extend_many([start(means, alpha=ALPHA)] * runs, streams)
    for missed in (
        sum(sequence.low > rate for sequence in found),
        sum(sequence.high < rate for sequence in found),
    ):
        assert at_most(missed / runs, ALPHA, runs)
    assert np.median([sequence.high - sequence.low for sequence in found]) < 0.15


def test_a_changed_mean_is_noticed():
    some = [Sample.binary(500, 5), Sample.binary(500, 400)]
    sequence = extend(start(Means.RATE, alpha=ALPHA), some)
    assert sequence.low > sequence.high
    assert (sequence.interval.low, sequence.interval.high) == (0.0, 1.0)


@pytest.mark.parametrize("alpha", [0.0, 0.5, -0.1, math.nan])
def test_impossible_alphas_are_refused(alpha):
    with pytest.raises(ValueError, match=r"alpha must lie between 0 and 0\.5, not"):
        start(Means.RATE, alpha=alpha)


def test_each_sequence_needs_samples_of_its_own():
    with pytest.raises(ValueError, match="samples_of_each must have 1 items, not 0"):
        extend_many([start(Means.RATE, alpha=ALPHA)], [])
