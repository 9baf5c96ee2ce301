"""What a rollout is watched by outside of its experiment never forbids what that allows."""

from __future__ import annotations

from typing import Any

import pytest

from abtests.gates import ExperimentGate
from abtests.settings import parse_settings
from abtests.watch import watched_by
from rollouts import analysis

Json = dict[str, Any]
UNSAID = {"alpha": 0.05, "unit": "session", "max_error_rate_percent": None, "max_latency_increase_percent": None}


@pytest.mark.parametrize(
    ("given", "watched"),
    [
        ({}, {**UNSAID, "max_error_increase_points": 0.5, "max_error_rate_percent": 5.0}),
        (
            {
                "alpha": 0.01, "unit": "request",
                "goals": [{"metric": "error_rate", "margin_points": 3}, {"metric": "latency", "margin_percent": 40}],
                "guardrails": [{"metric": "latency", "limit": 900}, {"metric": "success_rate", "limit": 90}],
            },
            {
                "alpha": 0.01, "unit": "request", "max_error_increase_points": 3.0, "max_error_rate_percent": 10.0,
                "max_latency_increase_percent": 40.0, "latency_slack_ms": 0.0, "latency_level": 0.95,
                "max_latency_ms": 900.0,
            },
        ),
        (
            {"goals": [{"metric": "success_rate", "margin_points": 2}], "guardrails": []},
            {**UNSAID, "max_error_increase_points": 2.0},
        ),
        (
            {"goals": [{"metric": "rating", "aim": "superiority", "margin": 0.1}], "guardrails": []},
            UNSAID,
        ),
        (
            {"goals": [{"metric": "error_rate", "aim": "superiority", "margin_points": 1}], "guardrails": []},
            UNSAID,
        ),
        (
            {"goals": [{"metric": "error_rate", "margin_percent": 50}], "guardrails": []},
            UNSAID,
        ),
        (
            {"goals": [{"metric": "latency", "margin_percent": 10, "level": 0.999}], "guardrails": []},
            UNSAID,
        ),
        (
            {
                "goals": [{"metric": "latency", "margin_percent": 10, "level": 0.5}],
                "guardrails": [{"metric": "latency", "limit": 700, "level": 0.99}],
            },
            {**UNSAID, "max_latency_increase_percent": 10.0, "latency_slack_ms": 0.0, "latency_level": 0.5},
        ),
    ],
)  # fmt: skip
def test_what_is_watched_is_what_the_experiment_would_abort_for(given: Json, watched: Json) -> None:
    assert watched_by(parse_settings(given)) == watched
    assert ExperimentGate().watch(given) == watched
    analysis.parse_settings(watched)  # an analysis step takes it
