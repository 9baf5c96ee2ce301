from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import integrate

from deploypipe.stats.means import (
    MeanProcess,
    MeanTest,
    advance,
    advance_many,
    effect_size,
    interval,
    log_mixture,
    replay,
    start,
)
from deploypipe.stats.samples import Moments, MomentsPair
from deploypipe.stats.two_arms import Side
from tests.stats.simulation import at_most

ALPHA = 0.05
OTHER = {Side.ABOVE: Side.BELOW, Side.BELOW: Side.ABOVE}

sides = st.sampled_from(list(Side))
means_tests = st.one_of(
    st.builds(MeanTest, sides, difference=st.floats(-5, 5).map(lambda value: round(value, 3)), burn_in=st.just(6)),
    st.builds(MeanTest, sides, ratio=st.floats(0.2, 5), burn_in=st.just(6)),
)
moments = st.lists(st.floats(0, 100).map(lambda value: round(value, 3)), max_size=8).map(lambda v: of(*v))
pairs = st.builds(MomentsPair, moments, moments, st.integers(0, 2))


def of(*values: float) -> Moments:
    return Moments(len(values), math.fsum(values), math.fsum(value * value for value in values))


# Published numbers


def test_mixture_gives_the_published_evidence():
    """confseq 0.0.11, its own unit tests of the one-sided normal mixture: sum 10 at variance 100."""
    precision = 100 / (2 * math.log(10) + math.log1p(2 * math.log(10)))  # tuned for variance 100 at alpha 0.05
    assert log_mixture(10, 100, precision**-0.5) == pytest.approx(-0.06502391, abs=1e-8)


def test_interval_reaches_as_far_as_the_published_boundary():
    """confseq 0.0.11: the sum at which the one-sided normal mixture reaches 20 at variance 100 is 27.66071."""
    precision = 100 / (2 * math.log(10) + math.log1p(2 * math.log(10)))
    state = weighing(sum_variance=100.0, effect=precision**-0.5)
    assert interval(state, 0.05).high * state.sums.weight == pytest.approx(27.66071, abs=1e-5)


@pytest.mark.parametrize("variance", [10.0, 100.0, 1e4, 1e6])
@pytest.mark.parametrize("alpha", [0.05, 0.005])
def test_boundary_is_a_little_within_the_closed_form_of_the_paper(variance, alpha):
    """Waudby-Smith et al. 2024, one-sided: sqrt(2 (t r^2 + 1) / r^2 ln(1 + sqrt(t r^2 + 1) / (2 alpha)))."""
    effect = 0.1
    scale = variance * effect**2 + 1
    closed_form = math.sqrt(2 * scale / effect**2 * math.log1p(math.sqrt(scale) / (2 * alpha)))
    state = weighing(variance, effect)
    assert 0.96 * closed_form < interval(state, alpha).high * state.sums.weight <= closed_form


def weighing(sum_variance: float, effect: float) -> MeanProcess:
    """A state of equal means whose weighted sum has that variance."""
    state = replay([MomentsPair(of(1, 2), of(1, 2))], MeanTest(Side.ABOVE, burn_in=2, block_units=2)).to_json()
    weight = state["sums"][0]
    state["sums"] = [weight, weight, weight, sum_variance / 2, sum_variance / 2]
    return MeanProcess.from_json({**state, "effects": [effect]})


# What the evidence is


@pytest.mark.parametrize(("score", "variance", "effect"), [(3.0, 2.0, 0.5), (-4.0, 2.0, 0.5), (40.0, 100.0, 2.0)])
def test_mixture_is_the_mean_over_the_effects_of_one_side(score, variance, effect):
    def member(size):
        prior = math.sqrt(2 / math.pi) / effect * math.exp(-0.5 * (size / effect) ** 2)
        return prior * math.exp(size * score - 0.5 * size * size * variance)

    by_hand, _ = integrate.quad(member, 0, 12 * effect, limit=200, points=[max(score / variance, 0.0), effect])
    assert log_mixture(score, variance, effect) == pytest.approx(math.log(by_hand), abs=1e-7)


