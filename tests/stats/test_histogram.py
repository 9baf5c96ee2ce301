"""Latencies in log-spaced bins."""

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deploypipe.stats.histogram import SMALLEST, Histogram, bin_of, edge

durations = st.floats(0.002, 10_000_000)


def histogram(*values):
    result = Histogram()
    for value in values:
        result.add(value)
    return result


@given(durations)
def test_bin_covers_its_value(ms):
    assert edge(bin_of(ms)) <= ms < edge(bin_of(ms) + 1)


@given(st.integers(SMALLEST, 200))
def test_bin_begins_exactly_at_its_edge(bin_):
    assert bin_of(edge(bin_)) == bin_
    assert bin_of(math.nextafter(edge(bin_ + 1), 0)) == bin_


def test_one_millisecond_begins_bin_0_and_sixty_four_bins_double():
    assert bin_of(1) == 0
    assert bin_of(2) == 64


def test_zero_counts_in_the_smallest_bin():
    assert histogram(0).counts == {SMALLEST: 1}


@pytest.mark.parametrize("ms", [-1, math.nan, math.inf])
def test_what_is_no_duration_is_refused(ms):
    with pytest.raises(ValueError, match="is not a duration"):
        Histogram().add(ms)


def test_nothing_counted_has_no_quantile():
    assert Histogram().quantile(0.5) is None


@pytest.mark.parametrize("p", [-0.1, 1.1])
def test_quantile_wants_a_probability(p):
    with pytest.raises(ValueError, match="is not a probability"):
        histogram(1).quantile(p)


@given(st.lists(durations, min_size=1), st.floats(0, 1))
def test_quantile_is_in_the_bin_of_the_true_one(values, p):
    true = sorted(values)[max(0, math.ceil(p * len(values)) - 1)]
    quantile = histogram(*values).quantile(p)
    assert quantile is not None
    assert edge(bin_of(true)) * (1 - 1e-9) <= quantile <= edge(bin_of(true) + 1) * (1 + 1e-9)


def test_twenty_percent_more_latency_shows_in_the_95th_percentile():
    before = histogram(*(100 + i for i in range(100))).quantile(0.95)
    after = histogram(*(1.2 * (100 + i) for i in range(100))).quantile(0.95)
    assert after / before == pytest.approx(1.2, abs=0.05)


@given(st.lists(durations), st.lists(durations))
def test_merged_is_as_if_counted_together(left, right):
    a, b = histogram(*left), histogram(*right)
    assert a.merge(b) == histogram(*left, *right)
    assert (a, b) == (histogram(*left), histogram(*right))
    assert a.merge(b).total == len(left) + len(right)


@given(st.lists(durations))
def test_survives_json(values):
    before = histogram(*values)
    assert Histogram.from_json(json.loads(json.dumps(before.to_json()))) == before
