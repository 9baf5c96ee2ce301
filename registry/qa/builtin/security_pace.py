"""How long this server takes for an answer, measured once for all security checks of an examination."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field

from registry.qa.base import Context
from registry.qa.builtin.exchange import ABSENT, CHAT, COMPLETIONS, Visitor, patience
from registry.qa.builtin.security_raw import ANSWER_WITHIN

SCRATCH = "security.pace"
SOUND_WITHIN = 10.0
"""Seconds for the one generation that is measured."""
LONGEST_PATIENCE = 15.0
TOGETHER = 90.0
"""Seconds for the checks that run together and the one for bad input after them. With what follows it two minutes."""
SLOW = 0.5
"""A server that takes so long for an answer is asked several things at once also where one by one would tell more."""


@dataclass
class Pace:
    seconds: float = 0.0
    """That a sound generation of few tokens took; 0 where none was seen."""
    silent: bool = False
    """It was asked for and did not come."""
    spent: float = 0.0
    """Seconds of the longest check so far: they run together until the last ones."""
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def slow(self) -> bool:
        return self.seconds >= SLOW

    @property
    def patience(self) -> float:
        return longest_for(self.seconds)

    def spend(self, seconds: float) -> None:
        with self._lock:
            self.spent = max(self.spent, seconds)

    def left(self, most: float) -> float:
        return max(0.0, min(most, TOGETHER - self.spent))


def longest_for(seconds: float) -> float:
    """The patience for one answer of a server that has been seen to take `seconds` for one."""
    return patience(seconds, ANSWER_WITHIN, LONGEST_PATIENCE)


def pace_of(context: Context, visitor: Visitor) -> Pace:
    with context.scratch.setdefault(f"{SCRATCH}.lock", threading.Lock()):
        if SCRATCH not in context.scratch:
            context.scratch[SCRATCH] = _measured(visitor)
        found: Pace = context.scratch[SCRATCH]
        return found


def _measured(visitor: Visitor) -> Pace:
    ends = time.monotonic() + SOUND_WITHIN
    for path in (COMPLETIONS, CHAT):
        began = time.monotonic()
        within = max(0.1, ends - began)
        answer = visitor.ask("POST", path, key=visitor.server.api_key, body=visitor.body(path), timeout=within)
        if answer.status not in ABSENT:
            break
    return Pace(time.monotonic() - began if answer.status else 0.0, silent=not answer.status)
