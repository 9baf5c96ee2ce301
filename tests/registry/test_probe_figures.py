"""What the probe's figures say, and whether their intervals hold what they promise."""

from __future__ import annotations

import random
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from registry.qa.probe.engine_side import engine_side
from registry.qa.probe.figures import (
    Estimate,
    figure,
    figure_of_groups,
    percentile_ranks,
    rate_bounds,
    share_bounds,
)
from registry.qa.probe.measured import Failure, Measured, Request
from registry.qa.probe.report import report


@pytest.mark.parametrize(("n", "ranks"), [(10, (2, 9)), (20, (6, 15)), (5, (None, None))])
def test_interval_of_a_median_has_the_published_ranks(n: int, ranks: tuple[int | None, int | None]) -> None:
    """Conover, Practical Nonparametric Statistics, confidence interval for a quantile; n = 5 allows none at 95 %."""
    assert percentile_ranks(n, 0.5) == ranks


@given(st.integers(1, 2000), st.sampled_from([0.5, 0.9, 0.95, 0.99]))
def test_interval_of_a_percentile_covers_it(n: int, share: float) -> None:
    low, high = percentile_ranks(n, share)
    below = stats.binom(n, share)
    covered = below.cdf(high - 1 if high else n) - below.cdf(low - 1 if low else -1)
    assert covered >= 0.95 - 1e-9


def inside(value: float, estimate: Estimate) -> bool:
    return (estimate.low is None or estimate.low <= value) and (estimate.high is None or value <= estimate.high)


@given(st.lists(st.floats(0, 100), min_size=1, max_size=300))
def test_percentiles_are_measured_values_in_order_and_inside_their_intervals(values: list[float]) -> None:
    found = figure(values)
    assert found is not None
    percentiles = [found.p50, found.p90, found.p95, found.p99]
    assert {p.value for p in percentiles} | {found.highest} <= {round(1000 * value, 2) for value in values}
    assert sorted(p.value for p in percentiles) == [p.value for p in percentiles]
    assert all(inside(p.value, p) for p in percentiles)


@given(st.lists(st.lists(st.floats(0, 10), max_size=12), max_size=30))
def test_percentiles_of_groups_are_those_of_all_values_together(groups: list[list[float]]) -> None:
    found, plain = figure_of_groups(groups), figure([value for group in groups for value in group])
    if found is None or plain is None:
        assert found is plain is None
        return
    for name in ("p50", "p90", "p95", "p99"):
        estimate = getattr(found, name)
        assert estimate.value == getattr(plain, name).value
        assert inside(estimate.value, estimate)
    assert (found.n, found.mean, found.highest) == (plain.n, plain.mean, plain.highest)


def test_interval_of_values_that_hang_together_is_as_wide_as_it_must_be() -> None:
    """300 loads of 60 answers, each answer slow or quick as a whole. Taken one by one the pauses' interval misses the
    true 90th percentile most of the time; by answers it holds it in about 95 % of the loads."""
    rng = np.random.default_rng(4)
    true = 1000 * float(np.quantile(rng.lognormal(-4, 0.5, 1_000_000), 0.9))
    held = {"by answers": 0, "one by one": 0}
    for _ in range(300):
        groups = [[float(speed)] * 23 for speed in rng.lognormal(-4, 0.5, 60)]
        by_answers = figure_of_groups(groups)
        one_by_one = figure([value for group in groups for value in group])
        assert by_answers is not None
        assert one_by_one is not None
        held["by answers"] += inside(true, by_answers.p90)
        held["one by one"] += inside(true, one_by_one.p90)
    assert held["by answers"] >= 275
    assert held["one by one"] < 150


@pytest.mark.parametrize(
    ("events", "trials", "low", "high"),
    [(0, 10, 0.0, 0.3085), (1, 10, 0.0025, 0.4450), (5, 10, 0.1871, 0.8129), (10, 10, 0.6915, 1.0)],
)
def test_interval_of_a_share_is_the_published_one(events: int, trials: int, low: float, high: float) -> None:
    """Clopper and Pearson's limits for n = 10, as in the tables for the binomial."""
    assert share_bounds(events, trials) == pytest.approx((low, high), abs=1e-4)


@given(st.integers(1, 3000), st.data())
def test_interval_of_a_share_agrees_with_scipy(trials: int, data: st.DataObject) -> None:
    events = data.draw(st.integers(0, trials))
    theirs = stats.binomtest(events, trials).proportion_ci(0.95, "exact")
    assert share_bounds(events, trials) == pytest.approx((theirs.low, theirs.high), abs=1e-9)


