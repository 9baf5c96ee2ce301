"""How many requests a key may send: a token bucket for each (Turner 1986), so that bursts pass and floods do not."""

import math
from collections.abc import Callable
from dataclasses import dataclass

Headers = list[tuple[bytes, bytes]]


@dataclass(frozen=True, slots=True)
class Limit:
    per_second: float = 100.0
    """0: no limit."""
    burst: int = 200


class Bucket:
    __slots__ = ("_clock", "_filled", "_left", "_limit")

    def __init__(self, limit: Limit, clock: Callable[[], float]) -> None:
        self._limit = limit
        self._clock = clock
        self._left = float(limit.burst)
        self._filled = clock()

    def take(self) -> bool:
        """Whether one more request may pass now."""
        now = self._clock()
        self._left = min(float(self._limit.burst), self._left + (now - self._filled) * self._limit.per_second)
        self._filled = now
        if self._left < 1.0:
            return False
        self._left -= 1.0
        return True

    def headers(self) -> Headers:
        """What is left, and in how many seconds all of it is there again."""
        limit = self._limit
        return [
            (b"x-ratelimit-limit", b"%d" % limit.burst),
            (b"x-ratelimit-remaining", b"%d" % self._left),
            (b"x-ratelimit-reset", b"%d" % math.ceil((limit.burst - self._left) / limit.per_second)),
        ]

    def retry_after(self) -> Headers:
        """Whole seconds, as the header wants them; at least one."""
        return [(b"retry-after", b"%d" % max(1, math.ceil((1.0 - self._left) / self._limit.per_second)))]


class Limiter:
    """One bucket for each key, so that nobody can use up what is another's."""

    def __init__(self, limit: Limit, clock: Callable[[], float]) -> None:
        self._limit = limit
        self._clock = clock
        self._buckets: dict[bytes, Bucket] = {}

    def bucket(self, key: bytes) -> Bucket | None:
        """For a key that is known to be right, or none at all: the number of buckets is that of the keys."""
        if not self._limit.per_second:
            return None
        found = self._buckets.get(key)
        if found is None:
            found = self._buckets[key] = Bucket(self._limit, self._clock)
        return found
