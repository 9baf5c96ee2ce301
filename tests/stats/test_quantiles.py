from __future__ import annotations

import itertools
import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import ndtr

from deploypipe.stats import two_arms
from deploypipe.stats.histogram import bin_of, edge
from deploypipe.stats.quantiles import (
    Past,
    QuantileProcess,
    QuantileTest,
    advance,
    advance_many,
    binned,
    replay,
    shift_of,
    slower_than,
    start,
)
from deploypipe.stats.samples import HistogramPair, Pair, Sample
from deploypipe.stats.two_arms import Side
from tests.stats.simulation import at_most

ALPHA = 0.05

sides = st.sampled_from(list(Side))
quantile_tests = st.one_of(
    st.builds(QuantileTest, sides, st.sampled_from([0.3, 0.5, 0.7]), st.floats(0.5, 2)),
    st.builds(QuantileTest, sides, st.sampled_from([0.5, 0.9]), st.floats(1, 2), slack=st.floats(0, 3)),
)
parts = st.sampled_from([1, 2, 3, 7, 0.5, *(k / 2520 for k in (252, 280, 315, 360, 420, 504, 840, 1771))])
histograms = st.dictionaries(st.integers(-20, 80), parts, max_size=6)
windows = st.builds(HistogramPair, histograms, histograms, st.integers(0, 1))
BEFORE = dict.fromkeys(range(100), 1.0)
"""A hundred units of stable, one in each of the bins 0 to 99."""


def by_threshold(state: QuantileProcess, window: HistogramPair) -> Pair:
    """The window as the test must see it, counted by hand."""
    assert state.threshold is not None
    first = (state.threshold, state.threshold + state.test.shift)
    arms = [
        Sample.binary(math.fsum(bins.values()), math.fsum(number for bin_, number in bins.items() if bin_ >= from_))
        for bins, from_ in zip((window.stable, window.candidate), first, strict=True)
    ]
    return Pair(arms[0], arms[1], window.period)


# The threshold


@pytest.mark.parametrize(("level", "units"), [(0.2, 10), (0.5, 10), (0.95, 100), (0.99, 500)])
def test_nothing_is_evidence_before_stable_has_shown_its_quantile(level, units):
    test = QuantileTest(Side.ABOVE, level, 1.2)
    stable, slow = binned([10.0 + i / 100 for i in range(units)]), binned([1000.0] * 50)
    early = replay([HistogramPair(binned([10.0] * (units - 1)), slow), HistogramPair({}, slow)], test)
    assert early.blocks == 0
    assert early.inner.past == (0.0,) * 6
    state = replay([HistogramPair(stable, slow)], test)
    assert (state.threshold, state.blocks) == (None, 0), "the first window only says where the quantile is"
    state = advance(state, [HistogramPair(stable, slow)])
    assert state.blocks == 1
    assert state.log_evidence != 0


def test_history_of_stable_lets_the_first_window_count():
    window = HistogramPair(binned([100.0] * 50), binned([300.0] * 50))
    test = QuantileTest(Side.ABOVE, 0.95, 1.2)
    assert replay([window], test).blocks == 0
    assert advance(start(test, binned([100.0] * 1000)), [window]).reached(0.001)


@pytest.mark.parametrize(
    ("past", "level", "above", "below"),
    [
        (BEFORE, 0.95, 95, 95),
        (BEFORE, 0.5, 50, 50),
        (BEFORE, 0.99, 99, 99),
        (BEFORE, 0.955, 96, 95),  # between two edges: each side's takes the one on its null's side
        ({7: 100.0}, 0.95, 8, 7),  # every latency in one bin
        ({7: 50.0, 9: 50.0}, 0.95, 10, 9),
        ({7: 96.0, 9: 4.0}, 0.95, 8, 7),
        ({7: 95.0, 9: 5.0}, 0.95, 8, 9),
    ],
)
def test_threshold_is_the_edge_next_to_the_quantile(past, level, above, below):
    assert Past(past).threshold(level, Side.ABOVE, 10) == above
    assert Past(past).threshold(level, Side.BELOW, 10) == below