def test_evidence_of_one_block_by_hand():
    stable, candidate = of(1, 2, 3, 4), of(4, 6, 5)
    state = replay([MomentsPair(stable, candidate)], MeanTest(Side.ABOVE, ratio=1.2, burn_in=3, block_units=3))
    difference = 5 - 1.2 * 2.5
    effect = 0.2 * 2.5
    weight = 1 / ((1 / 3 + 1.2**2 / 4) * (5 + 2) / (3 + 2))  # both arms' squared deviations over their freedom
    variance = weight**2 * (1 / 3 + 1.2**2 * (5 / 3) / 4)
    noise = math.sqrt(1 / 3 + 1.2**2 * (5 / 3) / 4)
    by_hand = sum(math.exp(log_mixture(weight * difference, variance, scale)) for scale in (effect, noise)) / 2
    assert state.log_evidence == pytest.approx(math.log(by_hand), abs=1e-12)
    assert state.estimate == pytest.approx((2.5, 5.0))


def test_weight_of_a_block_comes_from_the_blocks_before_it():
    """Two second blocks with the same sizes and means weigh the same, whatever they vary."""
    test = MeanTest(Side.ABOVE, burn_in=4, block_units=2)
    first = MomentsPair(of(1, 2, 3, 4), of(2, 3, 4, 5))
    quiet, wild = (replay([first, MomentsPair(of(3 - x, 3 + x), of(4 - x, 4 + x))], test) for x in (0.1, 3.0))
    assert (quiet.sums.weight, quiet.sums.candidate) == (wild.sums.weight, wild.sums.candidate)
    assert quiet.log_evidence > wild.log_evidence


def test_where_the_boundary_lets_no_room_a_tenth_of_the_mean_matters():
    assert effect_size(MeanTest(Side.ABOVE, difference=-0.3), 7.0) == 0.3
    assert effect_size(MeanTest(Side.ABOVE, ratio=1.2), 7.0) == pytest.approx(1.4)
    assert effect_size(MeanTest(Side.ABOVE), 7.0) == pytest.approx(0.7)
    assert effect_size(MeanTest(Side.ABOVE), 0.0) == 1.0


# Properties


@given(st.lists(pairs, max_size=12), means_tests)
def test_evidence_is_always_a_finite_number(some, test):
    state = replay(some, test)
    assert math.isfinite(state.log_evidence)
    assert math.isfinite(state.max_log_evidence)
    assert 0 <= state.p_value <= 1
    for relative in (False, True):
        ends = interval(state, 0.05, relative=relative)
        assert ends.low <= ends.high


@given(st.lists(pairs, max_size=20), st.lists(st.integers(0, 6), max_size=6), means_tests)
def test_any_batching_of_the_windows_gives_the_same_bits(some, cuts, test):
    state, first = start(test), 0
    for cut in cuts:
        state = advance(state, some[first : first + cut])
        state = MeanProcess.from_json(json.loads(json.dumps(state.to_json())))
        first += cut
    assert advance(state, some[first:]) == replay(some, test)


@given(st.lists(st.tuples(means_tests, st.lists(pairs, max_size=6)), max_size=5))
def test_many_at_once_equal_one_after_the_other(cases):
    together = advance_many([start(test) for test, _ in cases], [some for _, some in cases])
    assert together == [replay(some, test) for test, some in cases]


@given(st.lists(pairs, max_size=8), st.integers(0, 8), means_tests)
def test_a_window_without_units_says_nothing(some, place, test):
    period = some[min(place, len(some)) - 1].period if some and place else (some[0].period if some else 0)
    more = [*some[:place], MomentsPair(period=period), *some[place:]]
    assert replay(more, test).log_evidence == replay(some, test).log_evidence


@given(st.lists(moments, min_size=2, max_size=2), st.lists(st.tuples(moments, moments), max_size=6), sides)
def test_arms_exchanged_is_evidence_for_the_other_side(first, rest, side):
    """With a difference for a boundary: candidate > stable + d says the same as stable < candidate - d."""
    some = [MomentsPair(a, b) for a, b in [(first[0], first[1]), *rest]]
    exchanged = [MomentsPair(pair.candidate, pair.stable) for pair in some]
    one = replay(some, MeanTest(side, difference=2.0, burn_in=6))
    other = replay(exchanged, MeanTest(OTHER[side], difference=-2.0, burn_in=6))
    assert one.log_evidence == pytest.approx(other.log_evidence, rel=1e-9, abs=1e-9)
    assert one.blocks == other.blocks


