"""How the security checks ask: several at once, with a patience for one answer that follows the server's own pace, and
with an end to it all."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from registry.qa.base import Context, Finding, Outcome, Severity
from registry.qa.builtin.exchange import Exchange, Visitor, listed
from registry.qa.builtin.security_pace import Pace, longest_for, pace_of
from registry.qa.builtin.security_raw import RawExchange, RawRequest, send

CATEGORY = "security"
WRONG_KEY = "deploypipe-wrong-key-7f3a9c"
NO_SUCH_ROUTE = "/deploypipe-no-such-route"
NO_SUCH_MODEL = "deploypipe-no-such-model"
MOST_SILENCES = 3  # then the rest is not tried: a server that hangs is not waited for thirty times
TOO_MANY = 429
BLAMED = (Severity.CRITICAL, Severity.HIGH)
FEW = 4
"""Requests at once while answers are quick: more would not bring the end nearer."""
QUICK = 0.25
PAUSE = 1.0
"""After a 429 that does not say how long to wait."""
SHORTEST_PAUSE, LONGEST_PAUSE = 0.05, 5.0


class GivenUp(Exception):
    """No more is sent. Says why, as a clause."""


@dataclass(frozen=True)
class Request:
    method: str
    path: str
    key: str = ""
    body: Mapping[str, Any] | None = None
    content: bytes | None = None
    headers: Mapping[str, str] | None = None
    sent: str = ""
    """For the evidence: what is special about it."""
    counts: bool = True
    """Whether no answer says anything against the server."""


@dataclass
class Asking:
    """Asks on behalf of one check and keeps all exchanges. Raises GivenUp instead of asking a server that hangs, or one
    that has used up the check's time.
    """

    visitor: Visitor
    seconds: float = 30.0
    """For the whole check: what is not tried by then stays untried."""
    pace: Pace = field(default_factory=Pace)
    exchanges: list[Exchange] = field(default_factory=list)
    silences: int = 0
    over: str = ""
    """Why no more was sent, as a clause."""
    began: float = field(default_factory=time.monotonic)
    _answers: list[float] = field(default_factory=list)
    """Seconds that each took."""
    limited: bool = False
    """The server has said 429."""
    _resume: float = 0.0
    """When the server, which has said 429, may be asked again."""
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def key(self) -> str:
        return self.visitor.server.api_key

    @property
    def left(self) -> float:
        return self.began + self.seconds - time.monotonic()

    @property
    def patience(self) -> float:
        """Seconds for one answer."""
        return longest_for(max(self.pace.seconds, max(self._answers, default=0.0)))

    def ask(self, method: str, path: str, *, key: str | None = None, **how: Any) -> Exchange:
        found = self.one(Request(method, path, key or "", **how))
        self.exchanges.append(found)
        return found

    def raw(self, request: RawRequest) -> RawExchange:
        found = self.one(request)
        assert isinstance(found, RawExchange)  # noqa: S101
        self.exchanges.append(found)
        return found

    def every(self, requests: Sequence[Request | RawRequest], at_once: int) -> list[Exchange | None]:
        """Several at once, kept and given back in their order; None for each that was left, and `over` says why."""
        several = _Several(self, requests, at_once)
        if not self.over:
            several.run()
        self.exchanges += [found for found in several.found if found]
        return several.found

    def one(self, request: Request | RawRequest) -> Exchange:
        found = self.attempt(request)
        if _is_silent(found) and request.counts:
            self.count_silence()
        return found

    def count_silence(self, *, only_at_first: bool = False) -> bool:
        """Whether it is held against the server: where other requests kept it busy only until it has answered one."""
        with self._lock:
            if only_at_first and self._answers:
                return False
            self.silences += 1
            return True

    def attempt(self, request: Request | RawRequest) -> Exchange:
        """Waits where the server says that it is asked too much: a 429 says nothing of what was asked."""
        refusals = 0
        while True:
            self._still_willing()
            within = self.patience * (request.share if isinstance(request, RawRequest) else 1.0)
            allowed = min(within, self.left)
            began = time.monotonic()
            found = self._send(request, allowed)
            if found.status != TOO_MANY:
                break
            self._rest(found, refusals)
            refusals += 1
        if not _is_silent(found):
            with self._lock:
                self._answers.append(time.monotonic() - began)
            return found
        if allowed < within and time.monotonic() - began >= allowed:
            raise GivenUp(self._time_is_up)  # cut short: it may have been about to answer
        return found

    def width(self, at_once: int) -> int:
        if self.limited:
            return 1
        if not self._answers:
            return max(1, MOST_SILENCES - self.silences)
        slow = sum(self._answers) / len(self._answers) > QUICK
        return at_once if slow else min(FEW, at_once)

    def _send(self, request: Request | RawRequest, within: float) -> Exchange:
        if isinstance(request, RawRequest):
            return send(self.visitor.server, request, within)
        return self.visitor.ask(
            request.method,
            request.path,
            key=request.key,
            body=request.body,
            content=request.content,
            headers=request.headers,
            sent=request.sent,
            timeout=within,
        )

    def _still_willing(self) -> None:
        if (pause := self._resume - time.monotonic()) > 0:
            self.visitor.given_up.wait(pause)
        if self.visitor.given_up.is_set():
            raise TimeoutError("Nobody waits for this check any more.")
        if self.silences >= MOST_SILENCES:
            raise GivenUp(f"the server left {MOST_SILENCES} requests without an answer or in the middle of one")
        if self.left <= 0:
            raise GivenUp(self._time_is_up)

    @property
    def _time_is_up(self) -> str:
        typical = sum(self._answers) / len(self._answers) if self._answers else self.pace.seconds
        return f"the {self.seconds:.3g} s of this check were used up, at {typical:.1f} s for an answer"

    def _rest(self, refused: Exchange, before: int) -> None:
        said = retry_after(refused)
        seconds = max(PAUSE if said is None else said, min(SHORTEST_PAUSE * 2**before, LONGEST_PAUSE))
        self.limited = True
        if seconds >= self.left:
            raise GivenUp(
                f"the server limits requests (429 to {refused.route}) and wants a wait of {seconds:.3g} s, of the "
                f"{self.seconds:.3g} s of this check {max(0.0, self.left):.0f} s were left"
            )
        self._resume = max(self._resume, time.monotonic() + seconds)


@dataclass
class _Several:
    asking: Asking
    requests: Sequence[Request | RawRequest]
    at_once: int
    found: list[Exchange | None] = field(init=False)
    waiting: deque[int] = field(init=False)
    again: deque[int] = field(default_factory=deque)
    running: int = 0
    turn: threading.Condition = field(default_factory=threading.Condition)
    problem: BaseException | None = None

    def __post_init__(self) -> None:
        self.found = [None] * len(self.requests)
        self.waiting = deque(range(len(self.requests)))

    def run(self) -> None:
        threads = [
            threading.Thread(target=self._work, name="security asks", daemon=True)
            for _ in range(min(self.at_once, len(self.requests)))
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if self.problem is not None:
            raise self.problem

    def _work(self) -> None:
        while (place := self._next()) is not None:
            try:
                self._take(place)
            except GivenUp as why:
                self.asking.over = self.asking.over or str(why)
            except BaseException as problem:
                self.problem = problem
            finally:
                with self.turn:
                    self.running -= 1
                    self.turn.notify_all()

    def _next(self) -> int | None:
        with self.turn:
            while self._goes_on() and self.running and self.running >= self.asking.width(self.at_once):
                self.turn.wait()
            while self._goes_on() and not self.waiting and self.running:  # what runs may have to be asked again
                self.turn.wait()
            if not self.waiting and self.again:
                self.waiting, self.again, self.at_once = self.again, deque(), 1
            if not self._goes_on() or not self.waiting:
                return None
            self.running += 1
            return self.waiting.popleft()

    def _goes_on(self) -> bool:
        return not self.asking.over and self.problem is None

    def _take(self, place: int) -> None:
        request = self.requests[place]
        alone = self.asking.width(self.at_once) == 1
        found = self.asking.attempt(request)
        silent = _is_silent(found) and request.counts
        if silent and not self.asking.count_silence(only_at_first=not alone):
            # Perhaps only for all that was asked beside it: fewer at once, and this one again by itself at the end.
            with self.turn:
                self.at_once = max(1, self.at_once // 2)
                self.again.append(place)
            return
        self.found[place] = found


@contextmanager
def asking_within(context: Context, visitor: Visitor, seconds: float, *, shared: bool = False) -> Iterator[Asking]:
    """`seconds` for the whole check, also what it takes to learn the server's pace; a shared time is what the checks
    before have left of it.
    """
    began = time.monotonic()
    pace = pace_of(context, visitor)
    # A server that does not answer a sound request is not waited for three times more.
    asking = Asking(visitor, pace.left(seconds) if shared else seconds, pace, silences=int(pace.silent), began=began)
    try:
        yield asking
    finally:
        pace.spend(time.monotonic() - began)


def _is_silent(found: Exchange) -> bool:
    # A raw connection that is closed is a refusal, too; only one that is left hanging is waited for.
    return found.late if isinstance(found, RawExchange) else not found.status


def retry_after(answer: Exchange) -> float | None:
    """Seconds. None where the server does not say, or says a date."""
    try:
        return max(0.0, float(answer.headers.get("retry-after", "")))
    except ValueError:
        return None


def left_untried(asking: Asking, tried: int, all_of_them: int, what: str, unknown: str) -> str:
    """The sentence of a check that could not ask all that it wanted to."""
    counted = f"Of {all_of_them} {what} {tried} were tried and {all_of_them - tried} left"
    return f"{counted}: {why_left(asking)}, so {not_known(asking, unknown)}"


def why_left(asking: Asking) -> str:
    return asking.over or "not all were answered"


def not_known(asking: Asking, unknown: str) -> str:
    """The end of that sentence, and what can be done."""
    silent = list(dict.fromkeys(e.route for e in asking.exchanges if not e.status))
    named = f" The server left {listed(silent)} without an answer." if silent else ""
    wider = " Let the machine that examines ask more often." if asking.limited else ""
    return f"{unknown} is not known.{named}{wider}"


# -- what was found ----------------------------------------------------------------------------------------------------


def blamed(findings: list[Finding]) -> bool:
    return any(found.severity in BLAMED for found in findings)


def judged(findings: list[Finding], passed: str, evidence: Mapping[str, Any]) -> Outcome:
    """Failed where a finding is grave enough. What is not is shown all the same."""
    ordered = sorted(findings, key=lambda found: list(Severity).index(found.severity))
    grave = [found for found in ordered if found.severity in BLAMED]
    more: dict[str, Any] = {"value": float(len(grave)), "limit": 0.0, "unit": "findings"}
    more |= {"evidence": evidence, "findings": tuple(ordered)}
    if grave:
        return Outcome.failed(sentences(grave), **more)
    return Outcome.passed(f"{passed} To be looked at: {sentences(ordered)}" if ordered else passed, **more)


def sentences(findings: list[Finding], most: int = 4) -> str:
    said = " ".join(found.sentence for found in findings[:most])
    return said if len(findings) <= most else f"{said} And {len(findings) - most} more."


def shown(exchanges: list[Exchange], most: int = 120) -> list[dict[str, Any]]:
    return [exchange.evidence() for exchange in exchanges[:most]]
