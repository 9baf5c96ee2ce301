"""The forecast is true: the engine that decides takes as long as was said, over many simulated experiments.

The band: medians within a third of the forecast, chances within 12 points, each of which holds the spread of 120 runs
(about a tenth of a median, 4 points of a chance) and the looks, of which there are 30.
"""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from abtests.decision import Outcome
from abtests.design import Asked, Design, design
from abtests.forecast import changed, costs
from abtests.scenario import Scenario
from abtests.settings import ExperimentSettings, parse_settings
from abtests.simulation import Result, Simulated, simulate
from deploypipe.metrics.definitions import Family, Metric, Reading, metric, registered, restore
from deploypipe.metrics.questions import Criterion, Kind
from deploypipe.metrics.windows import Units
from deploypipe.stats.samples import Moments, Sample
from tests.abtests.traffic import traffic, traffic_of

RUNS = 120
BAND = 4 / 3
POINTS = 0.12


@dataclass(frozen=True)
class Case:
    settings: dict[str, Any]
    scenario: Scenario
    share: float
    minutes: float
    looks: int = 30
    harm: dict[str, float] = field(default_factory=dict)
    """What the candidate does worse; empty: it is identical."""

    @property
    def parsed(self) -> ExperimentSettings:
        return parse_settings({"guardrails": [], "min_requests": 1, **self.settings, "max_seconds": 60 * self.minutes})

    def forecast(self) -> Design:
        settings, scenario = self.parsed, self.scenario
        waits = scenario.session_seconds / 60
        asked = Asked(self.share, self.minutes, min_requests=settings.min_requests, session_minutes=waits)
        return design(settings.plan(), traffic_of(scenario), asked)

    def simulated(self) -> Result:
        scenario = replace(self.scenario, **self.harm)
        asked = Simulated(self.share, RUNS, look_seconds=60 * self.minutes / self.looks, seed=11)
        return simulate(self.parsed, scenario, asked)


def median_minutes(found: Result, verdict: Outcome) -> float:
    """Of all runs: those that never come to this verdict are endless."""
    return statistics.median(run.seconds / 60 if run.verdict is verdict else math.inf for run in found.runs)


ERRORS = {"goals": [{"metric": "error_rate", "margin_points": 0.5}]}
LATENCY = {"goals": [{"metric": "latency", "margin_percent": 20}]}
SINGLE = Scenario(requests_per_session=1, session_seconds=0, rating_percent=0)


@pytest.mark.parametrize(
    "case",
    [
        Case(ERRORS, replace(SINGLE, requests_per_minute=1200, base_error_percent=1), 0.1, 75),
        Case(ERRORS, Scenario(requests_per_minute=600, session_correlation=0.2, rating_percent=0), 0.5, 90),
        Case(LATENCY, Scenario(requests_per_minute=600, rating_percent=0), 0.25, 30),
        Case(
            {"goals": [{"metric": "rating", "limit": 4}, {"metric": "error_rate", "margin_points": 1}]},
            Scenario(requests_per_minute=1200, base_error_percent=0.5, rating_percent=10), 0.2, 30,
        ),
    ],
    ids=["1 % at 10 %", "correlated sessions", "latency", "two proofs"],
)  # fmt: skip
def test_identical_version_is_promoted_when_it_was_said(case: Case) -> None:
    said, found = case.forecast(), case.simulated()
    assert said.minutes_to_promote is not None
    assert 1 / BAND < median_minutes(found, Outcome.PROMOTE) / said.minutes_to_promote < BAND
    assert found.share(Outcome.PROMOTE).value == pytest.approx(said.chance, abs=POINTS)


@pytest.mark.parametrize(
    "case",
    [
        Case(
            ERRORS, replace(SINGLE, requests_per_minute=120, base_error_percent=5), 0.1, 60,
            harm={"candidate_error_percent": 10},
        ),
        Case(
            LATENCY, Scenario(requests_per_minute=600, rating_percent=0), 0.25, 20,
            harm={"candidate_latency_percent": 50},
        ),
    ],
    ids=["5 % doubled", "slower by half"],
)  # fmt: skip
def test_harm_is_caught_when_it_was_said(case: Case) -> None:
    said, found = case.forecast().metrics[0], case.simulated()
    assert said.minutes_to_catch is not None
    assert 1 / BAND < median_minutes(found, Outcome.ABORT) / said.minutes_to_catch < BAND
    assert found.share(Outcome.ABORT).value == pytest.approx(said.caught_in_time, abs=POINTS)


