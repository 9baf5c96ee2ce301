from __future__ import annotations

import json
from typing import Any

import pytest

from abtests.settings import ExperimentSettings, parse_settings
from deploypipe.metrics.criteria import Criterion, Kind, Role, Unit
from rollouts.analysis_settings import SettingsError


def goal(**said: Any) -> Criterion:
    compares = {"metric": "error_rate", "margin_points": 7}
    return parse_settings({"goals": [said], "guardrails": [compares]}).goals[0]


def guardrail(**said: Any) -> Criterion:
    (found,) = parse_settings({"guardrails": [said]}).guardrails
    return found


def test_nothing_said_is_the_usual() -> None:
    usual = parse_settings({})
    assert usual == ExperimentSettings()
    assert usual.goals == (Criterion("error_rate", Kind.INCREASE, 0.5, role=Role.GOAL),)
    assert usual.guardrails == (Criterion("error_rate", Kind.LIMIT, 5.0, proves=False),)
    assert (usual.unit, usual.alpha, usual.min_requests, usual.max_seconds) == (Unit.SESSION, 0.05, 1000, 1800.0)


@pytest.mark.parametrize(
    ("said", "criterion"),
    [
        ({}, Criterion("error_rate", Kind.INCREASE, 0.5, role=Role.GOAL)),
        ({"metric": "error_rate", "aim": "superiority", "margin_points": 0},
         Criterion("error_rate", Kind.IMPROVEMENT, 0.0, role=Role.GOAL, aborts=False)),
        ({"metric": "error_rate", "aim": "equivalence", "margin_points": 1},
         Criterion("error_rate", Kind.EQUIVALENCE, 1.0, role=Role.GOAL)),
        ({"metric": "latency", "margin_percent": 20}, Criterion("latency", Kind.INCREASE, 20.0, True, 0.95, Role.GOAL)),
        ({"metric": "latency", "margin_percent": 10, "level": 0.5},
         Criterion("latency", Kind.INCREASE, 10.0, True, 0.5, Role.GOAL)),
        ({"metric": "rating", "limit": 4.0}, Criterion("rating", Kind.LIMIT, 4.0, role=Role.GOAL)),
        ({"metric": "rating", "margin": 0.2}, Criterion("rating", Kind.INCREASE, 0.2, role=Role.GOAL)),
        ({"metric": "cost", "margin_percent": 5, "aborts": False},
         Criterion("cost", Kind.INCREASE, 5.0, True, role=Role.GOAL, aborts=False)),
    ],
)  # fmt: skip
def test_goals_are_read_from_plain_values(said: dict[str, Any], criterion: Criterion) -> None:
    assert goal(**said) == criterion


@pytest.mark.parametrize(
    ("said", "criterion"),
    [
        ({"metric": "error_rate_increase", "limit": 1}, Criterion("error_rate", Kind.INCREASE, 1.0)),
        ({"metric": "error_rate_increase", "margin_points": 1}, Criterion("error_rate", Kind.INCREASE, 1.0)),
        ({"metric": "error_rate", "margin_points": 1}, Criterion("error_rate", Kind.INCREASE, 1.0)),
        ({"metric": "error_rate", "limit": 5}, Criterion("error_rate", Kind.LIMIT, 5.0, proves=False)),
        ({"metric": "success_rate", "limit": 95, "proves": True}, Criterion("success_rate", Kind.LIMIT, 95.0)),
        ({"metric": "latency", "limit": 1000}, Criterion("latency", Kind.LIMIT, 1000.0, level=0.95, proves=False)),
    ],
)
def test_guardrails_are_read_from_plain_values(said: dict[str, Any], criterion: Criterion) -> None:
    assert guardrail(**said) == criterion


def test_settings_are_written_and_read() -> None:
    asked = parse_settings(
        {
            "goals": [
                {"metric": "error_rate", "margin_points": 0.5},
                {"metric": "latency", "margin_percent": 20, "level": 0.99, "proves": False},
                {"metric": "rating", "aim": "superiority", "margin": 0},
                {"metric": "requests_per_session", "aim": "equivalence", "margin": 0.5},
            ],
            "guardrails": [{"metric": "latency", "limit": 1000}, {"metric": "cost", "margin_percent": 3}],
            "alpha": 0.01,
            "unit": "session",
            "min_seconds": 600,
            "auto_promote": True,
        }
    )
    stored = json.loads(json.dumps(asked.to_json()))
    assert parse_settings(stored) == asked
    assert asked.plan(2).arms == 2


