"""What was measured before the bins were finer is not lost, and code of before may go on writing meanwhile."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
from django.db import connection
from django.db.migrations.executor import MigrationExecutor

from deploypipe.metrics.bins import first_ms
from deploypipe.metrics.models import Window
from deploypipe.stats.histogram import bin_of

BEFORE, AFTER = [("metrics", "0001_initial")], [("metrics", "0003_finer_bins")]
AT = datetime(2026, 1, 2, tzinfo=UTC)
USUAL: dict[str, Any] = {
    "environment": "production", "model": "textgen", "backend": "v1", "first_at": AT, "last_at": AT, "taken_at": AT,
    "requests": 7, "errors": 0, "duration_ms": {},
}  # fmt: skip


def migrate(target: Any) -> Any:
    executor = MigrationExecutor(connection)
    executor.migrate(target)
    return executor.loader.project_state(target).apps


@pytest.fixture
def before() -> Iterator[Any]:
    yield migrate(BEFORE)
    executor = MigrationExecutor(connection)
    executor.migrate(executor.loader.graph.leaf_nodes())


@pytest.mark.django_db(transaction=True)
def test_histograms_come_over_and_go_back(before: Any) -> None:
    old = before.get_model("metrics", "Window")
    for batch in range(1, 1_203):
        old.objects.create(batch=batch, first_ms={"46": 3, "-2": 4}, **USUAL)
    migrate(AFTER)
    rows = list(Window.objects.all())
    assert all((row.bins, row.first_ms) == (64, {"372": 3, "-12": 4}) for row in rows)
    assert len(rows) == 1_202
    median = first_ms(rows[0]).quantile(0.9)
    assert median is not None
    assert 2 ** (46 / 8) <= median <= 2 ** (47 / 8)
    assert bin_of(2 ** (46.5 / 8) * 1.0001) == 372
    back = migrate([("metrics", "0002_sessions_and_feedback")]).get_model("metrics", "Window")
    assert back.objects.first().first_ms == {"46": 3, "-2": 4}


@pytest.mark.django_db(transaction=True)
def test_code_of_before_goes_on_writing(before: Any) -> None:
    old = before.get_model("metrics", "Window")
    migrate(AFTER)
    old.objects.create(batch=1, first_ms={"46": 3}, **USUAL)
    row = Window.objects.get()
    assert (row.bins, row.group, row.epoch, row.period, row.share, row.assigned) == (8, "", "", 0, None, 0)
    assert (row.fresh, row.returning, row.feedback) == ({}, {}, {})
    assert first_ms(row).counts == {372: 3}
