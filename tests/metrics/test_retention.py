"""What was measured between tests is kept for a while, what tests were decided from for good."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest

from deploypipe.metrics.models import Epoch, Window
from deploypipe.metrics.sources.retention import forget_windows
from tests.metrics.world import BEGAN, Gateway, line, seen

pytestmark = pytest.mark.django_db
HOUR = 3600.0


@pytest.fixture
def gateway(tmp_path: Path) -> Gateway:
    """A test from BEGAN on, ended two hours later; the live version has traffic before, meanwhile and after."""
    gateway = Gateway(tmp_path / "access.log")
    there, gateway.routes = gateway.routes, []
    for at in (-30 * HOUR, -20 * HOUR):
        gateway.serve("before", "v1", at)
    gateway.routes = there
    for at in (5, HOUR):
        gateway.write(line("meanwhile", "v1", at - 60 * HOUR))  # it began before the test, and belongs to none
        gateway.serve(f"test-{at}", "v1", at)
    gateway.routes = []
    gateway.read(2 * HOUR)
    for at in (20 * HOUR, 30 * HOUR):
        gateway.serve("after", "v1", at)
    return gateway


def when(days: float) -> list[float]:
    """Hours since BEGAN of the windows that stay after so many days."""
    forget_windows(BEGAN + timedelta(days=days), 30)
    taken = Window.objects.filter(requests__gt=0).order_by("taken_at").values_list("taken_at", flat=True)
    return sorted({round((at - BEGAN) / timedelta(hours=1)) for at in taken})


def test_windows_between_tests_are_deleted_when_they_are_old_and_those_of_tests_stay(gateway: Gateway) -> None:
    verdicts_from = seen()
    assert when(0) == [-30, -20, 0, 1, 20, 30]
    assert when(29.0) == [-20, 0, 1, 20, 30]
    assert when(31.0) == [0, 1, 30]
    assert when(400.0) == [0, 1]
    assert [window for window in seen() if window.period] == [window for window in verdicts_from if window.period]
    assert Window.objects.filter(epoch="", requests=1).count() == 2, "what came in the midst of the test stays with it"


def test_test_that_goes_on_keeps_all_that_was_measured_since_it_began(gateway: Gateway) -> None:
    Epoch.objects.update(ended_at=None)
    assert when(400.0) == [0, 1, 20, 30]


def test_many_are_deleted_in_pieces(gateway: Gateway) -> None:
    assert forget_windows(BEGAN + timedelta(days=400), 30, at_once=1) == 4
