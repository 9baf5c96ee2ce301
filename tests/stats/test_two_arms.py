from __future__ import annotations

import itertools
import json
import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deploypipe.stats import factors
from deploypipe.stats.blocks import Blocks
from deploypipe.stats.factors import Alternatives, Parameters
from deploypipe.stats.projection import project
from deploypipe.stats.samples import NOBODY, Pair, Sample
from deploypipe.stats.two_arms import (
    EProcess,
    Side,
    TwoArmTest,
    advance,
    advance_many,
    log_evidence,
    log_factors,
    replay,
    start,
    update,
)
from tests.stats.simulation import binary, looks, pairs, poisson_pairs

sides = st.sampled_from(list(Side))
differences = st.one_of(
    st.sampled_from([0.0, 0.005, 0.02, -0.02, 0.5, 0.9, -0.9]), st.floats(min_value=-0.99, max_value=0.99)
)
ratios = st.one_of(st.sampled_from([0.5, 0.8, 1.0, 1.2, 2.0]), st.floats(0.05, 20))
tests = st.one_of(st.builds(TwoArmTest, sides, difference=differences), st.builds(TwoArmTest, sides, ratio=ratios))


@st.composite
def samples(draw, most=40, least=0):
    """Of 0 and 1, of shares of up to ten, or with fractional numbers."""
    kind = draw(st.sampled_from(["binary", "shares", "fractional"]))
    if kind == "shares":
        values = st.sampled_from([s / r for r in range(1, 11) for s in range(r + 1)])
        return Sample.of(draw(st.dictionaries(values, st.integers(1, most), min_size=least, max_size=4)))
    units = draw(st.integers(least, most))
    ones = draw(st.integers(0, units)) if kind == "binary" else round(units * draw(st.floats(0, 1)), 6)
    return Sample.binary(units, ones)


windows = st.builds(Pair, samples(), samples(), st.just(0))
periodic = st.builds(Pair, samples(), samples(), st.integers(0, 2))


@given(st.lists(periodic, max_size=12), tests)
def test_evidence_is_always_a_finite_number(some, test):
    state = replay(some, test)
    assert all(math.isfinite(value) for value in (*state.log_components, *state.past))
    assert math.isfinite(state.log_evidence)
    assert 0 <= state.p_value <= 1
    assert state.max_log_evidence >= 0


def in_null(test, x, y, on_boundary):
    """A pair of means: on the boundary, or beyond it on the null's side."""
    low, high = max(0.0, -test.difference / test.ratio), min(1.0, (1 - test.difference) / test.ratio)
    stable = low + x * (high - low)
    candidate = min(max(test.ratio * stable + test.difference, 0.0), 1.0)
    if not on_boundary:
        candidate = candidate * y if test.side is Side.ABOVE else candidate + y * (1 - candidate)
    return stable, candidate


def with_mean(mean, wide):
    """Chances of 0, a value between, and 1 with that mean: the wider, the more of it at the ends."""
    middle = min(max(mean, 0.05), 0.95)
    if mean == middle:
        return {0.0: (1 - mean) * wide, middle: 1 - wide, 1.0: mean * wide}
    return {0.0: 1 - mean, 1.0: mean}


@given(
    tests,
    st.sampled_from(list(Alternatives)),
    st.integers(1, 3),
    st.integers(1, 3),
    st.tuples(samples(most=200), samples(most=200)),
    st.floats(0, 1).map(lambda value: round(value, 6)),
    st.floats(0, 1).map(lambda value: round(value, 6)),
    st.booleans(),
    st.tuples(st.sampled_from([0.0, 0.3, 1.0]), st.sampled_from([0.0, 0.3, 1.0])),
)
@settings(max_examples=150)
def test_mean_factor_is_at_most_one_everywhere_in_the_null(test, kind, a, b, history, x, y, on_boundary, wide):
    """The property that all validity follows from, by summing over every possible outcome of a block."""
    chances = [with_mean(mean, w) for mean, w in zip(in_null(test, x, y, on_boundary), wide, strict=True)]
    values = sorted({*chances[0], *chances[1]})
    outcomes = [
        [[combination.count(value) for value in values] for combination in itertools.product(values, repeat=n)]
        for n in (a, b)
    ]
    probabilities = [
        [
            math.prod(chance.get(value, 0.0) for value in combination)
            for combination in itertools.product(values, repeat=n)
        ]
        for chance, n in zip(chances, (a, b), strict=True)
    ]
    both = list(itertools.product(range(len(outcomes[0])), range(len(outcomes[1]))))
    blocks = Blocks(
        np.array(values),
        np.array([[outcomes[0][i]] for i, _ in both], dtype=float),
        np.array([[outcomes[1][j]] for _, j in both], dtype=float),
    )
    past = [value for sample in history for value in (sample.units, sample.total, squares(sample))]
    given_ = replace(Parameters.one(test), alternatives=kind)
    found = factors.log_factors(blocks, factors.sums(blocks), np.broadcast_to(past, (len(both), 1, 6)), given_)
    chance = np.array([probabilities[0][i] * probabilities[1][j] for i, j in both])
    assert (chance @ np.exp(found[:, 0, :]) <= 1 + 1e-9).all()


