"""The metrics: what each one is called, which way is better, and how it reads one arm of one window.

A metric of your own is a class with `@metric` in the `experiment_metrics.py` of any installed app (docs/extending.md).
Plain Python: `experiment replay` uses the same metrics without Django.
"""

from __future__ import annotations

import math
import re
from abc import ABC
from collections.abc import Mapping
from enum import StrEnum
from typing import Any, ClassVar, TypeVar

from deploypipe.metrics.windows import MOST_REQUESTS, WHOLE, ArmWindow, Units
from deploypipe.stats.samples import Moments, Sample

_NAME = re.compile(r"[a-z][a-z0-9_]{0,39}")


class Unit(StrEnum):
    """What counts once in a test."""

    SESSION = "session"
    REQUEST = "request"
    """For traffic where each request is routed on its own."""


class Reading(StrEnum):
    """When and how a unit's value is known."""

    FIRST = "first"
    """Of a session: its first request. Known at once."""
    WHOLE = "whole"
    """Of a session: its first requests together. Known when its observation ends."""
    WORD = "word"
    """Of a session: what its user said, or what was said of it. Known when it comes, for those of which it comes."""
    REQUEST = "request"


class Family(StrEnum):
    """Which test it needs, and what `read` returns."""

    BOUNDED = "bounded"
    """`Sample`: values between the ends of `scale`, brought to 0 to 1."""
    QUANTILE = "quantile"
    """Bins of `deploypipe.stats.histogram` → number of units, which may be fractional."""
    MEAN = "mean"
    """`Moments`: no bounds are known."""
    ARRIVALS = "arrivals"
    """int: how often something happened."""


class Concern(StrEnum):
    """Of what harm it tells: alpha is shared among these when something is aborted."""

    ERRORS = "errors"
    SPEED = "speed"
    WORTH = "worth"
    """What users say and do, what it costs, and every metric of your own that does not say otherwise."""


Value = Sample | Mapping[int, float] | Moments | int


class Metric(ABC):
    """One instance of each class exists; it holds no state."""

    name: ClassVar[str]
    label: ClassVar[str]
    """As in "the … rises by less than": "error rate"."""
    unit: ClassVar[str]
    """Of its values: "%", "ms", "stars"."""
    lower_is_better: ClassVar[bool] = True
    family: ClassVar[Family]
    concern: ClassVar[Concern] = Concern.WORTH
    scale: ClassVar[tuple[float, float]] = (0.0, 100.0)
    """Of BOUNDED: the least and the greatest value, in `unit`."""
    points: ClassVar[str] = "points"
    """What a difference of two values is counted in."""
    event: ClassVar[str] = ""
    """Of a share: what the counted ones did, as in "5 of 61 sessions failed"."""
    typical: ClassVar[float] = 0.01
    """Of BOUNDED: what stable's mean may be, on the scale from 0 to 1, before anything is known."""
    session_readings: ClassVar[tuple[Reading, ...]] = ()
    """The last one is the one that a promotion asks; harm may be seen in any of them."""
    of_requests: ClassVar[bool] = False
    complement_of: ClassVar[str] = ""
    """The metric that is the same in other words: 95 % succeeded, 5 % failed."""

    @property
    def bounded(self) -> bool:
        return self.family is Family.BOUNDED

    def readings(self, unit: Unit) -> tuple[Reading, ...]:
        if unit is Unit.SESSION:
            return self.session_readings
        return (Reading.REQUEST,) if self.of_requests else ()

    def sessions(self, units: Units, reading: Reading) -> Value:
        """One arm's sessions of one window, by one of `session_readings`."""
        raise NotImplementedError(f"{self.name} does not read sessions")

    def requests(self, arm: ArmWindow) -> Value:
        """The same where each request is a unit. Of feedback: every word that came."""
        raise NotImplementedError(f"{self.name} does not read requests")


_metrics: dict[str, Metric] = {}

M = TypeVar("M", bound=type[Metric])


