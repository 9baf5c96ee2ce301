"""What an experiment may be told. Settings come from people and programs: each wrong value is named with what would be
right."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from deploypipe.metrics.closing import usual_share
from deploypipe.metrics.criteria import Criterion, Kind, Plan, Role, Scope, Unit
from deploypipe.metrics.definitions import Family, Metric, all_metrics, metric_named
from rollouts.analysis_settings import (
    ALPHA,
    SECONDS,
    Reader,
    SettingsError,
    flag,
    number,
    one_of,
    read_fields,
    whole,
)

AIMS = {"non_inferiority": Kind.INCREASE, "superiority": Kind.IMPROVEMENT, "equivalence": Kind.EQUIVALENCE}
LEVEL = 0.95
"""Of a latency, unless it is said: the P95."""

USUAL_GOALS = (Criterion("error_rate", Kind.INCREASE, 0.5, role=Role.GOAL),)
USUAL_GUARDRAILS = (Criterion("error_rate", Kind.LIMIT, 5.0, proves=False),)


@dataclass(frozen=True, slots=True)
class ExperimentSettings:
    goals: tuple[Criterion, ...] = USUAL_GOALS
    guardrails: tuple[Criterion, ...] = USUAL_GUARDRAILS
    alpha: float = 0.05
    """Of a wrong promotion, and again of a wrong abort, over all arms and looks."""
    unit: Unit = Unit.SESSION
    min_requests: int = 1000
    """Of a candidate, before it may be promoted. Never a floor for aborting."""
    min_seconds: float = 0.0
    """Before a candidate may be promoted. Never a floor for aborting."""
    max_seconds: float = 1800.0
    closing_share: float | None = None
    """Part of a wrong abort's alpha that is kept for one exact test at max_seconds. None: settled as the experiment
    begins, by the traffic that is expected (`settled`)."""
    auto_promote: bool = False
    auto_rollback: bool = True

    @property
    def criteria(self) -> tuple[Criterion, ...]:
        return (*self.goals, *self.guardrails)

    def plan(self, arms: int = 1, *, scope: Scope = Scope.ALL) -> Plan:
        return Plan(self.criteria, self.alpha, self.unit, arms, scope, self.closing_share or 0.0)

    def settled(self, candidate_units: float) -> ExperimentSettings:
        """`candidate_units`: how many of the candidate's are expected until the end; 0 where nobody knows."""
        if self.closing_share is not None:
            return self
        return replace(self, closing_share=usual_share(candidate_units) if candidate_units else 0.0)

    def to_json(self) -> dict[str, Any]:
        """`parse_settings` gives back equal settings."""
        return {
            "goals": [criterion_to_json(goal) for goal in self.goals],
            "guardrails": [criterion_to_json(rail) for rail in self.guardrails],
            "alpha": self.alpha,
            "unit": self.unit.value,
            "min_requests": self.min_requests,
            "min_seconds": self.min_seconds,
            "max_seconds": self.max_seconds,
            "closing_share": self.closing_share,
            "auto_promote": self.auto_promote,
            "auto_rollback": self.auto_rollback,
        }


def parse_settings(given: Mapping[str, Any]) -> ExperimentSettings:
    """Raises SettingsError, which names each wrong field."""
    settings = ExperimentSettings(**read_fields(given, _READERS))
    problems = {}
    if not any(criterion.proves and criterion.kind is not Kind.LIMIT for criterion in settings.criteria):
        problems["goals"] = "there is none, and no guardrail compares the versions; name at least one goal."
    if settings.min_seconds > settings.max_seconds:
        problems["min_seconds"] = (
            f"{settings.min_seconds:g} is more than max_seconds, {settings.max_seconds:g}: nothing could be promoted."
        )
    for name in ("goals", "guardrails"):
        for criterion in getattr(settings, name):
            if not metric_named(criterion.metric).readings(settings.unit):
                problems[name] = f"{criterion.metric} cannot be measured with {settings.unit}s as the unit."
            elif getattr(settings, name).count(criterion) > 1:
                problems[name] = f"one of them is there twice: {json.dumps(criterion_to_json(criterion))}."
    if problems:
        raise SettingsError(problems)
    return settings


def criterion_to_json(criterion: Criterion) -> dict[str, Any]:
    metric = metric_named(criterion.metric)
    said: dict[str, Any] = {"metric": criterion.metric}
    if criterion.kind is Kind.LIMIT:
        said["limit"] = criterion.margin
    else:
        said["aim"] = next(aim for aim, kind in AIMS.items() if kind is criterion.kind)
        said[_margin_name(metric, criterion.relative)] = criterion.margin
    if criterion.level is not None:
        said["level"] = criterion.level
    for name, usual in _usual_verbs(criterion.kind, criterion.role).items():
        if getattr(criterion, name) != usual:
            said[name] = getattr(criterion, name)
    return said


