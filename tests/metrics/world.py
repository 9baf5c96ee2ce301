"""A gateway's log, written line by line as the gateway does, and the facts of its routes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from deploypipe.metrics.facts import RouteFacts
from deploypipe.metrics.measured import measured
from deploypipe.metrics.models import Window
from deploypipe.metrics.sources import gateway
from deploypipe.metrics.windows import CANDIDATE, STABLE, ArmWindow, Measured, add_arms
from tests.metrics.test_records import USUAL

BEGAN = datetime(2026, 1, 2, 3, 0, 0, tzinfo=UTC)
ARMS = {"v1": STABLE, "v2": CANDIDATE}
SPAN = 60
"""settings.SESSION_SECONDS."""


def facts(share: float = 0.1, **changes: Any) -> RouteFacts:
    usual = RouteFacts(
        environment="production",
        model="textgen",
        epoch="salt",
        since=BEGAN,
        period=2,
        period_since=BEGAN,
        arms=ARMS,
        shares={STABLE: 1 - share, CANDIDATE: share},
    )
    return replace(usual, **changes)


def line(session: str, backend: str, at: float, *, took: float = 0.1, **changes: Any) -> str:
    """`at` and `took` in seconds; `at` since BEGAN."""
    start = round((BEGAN.timestamp() + at) * 1000)
    said = {
        **USUAL, "session": session, "backend": backend, "start_ms": str(start), "duration_us": round(took * 1e6),
        "duration_ms": round(took * 1000), "request_id": f"{session}-{start}", **changes,
    }  # fmt: skip
    return json.dumps(said)


FAILED: dict[str, Any] = {"status": 500, "events": None, "first_ms": None, "stream_error": None, "complete": None}
LEFT: dict[str, Any] = {"flags": "DC", "complete": False}


@dataclass
class Gateway:
    log: Path
    routes: list[RouteFacts] = field(default_factory=lambda: [facts()])
    now: datetime = BEGAN

    def write(self, *lines: str) -> None:
        with self.log.open("a") as file:
            file.write("".join(f"{each}\n" for each in lines))

    def read(self, at: float) -> list[int]:
        """At so many seconds since BEGAN."""
        self.now = BEGAN + timedelta(seconds=at)
        return gateway.read(self.log, lambda: self.routes, clock=lambda: self.now)

    def serve(self, session: str, backend: str, at: float, **changes: Any) -> None:
        """One request; the reader looks as soon as it has ended."""
        self.write(line(session, backend, at, **changes))
        self.read(at + changes.get("took", 0.1))

    def change(self, share: float, at: float) -> None:
        """The split changes; the reader looked just before."""
        self.read(at)
        old = self.routes[0]
        self.routes = [facts(share, period=old.period + 2, period_since=BEGAN + timedelta(seconds=at), epoch=old.epoch)]

    def settle(self, at: float = 1000) -> None:
        self.read(at)


def seen(**asked: Any) -> list[Measured]:
    return measured("production", "textgen", ARMS, asked.pop("since", BEGAN), **asked)


def totals(windows: list[Measured] | None = None) -> dict[tuple[int, str], ArmWindow]:
    """(period, arm) → all of its windows added up."""
    found: dict[tuple[int, str], ArmWindow] = {}
    for window in seen() if windows is None else windows:
        for name, arm in window.arms.items():
            place = (window.period, name)
            found[place] = add_arms(found.get(place, ArmWindow()), arm)
    return found


def stored() -> Iterator[Window]:
    return iter(Window.objects.order_by("pk"))
