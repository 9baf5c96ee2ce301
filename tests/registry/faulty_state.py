"""What the parts of the faulty engine share: its state, and the shape of an error."""

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
TEXT = [" The", " names", " are", " bound", " to", " the", " objects", " in", " their", " order", ","]


@dataclass
class Engine:
    base_url: str
    faults: set[str] = field(default_factory=set)
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

    def reset(self) -> None:
        """Faultless again, for the next test."""
        fresh = Engine(self.base_url)
        self.release.set()
        self.__dict__.update(fresh.__dict__)

    def has(self, fault: str) -> bool:
        return fault in self.faults


def error(status: int, message: str, **more: Any) -> JSONResponse:
    return JSONResponse({"error": {"message": message, "type": "BadRequestError", "code": status, **more}}, status)
