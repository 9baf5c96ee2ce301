"""Windows of the time between tests: charts and the last step of a rollout look at them for a while, nobody later."""

from __future__ import annotations

from datetime import datetime, timedelta

from django.db.models import Exists, OuterRef, Q, QuerySet

from deploypipe.metrics.models import Epoch, Window

_AROUND = timedelta(hours=1)
"""Looks at a test may be taken at windows of a little before and after it."""


def forget_windows(now: datetime, days: float, *, at_once: int = 2_000) -> int:
    """Delete those that are older, in pieces; how many. What a test was decided from stays."""
    forgotten = 0
    while some := list(_old(now - timedelta(days=days)).values_list("pk", flat=True)[:at_once]):
        forgotten += Window.objects.filter(pk__in=some).delete()[0]
    return forgotten


def _old(before: datetime) -> QuerySet[Window]:
    at = OuterRef("taken_at")
    tests = Epoch.objects.filter(
        Q(ended_at=None) | Q(ended_at__gte=at - _AROUND),
        environment=OuterRef("environment"),
        model=OuterRef("model"),
        since__lte=at + _AROUND,
    )
    return Window.objects.filter(~Exists(tests), epoch="", taken_at__lt=before).order_by("taken_at")
