"""Windows as chart points."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from deploypipe.metrics.models import Window
from deploypipe.metrics.series import history, points
from deploypipe.stats.histogram import Histogram

AT = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
ROLES = {"v2": "candidate", "v1": "stable"}


def window(backend: str, *, batch: int = 1, milliseconds: tuple[float, ...] = (), **changes: Any) -> Window:
    latencies = Histogram()
    for value in milliseconds:
        latencies.add(value)
    at = AT + timedelta(seconds=batch)
    usual = {"requests": 10, "errors": 1, "taken_at": at, "first_at": at, "last_at": at}
    return Window(backend=backend, batch=batch, first_ms=latencies.to_json(), **{**usual, **changes})


def values(found: dict[str, dict[str, list[Any]]]) -> dict[str, list[Any]]:
    return {name: point["y"] for name, point in found.items()}


def test_each_arm_has_its_rates_and_quantiles() -> None:
    found = points([window("v2", milliseconds=(100, 100, 100)), window("v1", requests=90, errors=0)], ROLES, AT)
    seen = values(found)
    assert seen["requests.candidate"] == [10]
    assert seen["errors.candidate"] == [10.0]
    assert seen["errors.stable"] == [0.0]
    assert seen["share.candidate"] == [10.0]
    assert seen["p50.candidate"] == [pytest.approx(100, rel=0.1)]
    assert seen["p95.stable"] == [None]
    assert all(point["x"] == [AT.isoformat()] for point in found.values())
    assert "share.stable" not in found


def test_arm_without_requests_has_no_rate() -> None:
    seen = values(points([window("v2", requests=0, errors=0, client_errors=3)], ROLES, AT))
    assert seen["errors.candidate"] == [None]
    assert "share.candidate" not in seen


def test_other_versions_are_left_out_and_do_not_dilute_the_share() -> None:
    seen = values(points([window("v2"), window("v1"), window("v0", requests=1000)], ROLES, AT))
    assert seen["share.candidate"] == [50.0]
    assert not any("v0" in name for name in seen)


def test_nothing_measured_is_no_point() -> None:
    assert points([], ROLES, AT) == {}
    assert history([], ROLES) == {}


def test_history_is_in_the_order_of_the_batches() -> None:
    found = history(
        [window("v2", batch=2, requests=20), window("v2", batch=1), window("v1", batch=2), window("v2", batch=10)],
        ROLES,
    )
    assert found["requests.candidate"]["y"] == [10, 20, 10]
    assert found["requests.stable"]["y"] == [10]
    moments = [(AT + timedelta(seconds=batch)).isoformat() for batch in (1, 2, 10)]
    assert found["requests.candidate"]["x"] == moments