@given(st.dictionaries(st.integers(-50, 200), st.integers(1, 50), min_size=1, max_size=20), st.floats(0.05, 0.95))
def test_at_the_threshold_the_past_lies_on_the_nulls_side(past, level):
    total = sum(past.values())
    slow = {
        side: sum(number for bin_, number in past.items() if bin_ >= Past(past).threshold(level, side, 1))
        for side in Side
    }
    assert slow[Side.ABOVE] * (1 - 1e-8) <= (1 - level) * total <= slow[Side.BELOW] * (1 + 1e-8)


def test_threshold_comes_from_the_past_alone():
    """Whatever a window holds of either arm, it is judged at the threshold that was there before it."""
    test = QuantileTest(Side.ABOVE, 0.95, 1.2)
    for stable, candidate in [({0: 50.0}, {0: 50.0}), ({400: 50.0}, {0: 50.0}), ({0: 50.0}, {900: 50.0})]:
        state = advance(start(test, BEFORE), [HistogramPair(stable, candidate)])
        assert state.threshold == 95
        assert state.inner == two_arms.replay([by_threshold(state, HistogramPair(stable, candidate))], test.inner)


def test_a_block_has_one_threshold_although_the_past_grows():
    test = QuantileTest(Side.ABOVE, 0.5, 1.0, block_units=10)
    state = advance(start(test, BEFORE), [HistogramPair({500: 200.0}, {500: 4.0})])
    assert state.threshold == 50
    state = advance(state, [HistogramPair({500: 5.0}, {500: 4.0})])
    assert state.threshold == 50, "the block is still open"
    assert state.blocks == 0
    state = advance(state, [HistogramPair({500: 5.0}, {500: 4.0}), HistogramPair({500: 5.0}, {500: 4.0})])
    assert state.blocks == 1
    assert state.threshold == 501


def test_a_new_period_has_a_new_threshold_and_closes_the_block():
    test = QuantileTest(Side.ABOVE, 0.5, 1.0, block_units=10)
    state = advance(start(test, BEFORE), [HistogramPair({500: 200.0}, {500: 4.0}, 0)])
    state = advance(state, [HistogramPair({500: 5.0}, {500: 4.0}, 1)])
    assert state.blocks == 1
    assert state.threshold == 501
    assert state.inner.pending == Pair(Sample.binary(5, 0), Sample.binary(4, 0), 1)


def test_past_forgets_so_that_it_follows_the_day():
    test = QuantileTest(Side.ABOVE, 0.5, 1.0)
    assert test.memory == 80
    state = start(test)
    for hour in range(4):
        state = advance(state, [HistogramPair({100 * hour: 50.0}, {0: 50.0})] * 4)
    assert set(state.past.recent) | set(state.past.earlier) == {300}


# Ratio and slack


@given(st.floats(0.05, 20))
def test_ratio_is_rounded_to_the_nulls_side_and_by_less_than_a_bin(ratio):
    up, down = (edge(shift_of(ratio, side)) for side in Side)
    assert down * (1 - 1e-9) <= ratio <= up * (1 + 1e-9)
    assert up / down <= edge(1) * (1 + 1e-9)


@pytest.mark.parametrize(("ratio", "up", "down"), [(1.0, 0, 0), (2.0, 64, 64), (0.25, -128, -128), (1.2, 17, 16)])
def test_ratio_in_bins(ratio, up, down):
    assert (shift_of(ratio, Side.ABOVE), shift_of(ratio, Side.BELOW)) == (up, down)
    assert QuantileTest(Side.ABOVE, 0.95, ratio).effective_ratio == pytest.approx(ratio, rel=0.011)


@given(st.integers(-100, 900), st.floats(1, 3), st.floats(0, 50), sides)
def test_candidate_is_slow_beyond_ratio_and_slack_whichever_is_more(threshold, ratio, slack, side):
    test = QuantileTest(side, 0.95, ratio, slack=slack)
    limit = max(ratio * edge(threshold), edge(threshold) + slack)
    beyond = test.beyond(threshold)
    if side is Side.ABOVE:
        assert edge(beyond - 1) * (1 - 1e-9) < limit <= edge(beyond) * (1 + 1e-9)
    else:
        assert edge(beyond) * (1 - 1e-9) <= limit < edge(beyond + 1) * (1 + 1e-9)