def _margin_name(metric: Metric, relative: bool) -> str:
    if relative:
        return "margin_percent"
    return "margin_points" if metric.points == "points" else "margin"


def _usual_verbs(kind: Kind, role: Role) -> dict[str, bool]:
    """A fixed limit that only guards is watched; not being better is no harm."""
    return {"proves": role is Role.GOAL or kind is not Kind.LIMIT, "aborts": kind is not Kind.IMPROVEMENT}


def _criteria(role: Role) -> Reader:
    example = (
        '{"metric": "error_rate", "aim": "non_inferiority", "margin_points": 0.5}'
        if role is Role.GOAL
        else '{"metric": "error_rate", "limit": 5}'
    )

    def read_all(value: Any) -> tuple[Criterion, ...]:
        if isinstance(value, str | Mapping) or not isinstance(value, Sequence):
            raise ValueError("a list")
        return tuple(read_one(item) for item in value)

    def read_one(given: Any) -> Criterion:
        if not isinstance(given, Mapping) or (role is Role.GUARDRAIL and "metric" not in given):
            raise ValueError(f"a {role} such as {example}")
        try:
            return _criterion(given, role, example)
        except SettingsError as error:
            raise ValueError(f"right ({error})") from error

    return read_all


def _criterion(given: Mapping[str, Any], role: Role, example: str) -> Criterion:
    said = dict(given)
    if said.get("metric") == "error_rate_increase":  # how comparisons were written at first
        said["metric"] = "error_rate"
        if "limit" in said:
            said["margin_points"] = said.pop("limit")
    values = read_fields(said, _CRITERION_READERS)
    metric = metric_named(values.get("metric", "error_rate"))
    margins = [name for name in ("limit", "margin", "margin_points", "margin_percent") if name in values]
    if not margins and metric.name == "error_rate" and role is Role.GOAL:
        values["margin_points"], margins = 0.5, ["margin_points"]
    if len(margins) != 1:
        raise ValueError(f"a {role} such as {example}: {metric.name} needs one margin or limit and has {len(margins)}")
    name = margins[0]
    if name == "margin_points" and metric.points != "points":
        raise ValueError(f"right: {metric.name} is not counted in points; give margin_percent")
    aim = values.get("aim")
    if name == "limit" and aim is not None:
        raise ValueError(f"right: a limit of {metric.name} has no aim")
    kind = Kind.LIMIT if name == "limit" else aim or Kind.INCREASE
    if kind is Kind.INCREASE and values[name] == 0:
        raise ValueError("a goal that an equal version can meet: non-inferiority needs a margin above 0")
    level = values.get("level", LEVEL if metric.family is Family.QUANTILE else None)
    verbs = {verb: bool(values.get(verb, usual)) for verb, usual in _usual_verbs(kind, role).items()}
    try:
        return Criterion(metric.name, kind, values[name], name == "margin_percent", level, role, **verbs)
    except ValueError as error:
        raise ValueError(f"right ({error})") from error


def _metric_name(value: Any) -> str:
    try:
        return metric_named(value).name
    except (ValueError, TypeError):
        raise ValueError(f"one of {', '.join(metric.name for metric in all_metrics())}") from None


def _unit(value: Any) -> Unit:
    return Unit(one_of(*Unit)(value))


MIN_REQUESTS = whole("a whole number of requests from 1 to a billion, such as 1000", lambda v: 1 <= v <= 10**9)
_SHARE = number("a share from 0 to 0.95, or null for the usual one", lambda v: 0 <= v <= 0.95)
_MARGIN = number("0, or a number from a billionth to a trillion", lambda v: v == 0 or 1e-9 <= v <= 1e12)
_CRITERION_READERS: dict[str, Reader] = {
    "metric": _metric_name,
    "aim": lambda value: AIMS[one_of(*AIMS)(value)],
    "margin": _MARGIN,
    "margin_points": number("a number of percentage points from 0 to below 100", lambda v: 0 <= v < 100),
    "margin_percent": number("a number of percent from 0 to 10000, such as 20", lambda v: 0 <= v <= 10_000),
    "limit": number("a number, at most a trillion", lambda v: abs(v) <= 1e12),
    "level": number("a share from 0.01 to 0.9999, such as 0.95 for the P95", lambda v: 0.01 <= v <= 0.9999),
    "proves": flag,
    "aborts": flag,
}
_READERS: dict[str, Reader] = {
    "goals": _criteria(Role.GOAL),
    "guardrails": _criteria(Role.GUARDRAIL),
    "alpha": ALPHA,
    "unit": _unit,
    "min_requests": MIN_REQUESTS,
    "min_seconds": number(
        "a number of seconds from 0 on, at most a year, such as 600", lambda v: 0 <= v <= 366 * 86_400
    ),
    "max_seconds": SECONDS,
    "closing_share": lambda value: None if value is None else _SHARE(value),
    "auto_promote": flag,
    "auto_rollback": flag,
}
