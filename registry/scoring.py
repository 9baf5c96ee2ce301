"""From check results to a score, a band and the sentence that says what cost the points. Pure."""

from __future__ import annotations

import math
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
class Loss:
    """What one check cost."""

    name: str
    label: str
    points: float
    """Of the 100, one decimal. All losses together are what is missing from the score, so a very small one may be 0."""


@dataclass(frozen=True)
class Score:
    points: float
    """0 to 100, one decimal, rounded down: 79.96 is not yet 80."""
    band: Band
    blocked: bool
    sentence: str
    categories: dict[str, float | None]
    """Points out of 100 per category, those without a weight too; None where nothing in it is applicable."""
    lost: tuple[Loss, ...] = ()
    """What cost points, the dearest first."""


MOST_NAMED = 5
MINIMUM_SCORE = 80.0
"""What the product asks for where no policy says otherwise."""
UNMET = (Status.FAILED, Status.ERROR, Status.NOT_CHECKED)


def score(
    results: Sequence[Scored], weights: Mapping[str, float] = CATEGORY_WEIGHTS, minimum_score: float = MINIMUM_SCORE
) -> Score:
    """Only `passed` scores. Weights of not applicable checks and categories are shared among the rest.

    A required check that did not pass (failed, error or not checked) blocks whatever the points are. A category that
    has no weight is judged and costs nothing.
    """
    names = dict.fromkeys([*weights, *(r.category for r in results)])
    categories = {name: _category([r for r in results if r.category == name]) for name in names}
    shares = _shares(categories, weights)
    points = math.fsum(share * (categories[name] or 0.0) for name, share in shares.items())
    points = int(points * 10 + 1e-6) / 10
    band = band_of(points)
    stops = [r for r in results if r.required and r.status in UNMET]
    blocked = bool(stops) or band is Band.POOR or not shares
    lost = _lost(results, shares, round(1000 - 10 * points)) if shares else ()
    sentence = _blocked_sentence(stops) if stops else _sentence(points, band, lost, bool(shares), minimum_score)
    return Score(points, band, blocked, sentence, categories, lost)


def band_of(points: float) -> Band:
    if points >= 95:
        return Band.EXCELLENT
    if points >= 80:
        return Band.GOOD
    if points >= 65:
        return Band.CAUTION
    return Band.POOR


def needs_override(points: float, minimum_score: float) -> bool:
    """Nothing blocks, and yet it is too low to be approved as it is."""
    return points < minimum_score or band_of(points) is Band.CAUTION


def _counted(results: Sequence[Scored]) -> list[Scored]:
    return [r for r in results if r.status is not Status.NOT_APPLICABLE and r.weight > 0]


def _category(results: Sequence[Scored]) -> float | None:
    counted = _counted(results)
    total = math.fsum(r.weight for r in counted)  # fsum: the order of the checks must not show in the last digit
    if not total:
        return None
    return 100.0 * (math.fsum(r.weight for r in counted if r.status is Status.PASSED) / total)


def _shares(categories: Mapping[str, float | None], weights: Mapping[str, float]) -> dict[str, float]:
    """Each counting category's part of the whole; together 1."""
    counting = {name: weights.get(name, 0.0) for name, points in categories.items() if points is not None}
    total = math.fsum(weight for weight in counting.values() if weight > 0)
    return {name: weight / total for name, weight in counting.items() if weight > 0}


def _lost(results: Sequence[Scored], shares: Mapping[str, float], tenths: int) -> tuple[Loss, ...]:
    """The missing tenths of a point, by what each check cost (largest remainder, so that they add up)."""
    exact: list[tuple[float, Scored]] = []
    for category, share in shares.items():
        counted = _counted([r for r in results if r.category == category])
        total = math.fsum(r.weight for r in counted)
        exact += [(1000 * share * (r.weight / total), r) for r in counted if r.status in UNMET]
    exact.sort(key=lambda pair: (-pair[0], pair[1].name, pair[1].label))
    whole = [int(cost) for cost, _ in exact]
    dearest = sorted(range(len(exact)), key=lambda i: (whole[i] - exact[i][0], i))
    for i in dearest[: max(0, tenths - sum(whole))]:
        whole[i] += 1
    return tuple(Loss(r.name, r.label, whole[i] / 10) for i, (_, r) in enumerate(exact))


def _blocked_sentence(stops: Sequence[Scored]) -> str:
    # What failed explains more than what could not be checked because of it.
    first = min(stops, key=lambda r: (r.status is not Status.FAILED, r.status is not Status.ERROR))
    more = [r for r in stops if r is not first and r.status is Status.FAILED]
    also = f" Also failed: {', '.join(r.label for r in more)}." if more else ""
    return f"Blocked: {first.reason}{also}"


def _sentence(points: float, band: Band, lost: Sequence[Loss], counts: bool, minimum_score: float) -> str:
    if not counts:
        return "Blocked: nothing that counts could be looked at, so there is no score."
    meaning = {
        Band.EXCELLENT: "may be approved",
        Band.GOOD: "may be approved; its rollout must have analysis steps",
        Band.CAUTION: "only an approver's override with a reason lets it through",
        Band.POOR: "blocked: below 65",
    }[band]
    if band in (Band.GOOD, Band.EXCELLENT) and points < minimum_score:
        meaning = (
            f"less than the {minimum_score:g} that the policy asks for; only an approver's override with a reason lets "
            "it through"
        )
    cost = f" Points were lost on: {_named(lost)}." if lost else ""
    return f"{points:g} of 100 ({band.value}): {meaning}.{cost}"


def _named(lost: Sequence[Loss]) -> str:
    """ "Rate limiting (7.5), Keys are not echoed (2.1) and 3 more (1.4)" """
    shown = ", ".join(f"{loss.label} ({_amount(loss.points)})" for loss in lost[:MOST_NAMED])
    rest = lost[MOST_NAMED:]
    return f"{shown} and {len(rest)} more ({_amount(math.fsum(loss.points for loss in rest))})" if rest else shown


def _amount(points: float) -> str:
    return f"{points:.1f}" if points >= 0.05 else "under 0.1"