def squares(sample):
    return sum(number * value * value for value, number in sample.frequencies)


def test_of_zeros_and_ones_a_factor_is_the_likelihood_ratio():
    test = TwoArmTest(Side.BELOW, 0.02, block_units=1)
    q_stable, q_candidate = 0.01, np.array([0.01, 0.02, 0.001, 0.01])  # with nothing seen: 2/200
    a, b, s, t = 500.0, 60.0, 7.0, 2.0
    p_stable, p_candidate = project(a, b, q_stable, q_candidate, 0.02)
    by_hand = (
        s * np.log(q_stable / p_stable)
        + (a - s) * np.log((1 - q_stable) / (1 - p_stable))
        + t * np.log(q_candidate / p_candidate)
        + (b - t) * np.log((1 - q_candidate) / (1 - p_candidate))
    )
    found = log_factors(Blocks.binary(*(np.array([value]) for value in (a, s, b, t))), test)[0]
    assert found == pytest.approx(by_hand, abs=1e-11)
    weights = [0.5, 0.2, 0.15, 0.15]
    state = replay([Pair(Sample.binary(a, s), Sample.binary(b, t))], test)
    assert state.log_evidence == pytest.approx(math.log(weights @ np.exp(by_hand)), abs=1e-11)


def test_shares_of_ten_independent_requests_are_worth_more_than_one_request():
    rng = np.random.default_rng(3)
    counts = [rng.binomial(10, 0.02, 2000), rng.binomial(10, 0.05, 400)]
    shares = [Sample.of({k / 10: float(n) for k, n in enumerate(np.bincount(c)) if n}) for c in counts]
    tenths = [Sample.of({v: n / 10 for v, n in arm.frequencies}) for arm in shares]
    whole = [Pair(tenths[0], tenths[1])] * 10
    as_requests = [
        Pair(
            Sample.binary(pair.stable.units, pair.stable.total),
            Sample.binary(pair.candidate.units, pair.candidate.total),
        )
        for pair in whole
    ]
    test = TwoArmTest(Side.ABOVE, 0.005)
    assert replay(whole, test).log_evidence > 4 * replay(as_requests, test).log_evidence > 4


@given(st.integers(1, 200), samples(least=1).filter(lambda sample: sample.units >= 1), st.data(), tests)
def test_one_more_candidate_error_never_weakens_above_nor_strengthens_below(n, stable, data, test):
    test = TwoArmTest(test.side, test.difference, test.ratio, block_units=1)
    errors = data.draw(st.integers(0, n - 1))
    fewer, more = (replay([Pair(stable, Sample.binary(n, e))], test).log_evidence for e in (errors, errors + 1))
    assert (more - fewer) * test.side.sign >= 0


@given(st.integers(1, 200), samples(least=1).filter(lambda sample: sample.units >= 1), st.data(), tests)
def test_one_more_stable_error_never_strengthens_above_nor_weakens_below(n, candidate, data, test):
    test = TwoArmTest(test.side, test.difference, test.ratio, block_units=1)
    errors = data.draw(st.integers(0, n - 1))
    fewer, more = (replay([Pair(Sample.binary(n, e), candidate)], test).log_evidence for e in (errors, errors + 1))
    assert (more - fewer) * test.side.sign <= 0


@given(st.lists(windows, max_size=8), st.integers(0, 8), tests)
def test_windows_without_units_change_nothing(some, place, test):
    assert replay([*some[:place], Pair(), *some[place:]], test) == replay(some, test)


@given(st.lists(samples(), max_size=8), tests, st.booleans())
def test_one_arm_alone_is_no_evidence(some, test, is_stable):
    state = replay([Pair(stable=arm) if is_stable else Pair(candidate=arm) for arm in some], test)
    assert state.log_evidence == pytest.approx(0, abs=1e-15)
    assert state.max_log_evidence == 0


@given(st.lists(periodic, max_size=30), st.lists(st.integers(0, 10), max_size=6), tests)
def test_carried_state_equals_replay_to_the_last_bit(some, cuts, test):
    state, first = start(test), 0
    for cut in cuts:
        state = advance(state, some[first : first + cut])
        state = EProcess.from_json(json.loads(json.dumps(state.to_json())))
        first += cut
    assert advance(state, some[first:]) == replay(some, test)


@given(st.lists(st.tuples(tests, st.lists(periodic, max_size=6), st.lists(periodic, max_size=6)), max_size=8))
def test_many_at_once_equal_one_after_the_other_to_the_last_bit(cases):
    before = [replay(first, test) for test, first, _ in cases]
    assert advance_many(before, [more for _, _, more in cases]) == [
        advance(state, more) for state, (_, _, more) in zip(before, cases, strict=True)
    ]


