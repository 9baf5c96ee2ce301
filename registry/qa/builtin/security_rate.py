"""Whether whoever asks too much is told to wait. It comes last of all: afterwards the server may refuse for a while."""

from __future__ import annotations

import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import count
from threading import Lock
from typing import Any

from registry.qa.base import Context, Finding, Outcome, Severity
from registry.qa.builtin.exchange import ABSENT, CHAT, COMPLETIONS, Exchange, VisitingCheck, Visitor, visit
from registry.qa.builtin.security_asking import CATEGORY, TOO_MANY, retry_after
from registry.qa.builtin.security_pace import pace_of
from registry.qa.catalogue import check
from registry.qa.parameters import Parameter

CONNECTIONS = 8
SOUND_EVERY = 4
"""Of the burst's requests every fourth asks for a token; the others lack the prompt, which costs the engine nothing
and counts for a limit all the same."""
LONGEST_WAIT = 3.0
MOST_PATIENCE = 6.0
"""Seconds for one answer at most, so that the burst and what comes after it have an end."""
OVERLOADED = (502, 503, 504)


@check
class RateLimit(VisitingCheck):
    name = "security.rate_limit"
    label = "Too many requests are refused"
    category = CATEGORY
    weight = 1.0
    required = False
    last = True
    timeout = 30.0
    parameters = (
        Parameter("requests", int, 400, "How many to send at most in one burst.", lowest=10, highest=2000),
        Parameter("seconds", float, 3.0, "How long the burst may take.", unit="s", lowest=0.5, highest=10.0),
    )

    def ask(self, context: Context, visitor: Visitor) -> Outcome:
        within = min(pace_of(context, visitor).patience, MOST_PATIENCE)
        path, before = _path(visitor, within)
        if not before.status:
            return Outcome.not_checked(
                f"The server {before.said} before any burst, so nothing is known of a limit.",
                evidence={"exchanges": [before.evidence()]},
            )
        if before.status == TOO_MANY:  # from the checks before, or for good
            return _limited(
                _wait(visitor, path, before, within), before, "at once, after the requests of the other checks", {}
            )
        burst = _Burst(
            context, path, within, int(context.parameter(self, "requests")), float(context.parameter(self, "seconds"))
        )
        burst.run()
        evidence = burst.evidence()
        if burst.first is not None:
            after = f"after {burst.number_of_first:,} requests in {burst.seconds_to_first:.1f} s"
            return _limited(_wait(visitor, path, burst.first, within), burst.first, after, evidence)
        return _unlimited(context, burst, evidence)


def _path(visitor: Visitor, within: float) -> tuple[str, Exchange]:
    before = _ask(visitor, COMPLETIONS, within)
    if before.status in ABSENT:
        return CHAT, _ask(visitor, CHAT, within)
    return COMPLETIONS, before


def _ask(visitor: Visitor, path: str, within: float, *, sound: bool = True) -> Exchange:
    body = {**visitor.body(path), "max_tokens": 1}
    if not sound:
        body.pop("prompt", None)
        body.pop("messages", None)
    key = visitor.server.api_key or None
    return visitor.ask("POST", path, key=key, body=body, sent="one of a burst", timeout=within)


@dataclass
class _Burst:
    context: Context
    path: str
    within: float
    most: int
    longest: float
    statuses: Counter[int] = field(default_factory=Counter)
    first: Exchange | None = None
    """The first answer 429."""
    number_of_first: int = 0
    seconds_to_first: float = 0.0
    overloaded: Exchange | None = None
    seconds: float = 0.0
    _numbers: count[int] = field(default_factory=count)
    _lock: Lock = field(default_factory=Lock)

    def run(self) -> None:
        began = time.monotonic()
        with ThreadPoolExecutor(CONNECTIONS, thread_name_prefix="burst") as pool:
            for done in [pool.submit(self._press, began) for _ in range(CONNECTIONS)]:
                done.result()
        self.seconds = time.monotonic() - began

    def _press(self, began: float) -> None:
        with visit(self.context) as visitor:
            while self.first is None and time.monotonic() - began < self.longest:
                with self._lock:
                    number = next(self._numbers)
                if number >= self.most:
                    return
                answer = _ask(visitor, self.path, self.within, sound=number % SOUND_EVERY == 0)
                with self._lock:
                    self._count(answer, time.monotonic() - began)
                if not answer.status:
                    return

    def _count(self, answer: Exchange, seconds: float) -> None:
        self.statuses[answer.status] += 1
        if answer.status == TOO_MANY and self.first is None:
            self.first, self.seconds_to_first = answer, seconds
            self.number_of_first = sum(self.statuses.values()) - 1
        if answer.status in OVERLOADED:
            self.overloaded = self.overloaded or answer

    @property
    def answered(self) -> int:
        return sum(many for status, many in self.statuses.items() if status)

    def evidence(self) -> dict[str, Any]:
        return {
            "route": f"POST {self.path}",
            "connections": CONNECTIONS,
            "seconds": round(self.seconds, 2),
            "statuses": {str(status): many for status, many in sorted(self.statuses.items())},
            "exchanges": [e.evidence() for e in (self.first, self.overloaded) if e],
        }


