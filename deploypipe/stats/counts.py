"""What one look adds: requests and errors of both arms, counted in the same stretch of time."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class ArmCounts:
    requests: int = 0
    errors: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.errors <= self.requests:
            raise ValueError(f"errors must lie between 0 and requests, not {self.errors} of {self.requests}")

    def __add__(self, other: ArmCounts) -> ArmCounts:
        return ArmCounts(self.requests + other.requests, self.errors + other.errors)

    @property
    def rate(self) -> float | None:
        """Errors per request, None when there was no request."""
        return self.errors / self.requests if self.requests else None

    def to_json(self) -> dict[str, int]:
        return {"requests": self.requests, "errors": self.errors}

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> ArmCounts:
        return cls(int(stored["requests"]), int(stored["errors"]))


NO_REQUESTS = ArmCounts()


@dataclass(frozen=True, slots=True)
class Window:
    """Only what is new since the window before; nothing is ever counted in two windows."""

    stable: ArmCounts = NO_REQUESTS
    candidate: ArmCounts = NO_REQUESTS

    def __add__(self, other: Window) -> Window:
        return Window(self.stable + other.stable, self.candidate + other.candidate)

    @property
    def requests(self) -> int:
        return self.stable.requests + self.candidate.requests

    def to_json(self) -> dict[str, dict[str, int]]:
        return {"stable": self.stable.to_json(), "candidate": self.candidate.to_json()}

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> Window:
        return cls(ArmCounts.from_json(stored["stable"]), ArmCounts.from_json(stored["candidate"]))


EMPTY = Window()


def total(windows: Iterable[Window]) -> Window:
    stable_requests = stable_errors = candidate_requests = candidate_errors = 0
    for window in windows:
        stable_requests += window.stable.requests
        stable_errors += window.stable.errors
        candidate_requests += window.candidate.requests
        candidate_errors += window.candidate.errors
    return Window(ArmCounts(stable_requests, stable_errors), ArmCounts(candidate_requests, candidate_errors))
