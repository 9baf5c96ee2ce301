"""How each metric reads one arm of one window, and which classes are metrics."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import pytest

from deploypipe.metrics import definitions
from deploypipe.metrics.definitions import Concern, Family, Metric, Reading, Unit, all_metrics, metric, metric_named
from deploypipe.metrics.windows import WHOLE, ArmWindow, Feedback, Units
from deploypipe.stats.samples import Moments, Sample

UNITS = Units(
    first=(10, 3),
    first_latency={400: 7},
    whole={(1, 0): 5, (4, 1): 2, (2, 2): 1},
    whole_latency={400: 6 * WHOLE, 500: WHOLE // 4},
    feedback=Feedback({5: 2, 3: 1}, (8, 2), Moments(3, 6.0, 14.0), {"tokens": Moments(1, 7.0, 49.0)}),
)
ARM = ArmWindow(
    requests=20, errors={"timeout": 1, "server_error": 3}, latency={400: 16}, duration={450: 16}, fresh=UNITS,
    feedback=Feedback({1: 1}, (1, 1), Moments(1, 1.0, 1.0)),
)  # fmt: skip


@pytest.mark.parametrize(
    ("name", "reading", "value"),
    [
        ("error_rate", Reading.FIRST, Sample.binary(10, 3)),
        ("error_rate", Reading.WHOLE, Sample.of({0.0: 5, 0.25: 2, 1.0: 1})),
        ("success_rate", Reading.FIRST, Sample.binary(10, 7)),
        ("success_rate", Reading.WHOLE, Sample.of({1.0: 5, 0.75: 2, 0.0: 1})),
        ("latency", Reading.FIRST, {400: 7}),
        ("latency", Reading.WHOLE, {400: 6.0, 500: 0.25}),
        ("rating", Reading.WORD, Sample.of({1.0: 2, 0.5: 1})),
        ("conversion_rate", Reading.WORD, Sample.binary(8, 2)),
        ("cost", Reading.WORD, Moments(3, 6.0, 14.0)),
        ("rating_response_rate", Reading.WORD, 3),
        ("requests_per_session", Reading.WHOLE, Sample.of({0.1: 5, 0.4: 2, 0.2: 1})),
    ],
)
def test_sessions_are_read(name: str, reading: Reading, value: object) -> None:
    found = metric_named(name)
    assert reading in found.readings(Unit.SESSION)
    assert found.sessions(UNITS, reading) == value


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("error_rate", Sample.binary(20, 4)),
        ("success_rate", Sample.binary(20, 16)),
        ("latency", {400: 16}),
        ("duration", {450: 16}),
        ("rating", Sample.of({0.0: 1})),
        ("conversion_rate", Sample.binary(1, 1)),
        ("cost", Moments(1, 1.0, 1.0)),
        ("request_rate", 20),
    ],
)
def test_requests_are_read(name: str, value: object) -> None:
    found = metric_named(name)
    assert found.readings(Unit.REQUEST) == (Reading.REQUEST,)
    assert found.requests(ARM) == value


def test_every_metric_says_what_it_is_and_reads_nothing_as_nothing() -> None:
    assert len(all_metrics()) == 10
    for each in all_metrics():
        assert each.label
        for reading in each.session_readings:
            assert not each.sessions(Units(), reading) or each.sessions(Units(), reading) in (Sample(), Moments())
        if each.of_requests:
            assert not each.requests(ArmWindow()) or each.requests(ArmWindow()) in (Sample(), Moments())


def test_error_rate_is_read_in_the_whole_last_so_that_a_promotion_asks_that() -> None:
    assert metric_named("error_rate").readings(Unit.SESSION) == (Reading.FIRST, Reading.WHOLE)
    assert metric_named("duration").readings(Unit.SESSION) == ()
    assert metric_named("requests_per_session").readings(Unit.REQUEST) == ()


def test_unknown_metric_is_answered_with_those_that_there_are() -> None:
    with pytest.raises(ValueError, match="there is no metric 'beauty'; there are conversion_rate, cost, duration"):
        metric_named("beauty")


@pytest.fixture
def unchanged() -> Iterator[None]:
    before = definitions.registered()
    yield
    definitions.restore(before)


def made(**said: Any) -> type[Metric]:
    usual: dict[str, Any] = {
        "name": "mine", "label": "mine", "unit": "%", "family": Family.BOUNDED, "of_requests": True,
        "requests": lambda self, arm: Sample.binary(arm.requests, 0),
    }  # fmt: skip
    return type("Mine", (Metric,), {k: v for k, v in {**usual, **said}.items() if v is not None})


@pytest.mark.usefixtures("unchanged")
def test_metric_of_ones_own_is_registered_once() -> None:
    cls = metric(made())
    assert isinstance(metric_named("mine"), cls)
    assert metric_named("mine").concern is Concern.WORTH
    metric(cls)
    with pytest.raises(ValueError, match="'mine' is already the metric"):
        metric(type("Other", (cls,), {}))


@pytest.mark.usefixtures("unchanged")
@pytest.mark.parametrize(
    ("said", "problem"),
    [
        ({"name": "Mine!"}, "give small letters, digits and _"),
        ({"name": 3}, "name is 3, give a text"),
        ({"label": None}, "label is None, give a text"),
        ({"family": "bounded!"}, "give a Family"),
        ({"scale": (5.0, 1.0)}, r"scale is \(5.0, 1.0\)"),
        ({"scale": (0.0, math.inf)}, r"scale is \(0.0, inf\)"),
        ({"scale": 100}, "scale is 100, give the least value and then the greatest"),
        ({"typical": 1.0}, "typical is 1.0, give a number between 0 and 1"),
        ({"concern": "beauty"}, "concern is 'beauty', give a Concern"),
        ({"of_requests": False}, "it reads nothing"),
        ({"requests": None}, r"has no requests\(self, arm\)"),
        ({"session_readings": (Reading.WHOLE,)}, r"no sessions\(self, units, reading\)"),
    ],
)
def test_class_that_lacks_something_is_refused(said: dict[str, Any], problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        metric(made(**said))


def test_what_is_no_metric_is_refused() -> None:
    with pytest.raises(ValueError, match="give a class that inherits Metric"):
        metric(int)  # type: ignore[type-var]