def test_exact_test_at_the_end_catches_as_often_as_was_said() -> None:
    case = Case(
        ERRORS, replace(SINGLE, requests_per_minute=30, base_error_percent=5), 0.1, 60,
        looks=6, harm={"candidate_error_percent": 10},
    )  # fmt: skip
    said, found = case.forecast(), case.simulated()
    assert said.closing_share == found.settings.closing_share == 0.8
    assert said.metrics[0].caught_in_time == pytest.approx(0.66, abs=0.03)
    assert found.share(Outcome.ABORT).value == pytest.approx(said.metrics[0].caught_in_time, abs=POINTS)


# --- What the candidate is thought to be ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "factor", "expected"),
    [
        ({0.0: 99, 1.0: 1}, 2.0, {0.0: 98, 1.0: 2}),
        ({0.0: 99, 1.0: 1}, 1.0, {0.0: 99, 1.0: 1}),
        ({0.0: 90, 0.5: 8, 1.0: 2}, 2.0, {0.0: 80, 0.5: 16, 1.0: 4}),
        ({0.0: 90, 0.5: 8, 1.0: 2}, 0.5, {0.0: 95, 0.5: 4, 1.0: 1}),
        ({0.5: 100}, 1.5, {0.5: 50, 1.0: 50}),
    ],
)
def test_worse_version_has_more_units_that_fare_badly(
    values: dict[float, float], factor: float, expected: dict[float, float]
) -> None:
    found = changed(Sample.of(values), factor)
    assert dict(found.frequencies) == pytest.approx(expected)
    assert changed(Sample.of(values).mirrored, factor, more_is_worse=False).frequencies == found.mirrored.frequencies


def test_change_never_leaves_the_scale() -> None:
    assert changed(Sample.binary(10, 5), 100.0).mean == pytest.approx(1, abs=1e-5)
    assert changed(Sample.binary(10, 5), 0.0).mean == pytest.approx(0, abs=1e-5)


COST = Criterion("cost", Kind.INCREASE, 10.0, relative=True)


@pytest.mark.parametrize(("mean", "harm"), [(2.0, "a cost of 2.4"), (0.05, "a cost of 0.06")])
def test_harm_of_a_quantity_without_bounds_is_twice_its_margin(mean: float, harm: str) -> None:
    today = traffic(600, cost=Moments(1000, 1000 * mean, 1000 * 2 * mean * mean))
    found = costs(parse_settings(ERRORS).plan(), 0, today, share=0.1)
    assert found.harm == "twice the error rate"
    plan = replace(parse_settings(ERRORS).plan(), criteria=(COST,))
    found = costs(plan, 0, today, share=0.1)
    assert found.harm == harm
    assert 1000 < found.to_catch.forecast.units <= found.to_pass.forecast.units < 1e5
    # Of 36,000 sessions 1,000 said it: each of the others tells nothing.
    assert found.to_catch.units_each == pytest.approx(36.0)


def test_where_more_is_better_harm_is_less() -> None:
    """Tokens per second, say: by a metric of one's own."""
    before = registered()
    try:

        @metric
        class Tokens(Metric):
            name, label, unit, family = "speed", "speed", "tokens/s", Family.MEAN
            lower_is_better = False
            session_readings = (Reading.WORD,)

            def sessions(self, units: Units, reading: Reading) -> Moments:
                return units.feedback.custom.get("speed", Moments())

        plan = replace(
            parse_settings(ERRORS).plan(), criteria=(Criterion("speed", Kind.INCREASE, 10.0, relative=True),)
        )
        today = traffic(600, custom={"speed": Moments(36_000, 36_000 * 50.0, 36_000 * 2600.0)})
        found = costs(plan, 0, today, share=0.5)
        assert found.harm == "a speed of 40 tokens/s"
        assert math.isfinite(found.to_pass.units())
        assert math.isfinite(found.to_catch.units())
    finally:
        restore(before)
