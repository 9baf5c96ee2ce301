from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deploypipe.stats.arrivals import (
    STEPS,
    ArrivalProcess,
    ArrivalTest,
    Arrived,
    advance,
    advance_many,
    interval,
    log_evidence,
    log_evidence_of,
    replay,
    start,
    update,
)
from deploypipe.stats.two_arms import Side
from tests.stats.simulation import at_most

ALPHA = 0.05
OTHER = {Side.ABOVE: Side.BELOW, Side.BELOW: Side.ABOVE}

sides = st.sampled_from(list(Side))
ratios = st.one_of(st.sampled_from([0.5, 1.0, 1.2, 2.0]), st.floats(0.05, 20))
arrival_tests = st.builds(ArrivalTest, sides, ratios)
shares = st.sampled_from([0.01, 0.1, 0.25, 0.5, 0.9])
arrivals = st.builds(Arrived, shares, st.integers(0, 200), st.integers(0, 200))


def chance(share, ratio):
    """That an event is the candidate's."""
    return share * ratio / (1 - share + share * ratio)


# What the evidence is


@pytest.mark.parametrize("side", list(Side))
def test_evidence_is_the_mean_likelihood_ratio_over_the_alternatives_by_hand(side):
    stages = [(0.1, 80, 20), (0.5, 30, 55)]
    boundary, found = 1.2, []
    for step in STEPS:
        ratio, factor = boundary * math.exp(side.sign * step), 1.0
        for share, stable, candidate in stages:
            q, p = chance(share, ratio), chance(share, boundary)
            factor *= (q / p) ** candidate * ((1 - q) / (1 - p)) ** stable
        found.append(factor)
    state = replay([Arrived(*stage) for stage in stages], ArrivalTest(side, boundary))
    assert state.log_evidence == pytest.approx(math.log(np.mean(found)), abs=1e-9)


def test_alternatives_reach_from_two_percent_to_fifty_times():
    assert (len(STEPS), math.expm1(STEPS[0]), math.exp(STEPS[-1])) == pytest.approx((24, 0.0202, 54.6), rel=1e-3)


@given(arrival_tests, shares, st.floats(0, 1), st.integers(0, 30), st.integers(0, 30))
def test_mean_factor_of_an_event_is_at_most_one_everywhere_in_the_null(test, share, part, stable, candidate):
    """Whatever was seen before. The rate of an event's being the candidate's is linear in what follows."""
    true = chance(share, test.ratio)
    true = true * part if test.side is Side.ABOVE else true + (1 - true) * part
    before = log_evidence_of([(share, stable, candidate)], test)
    gains = [
        math.exp(log_evidence_of([(share, stable + a, candidate + b)], test) - before) for a, b in ((1, 0), (0, 1))
    ]
    assert (1 - true) * gains[0] + true * gains[1] <= 1 + 1e-9


@pytest.mark.parametrize(
    ("events", "p_value"),
    [((148, 62), 0.0455796), ((200, 50), 1.0)],
)
def test_evidence_is_of_the_size_that_the_two_sided_test_of_the_paper_gives(events, p_value):
    """savvi 0.3.1's example of Lindon and Malek's test of Poisson processes: a fifth of the exposure, 210 events,
    p = 0.0456 with a Dirichlet prior on both sides. One side is twice as good, the prior another: within a factor."""
    state = replay([Arrived(0.2, *events)], ArrivalTest(Side.ABOVE))
    assert p_value / 4 <= state.p_value <= p_value


# Properties


@given(st.lists(arrivals, max_size=12), arrival_tests)
def test_evidence_is_always_a_finite_number(some, test):
    state = replay(some, test)
    assert math.isfinite(state.log_evidence)
    assert 0 <= state.p_value <= 1
    assert state.max_log_evidence >= 0


@given(st.lists(arrivals, max_size=12), st.lists(st.integers(0, 5), max_size=5), arrival_tests)
def test_any_batching_of_the_looks_gives_the_same_bits(some, cuts, test):
    state, first = start(test), 0
    for cut in cuts:
        state = advance(state, some[first : first + cut])
        state = ArrivalProcess.from_json(json.loads(json.dumps(state.to_json())))
        first += cut
    assert advance(state, some[first:]) == replay(some, test)


@given(st.lists(st.tuples(arrival_tests, st.lists(arrivals, max_size=5)), max_size=5))
def test_many_at_once_equal_one_after_the_other(cases):
    together = advance_many([start(test) for test, _ in cases], [some for _, some in cases])
    assert together == [replay(some, test) for test, some in cases]


