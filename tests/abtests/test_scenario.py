"""Traffic that could be is drawn as the scenario says, and read as the gateway's windows are."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from abtests.scenario import Scenario, Streams, parse_scenario
from deploypipe.metrics.definitions import Reading, metric_named
from deploypipe.metrics.windows import CANDIDATE, STABLE, WHOLE, ArmWindow, Measured, add_arms, from_json, to_json
from deploypipe.metrics.wording import quantile
from deploypipe.stats.samples import Sample
from rollouts.analysis_settings import SettingsError

BUSY = Scenario(
    requests_per_minute=6000, base_error_percent=2, candidate_error_percent=5, candidate_latency_percent=50,
    rating_percent=20, candidate_rating_mean=3.2, conversion_percent=10, candidate_conversion_percent=15,
)  # fmt: skip


def drawn(scenario: Scenario, *, seed: int = 1, runs: int = 2, windows: int = 30, **how: Any) -> list[list[Measured]]:
    """One list for each window, of all runs."""
    usual = {"seconds": 60.0, "share": 0.25}
    streams = Streams(scenario, np.random.default_rng(seed), windows=windows, **{**usual, **how})
    return [streams.next(range(runs)) for _ in range(windows)]


def total(drawn_windows: list[list[Measured]], arm: str) -> ArmWindow:
    whole = ArmWindow()
    for windows in drawn_windows:
        for window in windows:
            whole = add_arms(whole, window.arm(arm))
    return whole


@pytest.fixture(scope="module")
def arms() -> dict[str, ArmWindow]:
    found = drawn(BUSY)
    return {name: total(found, name) for name in (STABLE, CANDIDATE)}


def test_requests_come_as_often_as_was_said_and_are_split(arms: dict[str, ArmWindow]) -> None:
    requests = {name: arm.requests for name, arm in arms.items()}
    assert sum(requests.values()) == pytest.approx(2 * 30 * 6000, rel=0.03)
    assert requests[CANDIDATE] / sum(requests.values()) == pytest.approx(0.25, abs=0.01)


@pytest.mark.parametrize("reading", [Reading.FIRST, Reading.WHOLE, Reading.REQUEST])
@pytest.mark.parametrize(("arm", "rate"), [(STABLE, 0.02), (CANDIDATE, 0.05)])
def test_every_reading_has_the_error_rate(arm: str, rate: float, reading: Reading, arms: dict[str, ArmWindow]) -> None:
    errors = metric_named("error_rate")
    measured = arms[arm]
    found = errors.requests(measured) if reading is Reading.REQUEST else errors.sessions(measured.fresh, reading)
    assert isinstance(found, Sample)
    assert found.mean == pytest.approx(rate, rel=0.1)


@pytest.mark.parametrize(("arm", "factor"), [(STABLE, 1.0), (CANDIDATE, 1.5)])
def test_latencies_have_the_quantiles(arm: str, factor: float, arms: dict[str, ArmWindow]) -> None:
    for bins in (arms[arm].latency, arms[arm].fresh.first_latency, arms[arm].fresh.whole_latency):
        assert quantile(bins, 0.5) == pytest.approx(120 * factor, rel=0.02)
        assert quantile(bins, 0.95) == pytest.approx(300 * factor, rel=0.03)


def test_what_users_say_has_the_means(arms: dict[str, ArmWindow]) -> None:
    for arm, stars, share in ((STABLE, 4.4, 0.1), (CANDIDATE, 3.2, 0.15)):
        said = arms[arm].fresh.feedback
        assert sum(star * count for star, count in said.ratings.items()) / sum(said.ratings.values()) == pytest.approx(
            stars, abs=0.05
        )
        sessions = sum(arms[arm].fresh.whole.values())
        assert sum(said.ratings.values()) == pytest.approx(0.2 * sessions, rel=0.05)
        assert said.conversions[0] == sessions
        assert said.conversions[1] / said.conversions[0] == pytest.approx(share, abs=0.01)


def test_each_session_counts_once_in_each_reading(arms: dict[str, ArmWindow]) -> None:
    for arm in arms.values():
        first, whole = arm.fresh.first[0], sum(arm.fresh.whole.values())
        assert arm.assigned == first
        assert whole <= first  # those of the last minute are not over yet
        assert whole == pytest.approx(first * 29 / 30, rel=0.02)
        answered = sum(count for (requests, failed), count in arm.fresh.whole.items() if failed < requests)
        assert sum(arm.fresh.whole_latency.values()) == WHOLE * answered


def test_sessions_wait_for_their_end() -> None:
    """Of a session that takes two minutes nothing is known as a whole in the first two."""
    found = drawn(replace(BUSY, session_seconds=120), windows=4, runs=1)
    whole = [sum(window.arm(STABLE).fresh.whole.values()) for (window,) in found]
    assert whole[:2] == [0, 0]
    assert min(whole[2:]) > 500


@pytest.mark.parametrize("correlation", [0.0, 0.3])
def test_outcomes_of_one_session_resemble_each_other_as_was_said(correlation: float) -> None:
    """The intraclass correlation, by analysis of variance over sessions of two requests."""
    scenario = replace(BUSY, session_correlation=correlation, base_error_percent=10)
    whole = total(drawn(scenario, runs=1), STABLE).fresh.whole
    both, one, none = (whole.get((2, failed), 0) for failed in (2, 1, 0))
    units = both + one + none
    mean = (both + one / 2) / units
    assert (both / units - mean * mean) / (mean * (1 - mean)) == pytest.approx(correlation, abs=0.05)


def test_same_seed_draws_the_same_and_another_does_not() -> None:
    assert drawn(BUSY, seed=3, windows=3) == drawn(BUSY, seed=3, windows=3)
    assert drawn(BUSY, seed=3, windows=3) != drawn(BUSY, seed=4, windows=3)


def test_much_traffic_is_drawn_in_pieces_and_is_the_same_kind_of_traffic() -> None:
    """100,000 sessions at once: forty windows of six runs take several draws."""
    windows = drawn(BUSY, windows=40, runs=6)
    per_window = [sum(window.arm(STABLE).requests for window in runs) / 6 for runs in windows]
    assert np.mean(per_window) == pytest.approx(4500, rel=0.02)
    assert np.mean(per_window[-5:]) == pytest.approx(np.mean(per_window[5:10]), rel=0.05)
    assert [window.number for window in windows[-1]] == [40] * 6


def test_one_window_may_hold_more_than_is_drawn_at_once() -> None:
    scenario = Scenario(requests_per_minute=300_000, requests_per_session=1, base_error_percent=10, session_seconds=0)
    [(window,)] = drawn(scenario, windows=1, runs=1, share=0.5)
    for arm in (window.arm(STABLE), window.arm(CANDIDATE)):
        assert arm.fresh.first[0] == arm.requests == sum(arm.fresh.whole.values())
        assert arm.requests == pytest.approx(150_000, rel=0.02)
        assert arm.fresh.first[1] == arm.failed == pytest.approx(15_000, rel=0.05)


def test_runs_that_are_over_are_asked_for_no_more() -> None:
    streams = Streams(BUSY, np.random.default_rng(1), windows=5, seconds=60.0, share=0.5)
    assert len(streams.next([0, 1, 2])) == 3
    [left] = streams.next([1])
    assert left.number == 2
    assert left.arm(STABLE).requests > 2000


def test_latencies_of_single_requests_may_be_left_out() -> None:
    [(window,)] = drawn(BUSY, windows=1, runs=1, requests_too=False)
    assert window.arm(STABLE).latency == {}
    assert window.arm(STABLE).requests > 0
    assert window.arm(STABLE).fresh.first_latency


def test_windows_are_evidence_like_any_other() -> None:
    for windows in drawn(BUSY, windows=2):
        for window in windows:
            assert from_json(to_json(window)) == window
            assert window.shares == {STABLE: 0.75, CANDIDATE: 0.25}


@pytest.mark.parametrize("percent", [0.0, 100.0])
def test_never_and_always_are_rates_too(percent: float) -> None:
    scenario = Scenario(base_error_percent=percent, session_correlation=0.5)
    assert total(drawn(scenario, windows=3), STABLE).fresh.first[1] == (
        0 if percent == 0 else total(drawn(scenario, windows=3), STABLE).fresh.first[0]
    )


# --- What is true of it -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("metric", "level", "truth"),
    [
        ("error_rate", None, (2.0, 5.0)),
        ("success_rate", None, (98.0, 95.0)),
        ("latency", 0.5, (120.0, 180.0)),
        ("latency", 0.95, (300.0, 450.0)),
        ("rating", None, (4.4, 3.2)),
        ("conversion_rate", None, (10.0, 15.0)),
        ("cost", None, None),
        ("requests_per_session", None, None),
    ],
)
def test_truth_is_what_was_said(metric: str, level: float | None, truth: tuple[float, float] | None) -> None:
    assert BUSY.truth(metric, level) == (truth if truth is None else pytest.approx(truth))


def test_what_nobody_says_has_no_truth() -> None:
    silent = Scenario(rating_percent=0)
    assert (silent.truth("rating", None), silent.truth("conversion_rate", None)) == (None, None)
    assert Scenario().truth("error_rate", None) == (1.0, 1.0)


# --- What people write ------------------------------------------------------------------------------------------------


def test_scenario_is_read_and_given_back() -> None:
    assert parse_scenario(BUSY.to_json()) == BUSY
    assert parse_scenario({}) == Scenario()
    assert parse_scenario({"candidate_error_percent": None}) == Scenario()


@pytest.mark.parametrize(
    ("given", "field", "says"),
    [
        ({"requests_per_minute": 0}, "requests_per_minute", "0 is not a number of requests per minute above 0"),
        ({"base_error_percent": 101}, "base_error_percent", "101 is not a percentage from 0 to 100."),
        ({"candidate_error_percent": "x"}, "candidate_error_percent", "'x' is not a percentage"),
        ({"rating_mean": 0.5}, "rating_mean", "0.5 is not a mean of stars from 1 to 5."),
        ({"session_correlation": 1}, "session_correlation", "1 is not a correlation from 0 to 0.9."),
        ({"latency_p95_ms": 100}, "latency_p95_ms", "100 is not above latency_p50_ms, 120."),
        ({"colour": 1}, "colour", "there is no such setting"),
        ({"base_error_percent": True}, "base_error_percent", "True is not a percentage"),
    ],
)
def test_each_wrong_value_is_named(given: dict[str, Any], field: str, says: str) -> None:
    with pytest.raises(SettingsError) as error:
        parse_scenario(given)
    assert set(error.value.fields) == {field}
    assert says in error.value.fields[field]