@given(st.lists(pairs, max_size=8), st.floats(0.2, 5), sides, st.sampled_from([-20, -3, 1, 12]))
def test_unit_of_the_quantity_does_not_matter(some, ratio, side, doublings):
    """Dollars or cents: exact, as the factor is a power of two."""
    factor = 2.0**doublings

    def times(given_):
        return Moments(given_.units, factor * given_.total, factor**2 * given_.squares)

    test = MeanTest(side, ratio=ratio, burn_in=6)
    scaled = [MomentsPair(times(pair.stable), times(pair.candidate), pair.period) for pair in some]
    found, same = replay(some, test), replay(scaled, test)
    assert found.blocks == same.blocks
    if found.effects[:1] != (1.0,):  # where nothing but zeros was seen there is no scale
        assert found.log_evidence == pytest.approx(same.log_evidence, rel=1e-9, abs=1e-9)


@given(st.floats(0.01, 50), st.lists(st.floats(0, 10), min_size=6, max_size=9), sides)
def test_dearer_candidate_speaks_more_for_above_and_less_for_below(more, values, side):
    test = MeanTest(side, burn_in=6)
    stable = of(1, 2, 3, 4, 5, 6)
    before = replay([MomentsPair(stable, of(*values))], test).log_evidence
    after = replay([MomentsPair(stable, of(*(value + more for value in values)))], test).log_evidence
    assert (after - before) * side.sign > -1e-6


# Burn-in and periods


def test_nothing_is_evidence_before_the_burn_in():
    test = MeanTest(Side.ABOVE, burn_in=100)
    some = [MomentsPair(of(*[1.0, 2.0] * 5), of(*[11.0, 12.0] * 5))] * 10
    assert replay(some[:9], test).log_evidence == 0
    assert replay(some[:9], test).estimate is None
    assert replay(some, test).blocks == 1
    assert replay(some, test).reached(0.001)


def test_no_block_spans_two_periods():
    test = MeanTest(Side.ABOVE, burn_in=6, block_units=3)
    ten, two = of(*range(10)), of(1, 2)
    begun = replay([MomentsPair(ten, ten, 0), MomentsPair(two, two, 0)], test)
    assert (begun.blocks, begun.pending) == (1, MomentsPair(two, two, 0))
    after = advance(begun, [MomentsPair(two, two, 1)])
    assert after.blocks == 2, "two units have a variance: the open block of the first period was closed"
    assert after.pending == MomentsPair(two, two, 1)
    alone = advance(begun, [MomentsPair(of(1), of(1), 1), MomentsPair(of(1), of(1), 2)])
    assert alone.blocks == 2, "one unit has no variance, and was dropped"
    early = replay([MomentsPair(two, two, 0), MomentsPair(ten, ten, 1)], test)
    assert early.blocks == 1
    assert early.estimate == (4.5, 4.5), "what did not suffice for the burn-in is left out"


def test_a_change_of_the_split_during_a_dear_hour_is_not_the_candidates_fault():
    """Simpson's paradox: both arms cost five times as much from then on, when the candidate gets half instead of a
    tenth. Pooled, its mean is twice stable's."""
    rng, test = np.random.default_rng(1), MeanTest(Side.ABOVE)
    some = [
        MomentsPair(
            sample(rng, 5.0 if late else 1.0, 100 if late else 180),
            sample(rng, 5.0 if late else 1.0, 100 if late else 20),
            int(late),
        )
        for late in [False] * 20 + [True] * 20
    ]
    pooled = [sum((getattr(pair, arm) for pair in some), Moments()) for arm in ("stable", "candidate")]
    assert pooled[1].total / pooled[1].units > 1.7 * pooled[0].total / pooled[0].units
    state = replay(some, test)
    assert state.p_value > ALPHA
    assert state.estimate is not None
    stable, candidate = state.estimate
    assert candidate / stable == pytest.approx(1.0, abs=0.1)


def sample(rng, scale, units):
    return of(*(scale * rng.lognormal(0, 0.6, units)))


def test_a_quantity_that_is_nearly_always_zero_waits_until_something_happened():
    """Nothing but zeros has no scale and no variance: a block of them would outweigh everything that comes later."""
    test = MeanTest(Side.ABOVE, ratio=1.2, burn_in=6)
    zeros = MomentsPair(of(*[0.0] * 50), of(*[0.0] * 50))
    assert replay([zeros] * 4, test).blocks == 0
    assert replay([zeros] * 4, test).log_evidence == 0
    state = replay([zeros, MomentsPair(of(0, 0), of(7, 0))], test)
    assert state.blocks == 1
    assert state.estimate == pytest.approx((0.0, 7 / 52))
    assert max(state.effects) < 7


