from __future__ import annotations

import json

import pytest

from deploypipe.stats.counts import EMPTY, ArmCounts, Window, total


@pytest.mark.parametrize(("requests", "errors"), [(-1, 0), (3, 4), (3, -1), (0, 1)])
def test_impossible_counts_are_refused(requests, errors):
    with pytest.raises(ValueError, match="between 0 and requests"):
        ArmCounts(requests, errors)


def test_total_adds_each_arm():
    windows = [Window(ArmCounts(9, 1), ArmCounts(1, 0)), Window(ArmCounts(8, 0), ArmCounts(2, 2))]
    assert total(windows) == Window(ArmCounts(17, 1), ArmCounts(3, 2)) == windows[0] + windows[1]
    assert total([]) == EMPTY


def test_window_survives_json():
    window = Window(ArmCounts(9, 1), ArmCounts(1, 0))
    assert Window.from_json(json.loads(json.dumps(window.to_json()))) == window


def test_rate_of_no_requests_is_unknown():
    assert ArmCounts().rate is None
    assert ArmCounts(4, 1).rate == 0.25
