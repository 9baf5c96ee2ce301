from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deploypipe.stats.bets import GRID, MeanProcess, MeanTest, advance, advance_many, log_evidence, replay
from deploypipe.stats.samples import Sample
from deploypipe.stats.two_arms import Side
from tests.stats.simulation import at_most
from tests.stats.test_two_arms import samples

mean_tests = st.builds(MeanTest, st.sampled_from(list(Side)), st.floats(0.001, 0.999))
STARS = np.arange(5) / 4


def ratings(mean):
    """Chances of one to five stars with that mean and a standard deviation of about one."""
    usual, stars, low, high = np.array([0.03, 0.05, 0.14, 0.33, 0.45]), np.arange(1, 6), -5.0, 5.0
    for _ in range(60):
        tilt = 0.5 * (low + high)
        chances = usual * np.exp(tilt * stars)
        chances /= chances.sum()
        low, high = (tilt, high) if chances @ stars < mean else (low, tilt)
    return chances


def called(mean, side, *, runs, many, every=1, limit=4.0):
    """Number of ratings when each run is called; infinite if it never is."""
    rng, numbers = np.random.default_rng(31), np.arange(every, many + 1, every)
    found = []
    for _ in range(runs):
        counts = np.zeros((many, 5))
        counts[np.arange(many), rng.choice(5, many, p=ratings(mean))] = 1
        seen = counts.cumsum(axis=0)[every - 1 :: every]
        reached = log_evidence(STARS, seen, MeanTest(side, (limit - 1) / 4)) >= math.log(20)
        found.append(numbers[reached.argmax()] if reached.any() else math.inf)
    return np.array(found)


def test_evidence_is_the_mean_of_the_bets_by_hand():
    state = replay([Sample.of({0.5: 2, 1.0: 3}), Sample.of({0.0: 1})], MeanTest(Side.ABOVE, 0.75))
    by_hand = np.mean([(1 - bet / 3) ** 2 * (1 + bet / 3) ** 3 * (1 - bet) for bet in GRID])
    assert state.log_evidence == pytest.approx(math.log(by_hand), abs=1e-12)


@given(st.lists(samples(), max_size=10), mean_tests)
def test_evidence_is_always_finite_and_json_able(some, test):
    state = replay(some, test)
    assert math.isfinite(state.log_evidence)
    assert MeanProcess.from_json(json.loads(json.dumps(state.to_json()))) == state


@given(st.lists(samples(), max_size=10), st.integers(0, 10), mean_tests)
def test_carried_state_equals_replay_to_the_last_bit(some, cut, test):
    assert advance(replay(some[:cut], test), some[cut:]) == replay(some, test)


@given(st.lists(st.tuples(mean_tests, st.lists(samples(), max_size=5)), max_size=6))
def test_many_at_once_equal_one_after_the_other_to_the_last_bit(cases):
    together = advance_many([MeanProcess(test) for test, _ in cases], [some for _, some in cases])
    assert together == [replay(some, test) for test, some in cases]


@given(st.permutations([Sample.of({0.5: 2, 1.0: 3}), Sample.of({0.0: 1}), Sample.of({0.25: 4, 0.75: 1})]))
def test_order_of_windows_does_not_change_where_the_evidence_ends(some):
    test = MeanTest(Side.BELOW, 0.6)
    assert replay(some, test).log_evidence == pytest.approx(replay(some[::-1], test).log_evidence, abs=1e-12)


@given(samples(), mean_tests, st.floats(0, 1), st.floats(0, 1))
def test_a_higher_value_never_speaks_less_for_above(sample, test, one, other):
    lower, higher = sorted((one, other))
    less, more = (replay([sample + Sample.of({value: 1})], test).log_evidence for value in (lower, higher))
    assert (more - less) * test.side.sign >= -1e-12


@given(samples(), mean_tests)
def test_mirrored_values_speak_for_the_other_side(sample, test):
    side = Side.BELOW if test.side is Side.ABOVE else Side.ABOVE
    mirrored = replay([sample.mirrored], MeanTest(side, 1 - test.limit))
    assert mirrored.log_evidence == pytest.approx(replay([sample], test).log_evidence, rel=1e-6, abs=1e-6)


@given(mean_tests, st.floats(0, 1), st.floats(0, 1))
def test_mean_factor_is_at_most_one_everywhere_in_the_null(test, part, middle):
    mean = test.limit * part if test.side is Side.ABOVE else 1 - (1 - test.limit) * part
    low, high = sorted((mean * middle, 1 - (1 - mean) * middle))
    chance = (mean - low) / (high - low) if high > low else 0.0
    values = np.array([low, high])
    factors = np.exp([float(log_evidence(values, np.array(n), test)) for n in ([1.0, 0.0], [0.0, 1.0])])
    assert factors @ [1 - chance, chance] <= 1 + 1e-9


@pytest.mark.parametrize(
    ("mean", "side", "published"),
    [
        (4.5, Side.ABOVE, 46),
        (4.2, Side.ABOVE, 184),
        (4.1, Side.ABOVE, 1100),
        (3.8, Side.BELOW, 288),
        (3.5, Side.BELOW, 39),
    ],
)
def test_ratings_are_called_as_soon_as_in_the_reference(mean, side, published):
    """statistics.md 3.6: median ratings until a mean of 4.0 is excluded."""
    assert np.median(called(mean, side, runs=200, many=4 * published)) <= 1.1 * published


@pytest.mark.parametrize("side", list(Side))
def test_a_mean_of_exactly_four_is_called_in_at_most_one_run_of_twenty(side):
    assert at_most(float((called(4.0, side, runs=300, many=20_000, every=20) < math.inf).mean()), 0.05, 300)


@pytest.mark.parametrize("limit", [0.0, 1.0, -0.1, math.nan])
def test_impossible_limits_are_refused(limit):
    with pytest.raises(ValueError, match="limit must lie between 0 and 1"):
        MeanTest(Side.ABOVE, limit)
