"""What the parts of the faulty engine share: its state, its dialect, and the shape of an error."""

from __future__ import annotations

import itertools
import threading
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from starlette.responses import JSONResponse

from registry.qa.base import RunningServer

MODEL = "words"
KEY = "right-key-0123456789abcdef"
LOAD_TOKENS = 20  # requests of at least that many tokens come from the load probe


@dataclass(frozen=True)
class Dialect:
    """In what the engines differ that speak the same interface."""

    name: str
    engine: str
    """As the registry calls it."""
    version: str
    prefix: str
    """Of its metrics."""
    flat_errors: bool = False
    """Errors as {"object": "error", "message": …} instead of inside an "error" object."""
    dead_status: int = 503
    """Of /health when the engine is dead."""
    samplers: frozenset[str] = frozenset()
    """Fields that only this engine knows; the others take them and do nothing."""

    @property
    def owned_by(self) -> str:
        return self.engine


_APHRODITE = frozenset({"nsigma", "top_a", "xtc_probability", "no_repeat_ngram_size", "dry_multiplier"})
DIALECTS = {
    dialect.name: dialect
    for dialect in (
        Dialect("vllm", "vllm", "0.29.0", "vllm:"),
        Dialect("aphrodite-0.24", "aphrodite", "0.24.1", "aphrodite:", samplers=_APHRODITE),
        Dialect("aphrodite-0.9", "aphrodite", "0.9.1", "aphrodite:", True, 500, _APHRODITE),
    )
}


@dataclass
class Engine:
    base_url: str
    faults: set[str] = field(default_factory=set)
    dialect: str = "vllm"
    first_delay: float = 0.0
    gap_delay: float = 0.0
    stall_at: int = -1
    """The number of the load's request that blocks the whole server for a second."""
    cycle: tuple[str, ...] = ()
    """What the load's requests meet, one after the other."""
    met: Counter[str] = field(default_factory=Counter)
    asked: threading.Event = field(default_factory=threading.Event)
    release: threading.Event = field(default_factory=threading.Event)
    numbers: Iterator[int] = field(default_factory=itertools.count)
    insulted: bool = False

    @property
    def running(self) -> RunningServer:
        return RunningServer(self.base_url, MODEL, KEY)

    @property
    def speaks(self) -> Dialect:
        return DIALECTS[self.dialect]

    def reset(self) -> None:
        """Faultless again, for the next test."""
        fresh = Engine(self.base_url)
        self.release.set()
        self.__dict__.update(fresh.__dict__)

    def be(self, fault: str) -> None:
        """Wrong in the way that is named; "a+b" is both, and a dialect's name among them is spoken."""
        named = set(filter(None, fault.split("+")))
        self.faults = named - DIALECTS.keys()
        self.dialect = next(iter(named & DIALECTS.keys()), "vllm")

    def has(self, fault: str) -> bool:
        return fault in self.faults

    def error(self, status: int, message: str, param: str | None = None) -> JSONResponse:
        """As the dialect words it."""
        if self.speaks.flat_errors:
            return JSONResponse({"object": "error", **_error(status, message, param)}, status)
        return error(status, message, param=param)


def error(status: int, message: str, **more: Any) -> JSONResponse:
    return JSONResponse({"error": _error(status, message, None) | more}, status)


def _error(status: int, message: str, param: str | None) -> dict[str, Any]:
    kind = {404: "NotFoundError", 500: "InternalServerError"}.get(status, "BadRequestError")
    return {"message": message, "type": kind, "param": param, "code": status}
