"""What was measured in one stretch of time, as decisions read it. Plain Python: `evidence` files hold the same.

The unit of analysis is the session, because the session is what the gateway assigns to an arm, and what happens to one
session's requests is not independent. A session counts once: two readings of it are taken.

- *first*: its first request that the model had to answer. Known at once, so harm is seen at once.
- *whole*: the share of its requests that failed, over its first `MOST_REQUESTS` requests in `settings.SESSION_SECONDS`.
  Known when these are over, but it sees what goes wrong in the tenth turn.

A session that was there in an earlier period (another split) of the same route is *returning*: it may count for a
question about this period alone, never twice for one about all of them. All of a window's numbers are sufficient
statistics and add up over windows.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from deploypipe.stats.samples import NOTHING, Moments

MOST_REQUESTS = 10
"""Of a session, that count: what one user does cannot outweigh the others."""

WHOLE = 2520
"""One session in latencies of `whole`: the least common multiple of 1 to MOST_REQUESTS, so that each of a session's n
latencies weighs WHOLE / n, exactly, and sums of integers are the same in any order."""

STABLE, CANDIDATE = "stable", "candidate"
"""Names of arms; those of a third and fourth version are "candidate-2", "candidate-3"."""

Bins = Mapping[int, int]
"""Bin of `deploypipe.stats.histogram` → count."""


@dataclass(frozen=True, slots=True)
class Feedback:
    """What users, or the program that serves them, said of sessions. A session counts with its first word."""

    ratings: Mapping[int, int] = field(default_factory=dict)
    """Stars, 1 to 5 → sessions."""
    conversions: tuple[int, int] = (0, 0)
    """Sessions of which it is known, and those that converted."""
    cost: Moments = NOTHING
    custom: Mapping[str, Moments] = field(default_factory=dict)
    """Name of a quantity that a metric of your own reads → its values."""


@dataclass(frozen=True, slots=True)
class Units:
    """Sessions of one arm, each counted in exactly one window for each of its readings."""

    first: tuple[int, int] = (0, 0)
    """Sessions whose first request was answered in this window, and those of them whose first request failed."""
    first_latency: Bins = field(default_factory=dict)
    """Time to the first event, of first requests that went well."""
    whole: Mapping[tuple[int, int], int] = field(default_factory=dict)
    """(requests, failed ones) → sessions whose observation ended in this window."""
    whole_latency: Bins = field(default_factory=dict)
    """Their times to the first event; each session weighs WHOLE in all."""
    feedback: Feedback = field(default_factory=Feedback)


@dataclass(frozen=True, slots=True)
class ArmWindow:
    requests: int = 0
    """That the model had to answer; requests that were the client's own fault are not in here."""
    errors: Mapping[str, int] = field(default_factory=dict)
    """Class of `metrics.records.ErrorClass` → count."""
    client_errors: int = 0
    latency: Bins = field(default_factory=dict)
    """Time to the first event of every request that went well, milliseconds."""
    duration: Bins = field(default_factory=dict)
    """Of the whole answer, milliseconds."""
    events: int = 0
    """Events of streams: tokens, more or less."""
    assigned: int = 0
    """Sessions seen for the first time since the route got its salt, whatever came of their requests."""
    fresh: Units = field(default_factory=Units)
    returning: Units = field(default_factory=Units)
    feedback: Feedback = field(default_factory=Feedback)
    """Of every session at the time it came, for charts; decisions read that of `fresh` and `returning`."""

    @property
    def failed(self) -> int:
        return sum(self.errors.values())


@dataclass(frozen=True, slots=True)
class Measured:
    """One window: all arms of one route in the same stretch of time. Never changed after it is written."""

    number: int
    """Rises from window to window."""
    seconds: float
    """Length of the stretch of time."""
    period: int
    """Changes whenever the split or the arms change."""
    shares: Mapping[str, float]
    """Arm → share of new sessions that it was promised; empty where the split changed within the window."""
    arms: Mapping[str, ArmWindow]

    def arm(self, name: str) -> ArmWindow:
        return self.arms.get(name, _NOTHING)


_NOTHING = ArmWindow()


def to_json(window: Measured) -> dict[str, Any]:
    """Without what is empty; `from_json` gives back an equal window."""
    return {
        "number": window.number,
        "seconds": window.seconds,
        "period": window.period,
        "shares": dict(sorted(window.shares.items())),
        "arms": {name: arm_to_json(arm) for name, arm in sorted(window.arms.items())},
    }


def from_json(said: Mapping[str, Any]) -> Measured:
    return Measured(
        int(said["number"]),
        float(said["seconds"]),
        int(said["period"]),
        {name: float(share) for name, share in said["shares"].items()},
        {name: arm_from_json(arm) for name, arm in said["arms"].items()},
    )