def test_a_few_milliseconds_are_no_harm_with_slack():
    window = HistogramPair(binned([2.0] * 60), binned([5.0] * 60))
    before = binned([2.0] * 200)
    assert advance(start(QuantileTest(Side.ABOVE, 0.95, 1.2), before), [window]).reached(ALPHA)
    patient = advance(start(QuantileTest(Side.ABOVE, 0.95, 1.2, slack=10), before), [window])
    assert patient.p_value == 1
    assert advance(start(QuantileTest(Side.BELOW, 0.95, 1.2, slack=10), before), [window]).reached(ALPHA)


@pytest.mark.parametrize("side", list(Side))
def test_share_slower_than_a_limit_is_rounded_to_the_nulls_side(side):
    histogram = binned([900.0, 999.9, 1000.0, 1000.1, 1100.0])
    assert bin_of(999.9) == bin_of(1000.1), "all three cannot be told from the limit"
    units, slow = slower_than(histogram, 1000, side)
    assert (units, slow) == (5, 1 if side is Side.ABOVE else 4)
    assert slower_than(binned([1024.0, 1023.0]), 1024, side) == (2, 1), "at an edge nothing is rounded"
    assert slower_than({}, 1000, side) == (0, 0)


# What the evidence is


@given(st.lists(histograms, min_size=1, max_size=5), st.lists(histograms, min_size=5, max_size=5), sides)
def test_evidence_is_that_of_the_two_arm_test_on_slow_units(stable, candidate, side):
    test = QuantileTest(side, 0.7, 1.1)
    state, seen = start(test, BEFORE), []
    for a, b in zip(stable, candidate, strict=False):
        window = HistogramPair(a, b)
        state = advance(state, [window])
        seen.append(by_threshold(state, window))
    assert state.inner == two_arms.replay(seen, test.inner)
    assert state.log_evidence == two_arms.replay(seen, test.inner).log_evidence


@given(
    sides,
    st.tuples(st.integers(1, 3), st.integers(1, 3)),
    st.tuples(st.floats(0, 1), st.floats(0, 1), st.floats(0, 1), st.floats(0, 1)),
    st.sampled_from([(), ((5.0, 2.0),), ((20.0, 0.0), (9.0, 8.0))]),
)
@settings(max_examples=25)
def test_mean_factor_is_at_most_one_wherever_the_null_holds(side, sizes, chances, history):
    """Summed over every outcome of a block, for latencies that may lie anywhere around the threshold."""
    test = QuantileTest(side, 0.95, 1.2, block_units=1)
    state = start(test, BEFORE)
    for slow_a, slow_b in history:
        state = advance(state, [HistogramPair({0: 30.0, 200: slow_a}, {0: 30.0, 200: slow_b})])
    threshold = advance(state, [HistogramPair({0: 1.0}, {0: 1.0})]).threshold
    assert threshold is not None
    places = [(threshold - 9, threshold - 1, threshold), (threshold, *(threshold + test.shift + d for d in (-1, 0)))]
    slow_a = chances[0]
    slow_b = slow_a * chances[1] if side is Side.ABOVE else slow_a + (1 - slow_a) * chances[1]
    arms = [
        {fast: (1 - slow) * part, near: (1 - slow) * (1 - part), beyond: slow}
        for (fast, near, beyond), slow, part in zip(places, (slow_a, slow_b), chances[2:], strict=True)
    ]
    expected = 0.0
    for stable in itertools.product(arms[0], repeat=sizes[0]):
        for candidate in itertools.product(arms[1], repeat=sizes[1]):
            chance = math.prod(arms[0][bin_] for bin_ in stable) * math.prod(arms[1][bin_] for bin_ in candidate)
            if chance > 0:
                counts = [{bin_: float(arm.count(bin_)) for bin_ in arm} for arm in (stable, candidate)]
                after = advance(state, [HistogramPair(counts[0], counts[1])])
                expected += chance * math.exp(after.log_evidence - state.log_evidence)
    assert expected <= 1 + 1e-9


