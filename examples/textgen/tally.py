"""What was sent by `examples.textgen.traffic` and what came of it, as a file that can be read meanwhile."""

import asyncio
import json
import os
import sys
import time
from collections import Counter, deque
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from examples.textgen.client import Answer
from examples.textgen.ratings import RatingPost

_REPORT_SECONDS = 1.0
_LATENCIES_KEPT = 10_000


@dataclass(frozen=True, slots=True)
class Report:
    """What was sent and what came of it. Every request is in exactly one of the counts, or still in flight."""

    base_url: str
    started_at: str
    seconds: float
    is_finished: bool
    sent: int
    in_flight: int
    answered_ok: int
    stream_errors: int
    http_errors: Mapping[str, int]
    transport_errors: Mapping[str, int]
    empty: int
    retries: int
    long_prompts: int
    events: int
    first_event_p50_ms: float | None
    first_event_p95_ms: float | None
    users: int = 0
    """That asked at least once."""
    ratings: Mapping[str, int] = field(default_factory=dict)
    """Stars → users that gave them."""
    ratings_delivered: int = 0
    ratings_lost: int = 0
    ratings_problem: str = ""
    """Why the last delivery failed, if one did."""

    @property
    def failed(self) -> int:
        return self.stream_errors + sum(self.http_errors.values()) + sum(self.transport_errors.values()) + self.empty

    def sentence(self) -> str:
        wrong = [
            *([f"{self.stream_errors} error events inside streams"] if self.stream_errors else []),
            *(f"{number} × HTTP {status}" for status, number in self.http_errors.items()),
            *(f"{number} × {kind}" for kind, number in self.transport_errors.items()),
            *([f"{self.empty} empty"] if self.empty else []),
        ]
        rate = self.sent / self.seconds if self.seconds else 0.0
        p95 = "unknown" if self.first_event_p95_ms is None else f"{self.first_event_p95_ms:.1f} ms"
        return (
            f"{self.sent} requests in {self.seconds:.1f} s ({rate:.1f}/s): {self.answered_ok} answered, "
            f"{self.failed} failed{f' ({chr(44).join(wrong)})' if wrong else ''}, {self.retries} retries, "
            f"first event p95 {p95}{self._rated()}"
        )

    def _rated(self) -> str:
        given = sum(self.ratings.values())
        if not given:
            return ""
        mean = sum(int(stars) * users for stars, users in self.ratings.items()) / given
        lost = f", {self.ratings_lost} not delivered ({self.ratings_problem})" if self.ratings_lost else ""
        return f"; {given} of {self.users} users rated, {mean:.2f} stars on average{lost}"


class Tally:
    def __init__(self, base_url: str, post: RatingPost | None) -> None:
        self._base_url = base_url
        self._post = post
        self._started_at = datetime.now(UTC).isoformat(timespec="milliseconds")
        self._started = time.perf_counter()
        self._first_events: deque[float] = deque(maxlen=_LATENCIES_KEPT)
        self._http: Counter[str] = Counter()
        self._transport: Counter[str] = Counter()
        self._ok = self._stream_errors = self._empty = self._events = 0
        self.sent = self.retries = self.long_prompts = self.users = 0

    def answered(self, answer: Answer) -> bool:
        """Whether it went well."""
        self._events += answer.events
        if answer.first_event_seconds is not None:
            self._first_events.append(answer.first_event_seconds)
        if answer.status != 200:
            self._http[str(answer.status)] += 1
        elif answer.has_error:
            self._stream_errors += 1
        elif answer.events == 0:
            self._empty += 1
        elif answer.is_done:
            self._ok += 1
            return True
        else:
            self._transport["incomplete"] += 1
        return False

    def failed(self, kind: str) -> None:
        self._transport[kind] += 1

    def report(self, *, is_finished: bool) -> Report:
        latencies = sorted(self._first_events)
        ended = self._ok + self._stream_errors + self._empty + self._http.total() + self._transport.total()
        return Report(
            base_url=self._base_url,
            started_at=self._started_at,
            seconds=round(time.perf_counter() - self._started, 3),
            is_finished=is_finished,
            sent=self.sent,
            in_flight=self.sent - ended,
            answered_ok=self._ok,
            stream_errors=self._stream_errors,
            http_errors=dict(sorted(self._http.items())),
            transport_errors=dict(sorted(self._transport.items())),
            empty=self._empty,
            retries=self.retries,
            long_prompts=self.long_prompts,
            events=self._events,
            first_event_p50_ms=_percentile_ms(latencies, 0.50),
            first_event_p95_ms=_percentile_ms(latencies, 0.95),
            users=self.users,
            **_of_ratings(self._post),
        )


def _of_ratings(post: RatingPost | None) -> dict[str, Any]:
    if post is None:
        return {}
    return {
        "ratings": {str(stars): users for stars, users in sorted(post.given.items())},
        "ratings_delivered": post.delivered,
        "ratings_lost": post.lost,
        "ratings_problem": post.problem,
    }


def write_report(report: Report, path: Path) -> None:
    """Whole or not at all, for whoever reads it meanwhile."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(json.dumps(asdict(report), indent=2) + "\n", encoding="utf-8")
    temporary.replace(path)


async def write_often(tally: Tally, path: Path) -> None:
    has_complained = False
    while True:
        try:
            write_report(tally.report(is_finished=False), path)
        except OSError as error:
            if not has_complained:
                print(f"traffic: cannot write {path}: {error.strerror}", file=sys.stderr, flush=True)
            has_complained = True
        await asyncio.sleep(_REPORT_SECONDS)


def _percentile_ms(ordered: Sequence[float], share: float) -> float | None:
    if not ordered:
        return None
    return round(1000.0 * ordered[min(int(share * len(ordered)), len(ordered) - 1)], 3)
