"""How the split is written and read back: the contract that every router keeps (`tests/contracts/test_routers.py`).

A router is given the whole table of routes each time and makes the data plane equal to it: writing the same table twice
changes nothing, and a table that somebody edited behind our back is put right by the next write.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

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
class RouteTable:
    """Traffic of one model in one environment; served at `/{environment}/{model}/`, the prefix being taken off."""

    environment: str
    model: str
    backends: tuple[Backend, ...]
    """In a fixed order with the candidate first: buckets are cut from 0 upwards, so a growing candidate only gains
    sessions. Weights sum to TOTAL_WEIGHT, or there is no backend at all (then clients get 503 and a sentence)."""
    salt: str
    """Mixed into the session's bucket; a new salt reshuffles the sessions."""

    @property
    def key(self) -> str:
        return f"{self.environment}/{self.model}"


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
