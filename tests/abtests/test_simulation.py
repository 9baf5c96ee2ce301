"""Simulated experiments go through the engine that decides real ones, and are counted rightly."""

from __future__ import annotations

import json
import statistics
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from abtests import decision
from abtests.decision import Outcome
from abtests.scenario import Scenario, Streams
from abtests.settings import ExperimentSettings, parse_settings
from abtests.simulation import Result, Simulated, simulate
from deploypipe.metrics.windows import CANDIDATE, STABLE

ERRORS: dict[str, Any] = {
    "goals": [{"metric": "error_rate", "margin_points": 2}], "min_requests": 100, "max_seconds": 300,
}  # fmt: skip
TRAFFIC = Scenario(requests_per_minute=1200, rating_percent=0)
ASKED = Simulated(0.5, runs=40, look_seconds=10.0, seed=5)


def simulated(settings: dict[str, Any] | None = None, asked: Simulated = ASKED, **scenario: Any) -> Result:
    return simulate(parse_settings({**ERRORS, **(settings or {})}), replace(TRAFFIC, **scenario), asked)


@pytest.fixture(scope="module")
def alike() -> Result:
    return simulated()


def test_identical_versions_are_promoted_and_harmful_ones_aborted(alike: Result) -> None:
    assert alike.share(Outcome.PROMOTE).value > 0.8
    assert alike.usual is Outcome.PROMOTE
    worse = simulated(candidate_error_percent=8)
    assert worse.share(Outcome.ABORT).value > 0.9
    assert worse.usual is Outcome.ABORT
    assert {run.decided_by for run in worse.runs if run.verdict is Outcome.ABORT} >= {
        "the error rate rises by less than 2 points"
    }


def test_harm_at_the_margin_is_rarely_promoted_and_rarely_aborted() -> None:
    """At most alpha either way, whatever the number of looks: 3 standard errors of 200 runs."""
    found = simulated(asked=Simulated(0.5, runs=200, look_seconds=10.0), candidate_error_percent=3)
    allowed = 0.05 + 3 * (0.05 * 0.95 / 200) ** 0.5
    assert found.share(Outcome.PROMOTE).value <= allowed
    assert found.share(Outcome.ABORT).value <= allowed


def test_each_run_is_judged_as_if_it_were_alone(alike: Result) -> None:
    """Every verdict, its moment and its requests, by asking the engine at each look of one run."""
    streams = Streams(
        TRAFFIC, np.random.default_rng(ASKED.seed), windows=30, seconds=10.0, share=0.5, requests_too=False
    )
    progress = {run: decision.start(alike.settings) for run in range(ASKED.runs)}
    running = list(progress)
    found: dict[int, tuple[Outcome, float, int]] = {}
    for look in range(1, 31):
        for run, window in zip(running, streams.next(running), strict=True):
            progress[run] = decision.advance(progress[run], [window])
            decided = decision.decide(progress[run], seconds=10.0 * look)
            if decided.verdict is not Outcome.CONTINUE:
                found[run] = decided.verdict, 10.0 * look, sum(total.requests for _, total in decided.totals)
        running = [run for run in running if run not in found]
    assert [(run.verdict, run.seconds, run.requests) for run in alike.runs] == [found[n] for n in range(ASKED.runs)]


def test_same_seed_gives_the_same_and_another_does_not(alike: Result) -> None:
    assert simulated() == alike
    assert simulated(asked=replace(ASKED, seed=6)).runs != alike.runs


def test_shares_medians_and_time_add_up(alike: Result) -> None:
    shares = [alike.share(verdict) for verdict in Outcome]
    assert sum(share.runs for share in shares) == ASKED.runs
    promoted = [run for run in alike.runs if run.verdict is Outcome.PROMOTE]
    assert alike.median_minutes(Outcome.PROMOTE) == statistics.median(run.seconds / 60 for run in promoted)
    assert alike.median_requests(Outcome.PROMOTE) == round(statistics.median(run.requests for run in promoted))
    assert alike.median_minutes(Outcome.INVALID) is alike.median_requests(Outcome.INVALID) is None
    grown = alike.by_minute(Outcome.PROMOTE, [0.0, 1.0, 2.0, 5.0])
    assert grown == sorted(grown)
    assert (grown[0], grown[-1]) == (0.0, len(promoted) / ASKED.runs)
    share = alike.share(Outcome.PROMOTE)
    assert share.interval.low < share.value <= share.interval.high


