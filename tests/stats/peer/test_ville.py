"""Against ville: Bernoulli mixtures, betting, Robbins' boundary, asymptotic intervals, quantiles."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.special import betainc

from deploypipe.stats import bets, intervals, limits, mean_intervals, means
from deploypipe.stats.histogram import edge
from deploypipe.stats.intervals import Scale
from deploypipe.stats.mean_intervals import Means
from deploypipe.stats.means import MeanProcess, MeanTest, log_mixture
from deploypipe.stats.quantiles import binned, slower_than
from deploypipe.stats.samples import Moments, MomentsPair, Pair, Sample
from deploypipe.stats.two_arms import Side
from tests.stats.peer.asking import ask, installed

pytestmark = installed

ALPHA = 0.05
JEFFREYS = [0.5, 0.5]


@pytest.mark.parametrize(("limit", "rate"), [(0.05, 0.05), (0.05, 0.12), (0.05, 0.01), (0.5, 0.45)])
def test_both_sides_of_a_limit_make_their_mixture(limit, rate):
    """Their prior is ours uncut: each side weighs in it as much as the prior has on that side."""
    values = np.random.default_rng(1).binomial(1, rate, 400)
    (theirs,) = ask(("bernoulli_test", {"values": values.tolist(), "limit": limit, "prior": JEFFREYS}))
    ones, units = values.cumsum().astype(float), np.arange(1.0, 401.0)
    above, below = (np.exp(limits.log_evidence(ones, units, limits.LimitTest(side, limit))) for side in Side)
    part = float(betainc(JEFFREYS[0], JEFFREYS[1], limit))
    assert np.log((1 - part) * above + part * below) == pytest.approx(theirs, abs=1e-8)


@pytest.mark.parametrize("rate", [0.01, 0.2, 0.6])
def test_interval_of_a_rate_is_as_narrow_as_theirs(rate):
    """Both of 90 %. Ours has a prior of its own for each side, which knows that the rate lies there."""
    streams = np.random.default_rng(2).binomial(1, rate, (10, 800)).tolist()
    theirs = ask(
        *(("bernoulli_interval", {"values": values, "alpha": 2 * ALPHA, "prior": JEFFREYS}) for values in streams)
    )
    compare(Means.RATE, [[Sample.binary(1, value) for value in values] for values in streams], theirs, most=1.05)


def test_interval_of_a_mean_rating_is_as_narrow_as_theirs():
    streams = (np.random.default_rng(4).binomial(4, 0.8, (10, 600)) / 4).tolist()
    theirs = ask(*(("betting_interval", {"values": values, "alpha": 2 * ALPHA}) for values in streams))
    compare(Means.BOUNDED, [[Sample.of({value: 1}) for value in values] for values in streams], theirs, most=1.15)


def compare(kind, streams, theirs, most):
    before = [mean_intervals.start(kind, alpha=ALPHA)] * len(streams)
    ours = [sequence.interval for sequence in mean_intervals.extend_many(before, streams)]
    for mine, (low, high) in zip(ours, theirs, strict=True):
        assert max(mine.low, low) < min(mine.high, high)
    widths = [(mine.high - mine.low) / (high - low) for mine, (low, high) in zip(ours, theirs, strict=True)]
    assert np.median(widths) <= most


@pytest.mark.parametrize(("side", "mean"), [(Side.ABOVE, 0.80), (Side.ABOVE, 0.88), (Side.BELOW, 0.68)])
def test_ratings_are_called_no_later_than_by_their_bets(side, mean):
    """Theirs bet by what was seen so far, ours by a fixed list: the same null, one to five stars against four."""
    rng, runs = np.random.default_rng(3), 60
    streams = (rng.binomial(4, rng.beta(6 * mean, 6 * (1 - mean), (runs, 1500))) / 4).tolist()
    alternative = "greater" if side is Side.ABOVE else "less"
    theirs = ask(
        *(
            ("betting_test", {"values": values, "limit": 0.75, "alternative": alternative, "alpha": ALPHA})
            for values in streams
        )
    )
    stars = np.arange(5) / 4
    seen = (np.array(streams)[..., None] == stars).cumsum(axis=1).astype(float)
    called = bets.log_evidence(stars, seen, bets.MeanTest(side, 0.75)) >= -math.log(ALPHA)
    ours = np.where(called.any(axis=1), 1 + called.argmax(axis=1), math.inf)
    assert np.median(ours) <= 1.15 * np.median([math.inf if stop is None else stop for stop in theirs])


@pytest.mark.parametrize("effect", [0.03, 0.2, 3.0])
def test_boundary_of_a_mean_is_theirs(effect):
    variances = [1.0, 50.0, 1e4]
    (theirs,) = ask(
        ("half_normal_boundary", {"variance": variances, "alpha": ALPHA, "precision": 1 / effect**2}),
    )
    ours = []
    for variance in variances:
        test, two = MeanTest(Side.ABOVE, burn_in=2, block_units=2), Moments(2, 3, 5)
        state = means.replay([MomentsPair(two, two)], test).to_json()
        sums = [1.0, 1.0, 1.0, variance / 2, variance / 2]
        ours.append(means.interval(MeanProcess.from_json({**state, "sums": sums, "effects": [effect]}), ALPHA).high)
    assert ours == pytest.approx(theirs, rel=1e-7)


def test_both_sides_of_a_mean_make_their_mixture():
    """A normal prior is half a half-normal one on each side (mSPRT, Johari et al.)."""
    values = np.random.default_rng(5).normal(0.1, 1, 200)
    (theirs,) = ask(("mixture_test", {"values": values.tolist(), "spread": 0.3}))
    sums = values.cumsum().tolist()
    both = [[log_mixture(sign * score, n, 0.3) - math.log(2) for sign in (1, -1)] for n, score in enumerate(sums, 1)]
    assert np.logaddexp(*np.array(both).T) == pytest.approx(theirs, abs=1e-9)


@pytest.mark.parametrize("share", [0.5, 0.2])
def test_interval_of_a_difference_in_cost_is_no_wider_than_theirs(share):
    """Both of 90 %, both asymptotic; theirs weighs each unit by its arm's share."""
    rng, units = np.random.default_rng(6), 4000
    treated = rng.binomial(1, share, units)
    values = rng.lognormal(0, 0.6, units) * np.where(treated, 1.2, 1.0)
    (theirs,) = ask(
        (
            "asymptotic_difference",
            {"values": values.tolist(), "treated": treated.tolist(), "share": share, "alpha": 2 * ALPHA},
        )
    )
    state = means.start(MeanTest(Side.ABOVE))
    for part in np.array_split(np.arange(units), 40):
        arms = [values[part][treated[part] == arm] for arm in (0, 1)]
        stable, candidate = (Moments(len(arm), float(arm.sum()), float((arm * arm).sum())) for arm in arms)
        state = means.update(state, MomentsPair(stable, candidate))
    ours, truth = means.interval(state, ALPHA), 0.2 * math.exp(0.18)
    assert max(ours.low, theirs[0]) < truth < min(ours.high, theirs[1])
    assert 0.6 < (ours.high - ours.low) / (theirs[1] - theirs[0]) <= 1.1