def arm_to_json(arm: ArmWindow) -> dict[str, Any]:
    return _filled(
        requests=arm.requests,
        errors=dict(sorted(arm.errors.items())),
        client_errors=arm.client_errors,
        latency=bins_to_json(arm.latency),
        duration=bins_to_json(arm.duration),
        events=arm.events,
        assigned=arm.assigned,
        fresh=units_to_json(arm.fresh),
        returning=units_to_json(arm.returning),
        feedback=feedback_to_json(arm.feedback),
    )


def arm_from_json(said: Mapping[str, Any]) -> ArmWindow:
    return ArmWindow(
        requests=said.get("requests", 0),
        errors=dict(said.get("errors", {})),
        client_errors=said.get("client_errors", 0),
        latency=bins_from_json(said.get("latency", {})),
        duration=bins_from_json(said.get("duration", {})),
        events=said.get("events", 0),
        assigned=said.get("assigned", 0),
        fresh=units_from_json(said.get("fresh", {})),
        returning=units_from_json(said.get("returning", {})),
        feedback=feedback_from_json(said.get("feedback", {})),
    )


def units_to_json(units: Units) -> dict[str, Any]:
    return _filled(
        first=list(units.first) if any(units.first) else [],
        first_latency=bins_to_json(units.first_latency),
        whole=[[requests, failed, count] for (requests, failed), count in sorted(units.whole.items())],
        whole_latency=bins_to_json(units.whole_latency),
        feedback=feedback_to_json(units.feedback),
    )


def units_from_json(said: Mapping[str, Any]) -> Units:
    sessions, failed = said.get("first", (0, 0))
    return Units(
        (sessions, failed),
        bins_from_json(said.get("first_latency", {})),
        {(requests, wrong): count for requests, wrong, count in said.get("whole", ())},
        bins_from_json(said.get("whole_latency", {})),
        feedback_from_json(said.get("feedback", {})),
    )


def feedback_to_json(feedback: Feedback) -> dict[str, Any]:
    return _filled(
        ratings={str(stars): count for stars, count in sorted(feedback.ratings.items())},
        conversions=list(feedback.conversions) if any(feedback.conversions) else [],
        cost=feedback.cost.to_json() if feedback.cost.units else [],
        custom={name: values.to_json() for name, values in sorted(feedback.custom.items())},
    )


def feedback_from_json(said: Mapping[str, Any]) -> Feedback:
    known, converted = said.get("conversions", (0, 0))
    return Feedback(
        {int(stars): count for stars, count in said.get("ratings", {}).items()},
        (known, converted),
        Moments.from_json(said["cost"]) if "cost" in said else Moments(),
        {name: Moments.from_json(values) for name, values in said.get("custom", {}).items()},
    )


def bins_to_json(bins: Bins) -> dict[str, int]:
    return {str(bin_): count for bin_, count in sorted(bins.items())}


def bins_from_json(said: Mapping[str, int]) -> dict[int, int]:
    return {int(bin_): count for bin_, count in said.items()}


def add_arms(left: ArmWindow, right: ArmWindow) -> ArmWindow:
    return ArmWindow(
        requests=left.requests + right.requests,
        errors=add_counts(left.errors, right.errors),
        client_errors=left.client_errors + right.client_errors,
        latency=add_counts(left.latency, right.latency),
        duration=add_counts(left.duration, right.duration),
        events=left.events + right.events,
        assigned=left.assigned + right.assigned,
        fresh=add_units(left.fresh, right.fresh),
        returning=add_units(left.returning, right.returning),
        feedback=add_feedback(left.feedback, right.feedback),
    )


def add_units(left: Units, right: Units) -> Units:
    return Units(
        (left.first[0] + right.first[0], left.first[1] + right.first[1]),
        add_counts(left.first_latency, right.first_latency),
        add_counts(left.whole, right.whole),
        add_counts(left.whole_latency, right.whole_latency),
        add_feedback(left.feedback, right.feedback),
    )


def add_feedback(left: Feedback, right: Feedback) -> Feedback:
    names = {**left.custom, **right.custom}
    return Feedback(
        add_counts(left.ratings, right.ratings),
        (left.conversions[0] + right.conversions[0], left.conversions[1] + right.conversions[1]),
        left.cost + right.cost,
        {name: left.custom.get(name, Moments()) + right.custom.get(name, Moments()) for name in names},
    )


def add_counts(left: Mapping[Any, int], right: Mapping[Any, int]) -> dict[Any, int]:
    joined = dict(left)
    for key, count in right.items():
        joined[key] = joined.get(key, 0) + count
    return joined


def _filled(**values: Any) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value}