def test_what_was_seen_is_what_the_scenario_says(alike: Result) -> None:
    worse = simulated(candidate_error_percent=8, candidate_latency_percent=100)
    seen = dict(worse.arms)
    assert seen[STABLE].error_rate_percent == pytest.approx(1, abs=0.2)
    assert seen[CANDIDATE].error_rate_percent == pytest.approx(8, abs=1)
    assert seen[CANDIDATE].mean_latency_ms / seen[STABLE].mean_latency_ms == pytest.approx(2, rel=0.05)  # type: ignore[operator]
    # The mean of a lognormal distribution with these two quantiles.
    assert dict(alike.arms)[STABLE].mean_latency_ms == pytest.approx(140, rel=0.02)


def test_little_traffic_has_the_exact_test_at_the_end_as_a_real_experiment_would() -> None:
    few = simulated(asked=replace(ASKED, runs=3), requests_per_minute=100)
    assert few.settings.closing_share == 0.8
    assert simulated({"closing_share": 0}, replace(ASKED, runs=3), requests_per_minute=100).settings.closing_share == 0
    assert simulated(asked=replace(ASKED, runs=3)).settings.closing_share == 0


def test_unit_may_be_the_request() -> None:
    found = simulated({"unit": "request"}, requests_per_session=1)
    assert found.usual is Outcome.PROMOTE


def test_last_look_is_at_the_end_and_nobody_runs_on() -> None:
    told: list[tuple[int, int, int]] = []
    settings = ExperimentSettings(max_seconds=25.0)
    found = simulate(
        settings, replace(TRAFFIC, requests_per_minute=20), replace(ASKED, runs=4), tell=lambda *what: told.append(what)
    )
    assert {run.verdict for run in found.runs} == {Outcome.INCONCLUSIVE}
    assert {run.seconds for run in found.runs} == {30.0}
    assert told == [(1, 3, 4), (2, 3, 4), (3, 3, 0)]


def test_result_is_json(alike: Result) -> None:
    said = json.loads(json.dumps(alike.to_json()))
    assert said["verdicts"]["promote"]["runs"] == alike.share(Outcome.PROMOTE).runs
    assert "continue" not in said["verdicts"]
    assert (said["traffic_split_percent"], said["runs"], said["seed"]) == (50.0, 40, 5)
    assert said["candidate_deserves_promotion"] is True


# --- What the candidate deserves --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("goals", "changes", "broken", "deserves"),
    [
        ([{"margin_points": 0.5}], {}, [], True),
        ([{"margin_points": 0.5}], {"candidate_error_percent": 1.4}, [], True),
        (
            [{"margin_points": 0.5}], {"candidate_error_percent": 1.5},
            ["the error rate rises by less than 0.5 points"], False,
        ),
        (
            [{"metric": "latency", "margin_percent": 20}], {"candidate_latency_percent": 20},
            ["the P95 latency rises by less than 20 %"], False,
        ),
        ([{"metric": "latency", "margin_percent": 20}], {"candidate_latency_percent": 19}, [], True),
        (
            [{"aim": "superiority", "margin_points": 0}], {},
            ["the error rate falls"], False,
        ),
        ([{"aim": "superiority", "margin_points": 0}], {"candidate_error_percent": 0.5}, [], True),
        ([{"margin_points": 0.5}, {"metric": "rating", "limit": 4}], {}, [], False),
        (
            [{"margin_points": 0.5}, {"metric": "rating", "limit": 4}],
            {"rating_percent": 5, "candidate_rating_mean": 3.9}, ["the rating is at least 4 stars"], False,
        ),
    ],
)  # fmt: skip
def test_candidate_deserves_what_is_true_of_it(
    goals: list[dict[str, Any]], changes: dict[str, Any], broken: list[str], deserves: bool
) -> None:
    """Ratings that nobody gives are neither kept nor broken: nobody knows."""
    few = Simulated(0.5, runs=1, look_seconds=60.0)
    found = simulated({"goals": goals, "max_seconds": 60}, few, **changes)
    assert (list(found.broken), found.deserves) == (broken, deserves)
