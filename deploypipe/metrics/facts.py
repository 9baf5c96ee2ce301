"""What the reader of records must know of a route: which arms share its traffic, how, and since when. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime


@dataclass(frozen=True, slots=True)
class RouteFacts:
    """One route on which two arms or more share the traffic. A route that has none now is not told of."""

    environment: str
    model: str
    epoch: str
    """The salt: a new one draws every session anew."""
    since: datetime
    """When the epoch began: requests that began before belong to no session of it."""
    period: int
    """Rises whenever the split or the arms change. Within an epoch no number comes back."""
    period_since: datetime | None
    """Since when this split is in force at the gateway; None while it is being written."""
    arms: Mapping[str, str]
    """Backend → arm."""
    shares: Mapping[str, float]
    """Arm → share of new sessions that it is promised, of those that are drawn; they sum to 1."""


Facts = Callable[[], Iterable[RouteFacts]]
"""Asked after the records were read, so that it never knows less than they do."""
