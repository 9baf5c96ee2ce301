"""Users: they come by themselves, ask a few questions, leave, and some say how it was."""

import heapq
import math
import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import count

THINK_SECONDS = 0.4
"""Mean time between two questions of one user. Short, so that a whole session fits into a few seconds of a demo."""
PATIENCE_SECONDS = (0.5, 2.0)
"""To the first token: beyond the first a user is one star less content, beyond the second two."""

_CONTENT: Mapping[int, float] = {5: 0.60, 4: 0.30, 3: 0.10}
_LET_DOWN: Mapping[int, float] = {1: 0.60, 2: 0.40}


@dataclass(frozen=True, slots=True)
class Question:
    due: float
    """Seconds since the traffic began."""
    session: str
    number: int
    """Of this user's questions, from 1."""
    of: int


def questions(rng: random.Random, *, rate: float, mean: float, name: str) -> Iterator[Question]:
    """Without end, by rising `due`; `rate` a second. Users arrive as a Poisson process and ask a geometric number of
    questions, `mean` on average, at times that no answer can delay."""
    asked: list[tuple[float, int, int, int]] = []
    arrival = 0.0
    for user in count():
        arrival += rng.expovariate(rate / mean)
        while asked and asked[0][0] < arrival:
            due, asker, number, of = heapq.heappop(asked)
            yield Question(due, f"session-{name}-{asker:06d}", number, of)
        due, of = arrival, geometric(rng, mean)
        for number in range(1, of + 1):
            heapq.heappush(asked, (due, user, number, of))
            due += rng.expovariate(1 / THINK_SECONDS)


def geometric(rng: random.Random, mean: float) -> int:
    """1, 2, 3, …"""
    if mean <= 1:
        return 1
    return 1 + int(math.log1p(-rng.random()) / math.log1p(-1 / mean))


@dataclass(slots=True)
class Experience:
    """What happened to one user so far."""

    answers: int = 0
    failed: int = 0
    slowest_first: float = 0.0
    """Seconds to the first event."""

    def note(self, *, failed: bool, first_event_seconds: float | None) -> None:
        self.answers += 1
        self.failed += failed
        self.slowest_first = max(self.slowest_first, first_event_seconds or 0.0)


def rating(seen: Experience, rng: random.Random) -> int:
    """1 to 5 stars, by what happened and by chance; a user does not know which version answered."""
    if seen.failed:
        return _drawn(_LET_DOWN, rng)
    too_slow = sum(seen.slowest_first > patience for patience in PATIENCE_SECONDS)
    return max(1, _drawn(_CONTENT, rng) - too_slow)


def _drawn(chances: Mapping[int, float], rng: random.Random) -> int:
    return rng.choices(list(chances), list(chances.values()))[0]


@dataclass
class Audience:
    """The users that are here now, and which of them will rate."""

    share: float
    """Of users that rate."""
    rng: random.Random
    _here: dict[str, Experience] = field(default_factory=dict)

    def answered(self, asked: Question, *, failed: bool, first_event_seconds: float | None) -> int | None:
        """The stars that this user gives, with the answer to the last of her questions."""
        seen = self._here.setdefault(asked.session, Experience())
        seen.note(failed=failed, first_event_seconds=first_event_seconds)
        if seen.answers < asked.of:
            return None
        del self._here[asked.session]
        return rating(seen, self.rng) if self.rng.random() < self.share else None