@pytest.mark.parametrize(
    ("wrong", "field", "says"),
    [
        ({"goal": []}, "goal", "did you mean goals?"),
        ({"goals": "error_rate"}, "goals", "is not a list"),
        ({"goals": ["error_rate"]}, "goals", "is not a goal such as"),
        ({"goals": [{"metric": "beauty", "margin": 1}]}, "goals", "'beauty' is not one of conversion_rate, cost"),
        ({"goals": [{"metric": ["latency"], "margin": 1}]}, "goals", "is not one of conversion_rate"),
        ({"goals": [{"margin_points": 0}]}, "goals", "non-inferiority needs a margin above 0"),
        ({"goals": [{"metric": "latency"}]}, "goals", "latency needs one margin or limit and has 0"),
        ({"goals": [{"margin": 1, "limit": 1}]}, "goals", "error_rate needs one margin or limit and has 2"),
        ({"goals": [{"metric": "latency", "margin_points": 1}]}, "goals", "give margin_percent"),
        ({"goals": [{"metric": "latency", "margin": 10}]}, "goals", "it is compared in percent"),
        ({"goals": [{"metric": "rating", "limit": 9}]}, "goals", "give a number between 1 and 5"),
        ({"goals": [{"metric": "rating", "limit": 4, "aim": "superiority"}]}, "goals", "a limit of rating has no aim"),
        ({"goals": [{"aim": "inferiority"}]}, "goals", "'inferiority' is not one of non_inferiority"),
        ({"goals": [{"margin_points": 1, "proves": 1}]}, "goals", "1 is not true or false"),
        ({"goals": []}, "goals", "name at least one goal"),
        ({"goals": [{"metric": "rating", "limit": 4}]}, "goals", "no guardrail compares the versions"),
        ({"goals": [{"metric": "duration", "margin_percent": 10}]}, "goals", "cannot be measured with sessions"),
        ({"unit": "request", "guardrails": [{"metric": "rating_response_rate", "margin_percent": 10}]}, "guardrails",
         "cannot be measured with requests"),
        ({"guardrails": [{"limit": 5}]}, "guardrails", "not a guardrail such as"),
        ({"guardrails": [{"metric": "error_rate"}]}, "guardrails", "error_rate needs one margin or limit"),
        ({"guardrails": [{"metric": "error_rate", "limit": 5}] * 2}, "guardrails", "one of them is there twice"),
        ({"goals": [{"margin_points": 1}] * 2}, "goals", 'is there twice: {"metric": "error_rate", "aim"'),
        ({"goals": [{"metric": "rating", "margin_percent": 5}]}, "goals", "give the margin in stars, not in percent"),
        ({"goals": [{"metric": "latency", "margin_percent": 1e6}]}, "goals", "a number of percent from 0 to 10000"),
        ({"goals": [{"metric": "latency", "margin_percent": 9, "level": 5e-324}]}, "goals", "a share from 0.01 to"),
        ({"goals": [{"metric": "cost", "margin": 1e300}]}, "goals", "0, or a number from a billionth to a trillion"),
        ({"goals": [{"metric": "cost", "margin": 1e-300}]}, "goals", "0, or a number from a billionth to a trillion"),
        ({"goals": [{"metric": "error_rate_increase"}, {"margin": 10**400}]}, "goals", "billionth"),
        ({"guardrails": [{"metric": "latency", "limit": 10**400}]}, "guardrails", "a number, at most a trillion"),
        ({"min_seconds": 10**400}, "min_seconds", "at most a year"),
        ({"min_requests": 10**400}, "min_requests", "from 1 to a billion"),
        ({"auto_promote": "yes"}, "auto_promote", "'yes' is not true or false"),
        ({"unit": "user"}, "unit", "'user' is not one of session, request"),
        ({"min_seconds": -1}, "min_seconds", "-1 is not a number of seconds from 0 on"),
        ({"min_seconds": 601, "max_seconds": 600}, "min_seconds", "is more than max_seconds, 600"),
        ({"alpha": 0}, "alpha", "0 is not a probability above 0"),
    ],
)  # fmt: skip
def test_wrong_settings_say_what_would_be_right(wrong: dict[str, Any], field: str, says: str) -> None:
    with pytest.raises(SettingsError) as caught:
        parse_settings(wrong)
    assert says in caught.value.fields[field]