def test_interval_of_a_difference_in_rates_is_like_theirs():
    """Each unit of theirs is weighed by its arm's share, a tenth here. Ours ends at values of a grid, outwards."""
    rng, runs, units, share = np.random.default_rng(7), 10, 6000, 0.1
    questions, ours = [], []
    for _ in range(runs):
        treated = rng.binomial(1, share, units)
        values = rng.binomial(1, np.where(treated, 0.03, 0.01))
        given = {"values": values.tolist(), "treated": treated.tolist(), "share": share, "alpha": 2 * ALPHA}
        questions.append(("betting_difference", given))
        pairs = []
        for part in np.array_split(np.arange(units), 60):
            stable, candidate = (
                Sample.binary(len(arm), int(arm.sum())) for arm in (values[part][treated[part] == a] for a in (0, 1))
            )
            pairs.append(Pair(stable, candidate))
        ours.append(intervals.extend(intervals.start(Scale.DIFFERENCE, alpha=ALPHA), pairs).interval)
    theirs = ask(*questions)
    for mine, (low, high) in zip(ours, theirs, strict=True):
        assert max(mine.low, low) < min(mine.high, high)
    assert np.median([mine.low for mine in ours]) >= np.median([low for low, _ in theirs])
    assert np.median([mine.high for mine in ours]) <= np.median([high for _, high in theirs]) + 0.01


@pytest.mark.parametrize(("level", "most"), [(0.5, 1.5), (0.95, 0.7)])
def test_interval_of_one_quantile_is_like_theirs_and_narrower_in_the_tail(level, most):
    """Which latencies are surely exceeded by more than 1 - level, or by fewer. Theirs is tuned for that many values and
    knows each to the digit, ours knows its bin, of one percent. But theirs allows for the greatest variance that a
    share may have; at the P95 that is five times too much."""
    values = np.random.default_rng(8).lognormal(math.log(200), 0.6, 3000)
    (theirs,) = ask(("quantile_interval", {"values": values.tolist(), "level": level, "alpha": 2 * ALPHA}))
    histogram, kept = binned(values.tolist()), []
    for bin_ in range(min(histogram), max(histogram) + 2):
        slow = Sample.binary(*slower_than(histogram, edge(bin_), Side.ABOVE))
        tests = [limits.replay([slow], limits.LimitTest(side, 1 - level)) for side in Side]
        if not any(test.reached(ALPHA) for test in tests):
            kept.append(edge(bin_))
    truth = 200 * math.exp(0.6 * {0.5: 0.0, 0.95: 1.6448536}[level])
    assert max(kept[0], theirs[0]) < truth < min(kept[-1], theirs[1])
    assert kept[-1] - kept[0] <= most * (theirs[1] - theirs[0])