@given(st.lists(windows, max_size=12), st.integers(0, 100), st.integers(1, 60), quantile_tests)
def test_a_slower_candidate_never_speaks_less_for_above_nor_more_for_below(some, bin_, later, test):
    before = advance(start(test, BEFORE), some)
    sooner, slower = (
        advance(before, [HistogramPair({20: 9.0}, {bin_ + more: 9.0}, 5)]).log_evidence for more in (0, later)
    )
    assert (slower - sooner) * test.side.sign >= -1e-9


# Properties of the state


@given(st.lists(windows, max_size=16), st.lists(st.integers(0, 5), max_size=6), quantile_tests)
@settings(max_examples=200)
def test_any_batching_of_the_windows_gives_the_same_bits(some, cuts, test):
    state, first = start(test), 0
    for cut in cuts:
        state = advance(state, some[first : first + cut])
        state = QuantileProcess.from_json(json.loads(json.dumps(state.to_json())))
        first += cut
    assert advance(state, some[first:]) == replay(some, test)


@given(st.lists(windows, max_size=10), quantile_tests)
def test_order_of_the_bins_says_nothing(some, test):
    """A histogram that comes from a file has its bins in another order: the same, to the last bit."""
    turned = [
        HistogramPair(dict(reversed(one.stable.items())), dict(reversed(one.candidate.items())), one.period)
        for one in some
    ]
    assert replay(turned, test).to_json() == replay(some, test).to_json()


def test_order_of_the_bins_does_not_move_the_last_bit():
    tenths = {bin_: (1 + bin_ % 5) / 25.2 for bin_ in range(40)}
    turned = dict(reversed(tenths.items()))
    assert sum(tenths.values()) != sum(turned.values()), "or this test says nothing"
    test = QuantileTest(Side.ABOVE, 0.5, 1.0, block_units=3)
    one, other = (replay([HistogramPair(bins, bins)] * 40, test) for bins in (tenths, turned))
    assert one.to_json() == other.to_json()
    assert one.blocks > 20


@given(st.lists(st.tuples(quantile_tests, st.lists(windows, max_size=6), st.lists(windows, max_size=6)), max_size=5))
def test_many_at_once_equal_one_after_the_other_to_the_last_bit(cases):
    before = [replay(first, test) for test, first, _ in cases]
    assert advance_many(before, [more for _, _, more in cases]) == [
        advance(state, more) for state, (_, _, more) in zip(before, cases, strict=True)
    ]


@given(st.lists(windows, max_size=10), st.integers(-200, 200), sides, st.floats(0.5, 2))
def test_all_of_the_clock_twice_as_fast_changes_nothing(some, bins, side, ratio):
    """Both arms slower by the same factor, in the past too: what counts is the ratio."""

    def later(arm):
        return {bin_ + bins: units for bin_, units in arm.items()}

    moved = [HistogramPair(later(one.stable), later(one.candidate), one.period) for one in some]
    test = QuantileTest(side, 0.5, ratio)
    assert replay(moved, test).inner == replay(some, test).inner


@given(st.lists(windows, max_size=10), quantile_tests)
def test_evidence_is_always_a_finite_number(some, test):
    state = replay(some, test)
    assert math.isfinite(state.log_evidence)
    assert 0 <= state.p_value <= 1
    assert state.max_log_evidence >= 0


# Monte Carlo: each look counts

