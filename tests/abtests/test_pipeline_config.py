"""The mission's `ab_testing`, key by key."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from abtests.pipeline_config import from_pipeline_config
from abtests.settings import parse_settings
from deploypipe.metrics.criteria import Criterion, Kind, Role
from rollouts.analysis_settings import SettingsError
from tests.registry.test_pipeline_config import MISSION

THE_FILE: dict[str, Any] = yaml.safe_load(MISSION.read_text())


def test_mission_file_is_understood() -> None:
    found = from_pipeline_config(THE_FILE)
    asked = found.settings
    assert found.traffic_percent == 10
    assert asked.goals == (
        Criterion("error_rate", Kind.INCREASE, 0.5, role=Role.GOAL),
        Criterion("latency", Kind.INCREASE, 20.0, True, 0.95, Role.GOAL),
        Criterion("rating", Kind.LIMIT, 4.0, role=Role.GOAL),
    )
    assert asked.guardrails == (
        Criterion("error_rate", Kind.LIMIT, 5.0, proves=False),
        Criterion("latency", Kind.LIMIT, 1000.0, level=0.95, proves=False),
        Criterion("success_rate", Kind.LIMIT, 95.0, proves=False),
    )
    assert (asked.min_requests, asked.min_seconds, asked.max_seconds) == (1000, 600.0, 1800.0)
    assert (asked.auto_promote, asked.auto_rollback) == (True, True)
    assert parse_settings(asked.to_json()) == asked
    assert from_pipeline_config(THE_FILE["ab_testing"]) == found


def changed(path: str, value: Any) -> dict[str, Any]:
    section: dict[str, Any] = {k: dict(v) if isinstance(v, dict) else v for k, v in THE_FILE["ab_testing"].items()}
    *above, name = path.split(".")
    place = section
    for each in above:
        place = place[each]
    if value is None:
        del place[name]
    else:
        place[name] = value
    return {"ab_testing": section}


@pytest.mark.parametrize(
    ("path", "value", "read"),
    [
        ("default_traffic_split_percent", 25, lambda f: f.traffic_percent == 25),
        ("default_traffic_split_percent", None, lambda f: f.traffic_percent == 10),
        ("default_duration_minutes", 15, lambda f: (f.settings.min_seconds, f.settings.max_seconds) == (600, 900)),
        ("default_duration_minutes", 5, lambda f: (f.settings.min_seconds, f.settings.max_seconds) == (300, 300)),
        ("auto_promote", False, lambda f: not f.settings.auto_promote),
        ("auto_promote", None, lambda f: not f.settings.auto_promote),
        ("auto_rollback", False, lambda f: not f.settings.auto_rollback),
        ("auto_rollback", None, lambda f: f.settings.auto_rollback),
        ("success_criteria.max_error_rate_increase", 1, lambda f: f.settings.goals[0].margin == 1),
        ("success_criteria.max_error_rate_increase", None, lambda f: f.settings.goals[0].metric == "latency"),
        ("success_criteria.max_latency_increase_percent", 50, lambda f: f.settings.goals[1].margin == 50),
        ("success_criteria.min_user_satisfaction", 4.5, lambda f: f.settings.goals[2].margin == 4.5),
        ("success_criteria.min_user_satisfaction", None, lambda f: len(f.settings.goals) == 2),
        ("success_criteria.min_requests_sample_size", 50, lambda f: f.settings.min_requests == 50),
        ("success_criteria.min_requests_sample_size", None, lambda f: f.settings.min_requests == 1000),
        ("failure_criteria.max_error_rate", 2, lambda f: f.settings.guardrails[0].margin == 2),
        ("failure_criteria.max_latency_ms", 300, lambda f: f.settings.guardrails[1].margin == 300),
        ("failure_criteria.min_success_rate", 99, lambda f: f.settings.guardrails[2].margin == 99),
        ("failure_criteria", None, lambda f: f.settings.guardrails == ()),
    ],
)
def test_each_key_is_read(path: str, value: Any, read: Any) -> None:
    assert read(from_pipeline_config(changed(path, value)))


@pytest.mark.parametrize(
    ("path", "value", "place", "says"),
    [
        ("success_criteria.max_error_rate_increase", 0, None, "0 is not a number of percentage points above 0"),
        ("success_criteria.min_user_satisfaction", 5.5, None, "5.5 is not a number of stars above 1"),
        ("success_criteria.min_requests_sample_size", 0, None, "0 is not a whole number of requests"),
        ("failure_criteria.max_latency_ms", "1s", None, "'1s' is not a number of milliseconds"),
        ("failure_criteria.max_errors", 1, None, "did you mean max_error_rate?"),
        ("success_criteria", [], None, "[] is not an object with max_error_rate_increase"),
        ("default_duration_minutes", 0, None, "0 is not a number of minutes above 0"),
        ("default_duration_minutes", 1e9, None, "at most a year"),
        ("default_duration_minutes", 10**400, None, "at most a year"),
        ("failure_criteria.max_latency_ms", 10**400, None, "at most a trillion"),
        ("auto_promote", "yes", None, "'yes' is not true or false"),
        ("traffic", 10, None, "there is no such setting"),
    ],
)
def test_wrong_key_is_named_by_its_path(path: str, value: Any, place: str | None, says: str) -> None:
    with pytest.raises(SettingsError) as caught:
        from_pipeline_config(changed(path, value))
    assert says in caught.value.fields[f"ab_testing.{place or path}"]


def test_something_must_compare_the_versions() -> None:
    with pytest.raises(SettingsError) as caught:
        from_pipeline_config({"ab_testing": {"success_criteria": {"min_user_satisfaction": 4.0}}})
    assert "nothing compares the versions" in caught.value.fields["ab_testing.success_criteria"]
