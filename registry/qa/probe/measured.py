"""What goes into the probe's process and what comes out of it, as JSON."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any

from registry.qa.policy import Load

MOST_AT_ONCE = 1000
REQUEST_SECONDS = 10.0
"""For the first text of an answer."""
TOKEN_SECONDS = 0.25
"""For each token that is asked for, so that a long answer may take long: about as fast as one reads."""
ENGINE_SECONDS = 2.0
"""For one look at the engine's own figures."""


class Failure(StrEnum):
    HTTP = "http"  # a status other than 200
    TRANSPORT = "transport"  # refused, reset, or bytes that are not the protocol
    TIMEOUT = "timeout"
    STREAM_ERROR = "stream_error"  # an error event inside a 200 answer
    EMPTY = "empty"  # a 200 answer without any text
    INCOMPLETE = "incomplete"  # the stream ended without [DONE]


UNANSWERED = (Failure.TIMEOUT, Failure.TRANSPORT)


@dataclass(frozen=True)
class Question:
    """A prompt to continue, or the messages of a chat. Only a chat route can be asked the latter."""

    prompt: str = ""
    messages: tuple[Mapping[str, Any], ...] = ()


@dataclass(frozen=True)
class Spec:
    base_url: str
    model: str
    api_key: str = field(repr=False)
    load: Load
    questions: tuple[Question, ...] = ()
    """The team's own; empty: the probe's."""
    seed: int = 1
    request_timeout: float = REQUEST_SECONDS
    """Seconds from when a request was due until its first text."""

    def __post_init__(self) -> None:
        load = self.load
        if not 0 < load.requests_per_second <= 10_000:
            raise ValueError(f"requests_per_second is {load.requests_per_second:g}: give more than 0, up to 10,000")
        if not 0 < load.seconds <= 3600:
            raise ValueError(f"seconds is {load.seconds:g}: give more than 0, up to 3,600")
        if load.warm_up_requests < 0 or load.max_tokens < 1:
            raise ValueError("warm_up_requests must be 0 or more and max_tokens 1 or more")
        if not 0 <= load.concurrency <= MOST_AT_ONCE:
            raise ValueError(f"concurrency is {load.concurrency}: give 0 to {MOST_AT_ONCE:,}")
        for name, mix in (("prompt_words", load.prompt_words), ("output_tokens", load.output_tokens)):
            if any(length < 1 or not share > 0 or not math.isfinite(share) for length, share in mix):
                raise ValueError(f"each length in {name} must be 1 or more, and its share more than 0")

    def whole_timeout(self, tokens: int) -> float:
        """Seconds from when a request was due until the end of an answer with so many tokens."""
        return max(self.request_timeout, TOKEN_SECONDS * tokens)

    @property
    def longest_timeout(self) -> float:
        return self.whole_timeout(max((length for length, _ in self.load.output_tokens), default=self.load.max_tokens))

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Spec:
        questions = tuple(Question(item["prompt"], tuple(item["messages"])) for item in value["questions"])
        return cls(**{**value, "load": Load.from_json(value["load"]), "questions": questions})


@dataclass(frozen=True)
class Alternation:
    """Two servers pressed in turns: A B, B A, A B, … so that a drift of the machine meets both alike."""

    candidate: Spec
    live: Spec
    pairs: int
    requests: int
    """In each slice; those of a pair are the same, at the same times."""
    most_seconds: float
    """No slice is begun later than that."""

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Alternation:
        specs = {name: Spec.from_json(value[name]) for name in ("candidate", "live")}
        return cls(**{**value, **specs})


@dataclass(frozen=True)
class Request:
    """One measured request; seconds count from when it was due where nothing else is said."""

    due: float
    """Counted from the beginning of the measurement, like `ended`."""
    ended: float
    lag: float
    """How late the probe itself was in sending it."""
    first: float | None = None
    """The first piece of text; None when none came."""
    whole: float | None = None
    """The end of the answer, or of the waiting; None when it failed at once."""
    gaps: tuple[float, ...] = ()
    """Between two pieces; where the time ran out after some, also the last one, which had no end."""
    pieces: int = 0
    """Events with text."""
    tokens: int | None = None
    """As the server counts them; None where it does not say."""
    failure: Failure | None = None
    detail: str = ""

    @property
    def unanswered(self) -> bool:
        return self.failure in UNANSWERED and not self.pieces


@dataclass(frozen=True)
class Measured:
    path: str
    streamed: bool
    seconds: float
    """From the beginning to the end of the last answer, or of the schedule."""
    requests: tuple[Request, ...]
    gave_up: bool = False
    """No warm-up request was answered, so these are the warm-up's, and the load was not begun."""
    engine_before: Mapping[str, float] = field(default_factory=dict)
    """The engine's own counters after the warm-up; empty where it shows none."""
    engine_after: Mapping[str, float] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Measured:
        """Raises KeyError, TypeError or ValueError for anything that `to_json` did not write."""
        requests = tuple(_request(item) for item in value["requests"])
        if not isinstance(value["path"], str) or not isinstance(value["streamed"], bool) or not requests:
            raise ValueError("path must be text, streamed true or false, and requests not empty")
        return cls(
            path=value["path"],
            streamed=value["streamed"],
            seconds=_seconds(value["seconds"]),
            requests=requests,
            gave_up=bool(value["gave_up"]),
            engine_before={str(name): float(count) for name, count in value["engine_before"].items()},
            engine_after={str(name): float(count) for name, count in value["engine_after"].items()},
        )


@dataclass(frozen=True)
class Slice:
    candidate: bool
    pair: int
    seconds: float
    requests: tuple[Request, ...]


@dataclass(frozen=True)
class Alternated:
    slices: tuple[Slice, ...]
    streamed: bool
    problem: str = ""
    """Why it ended early, as a sentence."""
    silent: str = ""
    """Which of the two then answered nothing: "candidate" or "live"."""

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Alternated:
        slices = tuple(
            Slice(
                candidate=bool(item["candidate"]),
                pair=int(item["pair"]),
                seconds=_seconds(item["seconds"]),
                requests=tuple(_request(one) for one in item["requests"]),
            )
            for item in value["slices"]
        )
        return cls(slices, bool(value["streamed"]), str(value["problem"]), str(value["silent"]))


def _request(item: Mapping[str, Any]) -> Request:
    if not isinstance(item["pieces"], int) or not isinstance(item["tokens"], int | None):
        raise ValueError("pieces and tokens are counts")
    return Request(
        due=_seconds(item["due"]),
        ended=_seconds(item["ended"]),
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
