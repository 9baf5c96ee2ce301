from __future__ import annotations

import json
import math
import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deploypipe.stats.samples import NOBODY, NOTHING, Moments, Pair, Sample
from tests.stats.test_two_arms import samples

moments = st.lists(st.floats(-1000, 1000).map(lambda value: round(value, 2)), max_size=8)


def of(values) -> Moments:
    return Moments(len(values), math.fsum(values), math.fsum(value * value for value in values))


def test_sample_counts_its_units_and_their_mean():
    sample = Sample.of({1.0: 1, 0.0: 2, 0.25: 4})
    assert list(sample.frequencies) == [(0.0, 2), (0.25, 4), (1.0, 1)]
    assert (sample.units, sample.total) == (7, 2.0)
    assert sample.mean == pytest.approx(2 / 7)


def test_nobody_has_no_mean():
    assert (NOBODY.units, NOBODY.total, NOBODY.mean) == (0, 0, None)
    assert Sample.of({0.5: 0}) == NOBODY, "no unit had it"


@pytest.mark.parametrize(
    ("units", "ones", "frequencies"),
    [
        (5, 2, ((0.0, 3), (1.0, 2))),
        (5, 0, ((0.0, 5),)),
        (5, 5, ((1.0, 5),)),
        (0, 0, ()),
        (3, 0.5, ((0.0, 2.5), (1.0, 0.5))),
    ],
)
def test_binary_sample_is_of_zeros_and_ones(units, ones, frequencies):
    assert Sample.binary(units, ones).frequencies == frequencies


@given(samples(), samples())
def test_samples_add_up_and_nobody_adds_nothing(left, right):
    both = left + right
    assert both.units == pytest.approx(left.units + right.units)
    assert both.total == pytest.approx(left.total + right.total)
    assert both == right + left
    assert left + NOBODY == left == NOBODY + left


@given(samples())
def test_mirrored_twice_is_as_before(sample):
    mirrored = sample.mirrored
    assert mirrored.units == sample.units
    assert mirrored.total == pytest.approx(sample.units - sample.total)
    again = mirrored.mirrored.frequencies
    assert [number for _, number in again] == [number for _, number in sample.frequencies]
    assert [value for value, _ in again] == pytest.approx([value for value, _ in sample.frequencies], abs=1e-15)


@given(samples(), samples(), st.integers(0, 3))
def test_pair_survives_json(stable, candidate, period):
    pair = Pair(stable, candidate, period)
    assert Pair.from_json(json.loads(json.dumps(pair.to_json()))) == pair


@given(moments, moments)
def test_moments_of_both_are_those_of_all(left, right):
    both = of(left) + of(right)
    assert both.units == len(left) + len(right)
    assert both.total == pytest.approx(math.fsum([*left, *right]), abs=1e-6)
    assert of(left) + NOTHING == of(left)
    assert Moments.from_json(json.loads(json.dumps(both.to_json()))) == both


@given(moments)
def test_moments_have_the_mean_and_the_unbiased_variance(values):
    found = of(values)
    assert found.mean == (pytest.approx(statistics.fmean(values), abs=1e-9) if values else None)
    if len(values) < 2:
        assert found.variance is None
    else:
        assert found.variance == pytest.approx(statistics.variance(values), rel=1e-6, abs=1e-6)


@pytest.mark.parametrize(
    ("frequencies", "named"),
    [
        (((0.5, 1), (0.2, 1)), r"values must lie in \[0, 1\] and rise"),
        (((0.5, 1), (0.5, 1)), r"values must lie in \[0, 1\] and rise"),
        (((-0.1, 1),), r"values must lie in \[0, 1\] and rise"),
        (((0.2, 1), (1.5, 1)), r"values must lie in \[0, 1\] and rise"),
        (((math.nan, 1),), r"values must lie in \[0, 1\] and rise"),
        (((0.5, 0),), "numbers must be above 0"),
        (((0.5, -1),), "numbers must be above 0"),
        (((0.5, math.nan),), "numbers must be above 0"),
        (((0.5, math.inf),), "numbers must be above 0 and finite"),
    ],
)
def test_impossible_samples_are_refused(frequencies, named):
    with pytest.raises(ValueError, match=named):
        Sample(frequencies)


@pytest.mark.parametrize(("units", "ones"), [(5, 6), (5, -1), (-1, 0), (5, math.nan)])
def test_more_ones_than_units_are_refused(units, ones):
    with pytest.raises(ValueError, match="ones must lie between 0 and units, not"):
        Sample.binary(units, ones)


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ((-1, 0.0, 0.0), "units and squares must not be negative"),
        ((1, 1.0, -1.0), "units and squares must not be negative"),
        ((1, math.nan, 1.0), "total and squares must be finite"),
        ((1, 1.0, math.inf), "total and squares must be finite"),
    ],
)
def test_impossible_moments_are_refused(wrong, named):
    with pytest.raises(ValueError, match=named):
        Moments(*wrong)