def test_constant_quantity_is_compared_too():
    same = [MomentsPair(of(*[5.0] * 60), of(*[5.0] * 60))] * 2
    assert replay(same, MeanTest(Side.BELOW, ratio=1.2)).reached(0.001)
    assert not replay(same, MeanTest(Side.ABOVE)).reached(0.5)
    assert not replay(same, MeanTest(Side.BELOW)).reached(0.5)


def test_zero_everywhere_lies_below_a_difference():
    zeros = [MomentsPair(of(*[0.0] * 60), of(*[0.0] * 60))] * 2
    assert replay(zeros, MeanTest(Side.BELOW, difference=0.5)).reached(0.001)


# Monte Carlo: each look counts

DRIFT = np.repeat([1.0, 5.0, 0.5, 2.0], 20)
RAMP = np.repeat([0.1, 0.25, 0.5, 0.5], 20)
DRAWS = {
    "normal": lambda rng, shape: rng.normal(5.0, 1.0, shape),
    "exponential": lambda rng, shape: rng.exponential(1.0, shape),
    "lognormal": lambda rng, shape: rng.lognormal(0.0, 0.6, shape),
}


def streams(draw, *, runs, share, drift=1.0, candidate=1.0, size=60, many=80, seed=0):
    """One list of windows for each run; the period changes with the share."""
    rng = np.random.default_rng(seed)
    share, drift = (np.broadcast_to(np.asarray(value, float), many) for value in (share, drift))
    period = np.concatenate([[0], np.cumsum(np.diff(share) != 0)]).tolist()
    columns = []
    for look in range(many):
        arms = []
        for units, factor in ((round(size * (1 - share[look])), 1.0), (round(size * share[look]), candidate)):
            values = factor * drift[look] * draw(rng, (runs, units))
            arms.append((units, values.sum(axis=1).tolist(), (values * values).sum(axis=1).tolist()))
        columns.append(arms)
    return [
        [
            MomentsPair(Moments(a[0], a[1][run], a[2][run]), Moments(b[0], b[1][run], b[2][run]), number)
            for number, (a, b) in zip(period, columns, strict=True)
        ]
        for run in range(runs)
    ]


def share_reached(all_streams, test):
    return sum(replay(some, test).reached(ALPHA) for some in all_streams) / len(all_streams)


@pytest.mark.parametrize("draw", DRAWS)
@pytest.mark.parametrize(
    ("share", "drift"), [(0.5, 1.0), (0.1, 1.0), (RAMP, DRIFT)], ids=["half", "tenth", "ramp and drift"]
)
@pytest.mark.parametrize("test", [MeanTest(Side.ABOVE, ratio=1.2), MeanTest(Side.BELOW, ratio=1.2)], ids=["up", "down"])
def test_on_the_boundary_neither_side_is_called_more_often_than_alpha(draw, share, drift, test):
    some = streams(DRAWS[draw], runs=400, share=share, drift=drift, candidate=1.2, seed=3)
    assert at_most(share_reached(some, test), ALPHA, 400)


@pytest.mark.parametrize("side", list(Side))
def test_equal_arms_are_not_called_different(side):
    some = streams(DRAWS["lognormal"], runs=500, share=RAMP, drift=DRIFT, seed=4)
    assert at_most(share_reached(some, MeanTest(side)), ALPHA, 500)


@pytest.mark.parametrize(
    ("test", "candidate", "share", "drift"),
    [
        (MeanTest(Side.ABOVE), 1.3, 0.5, 1.0),
        (MeanTest(Side.ABOVE, ratio=1.2), 1.8, 0.1, 1.0),
        (MeanTest(Side.BELOW, ratio=1.2), 1.0, 0.5, 1.0),
        (MeanTest(Side.ABOVE), 1.5, RAMP, DRIFT),
    ],
    ids=["worse", "much worse at a tenth", "equal passes", "worse on a ramp with drift"],
)
def test_what_is_true_is_found_in_most_runs(test, candidate, share, drift):
    some = streams(DRAWS["lognormal"], runs=60, share=share, drift=drift, candidate=candidate, seed=5)
    assert share_reached(some, test) >= 0.9