@given(st.lists(arrivals, max_size=8), st.randoms(use_true_random=False), arrival_tests)
def test_order_of_the_windows_changes_no_bit_of_where_the_evidence_ends(some, random, test):
    mixed = list(some)
    random.shuffle(mixed)
    assert replay(mixed, test).counts == replay(some, test).counts
    assert replay(mixed, test).log_evidence == replay(some, test).log_evidence


@given(st.lists(arrivals, max_size=6), sides, ratios)
def test_arms_exchanged_is_evidence_for_the_other_side(some, side, ratio):
    exchanged = [(1 - one.share, one.candidate, one.stable) for one in some]
    found = log_evidence_of(exchanged, ArrivalTest(OTHER[side], 1 / ratio))
    assert found == pytest.approx(log_evidence(some, ArrivalTest(side, ratio)), rel=1e-6, abs=1e-6)


@given(st.lists(arrivals, max_size=5), arrivals, arrival_tests)
def test_one_more_event_of_the_candidate_speaks_for_above(some, one, test):
    more = [*some, Arrived(one.share, one.stable, one.candidate + 1)]
    gain = log_evidence(more, test) - log_evidence([*some, one], test)
    assert gain * test.side.sign > 0


@given(st.lists(arrivals, max_size=5), st.sampled_from([0.0, 1.0]), arrival_tests)
def test_where_one_arm_had_no_exposure_events_say_nothing(some, share, test):
    state = replay(some, test)
    assert update(state, Arrived(share, 30, 0)) == state
    assert update(state, Arrived(share, 0, 30)) == state


def test_counts_are_kept_for_each_share_once():
    state = replay([Arrived(0.5, 3, 4), Arrived(0.1, 9, 1), Arrived(0.5, 1, 2)], ArrivalTest(Side.ABOVE))
    assert state.counts == (Arrived(0.1, 9, 1), Arrived(0.5, 4, 6))
    assert (state.stable, state.candidate) == (13, 7)


# Monte Carlo: each look counts

