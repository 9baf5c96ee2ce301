"""Bad input is refused, and the server still works after it."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from registry.qa.base import Context, Finding, Outcome, Severity
from registry.qa.builtin.exchange import ABSENT, CHAT, COMPLETIONS, Exchange, VisitingCheck, Visitor, listed
from registry.qa.builtin.security_asking import (
    CATEGORY,
    NO_SUCH_MODEL,
    Asking,
    GivenUp,
    RawRequest,
    shown,
    with_key,
)
from registry.qa.catalogue import check

GENERATE_AFTER = 8
"""Requests after which a sound one must be answered, too: a health route may know nothing of a broken engine."""
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
        request = RawRequest(method, target, headers, more.pop("content", sound), sent=what, timeout=1.5, **more)
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
        trial = _Trial(Asking(visitor))
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
        strict = sum(vector.refused for vector in trial.vectors)
        survived = "GET /health answered 200 after each" if trial.was_healthy else "it has no health route to ask"
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

    def go(self) -> None:
        try:
            before = self._begin()
            self.vectors = hostile(self.asking.visitor, self.path)
            if not before.status:
                # Nothing else is known to be wrong: the vectors would only show the same silence again.
                self._blame(f"a sound request before all others: the server {before.said}", _SILENT)
            for number, vector in enumerate(self.vectors if before.status else [], start=1):
                self._insult(vector)
                if not self._still_there(vector, number):
                    return
        except GivenUp:
            if not self.findings:
                self._blame("the server stopped answering", _SILENT)

    def _begin(self) -> Exchange:
        before = self._sound("a sound request before")
        if before.status in ABSENT:
            self.path = CHAT
            before = self._sound("a sound request before")
        self.was_sound = before.status == 200
        self.was_healthy = before.status != 0 and self._health().status == 200
        return before

    def _insult(self, vector: Hostile) -> None:
        answer = self._send(vector)
        if problem := _reception(answer, vector):
            self._blame(f"{vector.what}: {problem}", _REFUSE if answer.status else _SILENT, answer)
        if _PASSWORDS in answer.body:
            self._blame(f"{vector.what}: the answer holds the machine's list of users", _FILES, None)

    def _send(self, vector: Hostile) -> Exchange:
        if vector.raw is not None:
            # A server may wait for the rest of a body that will not come.
            return self.asking.raw(vector.raw, silence_counts=not vector.raw.ends_early)
        # A connection of its own: a server may close the one on which it was insulted.
        headers = {"Content-Type": vector.content_type, "Connection": "close"}
        return self.asking.ask(
            "POST", self.path, key=self.asking.key, content=vector.content, headers=headers, sent=vector.what
        )

    def _still_there(self, vector: Hostile, number: int) -> bool:
        checks: list[Callable[[], Exchange]] = [self._health] if self.was_healthy else []
        if self.was_sound and (number % GENERATE_AFTER == 0 or number == len(self.vectors)):
            checks.append(lambda: self._sound(f"a sound request after {vector.what}"))
        for look in checks:
            answer = look()
            if answer.status != 200:
                what = "GET /health" if answer.path == "/health" else "a sound request"
                self._blame(f"after {vector.what} {what} {answer.said}", _SURVIVE, answer)
                return False
        self.sound_answers += len(checks) == (1 + self.was_healthy)
        return True

    def _health(self) -> Exchange:
        return self.asking.ask("GET", "/health", sent="")

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