def _wait(visitor: Visitor, path: str, refused: Exchange, within: float) -> tuple[Exchange, float]:
    """The first answer to a sound request that is no 429, or the last one, and how long that took."""
    began = time.monotonic()
    pause = min(retry_after(refused) or 0.2, LONGEST_WAIT)
    while True:
        time.sleep(pause)
        answer = _ask(visitor, path, within)
        waited = time.monotonic() - began
        if answer.status != TOO_MANY or waited + pause > LONGEST_WAIT:
            return answer, waited
        pause = min(max(0.2, 2 * pause), LONGEST_WAIT)


def _limited(found: tuple[Exchange, float], refused: Exchange, after: str, evidence: dict[str, Any]) -> Outcome:
    again, waited = found
    headers = {
        name: value
        for name, value in refused.headers.items()
        if name.lower() == "retry-after" or "ratelimit" in name.lower()
    }
    evidence = {**evidence, "headers": dict(list(headers.items())[:8]), "again": again.evidence()}
    long_wait = (retry_after(refused) or 0.0) > LONGEST_WAIT
    if again.status == TOO_MANY and not long_wait:
        return Outcome.failed(
            f"Too many requests are refused with 429 ({after}), but {waited:.1f} s later the server still refused a "
            "single one and does not say for how long.",
            evidence=evidence,
            findings=(Finding(Severity.MEDIUM, "After 429 the server stays closed.", _SAY),),
        )
    if again.status >= 500 or not again.status:
        return Outcome.failed(
            f"Too many requests are refused with 429 ({after}), but {waited:.1f} s later the server {again.said}.",
            evidence=evidence,
            findings=(Finding(Severity.HIGH, f"After the burst the server {again.said}.", _SURVIVE),),
        )
    findings = () if headers else (Finding(Severity.LOW, "The 429 does not say when to come back.", _SAY),)
    said = f"with {', '.join(sorted(headers))}" if headers else "without Retry-After or X-RateLimit headers"
    later = (
        f"by its own Retry-After of {retry_after(refused):g} s it answers again later"
        if long_wait
        else f"{waited:.1f} s later it answered again"
    )
    return Outcome.passed(
        f"Too many requests are refused: 429 {said} came {after}, and {later}.", evidence=evidence, findings=findings
    )


def _unlimited(context: Context, burst: _Burst, evidence: dict[str, Any]) -> Outcome:
    asked = f"{burst.answered:,} requests on {CONNECTIONS} connections in {burst.seconds:.1f} s"
    if burst.overloaded is not None:
        sentence = f"Under {asked} the server {burst.overloaded.said} instead of 429."
        finding = Finding(Severity.MEDIUM, sentence, _LIMIT)
        return Outcome.failed(sentence, evidence=evidence, findings=(finding,))
    if not burst.answered:
        return Outcome.not_checked(
            "The server answered none of the burst, so no limit could be seen.", evidence=evidence
        )
    if not context.policy.require_rate_limiting:
        return Outcome.not_applicable(
            f"None of {asked} met a limit, and the policy does not demand one.", evidence=evidence
        )
    sentence = f"None of {asked} was refused with 429: one client can take the whole server."
    finding = Finding(Severity.MEDIUM, sentence, _LIMIT)
    return Outcome.failed(
        sentence, evidence=evidence, findings=(finding,), value=float(burst.answered), unit="requests"
    )


_SAY = "Send Retry-After with each 429, and let the limit run off."
_SURVIVE = "Set the limit below what brings the server down."
_LIMIT = "The engine itself has no limit: put a proxy that limits requests per key before it."