MANY = 40
RAMP = np.repeat([0.1, 0.25, 0.5, 0.5], MANY // 4)
DRIFT = np.repeat([1.0, 10.0, 0.2, 3.0], MANY // 4)
"""Of both arms' rates: alerts come in waves."""


def reached(test, ratio, *, runs, share, drift=1.0, events=20.0, seed=0):
    """Poisson counts of a stable whose rate drifts and a candidate with `ratio` times that, a look after each."""
    rng = np.random.default_rng(seed)
    share, drift, ratio = (np.broadcast_to(np.asarray(value, float), MANY) for value in (share, drift, ratio))
    stable = rng.poisson(events * drift * (1 - share), (runs, MANY)).tolist()
    candidate = rng.poisson(events * drift * share * ratio, (runs, MANY)).tolist()
    at = share.tolist()
    return (
        sum(replay(map(Arrived, at, a, b), test).reached(ALPHA) for a, b in zip(stable, candidate, strict=True)) / runs
    )


@pytest.mark.parametrize(
    ("ratio", "share", "drift"),
    [(1.0, 0.1, 1.0), (1.5, 0.5, 1.0), (1.0, RAMP, DRIFT), (1.5, RAMP, DRIFT)],
    ids=["a tenth", "half", "ramp and drift", "half as many more, ramp and drift"],
)
@pytest.mark.parametrize("side", list(Side))
def test_on_the_boundary_neither_side_is_called_more_often_than_alpha(ratio, share, drift, side):
    assert at_most(reached(ArrivalTest(side, ratio), ratio, runs=300, share=share, drift=drift, seed=1), ALPHA, 300)


def test_a_ratio_that_changes_within_the_null_does_not_fool_it():
    changing = np.where(np.arange(MANY) % 10 < 5, 1.2, 0.3)
    assert at_most(reached(ArrivalTest(Side.ABOVE, 1.2), changing, runs=300, share=RAMP, seed=2), ALPHA, 300)
    changing = np.where(np.arange(MANY) % 10 < 5, 1.2, 4.0)
    assert at_most(reached(ArrivalTest(Side.BELOW, 1.2), changing, runs=300, share=RAMP, seed=3), ALPHA, 300)


@pytest.mark.parametrize(
    ("side", "boundary", "ratio", "share"),
    [
        (Side.ABOVE, 1.0, 2.0, 0.1),
        (Side.ABOVE, 1.0, 1.4, 0.5),
        (Side.ABOVE, 1.2, 2.0, RAMP),
        (Side.BELOW, 1.5, 1.0, 0.5),
        (Side.BELOW, 1.0, 0.5, 0.5),
    ],
)
def test_what_is_true_is_found_in_most_runs(side, boundary, ratio, share):
    assert reached(ArrivalTest(side, boundary), ratio, runs=60, share=share, seed=4) >= 0.9


def test_more_exposure_is_not_more_events_per_user():
    """Simpson: five times the events when the candidate got half of the users instead of a tenth."""
    state = replay([Arrived(0.1, 900, 100)] * 3 + [Arrived(0.5, 2500, 2500)] * 3, ArrivalTest(Side.ABOVE))
    assert state.p_value == 1


# Intervals


def test_interval_covers_the_ratio_at_every_look():
    rng, runs, missed = np.random.default_rng(5), 60, 0
    for _ in range(runs):
        state, out = start(ArrivalTest(Side.ABOVE)), False
        for share in (0.1, 0.1, 0.25, 0.5, 0.5, 0.5):
            state = update(state, Arrived(share, int(rng.poisson(200 * (1 - share))), int(rng.poisson(260 * share))))
            ends = interval(state.counts, ALPHA)
            out |= not ends.low <= 1.3 <= ends.high
        missed += out
        assert 0 < ends.low < ends.high < 3
    assert at_most(missed / runs, 2 * ALPHA, runs)


@given(st.lists(arrivals, min_size=1, max_size=4), st.sampled_from([0.5, 1.0, 1.2, 3.0]))
@settings(max_examples=40)
def test_ends_agree_with_the_tests(some, ratio):
    """Within a step of the grid, one percent."""
    ends = interval(some, ALPHA)
    threshold = -math.log(ALPHA)
    if ends.low >= ratio * 1.011:
        assert log_evidence(some, ArrivalTest(Side.ABOVE, ratio)) >= threshold
    if ends.low < ratio / 1.022:
        assert log_evidence(some, ArrivalTest(Side.ABOVE, ratio)) < threshold
    if ends.high <= ratio / 1.011:
        assert log_evidence(some, ArrivalTest(Side.BELOW, ratio)) >= threshold
    if ends.high > ratio * 1.022:
        assert log_evidence(some, ArrivalTest(Side.BELOW, ratio)) < threshold
    assert ends.confidence == pytest.approx(0.9)


def test_without_events_every_ratio_is_possible():
    ends = interval([], ALPHA)
    assert (ends.low, ends.high) == (0.0, math.inf)
    one_sided = interval([Arrived(0.5, 0, 40)], ALPHA)
    assert one_sided.low > 3
    assert one_sided.high == math.inf
    other = interval([Arrived(0.5, 40, 0)], ALPHA)
    assert (other.low, other.high < 1 / 3) == (0.0, True)


def test_ratios_beyond_the_grid_are_beyond_it():
    """Every ratio up to a thousand is excluded: the interval must not begin at nothing."""
    ends = interval([Arrived(0.01, 0, 500_000)], ALPHA)
    assert ends.low == pytest.approx(1000, rel=0.02)
    assert ends.high == math.inf
    ends = interval([Arrived(0.99, 500_000, 0)], ALPHA)
    assert ends.low == 0
    assert ends.high == pytest.approx(0.001, rel=0.02)


# Wrong input


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ((-0.1, 1, 1), r"share must lie between 0 and 1, not -0\.1"),
        ((1.1, 1, 1), r"share must lie between 0 and 1, not 1\.1"),
        ((math.nan, 1, 1), r"share must lie between 0 and 1, not nan"),
        ((0.5, -1, 1), r"stable must not be negative, not -1"),
        ((0.5, 1, -2), r"candidate must not be negative, not -2"),
    ],
)
def test_impossible_counts_are_refused(wrong, named):
    with pytest.raises(ValueError, match=named):
        Arrived(*wrong)


@pytest.mark.parametrize("ratio", [0.0, -1.0, math.inf, math.nan])
def test_impossible_ratios_are_refused(ratio):
    with pytest.raises(ValueError, match="ratio must be above 0"):
        ArrivalTest(Side.ABOVE, ratio)


@pytest.mark.parametrize("alpha", [0.0, 0.5, 1.0, math.nan])
def test_an_interval_needs_an_alpha_below_a_half(alpha):
    with pytest.raises(ValueError, match=r"alpha must lie between 0 and 0\.5, not"):
        interval([], alpha)


def test_each_state_needs_counts_of_its_own():
    with pytest.raises(ValueError, match="arrived_of_each must have one item for each of 1 states, not 0"):
        advance_many([start(ArrivalTest(Side.ABOVE))], [])