def test_window_after_window_equals_replay_to_the_last_bit():
    some = poisson_pairs(np.random.default_rng(5), 2000, 9, 1, 0.01, 0.02)
    for side in Side:
        state = start(TwoArmTest(side, 0.005))
        for pair in some:
            state = update(state, pair)
        assert state == replay(some, state.test)


@pytest.mark.parametrize("test", [TwoArmTest(Side.ABOVE, 0.005), TwoArmTest(Side.BELOW, ratio=1.5)])
def test_arrays_of_simulated_runs_give_what_windows_give(test):
    periods = [0] * 20 + [1] * 20
    counts = looks(np.random.default_rng(8), runs=5, requests=25, share=0.1, stable=0.02, candidate=[0.05] * 40)
    blocks = binary(counts)
    evidence = log_evidence(blocks.closed(test.block_units, periods), test)
    for run in range(5):
        of_run = Blocks(blocks.values, blocks.stable[run], blocks.candidate[run])
        state = start(test)
        for look, pair in enumerate(pairs(of_run, periods)):
            state = update(state, pair)
            closed_by_next = look == 19  # what the change of period closes is evidence one window later
            if not closed_by_next:
                assert state.log_evidence == pytest.approx(evidence[run, look], abs=1e-9)


def test_units_of_every_window_are_kept_once():
    some = poisson_pairs(np.random.default_rng(6), 300, 3, 0.4, 0.1, 0.2)
    state = replay(some, TwoArmTest(Side.ABOVE, 0.02))
    for arm, place in (("stable", 0), ("candidate", 3)):
        samples_ = [getattr(pair, arm) for pair in some]
        pending = getattr(state.pending, arm)
        assert state.past[place] + pending.units == sum(sample.units for sample in samples_)
        assert state.past[place + 1] + pending.total == sum(sample.total for sample in samples_)


def test_no_block_spans_two_periods():
    few, test = Sample.binary(3, 1), TwoArmTest(Side.ABOVE, 0.02)
    state = replay([Pair(few, few, 0), Pair(few, few, 1)], test)
    assert state.blocks == 1, "the open block of the first period was closed, although it is small"
    assert state.pending == Pair(few, few, 1)
    assert replay([Pair(few, NOBODY, 0), Pair(few, few, 1)], test).blocks == 0, "one arm alone compares nothing"
    assert replay([Pair(few, few, 0), Pair(few, few, 0)], test).blocks == 1
    assert replay([Pair(few, few, 0)], test).blocks == 0


def test_alternatives_come_from_the_past_alone():
    test = TwoArmTest(Side.BELOW, 0.02, block_units=1)
    clean = Blocks.binary(*(np.array(row, float) for row in ([50, 50], [0, 20], [50, 50], [0, 0])))
    other = Blocks.binary(*(np.array(row, float) for row in ([50, 50], [0, 0], [50, 50], [0, 0])))
    assert (log_factors(clean, test)[0] == log_factors(other, test)[0]).all()
    later = np.array([[50.0, 50.0], [20.0, 0.0], [50.0, 50.0], [0.0, 0.0]])
    assert (log_factors(Blocks.binary(*later), test)[1] != log_factors(other, test)[1]).all()


@pytest.mark.parametrize(
    "given_", [{"difference": d} for d in (0.999, 0.9, -0.5, -0.999)] + [{"ratio": 1e-6}, {"ratio": 1e6}]
)
@pytest.mark.parametrize("side", list(Side))
def test_extreme_boundaries_stay_in_bounds(side, given_):
    some = [
        Pair(Sample.binary(50, 50), Sample.binary(50, 0)),
        Pair(Sample.binary(50, 0), Sample.binary(50, 50)),
    ] * 3
    assert math.isfinite(replay(some, TwoArmTest(side, **given_)).log_evidence)


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"difference": 1.0}, "difference must lie between -1 and 1, not 1.0"),
        ({"difference": -1.0}, "difference"),
        ({"difference": math.nan}, "difference"),
        ({"ratio": 0.0}, "ratio must be above 0, not 0.0"),
        ({"ratio": 1.2, "difference": 0.1}, "difference must be 0 or ratio must be 1, not 0.1 with 1.2"),
        ({"prior_mean": 0.0}, "prior_mean must lie between 0 and 1, not 0.0"),
        ({"prior_units": 0.0}, "prior_units must be above 0, not 0.0"),
        ({"block_units": 0}, "block_units must be at least 1, not 0"),
    ],
)
def test_impossible_tests_are_refused(wrong, named):
    with pytest.raises(ValueError, match=named):
        TwoArmTest(Side.ABOVE, **wrong)


def test_each_state_needs_windows_of_its_own():
    with pytest.raises(ValueError, match="pairs_of_each must have one item for each of 1 states, not 0"):
        advance_many([start(TwoArmTest(Side.ABOVE))], [])