STEP = 8
COARSE = np.arange(bin_of(20.0) // STEP, bin_of(4000.0) // STEP) * STEP
"""Every eighth bin: quick to simulate."""
FINE = np.arange(bin_of(20.0), bin_of(4000.0))
MANY = 50
RAMP = np.repeat([0.1, 0.25, 0.5, 0.5, 0.5], 10)
DRIFT = 16 * np.repeat([0, 3, -2, 5, 1], 10)
"""Bins by which both arms are slower: at times by more than half."""


def lognormal(median=200.0, grid=COARSE, sigma=0.6):
    """Chances of the grid's bins."""
    below = ndtr(np.log(np.exp2(grid / 64) / median) / sigma)
    return np.diff(np.concatenate([[0.0], below[1:], [1.0]]))


def streams(*, runs, share, candidate, slower=0, drift=0, size=200, many=MANY, seed=0, grid=COARSE):
    """One list of windows for each run; the candidate's bins are `slower` than those of the chances `candidate`."""
    rng = np.random.default_rng(seed)
    share, drift = np.broadcast_to(share, many), np.broadcast_to(drift, many)
    period = np.concatenate([[0], np.cumsum(np.diff(share) != 0)]).tolist()
    stable = lognormal(grid=grid)
    units = [rng.binomial(size, share[look], runs) for look in range(many)]
    found: list[list[HistogramPair]] = [[] for _ in range(runs)]
    for look in range(many):
        a, b = rng.multinomial(size - units[look], stable), rng.multinomial(units[look], candidate)
        at = (grid + drift[look]).tolist(), (grid + drift[look] + slower).tolist()
        for run in range(runs):
            found[run].append(HistogramPair(counted(at[0], a[run]), counted(at[1], b[run]), period[look]))
    return found


def counted(bins, numbers):
    places = np.flatnonzero(numbers)
    return {bins[place]: float(number) for place, number in zip(places.tolist(), numbers[places].tolist(), strict=True)}


def reached(all_streams, test):
    return sum(state.reached(ALPHA) for state in after(all_streams, test)) / len(all_streams)


def after(all_streams, test):
    return advance_many([start(test)] * len(all_streams), all_streams)


@pytest.mark.parametrize(
    ("level", "share", "drift"),
    [(0.95, 0.1, 0), (0.95, 0.5, 0), (0.95, RAMP, DRIFT), (0.5, RAMP, DRIFT), (0.99, RAMP, DRIFT)],
    ids=["tenth", "half", "ramp and drift", "median, ramp and drift", "P99, ramp and drift"],
)
@pytest.mark.parametrize("side", list(Side))
def test_on_the_boundary_neither_side_is_called_more_often_than_alpha(level, share, drift, side):
    test = QuantileTest(side, level, 1.2)
    some = streams(runs=300, share=share, drift=drift, candidate=lognormal(), slower=test.shift, seed=2)
    assert at_most(reached(some, test), ALPHA, 300)


@pytest.mark.parametrize("side", list(Side))
def test_sessions_whose_requests_are_alike_keep_the_level(side):
    """Each session counts once, its five requests a fifth each; a slow user's are all slow."""
    rng, runs, test = np.random.default_rng(3), 200, QuantileTest(side, 0.9, 1.2)
    all_streams = []
    for _ in range(runs):
        some = []
        for _ in range(40):
            arms = []
            for units, shift in ((60, 0), (30, test.shift)):
                user = rng.normal(0, 0.6, (units, 1))
                bins = np.floor(64 * (user + 0.2 * rng.normal(size=(units, 5))) / (STEP * math.log(2))) * STEP
                values, numbers = np.unique(bins.astype(int) + shift, return_counts=True)
                arms.append(dict(zip(values.tolist(), (numbers / 5).tolist(), strict=True)))
            some.append(HistogramPair(arms[0], arms[1]))
        all_streams.append(some)
    assert at_most(reached(all_streams, test), ALPHA, runs)


@pytest.mark.parametrize(
    ("true", "share", "published"),
    [
        (1.0, 0.1, 9_000),
        (1.0, 0.5, 3_000),
        (1.3, 0.5, 9_000),
        (1.5, 0.1, 4_000),
        (1.5, 0.5, 2_000),
        (2.0, 0.1, 1_000),
    ],
)
def test_p95_is_decided_as_soon_as_in_the_reference(true, share, published):
    """statistics.md 3.6: margin 1.2, lognormal with sigma 0.6, looks each 1,000: median requests."""
    test = QuantileTest(Side.BELOW if true < 1.2 else Side.ABOVE, 0.95, 1.2)
    size, candidate = max(50, published // 20), lognormal(200 * true, FINE)
    some = streams(runs=60, share=share, candidate=candidate, size=size, seed=4, grid=FINE)
    states = [start(test)] * len(some)
    decided = np.full(len(some), math.inf)
    for look in range(MANY):
        states = advance_many(states, [[one[look]] for one in some])
        for run, state in enumerate(states):
            if state.reached(ALPHA):
                decided[run] = min(decided[run], size * (look + 1))
    assert np.median(np.ceil(decided / 1000) * 1000) <= published


def test_a_worse_tail_is_found_at_p95_and_not_at_the_median():
    """One request in eight takes five times as long: the P95 nearly doubles, the median rises by a tenth."""
    tail = 0.875 * lognormal() + 0.125 * lognormal(1000.0)
    some = streams(runs=100, share=0.5, candidate=tail, seed=5)
    assert reached(some, QuantileTest(Side.ABOVE, 0.95, 1.2)) >= 0.95
    assert at_most(reached(some, QuantileTest(Side.ABOVE, 0.5, 1.2)), ALPHA, 100)


@pytest.mark.parametrize("side", list(Side))
def test_a_far_narrower_candidate_is_not_called_six_percent_within_the_margin(side):
    """Its latencies spread a third as wide: between two thresholds that are near each other it has all of its units."""
    test = QuantileTest(side, 0.95, 1.2)
    p95 = 200 * math.exp(0.6 * 1.6448536) * test.effective_ratio * math.exp(-0.06 * side.sign)
    candidate = lognormal(p95 / math.exp(0.2 * 1.6448536), FINE, sigma=0.2)
    some = streams(runs=60, share=0.5, candidate=candidate, seed=9, grid=FINE)
    assert at_most(reached(some, test), ALPHA, 60)


def test_a_change_of_the_split_in_a_slow_hour_is_not_the_candidates_fault():
    """Simpson: both arms take twice as long from then on, when the candidate gets half instead of a tenth."""
    drift, share = np.repeat([0, 64], 25), np.repeat([0.1, 0.5], 25)
    some = streams(runs=100, share=share, drift=drift, candidate=lognormal(), seed=6)
    assert at_most(reached(some, QuantileTest(Side.ABOVE, 0.95, 1.2)), ALPHA, 100)
    assert at_most(reached(some, QuantileTest(Side.ABOVE, 0.5, 1.0)), ALPHA, 100)


# Wrong input


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"level": 0.0}, "level must lie between 0 and 1, not 0.0"),
        ({"level": 95}, "level must lie between 0 and 1, not 95"),
        ({"level": math.nan}, "level must lie between 0 and 1, not nan"),
        ({"ratio": 0.0}, "ratio must be above 0, not 0.0"),
        ({"ratio": math.inf}, "ratio must be above 0, not inf"),
        ({"block_units": 0}, "block_units must be at least 1, not 0"),
        ({"slack": -1.0}, "slack must be at least 0 and finite, not -1.0"),
        ({"slack": math.nan}, "slack must be at least 0 and finite, not nan"),
        ({"slack": 5.0, "ratio": 0.9}, "slack is 5.0: with a ratio of 0.9, below 1, it must be 0"),
    ],
)
def test_impossible_tests_are_refused(wrong, named):
    with pytest.raises(ValueError, match=named):
        QuantileTest(**{"side": Side.ABOVE, "level": 0.95, "ratio": 1.2, **wrong})


def test_what_is_no_duration_is_refused():
    with pytest.raises(ValueError, match=r"-1\.0 is not a duration"):
        binned([3.0, -1.0])


def test_each_state_needs_windows_of_its_own():
    with pytest.raises(ValueError, match="pairs_of_each must have one item for each of 1 states, not 0"):
        advance_many([start(QuantileTest(Side.ABOVE, 0.95, 1.2))], [])
