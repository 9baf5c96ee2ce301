"""What an analysis step may be told. Settings come from people and programs: each wrong value is named with what would
be right."""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

Reader = Callable[[Any], Any]

SESSION, REQUEST = "session", "request"
DEFAULT_LATENCY_LEVEL = 0.95


class SettingsError(ValueError):
    """`fields` names each wrong field and says its value and what would be right."""

    def __init__(self, fields: Mapping[str, str]) -> None:
        self.fields: dict[str, str] = dict(fields)
        super().__init__(" ".join(f"{name}: {problem}" for name, problem in self.fields.items()))


@dataclass(frozen=True, slots=True)
class AnalysisSettings:
    max_error_increase_points: float = 0.5
    max_error_rate_percent: float | None = 5.0
    max_latency_increase_percent: float | None = 20.0
    """Of the time to the first event at `latency_level`, against the stable version; None: not compared."""
    latency_slack_ms: float = 5.0
    """So much slower is never held against the candidate, however many percent it is."""
    max_latency_ms: float | None = None
    """Of the candidate's time to the first event at `latency_level`; None: no limit."""
    latency_level: float = DEFAULT_LATENCY_LEVEL
    prove_latency: bool = False
    """A step passes only once the latency is proven to keep its bounds. Otherwise latency is watched: it fails a
    rollout when it is surely too high, and holds up nothing."""
    alpha: float = 0.05
    unit: str = SESSION
    min_requests: int = 100
    """Of the candidate in this step, before it may pass. Never a floor for failing."""
    max_seconds: float = 1800.0

    @property
    def has_latency(self) -> bool:
        return self.max_latency_increase_percent is not None or self.max_latency_ms is not None

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def parse_settings(given: Mapping[str, Any]) -> AnalysisSettings:
    return AnalysisSettings(**read_fields(given, _READERS))


def read_fields(given: Mapping[str, Any], readers: Mapping[str, Reader]) -> dict[str, Any]:
    """The given values, read; a reader raises ValueError with what would be right."""
    values: dict[str, Any] = {}
    problems: dict[str, str] = {}
    for name, value in given.items():
        if name not in readers:
            problems[str(name)] = unknown(str(name), readers)
            continue
        try:
            values[name] = readers[name](value)
        except ValueError as error:
            problems[name] = f"{value!r} is not {error}."
    if problems:
        raise SettingsError(problems)
    return values


def unknown(name: str, known: Iterable[str]) -> str:
    choices = sorted(known)
    near = difflib.get_close_matches(name, choices, n=1)
    hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(choices)}."
    return f"there is no such setting; {hint}"


def number(right: str, accepts: Callable[[float], bool], *, optional: bool = False) -> Reader:
    def read(value: Any) -> float | None:
        if value is None and optional:
            return None
        if isinstance(value, bool) or not isinstance(value, int | float) or not accepts(value):
            raise ValueError(right)
        return float(value)

    return read


def whole(right: str, accepts: Callable[[int], bool]) -> Reader:
    def read(value: Any) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or not accepts(value):
            raise ValueError(right)
        return value

    return read


def flag(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError("true or false")
    return value


def one_of(*choices: str) -> Reader:
    def read(value: Any) -> str:
        if value not in choices:
            raise ValueError(f"one of {', '.join(choices)}")
        return str(value)

    return read


MARGIN_POINTS = number("a number of percentage points above 0 and below 100, such as 0.5", lambda v: 0 < v < 100)
LATENCY_LEVEL = number("a share from 0.5 to 0.99, such as 0.95 for P95", lambda v: 0.5 <= v <= 0.99)
ALPHA = number("a probability above 0 and at most 0.5, such as 0.05", lambda v: 0 < v <= 0.5)
SECONDS = number("a number of seconds above 0 and at most a year, such as 1800", lambda v: 0 < v <= 366 * 86_400)
REQUESTS = whole("a whole number of requests, at least 1, such as 100", lambda v: v >= 1)

_READERS: dict[str, Reader] = {
    "max_error_increase_points": MARGIN_POINTS,
    "max_error_rate_percent": number(
        "a percentage above 0 and below 100, such as 5, or nothing for no limit", lambda v: 0 < v < 100, optional=True
    ),
    "max_latency_increase_percent": number(
        "a percentage above 0 and at most 10000, such as 20, or nothing to compare no latency",
        lambda v: 0 < v <= 10_000,
        optional=True,
    ),
    "latency_slack_ms": number("a number of milliseconds, at least 0, such as 5", lambda v: 0 <= v < math.inf),
    "max_latency_ms": number(
        "a number of milliseconds above 0, such as 1000, or nothing for no limit",
        lambda v: 0 < v < math.inf,
        optional=True,
    ),
    "latency_level": LATENCY_LEVEL,
    "prove_latency": flag,
    "alpha": ALPHA,
    "unit": one_of(SESSION, REQUEST),
    "min_requests": REQUESTS,
    "max_seconds": SECONDS,
}
