"""The part `ab_testing` of a pipeline-config.yaml as the settings of an experiment, key by key.

Error rates there are in percent: `max_error_rate_increase: 0.5` is half a percentage point. Latencies are the P95 of
the time to the first event. Success criteria must be proven before a promotion, and evidence that one of them is missed
aborts, too; failure criteria abort, and hold a promotion back while they are not kept as measured.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from abtests.settings import LEVEL, MIN_REQUESTS, ExperimentSettings
from deploypipe.metrics.criteria import Criterion, Kind, Role
from rollouts.analysis_settings import Reader, SettingsError, flag, number, read_fields

USUAL_MINUTES = 30.0
LEAST_SECONDS = 600.0
"""An experiment runs "10-30 minutes": nothing is promoted before."""
SECTION = "ab_testing"


@dataclass(frozen=True, slots=True)
class ConfiguredExperiment:
    settings: ExperimentSettings
    traffic_percent: float


def from_pipeline_config(config: Mapping[str, Any]) -> ConfiguredExperiment:
    """`config` is the whole file, or its `ab_testing`. What it leaves out is not asked; durations and floors are then
    the usual ones. Raises SettingsError with the path of each wrong key."""
    section = config.get(SECTION, config) if isinstance(config, Mapping) else config
    problems: dict[str, str] = {}
    top = _read(section, SECTION, _TOP, problems)
    success = _read(top.pop("success_criteria", {}), f"{SECTION}.success_criteria", _SUCCESS, problems)
    failure = _read(top.pop("failure_criteria", {}), f"{SECTION}.failure_criteria", _FAILURE, problems)
    least = success.pop("min_requests_sample_size", 1000)
    goals = tuple(_GOALS[name](value) for name, value in success.items())
    guardrails = tuple(_GUARDRAILS[name](value) for name, value in failure.items())
    if not problems and not any(goal.kind is not Kind.LIMIT for goal in goals):
        problems[f"{SECTION}.success_criteria"] = (
            "nothing compares the versions; give max_error_rate_increase or max_latency_increase_percent."
        )
    if problems:
        raise SettingsError(problems)
    longest = 60 * top.get("default_duration_minutes", USUAL_MINUTES)
    return ConfiguredExperiment(
        ExperimentSettings(
            goals=goals,
            guardrails=guardrails,
            min_requests=least,
            min_seconds=min(LEAST_SECONDS, longest),
            max_seconds=longest,
            auto_promote=top.get("auto_promote", False),
            auto_rollback=top.get("auto_rollback", True),
        ),
        top.get("default_traffic_split_percent", 10.0),
    )


def _read(given: Any, place: str, readers: Mapping[str, Reader], problems: dict[str, str]) -> dict[str, Any]:
    if not isinstance(given, Mapping):
        problems[place] = f"{given!r} is not an object with {', '.join(readers)}."
        return {}
    try:
        return read_fields(given, readers)
    except SettingsError as error:
        problems.update({f"{place}.{name}": said for name, said in error.fields.items()})
        return {}


def _same(value: Any) -> Any:
    return value


_POINTS = number("a number of percentage points above 0 and below 100, such as 0.5", lambda v: 0 < v < 100)
_PERCENT = number("a percentage above 0 and below 100, such as 5", lambda v: 0 < v < 100)
_TOP: dict[str, Reader] = {
    "default_traffic_split_percent": _PERCENT,
    "default_duration_minutes": number(
        "a number of minutes above 0 and at most a year, such as 30", lambda v: 0 < v <= 366 * 1440
    ),
    "auto_promote": flag,
    "auto_rollback": flag,
    "success_criteria": _same,
    "failure_criteria": _same,
}
_SUCCESS: dict[str, Reader] = {
    "max_error_rate_increase": _POINTS,
    "max_latency_increase_percent": number(
        "a percentage above 0 and at most 10000, such as 20", lambda v: 0 < v <= 10_000
    ),
    "min_user_satisfaction": number("a number of stars above 1 and below 5, such as 4.0", lambda v: 1 < v < 5),
    "min_requests_sample_size": MIN_REQUESTS,
}
_FAILURE: dict[str, Reader] = {
    "max_error_rate": _PERCENT,
    "max_latency_ms": number(
        "a number of milliseconds above 0 and at most a trillion, such as 1000", lambda v: 0 < v <= 1e12
    ),
    "min_success_rate": _PERCENT,
}
_GOALS: dict[str, Callable[[float], Criterion]] = {
    "max_error_rate_increase": lambda v: Criterion("error_rate", Kind.INCREASE, v, role=Role.GOAL),
    "max_latency_increase_percent": lambda v: Criterion("latency", Kind.INCREASE, v, True, LEVEL, Role.GOAL),
    "min_user_satisfaction": lambda v: Criterion("rating", Kind.LIMIT, v, role=Role.GOAL),
}
_GUARDRAILS: dict[str, Callable[[float], Criterion]] = {
    "max_error_rate": lambda v: Criterion("error_rate", Kind.LIMIT, v, proves=False),
    "max_latency_ms": lambda v: Criterion("latency", Kind.LIMIT, v, level=LEVEL, proves=False),
    "min_success_rate": lambda v: Criterion("success_rate", Kind.LIMIT, v, proves=False),
}
