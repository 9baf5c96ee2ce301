"""From check results to a score, a band and the sentence that says what cost the points. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum


class Status(StrEnum):
    PASSED = "passed"
    FAILED = "failed"
    ERROR = "error"
    NOT_APPLICABLE = "not_applicable"
    NOT_CHECKED = "not_checked"


class Band(StrEnum):
    EXCELLENT = "excellent"  # 95 to 100: may be approved
    GOOD = "good"  # 80 to 94: may be approved; the rollout must have analysis steps
    CAUTION = "caution"  # 65 to 79: only by a named approver's override with a reason
    POOR = "poor"  # below 65: blocked


CATEGORY_WEIGHTS: Mapping[str, float] = {
    "compatibility": 25,
    "performance": 30,
    "security": 25,
    "integration": 20,
    "quality": 0,
}
"""The mission's weights, in percent; output quality is looked at, and counts where a policy gives it a weight."""


@dataclass(frozen=True)
class Scored:
    """What the scorer needs to know of one result. `weight` counts inside the category."""

    name: str
    label: str
    category: str
    status: Status
    weight: float
    required: bool
    reason: str


@dataclass(frozen=True)
class Score:
    points: float
    """0 to 100, one decimal, rounded down: 79.96 is not yet 80."""
    band: Band
    blocked: bool
    sentence: str
    categories: dict[str, float | None]
    """Points out of 100 per category; None where nothing in it is applicable."""


def score(results: Sequence[Scored], weights: Mapping[str, float] = CATEGORY_WEIGHTS) -> Score:
    """Only `passed` scores. Weights of not applicable checks and categories are shared among the rest.

    A required check that did not pass (failed, error or not checked) blocks whatever the points are.
    """
    categories = {name: _category([r for r in results if r.category == name]) for name in weights}
    applicable = {name: points for name, points in categories.items() if points is not None and weights[name] > 0}
    total = sum(weights[name] for name in applicable)
    points = sum(weights[name] * value for name, value in applicable.items()) / total if total else 0.0
    points = int(points * 10 + 1e-6) / 10
    band = band_of(points)
    stops = [r for r in results if r.required and r.status not in (Status.PASSED, Status.NOT_APPLICABLE)]
    blocked = bool(stops) or band is Band.POOR or not applicable
    return Score(points, band, blocked, _sentence(points, band, results, stops, weights), categories)


def band_of(points: float) -> Band:
    if points >= 95:
        return Band.EXCELLENT
    if points >= 80:
        return Band.GOOD
    if points >= 65:
        return Band.CAUTION
    return Band.POOR


def _category(results: Sequence[Scored]) -> float | None:
    counted = [r for r in results if r.status is not Status.NOT_APPLICABLE and r.weight > 0]
    total = sum(r.weight for r in counted)
    if not total:
        return None
    return 100.0 * sum(r.weight for r in counted if r.status is Status.PASSED) / total


def _sentence(
    points: float,
    band: Band,
    results: Sequence[Scored],
    stops: Sequence[Scored],
    weights: Mapping[str, float],
) -> str:
    if stops:
        # What failed explains more than what could not be checked because of it.
        first = min(stops, key=lambda r: (r.status is not Status.FAILED, r.status is not Status.ERROR))
        more = [r for r in stops if r is not first and r.status is Status.FAILED]
        also = f" Also failed: {', '.join(r.label for r in more)}." if more else ""
        return f"Blocked: {first.reason}{also}"
    unmet = (Status.FAILED, Status.ERROR, Status.NOT_CHECKED)
    lost = [r.label for r in results if r.status in unmet and r.weight > 0 and weights.get(r.category, 0) > 0]
    cost = f" Points were lost on: {', '.join(lost)}." if lost else ""
    meaning = {
        Band.EXCELLENT: "may be approved",
        Band.GOOD: "may be approved; its rollout must have analysis steps",
        Band.CAUTION: "only an approver's override with a reason lets it through",
        Band.POOR: "blocked: below 65",
    }[band]
    return f"{points:g} of 100 ({band.value}): {meaning}.{cost}"
