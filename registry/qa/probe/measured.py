"""What goes into the probe's process and what comes out of it, as JSON."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any

from registry.qa.policy import Load


class Failure(StrEnum):
    HTTP = "http"  # a status other than 200
    TRANSPORT = "transport"  # refused, reset, or bytes that are not the protocol
    TIMEOUT = "timeout"
    STREAM_ERROR = "stream_error"  # an error event inside a 200 answer
    EMPTY = "empty"  # a 200 answer without any text
    INCOMPLETE = "incomplete"  # the stream ended without [DONE]


@dataclass(frozen=True)
class Spec:
    base_url: str
    model: str
    api_key: str = field(repr=False)
    load: Load
    seed: int = 1
    request_timeout: float = 10.0
    """Seconds from the scheduled arrival."""

    def __post_init__(self) -> None:
        if not 0 < self.load.requests_per_second <= 10_000:
            raise ValueError(
                f"requests_per_second is {self.load.requests_per_second:g}: give more than 0, up to 10,000"
            )
        if not 0 < self.load.seconds <= 3600:
            raise ValueError(f"seconds is {self.load.seconds:g}: give more than 0, up to 3,600")
        if self.load.warm_up_requests < 0 or self.load.max_tokens < 1:
            raise ValueError("warm_up_requests must be 0 or more and max_tokens 1 or more")

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Spec:
        return cls(**{**value, "load": Load(**value["load"])})


@dataclass(frozen=True)
class Request:
    """One measured request; all seconds count from its scheduled arrival."""

    lag: float
    """How late the probe itself was in sending it."""
    first: float | None = None
    """The first piece of text; None when none came."""
    whole: float | None = None
    """The end of the answer, or of the waiting; None when it failed at once."""
    gaps: tuple[float, ...] = ()
    pieces: int = 0
    """Events with text."""
    tokens: int | None = None
    """As the server counts them; None where it does not say."""
    failure: Failure | None = None
    detail: str = ""


@dataclass(frozen=True)
class Measured:
    path: str
    streamed: bool
    seconds: float
    """From the first scheduled arrival's zero to the end of the last answer, or of the schedule."""
    requests: tuple[Request, ...]

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Measured:
        """Raises KeyError, TypeError or ValueError for anything that `to_json` did not write."""
        requests = tuple(_request(item) for item in value["requests"])
        if not isinstance(value["path"], str) or not isinstance(value["streamed"], bool) or not requests:
            raise ValueError("path must be text, streamed true or false, and requests not empty")
        return cls(value["path"], value["streamed"], _seconds(value["seconds"]), requests)


def _request(item: Mapping[str, Any]) -> Request:
    if not isinstance(item["pieces"], int) or not isinstance(item["tokens"], int | None):
        raise ValueError("pieces and tokens are counts")
    return Request(
        lag=_seconds(item["lag"]),
        first=None if item["first"] is None else _seconds(item["first"]),
        whole=None if item["whole"] is None else _seconds(item["whole"]),
        gaps=tuple(_seconds(gap) for gap in item["gaps"]),
        pieces=item["pieces"],
        tokens=item["tokens"],
        failure=None if item["failure"] is None else Failure(item["failure"]),
        detail=str(item["detail"]),
    )


def _seconds(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1e6:
        raise ValueError(f"{value!r} is not a number of seconds")
    return float(value)
