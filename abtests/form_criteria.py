"""What the form of an experiment can ask of a candidate: one row for each goal and guardrail, and presets of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from deploypipe.metrics.definitions import Family, Metric, all_metrics
from deploypipe.metrics.questions import Criterion, Kind

POINTS, PERCENT, STARS, MS = "points", "%", "stars", "ms"
_MARGINS = {POINTS: "margin_points", PERCENT: "margin_percent", STARS: "margin"}
LEVELS = [("0.5", "P50"), ("0.95", "P95"), ("0.99", "P99")]
USUAL_LEVEL = "0.95"


@dataclass(frozen=True)
class Right:
    """Which numbers are right."""

    words: str
    accepts: Callable[[float], bool]


_SHARE = Right("a number above 0 and below 100, such as 0.5", lambda v: 0 < v < 100)
_RISE = Right("a number above 0, such as 20", lambda v: 0 < v < 1000)
_FALL = Right("a number above 0 and below 100, such as 20", lambda v: 0 < v < 100)


@dataclass(frozen=True)
class Row:
    """A field of the form and the criterion that it makes; an empty field asks nothing."""

    label: str
    metric: str
    is_goal: bool
    rights: Mapping[str, Right]
    """Unit → which numbers are right; the first one is the usual."""
    is_limit: bool = False
    has_level: bool = False

    def make(self, value: float, unit: str, level: float) -> dict[str, Any]:
        """As `abtests.settings` reads it."""
        name = "limit" if self.is_limit else _MARGINS[unit]
        return {"metric": self.metric, name: value, **({"level": level} if self.has_level else {})}

    @property
    def units(self) -> list[str]:
        return list(self.rights)


ROWS: dict[str, Row] = {
    "error_increase": Row("Error rate rises by less than", "error_rate", True, {POINTS: _SHARE, PERCENT: _RISE}),
    "latency_increase": Row("Latency rises by less than", "latency", True, {PERCENT: _RISE}, has_level=True),
    "rating_least": Row(
        "Rating is at least", "rating", True,
        {STARS: Right("stars above 1 and below 5, such as 4", lambda v: 1 < v < 5)}, is_limit=True,
    ),
    "rating_drop": Row(
        "Rating falls by less than", "rating", True,
        {STARS: Right("stars above 0 and below 4, such as 0.2", lambda v: 0 < v < 4)},
    ),
    "conversion_drop": Row(
        "Conversion rate falls by less than", "conversion_rate", True, {POINTS: _SHARE, PERCENT: _FALL}
    ),
    "cost_increase": Row("Cost rises by less than", "cost", True, {PERCENT: _RISE}),
    "error_limit": Row(
        "Error rate is above", "error_rate", False,
        {PERCENT: Right("a percentage above 0 and below 100, such as 5", lambda v: 0 < v < 100)}, is_limit=True,
    ),
    "latency_limit": Row(
        "Latency is above", "latency", False,
        {MS: Right("milliseconds above 0, such as 1000", lambda v: 0 < v < math.inf)}, is_limit=True, has_level=True,
    ),
    "success_least": Row(
        "Success rate is below", "success_rate", False,
        {PERCENT: Right("a percentage above 0 and below 100, such as 95", lambda v: 0 < v < 100)}, is_limit=True,
    ),
}  # fmt: skip
GOALS = tuple(name for name, row in ROWS.items() if row.is_goal)
GUARDRAILS = tuple(name for name, row in ROWS.items() if not row.is_goal)

_ERRORS: dict[str, Any] = {"error_increase": 0.5, "error_limit": 5}
_LATENCY: dict[str, Any] = {"latency_increase": 20, "latency_level": USUAL_LEVEL}
PRESETS: dict[str, tuple[str, dict[str, Any]]] = {
    "mission": (
        "The mission’s criteria",
        {**_ERRORS, **_LATENCY, "rating_least": 4, "latency_limit": 1000, "success_least": 95},
    ),
    "errors": ("Errors", _ERRORS),
    "errors_latency": ("Errors and latency", {**_ERRORS, **_LATENCY}),
    "latency": ("Latency", {**_LATENCY, "latency_limit": 1000, "error_limit": 5}),
    "ratings": ("Ratings", {**_ERRORS, "rating_least": 4, "rating_drop": 0.2}),
}
"""Name → words, and what it asks."""
OWN = "own"
USUAL = "errors"


def filled(data: Mapping[str, Any]) -> dict[str, Any] | None:
    """The criteria of a preset that was newly chosen in these posted fields; None where none was."""
    preset = data.get("preset", "")
    if preset == data.get("applied") or preset not in PRESETS:
        return None
    values = PRESETS[preset][1]
    rows = {name: values.get(name, "") for name in ROWS}
    units = {unit_field(name): row.units[0] for name, row in ROWS.items() if len(row.units) > 1}
    return {**rows, **units, "latency_level": values.get("latency_level", USUAL_LEVEL), "applied": preset}


def unit_field(name: str) -> str:
    return f"{name}_unit"


# --- One more, of any metric that there is ----------------------------------------------------------------------------

OWN_UNIT = "own"
AIMS = {
    "non_inferiority": ("gets worse by less than", Kind.INCREASE),
    "superiority": ("gets better by more than", Kind.IMPROVEMENT),
    "equivalence": ("changes by less than", Kind.EQUIVALENCE),
    "limit": ("stays on the right side of", Kind.LIMIT),
}


def metric_choices() -> list[tuple[str, str]]:
    return [(one.name, _named(one)) for one in all_metrics()]


def _named(metric: Metric) -> str:
    better = "lower" if metric.lower_is_better else "higher"
    return f"{metric.label}{f', {metric.unit}' if metric.unit else ''} ({better} is better)"


def other(metric: Metric, aim: str, value: float, unit: str, level: float) -> dict[str, Any]:
    """As `abtests.settings` reads it. ValueError says what would be right."""
    kind = AIMS[aim][1]
    relative = unit == PERCENT and kind is not Kind.LIMIT
    of_level = level if metric.family is Family.QUANTILE else None
    if kind is not Kind.LIMIT and metric.family in (Family.QUANTILE, Family.ARRIVALS) and not relative:
        raise ValueError(f"the {metric.label} is compared in percent: choose %")
    try:
        Criterion(metric.name, kind, value, relative, of_level)
    except ValueError as error:
        raise ValueError(str(error).removeprefix(f"{metric.name}: ")) from error
    if kind is Kind.LIMIT:
        said: dict[str, Any] = {"limit": value}
    else:
        own = POINTS if metric.points == "points" else STARS
        said = {"aim": aim, _MARGINS[PERCENT if relative else own]: value}
    return {"metric": metric.name, **said, **({"level": level} if of_level is not None else {})}