def metric(cls: M) -> M:
    """Register a metric. ValueError says what the class lacks."""
    if problem := _lacking(cls):
        raise ValueError(f"{cls.__qualname__} is no metric that can be used: {problem}")
    known = _metrics.get(cls.name)
    if known and (type(known).__module__, type(known).__qualname__) != (cls.__module__, cls.__qualname__):
        raise ValueError(f"{cls.name!r} is already the metric {type(known).__module__}.{type(known).__qualname__}")
    _metrics[cls.name] = cls()
    return cls


def registered() -> Mapping[str, Metric]:
    return dict(_metrics)


def restore(metrics: Mapping[str, Metric]) -> None:
    """As `registered` said before."""
    _metrics.clear()
    _metrics.update(metrics)


def metric_named(name: str) -> Metric:
    """ValueError names those that there are."""
    if name not in _metrics:
        raise ValueError(f"there is no metric {name!r}; there are {', '.join(sorted(_metrics))}")
    return _metrics[name]


def all_metrics() -> list[Metric]:
    return [_metrics[name] for name in sorted(_metrics)]


def _lacking(cls: Any) -> str:
    if not isinstance(cls, type) or not issubclass(cls, Metric):
        return "give a class that inherits Metric"
    for name, kind in (("name", str), ("label", str), ("unit", str), ("family", Family), ("concern", Concern)):
        if not isinstance(getattr(cls, name, None), kind):
            return f"{name} is {getattr(cls, name, None)!r}, give a {'text' if kind is str else kind.__name__}"
    if not _NAME.fullmatch(cls.name):
        return f"name is {cls.name!r}, give small letters, digits and _, at most 40"
    if cls.family is Family.BOUNDED and (problem := _lacking_of_bounds(cls)):
        return problem
    if not cls.session_readings and not cls.of_requests:
        return "it reads nothing: name its session_readings, or set of_requests"
    if cls.session_readings and cls.sessions is Metric.sessions:
        return "it has session_readings and no sessions(self, units, reading)"
    if cls.of_requests and cls.requests is Metric.requests:
        return "it says of_requests and has no requests(self, arm)"
    return ""


def _lacking_of_bounds(cls: type[Metric]) -> str:
    match cls.scale:
        case (int() | float() as low, int() | float() as high) if low < high < math.inf and low > -math.inf:
            pass
        case _:
            return f"scale is {cls.scale!r}, give the least value and then the greatest"
    if not (isinstance(cls.typical, int | float) and 0 < cls.typical < 1):
        return f"typical is {cls.typical!r}, give a number between 0 and 1"
    return ""


# The built-in ones.


@metric
class ErrorRate(Metric):
    name = "error_rate"
    label = "error rate"
    unit = "%"
    family = Family.BOUNDED
    concern = Concern.ERRORS
    event = "failed"
    session_readings = (Reading.FIRST, Reading.WHOLE)
    of_requests = True

    def sessions(self, units: Units, reading: Reading) -> Sample:
        if reading is Reading.FIRST:
            return Sample.binary(*units.first)
        shares: dict[float, float] = {}
        for (requests, failed), count in units.whole.items():
            shares[failed / requests] = shares.get(failed / requests, 0) + count
        return Sample.of(shares)

    def requests(self, arm: ArmWindow) -> Sample:
        return Sample.binary(arm.requests, arm.failed)


@metric
class SuccessRate(ErrorRate):
    name = "success_rate"
    label = "success rate"
    lower_is_better = False
    event = "succeeded"
    typical = 0.99
    complement_of = "error_rate"

    def sessions(self, units: Units, reading: Reading) -> Sample:
        return super().sessions(units, reading).mirrored

    def requests(self, arm: ArmWindow) -> Sample:
        return super().requests(arm).mirrored


