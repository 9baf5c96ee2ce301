"""Bad input is refused, and the server still works after it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from registry.qa.base import Context, Finding, Outcome, Severity
from registry.qa.builtin.exchange import ABSENT, CHAT, COMPLETIONS, Exchange, VisitingCheck, Visitor, listed
from registry.qa.builtin.security_asking import (
    CATEGORY,
    NO_SUCH_MODEL,
    Asking,
    GivenUp,
    Request,
    asking_within,
    left_untried,
    shown,
)
from registry.qa.builtin.security_raw import RawRequest, with_key
from registry.qa.catalogue import check

GENERATE_AFTER = 8
"""Requests after which a sound one must be answered, too: a health route may know nothing of a broken engine."""
SECONDS = 75.0
AT_ONCE = 6
"""Hostile requests to a slow server: one by one they would take minutes, so a crash is blamed on all six."""
_PASSWORDS = b"root:x:0:0"


@dataclass(frozen=True)
class Hostile:
    what: str
    content: bytes
    content_type: str = "application/json"
    refused: bool = True
    """It must be refused with an error object. Else it need only be survived: whether a number out of its range is
    refused is the matter of the compatibility checks, and what a proxy does to a strange request is its own."""
    raw: RawRequest | None = None
    """Instead of the content: put on the connection byte by byte."""


def hostile(visitor: Visitor, path: str) -> list[Hostile]:
    return [*_bodies(visitor, path), *_numbers(visitor, path), *_wire(visitor, path)]


def _bodies(visitor: Visitor, path: str) -> list[Hostile]:
    def body(**wrong: Any) -> bytes:
        return json.dumps({**visitor.body(path), **wrong}).encode()

    question = "messages" if path == CHAT else "prompt"
    sound = body()
    deep = b"[" * 20_000 + b"]" * 20_000
    return [
        Hostile("a temperature that is a word", body(temperature="warm")),
        Hostile("max_tokens that is a word", body(max_tokens="many")),
        Hostile("max_tokens that is a list", body(max_tokens=[4])),
        Hostile(f"a {question} that is an object", body(**{question: {"a": 1}})),
        Hostile(f"a {question} that is a number", body(**{question: 7})),
        Hostile("stop that is an object", body(stop={"a": 1})),
        Hostile("an unknown model", body(model=NO_SUCH_MODEL)),
        Hostile("JSON that breaks off", sound[: len(sound) // 2]),
        Hostile("a JSON list", b"[1, 2, 3]"),
        Hostile("JSON null", b"null"),
        Hostile("an empty body", b""),
        Hostile("20,000 nested lists", sound[:-1] + b', "stop": ' + deep + b"}"),
        Hostile("bytes that are no UTF-8", sound.replace(b"statement", b"\xff\xfe\xc3\x28")),
        Hostile("the content type text/plain", sound, "text/plain"),
        Hostile("half a surrogate pair", _with_text(sound, rb"\ud800"), refused=False),
        Hostile("a zero character", _with_text(sound, rb"\u0000"), refused=False),
        Hostile("the same name twice", sound[:-1] + b', "model": "' + NO_SUCH_MODEL.encode() + b'"}', refused=False),
        Hostile("a prompt of 1 MB", json.dumps(visitor.body(path, "word " * 200_000)).encode(), refused=False),
    ]


def _with_text(sound: bytes, text: bytes) -> bytes:
    return sound.replace(b"statement", text)


def _numbers(visitor: Visitor, path: str) -> list[Hostile]:
    sound = json.dumps(visitor.body(path))[:-1].encode()

    def number(name: str, value: str) -> Hostile:
        said = f"{value[:12]}…" if len(value) > 12 else value
        return Hostile(f"{name} {said}", sound + f', "{name}": {value}}}'.encode(), refused=False)

    return [
        number("temperature", "-1"),
        number("temperature", "NaN"),
        number("temperature", "1e309"),
        number("top_p", "-Infinity"),
        number("top_p", "1e-320"),
        number("max_tokens", "0"),
        number("max_tokens", "-1"),
        number("max_tokens", "4.5"),
        number("n", "-1"),
        number("n", "1000000000"),
        number("seed", "9" * 400),
        number("top_k", "-9223372036854775809"),
        number("presence_penalty", "1e308"),
        number("logprobs", "1000000000"),
        number("logit_bias", '{"-1": 100, "999999999": -100}'),
    ]


def _wire(visitor: Visitor, path: str) -> list[Hostile]:
    sound = json.dumps(visitor.body(path)).encode()
    key = with_key(visitor.server.api_key)
    found: list[Hostile] = []

    def wire(what: str, method: str = "POST", target: str = path, **more: Any) -> None:
        headers = (*key, *more.pop("headers", ()))
        request = RawRequest(method, target, headers, more.pop("content", sound), sent=what, share=0.5, **more)
        found.append(Hostile(what, b"", refused=False, raw=request))

    wire("a header of 64 kB", headers=(("X-Deploypipe", b"d" * 65_536),))
    wire("500 headers", headers=tuple((f"X-Deploypipe-{number}", b"d") for number in range(500)))
    wire("a Content-Length of a terabyte", content_length="1000000000000", ends_early=True)
    wire("a Content-Length of -1", content_length="-1", ends_early=True)
    wire("a Content-Length beside chunks", headers=(("Transfer-Encoding", b"chunked"),), ends_early=True)
    wire("an unknown method", "DEPLOYPIPE")
    wire("an address of 16 kB", target=f"{path}?{'d' * 16_384}")
    wire("a zero byte in the address", "GET", f"{path}\0", content=None)
    for target in (
        "/../../../../etc/passwd",
        "/%2e%2e/%2e%2e/%2e%2e/etc/passwd",
        "/static/..%2f..%2f..%2fetc%2fpasswd",
    ):
        wire(f"GET {target}", "GET", target, content=None)
    return found


@check
class InputValidation(VisitingCheck):
    name = "security.input_validation"
    label = "Bad input is refused and survived"
    category = CATEGORY
    weight = 2.0
    required = True
    # It may bring the server down: last and by itself, so that no other check is blamed.
    last = True
    timeout = 90.0

    def off(self, context: Context) -> str:
        if context.policy.require_input_validation:
            return ""
        return "The policy does not demand that the server validates its input."

    def ask(self, context: Context, visitor: Visitor) -> Outcome:
        with asking_within(context, visitor, SECONDS, shared=True) as asking:
            trial = _Trial(asking)
            trial.go()
        evidence = {
            "findings": [found.sentence for found in trial.findings],
            "exchanges": shown([e for e in trial.asking.exchanges if e.path != "/health" or e.status != 200]),
        }
        more: dict[str, Any] = {"limit": 0.0, "unit": "findings", "evidence": evidence}
        more |= {"value": float(len(trial.findings)), "findings": tuple(trial.findings)}
        if trial.findings:
            sentences = [found.sentence.removesuffix(".") for found in trial.findings]
            many = len(trial.vectors)
            reason = f"Of {many} hostile requests not all were refused and survived: {listed(sentences, 4)}."
            return Outcome.failed(reason, **more)
        if trial.unknown:
            return Outcome.not_checked(trial.unknown, evidence=evidence)
        strict = sum(vector.refused for vector in trial.vectors)
        each = f"each {AT_ONCE} of them, sent at once because it is slow" if asking.pace.slow else "each"
        survived = f"GET /health answered 200 after {each}" if trial.was_healthy else "it has no health route to ask"
        return Outcome.passed(
            f"All {len(trial.vectors)} hostile requests were survived, and the {strict} that no server may accept were "
            f"refused with a 4xx error; {survived}, and a sound request was answered {trial.sound_answers} times "
            "between them and after the last.",
            **more,
        )


@dataclass
class _Trial:
    asking: Asking
    path: str = COMPLETIONS
    vectors: list[Hostile] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    was_healthy: bool = False
    was_sound: bool = False
    sound_answers: int = 0
    tried: int = 0
    unknown: str = ""
    """Why nothing can be said, as a sentence; empty where it can."""

    def go(self) -> None:
        try:
            before = self._begin()
            self.vectors = hostile(self.asking.visitor, self.path)
            if not before.status:
                # The vectors would only show the same silence again, which says nothing about them.
                self.unknown = (
                    f"The server {before.said} to a sound request before all others, so what it does with bad input is "
                    "not known."
                )
                return
            if self.asking.pace.slow:
                self._at_once()
            else:
                self._one_by_one()
        except GivenUp as why:
            self.asking.over = self.asking.over or str(why)
        if self.asking.over:
            many = len(self.vectors) or len(hostile(self.asking.visitor, self.path))
            self.unknown = left_untried(
                self.asking, self.tried, many, "hostile requests", "what it does with bad input"
            )

    def _begin(self) -> Exchange:
        before = self._sound("a sound request before")
        if before.status in ABSENT:
            self.path = CHAT
            before = self._sound("a sound request before")
        self.was_sound = before.status == 200
        self.was_healthy = before.status != 0 and self._health().status == 200
        return before

    def _one_by_one(self) -> None:
        for number, vector in enumerate(self.vectors, start=1):
            request = self._request(vector)
            answer = self.asking.raw(request) if isinstance(request, RawRequest) else self._ask(request)
            self._judge(vector, answer)
            checks = [self._look_at_health()] if self.was_healthy else []
            if self.was_sound and (number % GENERATE_AFTER == 0 or number == len(self.vectors)):
                checks.append(self._look_for_sound(vector.what))
            if not self._still_there([self._ask(look) for look in checks], vector.what):
                return

    def _at_once(self) -> None:
        turns = -(-len(self.vectors) // AT_ONCE)
        for turn in range(turns):
            some = self.vectors[turn::turns]  # from all parts of the list: those for which it generates stand together
            for vector, answer in zip(some, self.asking.every([self._request(v) for v in some], AT_ONCE), strict=True):
                if answer is not None:
                    self._judge(vector, answer)
            what = f"one of {listed([vector.what for vector in some], AT_ONCE + 1)}"
            looks = [self._look_at_health()] if self.was_healthy else []
            looks += [self._look_for_sound(what)] if self.was_sound else []
            answers = [one for one in self.asking.every(looks, len(looks)) if one is not None]
            if not self._still_there(answers, what) or self.asking.over:
                return

    def _request(self, vector: Hostile) -> Request | RawRequest:
        if vector.raw is not None:
            return vector.raw
        # A connection of its own: a server may close the one on which it was insulted.
        headers = {"Content-Type": vector.content_type, "Connection": "close"}
        return Request("POST", self.path, self.asking.key, content=vector.content, headers=headers, sent=vector.what)

    def _judge(self, vector: Hostile, answer: Exchange) -> None:
        self.tried += 1
        if problem := _reception(answer, vector):
            self._blame(f"{vector.what}: {problem}", _REFUSE if answer.status else _SILENT, answer)
        if _PASSWORDS in answer.body:
            self._blame(f"{vector.what}: the answer holds the machine's list of users", _FILES, None)

    def _still_there(self, answers: Sequence[Exchange], after: str) -> bool:
        for answer in answers:
            if answer.status != 200:
                what = "GET /health" if answer.path == "/health" else "a sound request"
                self._blame(f"after {after} {what} {answer.said}", _SURVIVE, answer)
                return False
        self.sound_answers += sum(answer.path == self.path for answer in answers)
        return True

    def _look_at_health(self) -> Request:
        return Request("GET", "/health")

    def _look_for_sound(self, after: str) -> Request:
        body = self.asking.visitor.body(self.path)
        return Request("POST", self.path, self.asking.key, body=body, sent=f"a sound request after {after}")

    def _ask(self, request: Request) -> Exchange:
        found = self.asking.one(request)
        self.asking.exchanges.append(found)
        return found

    def _health(self) -> Exchange:
        return self._ask(self._look_at_health())

    def _sound(self, sent: str) -> Exchange:
        body = self.asking.visitor.body(self.path)
        return self.asking.ask("POST", self.path, key=self.asking.key, body=body, sent=sent)

    def _blame(self, what: str, action: str, answer: Exchange | None = None) -> None:
        mild = answer is not None and 0 < answer.status < 500
        severity = Severity.MEDIUM if mild and action != _SURVIVE else Severity.HIGH
        self.findings.append(Finding(severity, f"{what}.", action))


_REFUSE = "Refuse it with 400 and an error object before it reaches the engine."
_SILENT = "Find out what the server does with it, and give its work an end."
_SURVIVE = "Keep this request from the engine until it survives it; whoever has a key can stop the server with it."
_FILES = "Serve no files by a path that a client writes."


def _reception(answer: Exchange, vector: Hostile) -> str:
    """What is wrong with how a hostile request was received; empty when it was received as it should be."""
    if vector.raw is not None:
        return answer.said if answer.status >= 500 and answer.status not in (501, 505) else ""
    if not (400 if vector.refused else 200) <= answer.status < 500:
        return answer.said
    error = answer.json()
    if answer.status >= 400 and not error.keys() & {"error", "detail"} and error.get("object") != "error":
        return f"{answer.said} without a JSON error object"
    return ""
