from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deploypipe.stats.blocks import Blocks, close_blocks
from deploypipe.stats.samples import NO_PAIR, NOBODY, Pair, Sample
from tests.stats.test_two_arms import periodic, samples

counts = st.tuples(st.integers(0, 6), st.integers(0, 6)).map(lambda pair: (max(pair), min(pair)))
"""(units, ones)"""


def pair(stable, candidate, period=0):
    return Pair(Sample.binary(stable, 0), Sample.binary(candidate, 0), period)


@pytest.mark.parametrize(
    ("windows", "sizes", "left"),
    [
        ([pair(5, 5)], [(5, 5)], (0, 0)),
        ([pair(50, 4), pair(50, 4)], [(100, 8)], (0, 0)),
        ([pair(50, 4)], [], (50, 4)),
        ([pair(50, 0), pair(0, 50)], [(50, 50)], (0, 0)),
        ([pair(3, 3, 0), pair(3, 3, 1)], [(3, 3)], (3, 3)),
        ([pair(3, 0, 0), pair(3, 3, 1)], [], (3, 3)),
        ([pair(3, 3, 0), pair(0, 0, 1), pair(3, 3, 0)], [(3, 3)], (3, 3)),
        ([pair(9, 9), pair(9, 9)], [(9, 9), (9, 9)], (0, 0)),
        ([], [], (0, 0)),
    ],
)
def test_a_block_closes_when_each_arm_has_enough_or_the_period_ends(windows, sizes, left):
    closed, open_ = close_blocks(NO_PAIR, windows, 5)
    assert [(block.stable.units, block.candidate.units) for block in closed] == sizes
    assert (open_.stable.units, open_.candidate.units) == left


@given(st.lists(periodic, max_size=12), st.integers(1, 20), st.integers(0, 12))
def test_blocks_do_not_depend_on_how_the_windows_come(windows, units, cut):
    at_once = close_blocks(NO_PAIR, windows, units)
    first, open_ = close_blocks(NO_PAIR, windows[:cut], units)
    second, left = close_blocks(open_, windows[cut:], units)
    assert ([*first, *second], left) == at_once


@given(st.lists(periodic, max_size=12), st.integers(1, 20))
def test_no_block_has_units_of_two_periods_and_each_has_both_arms(windows, units):
    closed, _ = close_blocks(NO_PAIR, windows, units)
    for block in closed:
        assert block.stable.units > 0
        assert block.candidate.units > 0
    for period in range(3):
        of_windows = sum(window.stable.units for window in windows if window.period == period)
        assert sum(block.stable.units for block in closed if block.period == period) <= of_windows + 1e-6


@given(st.lists(st.tuples(counts, counts, st.booleans()), max_size=12), st.integers(1, 10))
def test_blocks_close_by_numbers_of_units_alone(rows, units):
    """Whatever the outcomes: else a block could end just when it suits."""
    periods = np.cumsum([changed for _, _, changed in rows]).tolist()
    clean = [pair(a, b, number) for ((a, _), (b, _), _), number in zip(rows, periods, strict=True)]
    real = [Pair(Sample.binary(*a), Sample.binary(*b), number) for (a, b, _), number in zip(rows, periods, strict=True)]
    sizes = [
        [(block.stable.units, block.candidate.units, block.period) for block in close_blocks(NO_PAIR, some, units)[0]]
        for some in (clean, real)
    ]
    assert sizes[0] == sizes[1]


@given(st.lists(st.tuples(counts, counts, st.booleans()), min_size=1, max_size=12), st.integers(1, 10))
def test_arrays_of_windows_close_as_windows_do(rows, units):
    periods = np.cumsum([changed for _, _, changed in rows]).tolist()
    windows = [
        Pair(Sample.binary(*a), Sample.binary(*b), number) for (a, b, _), number in zip(rows, periods, strict=True)
    ]
    columns = np.array([[*a, *b] for a, b, _ in rows], float).T
    blocks = Blocks.binary(*columns).closed(units, periods)
    found = [
        (tuple(stable), tuple(candidate))
        for stable, candidate in zip(blocks.stable.tolist(), blocks.candidate.tolist(), strict=True)
        if sum(stable) and sum(candidate)
    ]
    closed, _ = close_blocks(NO_PAIR, windows, units)
    assert found == [(zeros_and_ones(block.stable), zeros_and_ones(block.candidate)) for block in closed]


def zeros_and_ones(sample):
    return sample.units - sample.total, sample.total


@given(st.lists(st.tuples(samples(), samples()), max_size=6))
def test_pairs_as_arrays_hold_each_unit_once(rows):
    blocks = Blocks.of([Pair(a, b) for a, b in rows])
    assert blocks.stable.shape == blocks.candidate.shape == blocks.values.shape
    for row, (a, b) in enumerate(rows):
        for arm, sample in ((blocks.stable, a), (blocks.candidate, b)):
            seen = dict(zip(blocks.values[row].tolist(), arm[row].tolist(), strict=True)) if arm.size else {}
            assert arm[row].sum() == pytest.approx(sample.units)
            assert (arm[row] * blocks.values[row]).sum() == pytest.approx(sample.total)
            for value, number in sample.frequencies:
                assert value in seen
                assert number in arm[row].tolist()


def test_one_row_of_arrays_by_hand():
    row = Blocks.of([Pair(Sample.of({0.0: 3, 0.5: 1}), Sample.of({0.5: 2, 1.0: 4})), Pair(NOBODY, NOBODY)])
    assert row.values.tolist() == [[0.0, 0.5, 1.0], [0.0, 0.0, 0.0]]
    assert row.stable.tolist() == [[3, 1, 0], [0, 0, 0]]
    assert row.candidate.tolist() == [[0, 2, 4], [0, 0, 0]]