def test_interval_of_a_rate_covers_it() -> None:
    """2,000 Poisson streams of 20 requests/s over 5 s, 24 tokens each."""
    rng = np.random.default_rng(8)
    covered = 0
    for _ in range(2000):
        times = np.sort(rng.uniform(0, 5, rng.poisson(100)))
        low, high = rate_bounds(list(times), [24.0] * len(times), 5.0, 0.05)
        assert low is not None
        assert high is not None
        covered += low <= 480 <= high
    assert 1870 <= covered <= 1930


def test_too_short_a_load_has_no_interval_for_its_rate() -> None:
    assert rate_bounds([0.1, 0.9], [1, 1], 1.0, 0.2) == (None, None)


requests = st.builds(
    Request,
    due=st.floats(0, 10),
    ended=st.floats(10, 20),
    lag=st.floats(0, 10),
    first=st.none() | st.floats(0, 10),
    whole=st.none() | st.floats(0, 10),
    gaps=st.lists(st.floats(0, 1), max_size=4).map(tuple),
    pieces=st.integers(0, 50),
    tokens=st.none() | st.integers(0, 50),
    failure=st.none() | st.sampled_from(Failure),
    detail=st.text(max_size=20),
)


@given(st.lists(requests, min_size=1, max_size=20))
def test_what_was_measured_survives_json_and_every_request_is_accounted_for(measured: list[Request]) -> None:
    whole = Measured("/v1/completions", True, 2.0, tuple(measured), False, {"a": 1.0}, {"a": 2.0})
    assert Measured.from_json(whole.to_json()) == whole
    found = report(whole)
    assert found.failures == dict(Counter(r.failure.value for r in measured if r.failure))
    assert 0 <= found.error_rate_percent <= 100
    assert found.error_percent["all"].value == pytest.approx(found.error_rate_percent, abs=1e-3)


def test_timed_out_request_counts_with_the_time_waited() -> None:
    slow = Request(due=0, ended=10, lag=0, first=10.0, whole=10.0, failure=Failure.TIMEOUT)
    found = report(Measured("/v1/completions", True, 12.0, (slow,) * 20))
    assert found.first_token_ms is not None
    assert found.first_token_ms.p95.value == 10_000


def test_tokens_per_second_has_an_interval_around_it() -> None:
    rng = random.Random(3)
    measured = tuple(
        Request(due=at, ended=at + 0.05, lag=0, first=0.01, whole=0.05, gaps=(0.01,) * 4, pieces=5, tokens=10)
        for at in sorted(rng.uniform(0, 4.9) for _ in range(100))
    )
    found = report(Measured("/v1/completions", True, 5.0, measured))
    assert found.tokens == 1000
    assert found.tokens_per_second.value == 200.0
    assert found.tokens_per_second.low is not None
    assert found.tokens_per_second.high is not None
    assert 100 < found.tokens_per_second.low < 200 < found.tokens_per_second.high < 300
    assert found.requests_per_second.value == 20.0


BEFORE = {
    "generation_tokens_total": 100.0,
    "request_success_total|length": 5.0,
    "request_success_total|stop": 2.0,
    "time_to_first_token_seconds_count": 7.0,
    "time_to_first_token_seconds_sum": 0.7,
    "time_to_first_token_seconds_bucket|0.1": 7.0,
    "time_to_first_token_seconds_bucket|0.25": 7.0,
    "time_to_first_token_seconds_bucket|+Inf": 7.0,
    "process_start_time_seconds": 1000.0,
}
AFTER = {
    **BEFORE,
    "generation_tokens_total": 580.0,
    "request_success_total|length": 25.0,
    "time_to_first_token_seconds_count": 27.0,
    "time_to_first_token_seconds_sum": 3.7,
    "time_to_first_token_seconds_bucket|0.1": 9.0,
    "time_to_first_token_seconds_bucket|0.25": 27.0,
    "time_to_first_token_seconds_bucket|+Inf": 27.0,
}


def test_what_the_engine_counted_is_the_difference_of_two_looks() -> None:
    found = engine_side(BEFORE, AFTER)
    assert found["generation_tokens"] == 480
    assert found["requests_by_finish_reason"] == {"length": 20}
    assert found["first_token_ms"] == {"n": 20, "mean": 150.0, "p95_between": [100.0, 250.0]}


@pytest.mark.parametrize(
    "after",
    [
        {**AFTER, "generation_tokens_total": 40.0},
        {**AFTER, "process_start_time_seconds": 2000.0},
        {name: count for name, count in AFTER.items() if name != "request_success_total|stop"},
    ],
    ids=["a counter fell", "another start", "a counter vanished"],
)
def test_counters_that_began_anew_are_said_to_have_and_are_not_subtracted(after: dict[str, float]) -> None:
    found = engine_side(BEFORE, after)
    assert [*found] == ["reset"]
    assert "began anew during the load" in found["reset"]


def test_engine_without_figures_adds_nothing() -> None:
    assert engine_side({}, AFTER) == {}
    assert engine_side(BEFORE, {}) == {}