def test_twice_as_much_is_found_of_a_quantity_that_is_nearly_always_zero():
    """A sale in one session of a hundred: a third of the burn-ins holds none at all."""

    def sales(rng, shape):
        return (rng.random(shape) < 0.01) * rng.lognormal(0.0, 0.3, shape)

    twice = streams(sales, runs=60, share=0.5, candidate=3.0, size=400, seed=6)
    assert share_reached(twice, MeanTest(Side.ABOVE)) >= 0.9
    equal = streams(sales, runs=400, share=0.5, size=400, many=40, seed=7)
    assert at_most(share_reached(equal, MeanTest(Side.ABOVE)), ALPHA, 400)
    assert at_most(share_reached(equal, MeanTest(Side.BELOW)), ALPHA, 400)


# Intervals


def test_interval_covers_the_truth_at_every_look():
    some = streams(DRAWS["lognormal"], runs=80, share=0.5, candidate=1.3, many=25, seed=8)
    difference = 0.3 * math.exp(0.18)
    missed = np.zeros(2)
    for windows in some:
        state, out = start(MeanTest(Side.ABOVE)), np.zeros(2, bool)
        for window in windows:
            state = advance(state, [window])
            for place, (relative, truth) in enumerate([(False, difference), (True, 1.3)]):
                ends = interval(state, ALPHA, relative=relative)
                out[place] |= not ends.low <= truth <= ends.high
        missed += out
        assert ends.high - ends.low < 0.4, "and it is narrow enough to say something"
    assert at_most(missed.max() / 80, 2 * ALPHA, 80)


@pytest.mark.parametrize("candidate", [0.8, 1.0, 1.15, 1.3, 2.0])
def test_ends_say_what_the_evidence_says_now(candidate):
    (windows,) = streams(DRAWS["lognormal"], runs=1, share=0.3, candidate=candidate, many=20, seed=9)
    above = replay(windows, MeanTest(Side.ABOVE))
    below = replay(windows, MeanTest(Side.BELOW))
    for ends, nothing in ((interval(above, ALPHA), 0.0), (interval(above, ALPHA, relative=True), 1.0)):
        assert (ends.low > nothing) == (above.log_evidence >= -math.log(ALPHA))
        assert (ends.high < nothing) == (below.log_evidence >= -math.log(ALPHA))
        assert ends.confidence == pytest.approx(0.9)


def test_before_the_burn_in_everything_is_possible():
    ends = interval(start(MeanTest(Side.ABOVE)), ALPHA)
    assert (ends.low, ends.high) == (-math.inf, math.inf)
    ends = interval(start(MeanTest(Side.ABOVE)), ALPHA, relative=True)
    assert (ends.low, ends.high) == (0.0, math.inf)


@pytest.mark.parametrize(
    ("stable", "candidate"),
    [((-1, 1, -2, 2, 1, -2), (3, 4, 5, 3, 4, 5)), ((1, 2, 3, 1, 2, 3), (-5, -4, -6, -5, -4, -6))],
)
def test_a_ratio_of_means_that_are_not_positive_is_unknown(stable, candidate):
    state = replay([MomentsPair(of(*stable), of(*candidate))], MeanTest(Side.ABOVE, burn_in=6))
    ends = interval(state, ALPHA, relative=True)
    assert (ends.low, ends.high) == (-math.inf, math.inf)


# Wrong input


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"difference": math.nan}, "difference must be a finite number, not nan"),
        ({"difference": math.inf}, "difference must be a finite number, not inf"),
        ({"ratio": 0.0}, "ratio must be above 0, not 0.0"),
        ({"ratio": math.inf}, "ratio must be above 0, not inf"),
        ({"ratio": 1.2, "difference": 0.1}, "difference must be 0 or ratio must be 1, not 0.1 with 1.2"),
        ({"block_units": 1}, "block_units must be at least 2 and at most burn_in, not 1 and 100"),
        ({"burn_in": 4}, "block_units must be at least 2 and at most burn_in, not 5 and 4"),
    ],
)
def test_impossible_tests_are_refused(wrong, named):
    with pytest.raises(ValueError, match=named):
        MeanTest(Side.ABOVE, **wrong)


@pytest.mark.parametrize("alpha", [0.0, 0.5, -0.1, 1.0, math.nan])
def test_an_interval_needs_an_alpha_below_a_half(alpha):
    with pytest.raises(ValueError, match=r"alpha must lie between 0 and 0\.5, not"):
        interval(start(MeanTest(Side.ABOVE)), alpha)


def test_each_state_needs_windows_of_its_own():
    with pytest.raises(ValueError, match="pairs_of_each must have one item for each of 1 states, not 0"):
        advance_many([start(MeanTest(Side.ABOVE))], [])
