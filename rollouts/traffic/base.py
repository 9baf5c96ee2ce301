"""How the split is written and read back: the contract that every router keeps (`tests/contracts/test_routers.py`).

A router is given the whole table of routes each time and makes the data plane equal to it: writing the same table twice
changes nothing, and a table that somebody edited behind our back is put right by the next write.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from rollouts.bucketing import Cut

TOTAL_WEIGHT = 10_000
"""Weights are hundredths of a percent, whole numbers that sum to exactly this."""


@dataclass(frozen=True)
class Backend:
    name: str
    """Name of the deployment, as it appears in the gateway's records."""
    address: str
    """`host:port` of the model server."""
    weight: int
    """0 to TOTAL_WEIGHT. A backend with weight 0 stays known to the data plane, so that it is warm."""
    keeps_connections: bool = True
    """False where each request needs a connection of its own: the server closes them although it promised not to."""


@dataclass(frozen=True)
class Assignment:
    """Which id of a request makes its session."""

    by: str = "session"
    """"session": the header `x-session-id` or the cookie that the gateway hands out. "header" or "cookie": the one
    called `name`; where a request has none, its session is made as by "session"."""
    name: str = ""


BY_SESSION = Assignment()


@dataclass(frozen=True)
class ForcedRule:
    """Whoever sends the header with this value meets the arm."""

    header: str
    value: str
    arm: str


@dataclass(frozen=True)
class RouteTable:
    """Traffic of one model in one environment; served at `/{environment}/{model}/`, the prefix being taken off."""

    environment: str
    model: str
    backends: tuple[Backend, ...]
    """In a fixed order: candidates first, then the stable version, then what is only warm. Weights sum to TOTAL_WEIGHT,
    or there is no backend at all (then clients get 503 and a sentence)."""
    salt: str
    """Mixed into the session's bucket; a new salt reshuffles the sessions."""
    cuts: tuple[Cut, ...] = ()
    """Backend's name and number of buckets, from bucket 0 upwards, where a backend's buckets are not one stretch; for
    each backend they sum to its weight. Empty: one stretch each, in the order of `backends`."""
    arms: tuple[tuple[str, str], ...] = ()
    """Name of an arm ("stable", "candidate", …) and of its backend: whom forced sessions and those held out can meet.
    A request that says `x-deploypipe-arm: candidate` meets that arm."""
    holdout: int = 0
    """Hundredths of a percent of all sessions, the same under every salt, that meet the stable version always."""
    assignment: Assignment = BY_SESSION
    forced: tuple[ForcedRule, ...] = ()

    @property
    def key(self) -> str:
        return f"{self.environment}/{self.model}"

    @property
    def pieces(self) -> tuple[Cut, ...]:
        """The cuts, also where they are not given, and every backend that has no share."""
        cuts = self.cuts or tuple((backend.name, backend.weight) for backend in self.backends)
        named = {name for name, _ in cuts}
        return (*cuts, *((backend.name, 0) for backend in self.backends if backend.name not in named))


@dataclass(frozen=True)
class Installed:
    """What the data plane itself says that it is doing, never what we last wrote."""

    revision: str
    weights: dict[str, dict[str, int]]
    """route key → backend name → weight."""
    active_requests: dict[str, int]
    """backend name → requests in flight now."""


class Router(Protocol):
    def write(self, routes: Sequence[RouteTable]) -> str:
        """Make the data plane equal to `routes`; the revision (a digest of the content) that `installed` will report.

        Raises RouterError with a sentence (disk full, not allowed, …); the old table then stays in force whole.
        """

    def installed(self) -> Installed:
        """Ask the data plane. Raises RouterError when it does not answer."""