@metric
class Latency(Metric):
    """Time to the first event of an answer, of requests that went well."""

    name = "latency"
    label = "latency"
    unit = "ms"
    points = "ms"
    family = Family.QUANTILE
    concern = Concern.SPEED
    session_readings = (Reading.FIRST, Reading.WHOLE)
    of_requests = True

    def sessions(self, units: Units, reading: Reading) -> Mapping[int, float]:
        if reading is Reading.FIRST:
            return units.first_latency
        return {bin_: count / WHOLE for bin_, count in units.whole_latency.items()}

    def requests(self, arm: ArmWindow) -> Mapping[int, float]:
        return arm.latency


@metric
class Duration(Metric):
    """Of the whole answer. Windows have it of requests alone."""

    name = "duration"
    label = "duration"
    unit = "ms"
    points = "ms"
    family = Family.QUANTILE
    concern = Concern.SPEED
    of_requests = True

    def requests(self, arm: ArmWindow) -> Mapping[int, float]:
        return arm.duration


@metric
class Rating(Metric):
    name = "rating"
    label = "rating"
    unit = "stars"
    points = "stars"
    lower_is_better = False
    family = Family.BOUNDED
    scale = (1.0, 5.0)
    typical = 0.75
    session_readings = (Reading.WORD,)
    of_requests = True

    def sessions(self, units: Units, reading: Reading) -> Sample:
        return _stars(units.feedback.ratings)

    def requests(self, arm: ArmWindow) -> Sample:
        return _stars(arm.feedback.ratings)


def _stars(ratings: Mapping[int, int]) -> Sample:
    return Sample.of({(stars - 1) / 4: count for stars, count in ratings.items()})


@metric
class ConversionRate(Metric):
    name = "conversion_rate"
    label = "conversion rate"
    unit = "%"
    lower_is_better = False
    family = Family.BOUNDED
    event = "converted"
    typical = 0.05
    session_readings = (Reading.WORD,)
    of_requests = True

    def sessions(self, units: Units, reading: Reading) -> Sample:
        return Sample.binary(*units.feedback.conversions)

    def requests(self, arm: ArmWindow) -> Sample:
        return Sample.binary(*arm.feedback.conversions)


@metric
class Cost(Metric):
    name = "cost"
    label = "cost"
    unit = ""
    points = ""
    family = Family.MEAN
    session_readings = (Reading.WORD,)
    of_requests = True

    def sessions(self, units: Units, reading: Reading) -> Moments:
        return units.feedback.cost

    def requests(self, arm: ArmWindow) -> Moments:
        return arm.feedback.cost


@metric
class RatingResponseRate(Metric):
    """Ratings are volunteered: where fewer users rate, the mean of those who do says less. Ratings come when they come,
    so they are compared as arrivals, against the share of sessions that each arm was promised."""

    name = "rating_response_rate"
    label = "number of ratings per session"
    unit = "ratings"
    lower_is_better = False
    family = Family.ARRIVALS
    session_readings = (Reading.WORD,)

    def sessions(self, units: Units, reading: Reading) -> int:
        return sum(units.feedback.ratings.values())


@metric
class RequestsPerSession(Metric):
    """Users whose answers are bad ask again: "retry amplification". At most MOST_REQUESTS of a session count."""

    name = "requests_per_session"
    label = "number of requests per session"
    unit = "requests"
    points = "requests"
    family = Family.BOUNDED
    scale = (0.0, float(MOST_REQUESTS))
    typical = 0.3
    session_readings = (Reading.WHOLE,)

    def sessions(self, units: Units, reading: Reading) -> Sample:
        lengths: dict[float, float] = {}
        for (requests, _), count in units.whole.items():
            lengths[requests / MOST_REQUESTS] = lengths.get(requests / MOST_REQUESTS, 0) + count
        return Sample.of(lengths)


@metric
class RequestRate(Metric):
    """The same where each request is routed on its own: requests that reach an arm, against its share."""

    name = "request_rate"
    label = "number of requests for its share"
    unit = "requests"
    family = Family.ARRIVALS
    of_requests = True

    def requests(self, arm: ArmWindow) -> int:
        return arm.requests
