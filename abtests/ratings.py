"""How users rated each arm of an experiment, counted from the windows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta

from django.db.models import Q

from abtests.models import Experiment
from deploypipe.metrics.models import Window
from rollouts.queries import backends_of

STARS = (5, 4, 3, 2, 1)
_LATE = timedelta(seconds=5)
"""Windows are written a moment after what they tell of."""


@dataclass(frozen=True)
class Rated:
    version: str
    counts: Mapping[int, int]
    """Stars → sessions."""

    @property
    def total(self) -> int:
        return sum(self.counts.values())

    @property
    def mean(self) -> float:
        return sum(stars * count for stars, count in self.counts.items()) / self.total

    @property
    def shares(self) -> list[tuple[int, float]]:
        """From five stars down, 0 to 1."""
        return [(stars, self.counts.get(stars, 0) / self.total) for stars in STARS]


def ratings(one: Experiment, versions: Mapping[str, str]) -> list[Rated]:
    """Of each arm that was rated, stable first."""
    if one.started_at is None:
        return []
    arms = backends_of(one.rollout)
    rows = Window.objects.filter(
        Q(fresh__feedback__ratings__isnull=False) | Q(returning__feedback__ratings__isnull=False),
        environment=one.environment.name, model=one.candidate.model.name, backend__in=arms, group="",
        taken_at__gte=one.started_at,
    )  # fmt: skip
    if one.ended_at is not None:
        rows = rows.filter(taken_at__lte=one.ended_at + _LATE)
    counted: dict[str, Counter[int]] = {arm: Counter() for arm in versions}
    for backend, *said in rows.values_list(
        "backend", "fresh__feedback__ratings", "returning__feedback__ratings"
    ).iterator():
        for stars in said:
            counted[arms[backend]].update({int(star): number for star, number in (stars or {}).items()})
    return [Rated(versions[arm], counts) for arm, counts in counted.items() if counts]
