"""So many milliseconds slower are never held against a candidate, and the guarantee stays what it was."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deploypipe.stats.histogram import edge
from deploypipe.stats.quantiles import QuantileProcess, QuantileTest, advance_many, binned, replay, start
from deploypipe.stats.samples import HistogramPair
from deploypipe.stats.two_arms import Side
from tests.stats.simulation import at_most

SIDES = list(Side)


def windows(rng, *, stable_ms: float, factor: float, extra_ms: float, units: int = 50, looks: int = 60):
    """Exponential latencies; the candidate's are `factor` times and `extra_ms` more than stable's."""
    return [
        HistogramPair(
            binned(rng.exponential(stable_ms, units)), binned(factor * rng.exponential(stable_ms, units) + extra_ms)
        )
        for _ in range(looks)
    ]


@given(st.sampled_from(SIDES), st.integers(-600, 1500), st.floats(1, 5), st.floats(0, 2000))
def test_candidate_is_slow_beyond_the_ratio_and_beyond_the_slack_whichever_is_more(side, threshold, ratio, slack):
    plain, test = QuantileTest(side, 0.95, ratio), QuantileTest(side, 0.95, ratio, slack=slack)
    x, bin_ = edge(threshold), test.beyond(threshold)
    assert bin_ >= plain.beyond(threshold) == threshold + plain.shift
    if side is Side.ABOVE:  # a unit that is called slow is beyond both
        assert edge(bin_) >= max(ratio * x, x + slack) * (1 - 1e-9)
        assert edge(bin_ - 1) < max(ratio * x, x + slack)
    else:  # a unit that is called quick is within one of them
        assert edge(bin_) <= max(ratio * x, x + slack) * (1 + 1e-9)
        assert edge(bin_ + 1) > max(ratio * x, x + slack)


@pytest.mark.parametrize("side", SIDES)
def test_without_slack_and_far_above_it_evidence_is_the_same_to_the_last_bit(side):
    some = windows(np.random.default_rng(1), stable_ms=4000, factor=1.1, extra_ms=0)
    plain = replay(some, QuantileTest(side, 0.5, 1.2))
    for slack in (0.0, 5.0):
        slackened = replay(some, QuantileTest(side, 0.5, 1.2, slack=slack))
        assert (slackened.inner, slackened.past, slackened.threshold) == (plain.inner, plain.past, plain.threshold)


def test_more_slack_is_never_more_evidence_of_harm():
    some = windows(np.random.default_rng(2), stable_ms=20, factor=2, extra_ms=0)
    found = [replay(some, QuantileTest(Side.ABOVE, 0.9, 1.2, slack=slack)).log_evidence for slack in (0, 10, 30, 90)]
    assert found == sorted(found, reverse=True)
    assert found[0] > 10 > 0 > found[-1]


@pytest.mark.parametrize(
    ("stable_ms", "factor", "extra_ms"),
    [(2.0, 1.0, 5.0), (2.0, 1.2, 0.0), (100.0, 1.2, 0.0), (8.0, 1.0, 5.0)],
    ids=["the slack slower", "the ratio of little", "the ratio of much", "the slack of a threshold near it"],
)
def test_candidate_at_its_bound_is_failed_in_at_most_alpha_of_runs(stable_ms, factor, extra_ms):
    rng, runs = np.random.default_rng(3), 300
    test = QuantileTest(Side.ABOVE, 0.9, 1.2, slack=5.0)
    drawn = [windows(rng, stable_ms=stable_ms, factor=factor, extra_ms=extra_ms, looks=40) for _ in range(runs)]
    ended = advance_many([start(test)] * runs, drawn)
    assert at_most(sum(state.reached(0.05) for state in ended) / runs, 0.05, runs)


def test_candidate_beyond_its_bound_is_proven_within_it_in_at_most_alpha_of_runs():
    rng, runs = np.random.default_rng(4), 300
    test = QuantileTest(Side.BELOW, 0.9, 1.2, slack=5.0)
    drawn = [windows(rng, stable_ms=2.0, factor=1.0, extra_ms=5.2, looks=40) for _ in range(runs)]
    ended = advance_many([start(test)] * runs, drawn)
    assert at_most(sum(state.reached(0.05) for state in ended) / runs, 0.05, runs)


def test_candidate_a_little_slower_in_milliseconds_is_proven_where_only_the_slack_allows_it():
    some = windows(np.random.default_rng(5), stable_ms=2.0, factor=1.0, extra_ms=1.5, looks=100)
    assert replay(some, QuantileTest(Side.BELOW, 0.9, 1.2, slack=5.0)).reached(0.05)
    assert replay(some, QuantileTest(Side.ABOVE, 0.9, 1.2)).reached(0.05)


def test_slack_is_kept_with_the_state():
    state = replay(
        windows(np.random.default_rng(6), stable_ms=2, factor=1, extra_ms=0),
        QuantileTest(Side.ABOVE, 0.9, 1.2, slack=5),
    )
    assert QuantileProcess.from_json(json.loads(json.dumps(state.to_json()))) == state


@pytest.mark.parametrize(
    ("ratio", "slack", "says"),
    [
        (1.2, -1.0, "slack must be at least 0 and finite, not -1.0"),
        (1.2, math.inf, "not inf"),
        (1.2, math.nan, "not nan"),
        (0.8, 5.0, "with a ratio of 0.8, below 1, it must be 0"),
    ],
)
def test_wrong_slack_is_refused(ratio, slack, says):
    with pytest.raises(ValueError, match=says.replace(".", r"\.")):
        QuantileTest(Side.ABOVE, 0.95, ratio, slack=slack)
