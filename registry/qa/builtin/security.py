"""Nobody gets an answer without the key, bad input is refused and survived, and keys stay secret."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from registry.qa.base import Context, Outcome
from registry.qa.builtin.exchange import (
    ABSENT,
    CHAT,
    COMPLETIONS,
    PROMPT,
    REFUSED,
    Exchange,
    VisitingCheck,
    Visitor,
    listed,
)
from registry.qa.catalogue import check

CATEGORY = "security"
WRONG_KEY = "deploypipe-wrong-key-7f3a9c"
ANSWER_WITHIN = 3.0
MOST_SILENCES = 3  # then the rest is not tried: a server that hangs is not waited for thirty times

# Routes that engines have been seen to answer although a key is set: their guard looks at a few path prefixes only.
# Each with a body that it would accept, since a malformed one is refused without a key, too, and shows nothing.
_TEXT = {"input": PROMPT}
_PAIR = {"query": PROMPT, "documents": ["a statement"]}
UNGUARDED: tuple[tuple[str, dict[str, Any]], ...] = (
    ("/invocations", {}),
    ("/api/v1/generate", {"prompt": PROMPT, "max_length": 4}),
    ("/api/latest/generate", {"prompt": PROMPT, "max_length": 4}),
    ("/api/extra/generate/stream", {"prompt": PROMPT, "max_length": 4}),
    ("/inference/v1/generate", {"token_ids": [1], "sampling_params": {"max_tokens": 4}}),
    ("/generative_scoring", {**_PAIR, "items": ["a statement"], "label_token_ids": [1]}),
    ("/cohere/v2/chat", {"messages": [{"role": "user", "content": PROMPT}]}),
    ("/v2/embed", {"texts": [PROMPT], "input_type": "search_query"}),
    ("/tokenize", {"prompt": PROMPT}),
    ("/detokenize", {"tokens": [1]}),
    ("/pooling", _TEXT),
    ("/classify", _TEXT),
    ("/score", {"text_1": PROMPT, "text_2": PROMPT}),
    ("/rerank", _PAIR),
    ("/v2/rerank", _PAIR),
)


@check
class KeyRequired(VisitingCheck):
    name = "security.key_required"
    label = "A key is required"
    category = CATEGORY
    weight = 3.0
    required = True
    timeout = 60.0

    def off(self, context: Context) -> str:
        if context.policy.require_authentication:
            return ""
        return "The policy does not demand that the server asks for a key."

    def ask(self, context: Context, visitor: Visitor) -> Outcome:
        exchanges = [*_guarded(visitor), *_unguarded(visitor)]
        findings = _key_findings(visitor, exchanges)
        evidence = {"exchanges": [e.evidence() for e in exchanges if e.status not in ABSENT]}
        if findings:
            return Outcome.failed(f"The server {'; it '.join(findings)}.", evidence=evidence)
        asked = len({e.route for e in exchanges if e.status not in ABSENT})
        return Outcome.passed(
            f"Without a key and with a wrong one the server refuses all {asked} routes that it has of the "
            f"{len({e.route for e in exchanges})} tried; it does not refuse the right key.",
            evidence=evidence,
        )


def _guarded(visitor: Visitor) -> list[Exchange]:
    requests: list[tuple[str, str, dict[str, Any] | None, str]] = [("GET", "/v1/models", None, "")]
    for path in (COMPLETIONS, CHAT):
        requests.append(("POST", path, visitor.body(path), ", plain"))
        requests.append(("POST", path, visitor.body(path, stream=True), ", streamed"))
    found: list[Exchange] = []
    for method, path, body, how in requests:
        for which, key in (("no key", None), ("a wrong key", WRONG_KEY), ("the right key", visitor.server.api_key)):
            if key != "" and len(_silent(found)) < MOST_SILENCES:
                sent = f"{which}{how}"
                found.append(visitor.ask(method, path, key=key, body=body, sent=sent, timeout=ANSWER_WITHIN))
    return found


def _unguarded(visitor: Visitor) -> list[Exchange]:
    found: list[Exchange] = []
    for path, more in UNGUARDED:
        if len(_silent(found)) >= MOST_SILENCES:
            break
        body = {**visitor.body(path), **more} if path == "/invocations" else {"model": visitor.server.model, **more}
        found.append(visitor.ask("POST", path, body=body, sent="no key", timeout=ANSWER_WITHIN))
    return found


def _key_findings(visitor: Visitor, exchanges: list[Exchange]) -> list[str]:
    """Each to stand after "the server …"."""
    without = [e for e in exchanges if e.sent.startswith("no key") and _lets_in(e)]
    wrong = [e for e in exchanges if e.sent.startswith("a wrong key") and _lets_in(e)]
    refused = [e for e in exchanges if e.sent.startswith("the right key") and e.status in REFUSED]
    strange = [
        e
        for e in exchanges
        if not e.sent.startswith("the right key") and e.path.startswith("/v1/") and not _refuses(e) and not _lets_in(e)
    ]
    open_routes = _routes(without)
    findings = [
        f"{deed} without a key: {listed(routes, 20)}"
        for deed, routes in (
            ("lists its models", [r for r in open_routes if r == "GET /v1/models"]),
            ("answers completions", [r for r in open_routes if r in (f"POST {COMPLETIONS}", f"POST {CHAT}")]),
            ("answers requests", [r for r in open_routes if r.split()[1] in dict(UNGUARDED)]),
        )
        if routes
    ]
    if routes := [route for route in _routes(wrong) if route not in open_routes]:
        findings.append(f"accepts a wrong key: {listed(routes, 20)}")
    if refused:
        findings.append(f"refuses the right key: {listed(_routes(refused), 20)}")
    findings += [f"{e.said} to {e.route} with {e.sent}, instead of 401" for e in strange[:3]]
    if not findings and (silent := _silent(exchanges)):
        # Not refused in time is not refused; and after several, routes were left untried.
        findings.append(f"left {listed(_routes(silent))} without an answer, so its guard is not known")
    return findings


def _silent(exchanges: list[Exchange]) -> list[Exchange]:
    """Silence to the right key is not the guard's."""
    return [e for e in exchanges if not e.status and not e.sent.startswith("the right key")]


def _lets_in(exchange: Exchange) -> bool:
    return 200 <= exchange.status < 300


def _refuses(exchange: Exchange) -> bool:
    return exchange.status in (*REFUSED, *ABSENT)


def _routes(exchanges: list[Exchange]) -> list[str]:
    return list(dict.fromkeys(e.route for e in exchanges))


@dataclass(frozen=True)
class Hostile:
    what: str
    content: bytes
    content_type: str = "application/json"


def hostile(visitor: Visitor, path: str) -> list[Hostile]:
    def body(**wrong: Any) -> bytes:
        return json.dumps({**visitor.body(path), **wrong}).encode()

    question = "messages" if path == CHAT else "prompt"
    sound = body()
    deep = b"[" * 20_000 + b"]" * 20_000
    return [
        Hostile("a temperature of -1", body(temperature=-1)),
        Hostile("a temperature that is a word", body(temperature="warm")),
        Hostile("max_tokens 0", body(max_tokens=0)),
        Hostile("max_tokens -1", body(max_tokens=-1)),
        Hostile("max_tokens of a billion", body(max_tokens=10**9)),
        Hostile("max_tokens that is a word", body(max_tokens="many")),
        Hostile(f"a {question} that is an object", body(**{question: {"a": 1}})),
        Hostile("an unknown model", body(model="deploypipe-no-such-model")),
        Hostile("JSON that breaks off", sound[: len(sound) // 2]),
        Hostile("a JSON list", b"[1, 2, 3]"),
        Hostile("an empty body", b""),
        Hostile("20,000 nested lists", sound[:-1] + b', "stop": ' + deep + b"}"),
        Hostile("bytes that are no UTF-8", sound.replace(b"statement", b"\xff\xfe\xc3\x28")),
        Hostile("the content type text/plain", sound, "text/plain"),
        Hostile("a prompt of 1 MB", json.dumps(visitor.body(path, "word " * 200_000)).encode()),
    ]


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
        path = visitor.completions_path()
        before = visitor.complete(path, sent="a sound request before")
        vectors = hostile(visitor, path)
        findings: list[str] = []
        exchanges = [before]
        was_healthy = visitor.ask("GET", "/health", timeout=ANSWER_WITHIN).status == 200
        for vector in vectors:
            # A connection of its own: a server may close the one on which it was insulted.
            headers = {"Content-Type": vector.content_type, "Connection": "close"}
            answer = visitor.ask(
                "POST",
                path,
                key=visitor.server.api_key,
                content=vector.content,
                headers=headers,
                sent=vector.what,
                timeout=ANSWER_WITHIN,
            )
            exchanges.append(answer)
            if problem := _reception(answer):
                findings.append(f"{vector.what}: {problem}")
            if len(_silent(exchanges)) >= MOST_SILENCES:
                break
            health = visitor.ask("GET", "/health", timeout=ANSWER_WITHIN)
            if was_healthy and health.status != 200:
                findings.append(f"after {vector.what} GET /health {health.said}")
                exchanges.append(health)
                break
        last = visitor.complete(path, sent="a sound request afterwards")
        if before.status == 200 != last.status:
            exchanges.append(last)
            findings.append(f"afterwards a sound request {last.said}")
        evidence = {"findings": findings, "exchanges": [e.evidence() for e in exchanges]}
        if findings:
            reason = f"Of {len(vectors)} hostile requests not all were refused and survived: {listed(findings, 4)}."
            return Outcome.failed(reason, value=float(len(findings)), limit=0.0, unit="findings", evidence=evidence)
        survived = ", and GET /health answered 200 after each" if was_healthy else ""
        return Outcome.passed(
            f"All {len(vectors)} hostile requests were refused with a 4xx error{survived}.",
            value=0.0,
            limit=0.0,
            unit="findings",
            evidence=evidence,
        )


def _reception(answer: Exchange) -> str:
    """What is wrong with how a hostile request was received; empty when it was refused as it should be."""
    if not 400 <= answer.status < 500:
        return answer.said
    error = answer.json()
    if not error.keys() & {"error", "detail"} and error.get("object") != "error":
        return f"{answer.said} without a JSON error object"
    return ""


@check
class KeysNotEchoed(VisitingCheck):
    name = "security.keys_not_echoed"
    label = "Keys are not echoed"
    category = CATEGORY
    weight = 1.0
    required = False
    timeout = 30.0

    def ask(self, context: Context, visitor: Visitor) -> Outcome:
        right = visitor.server.api_key
        unknown = {**visitor.body(COMPLETIONS), "model": "deploypipe-no-such-model"}
        exchanges = [
            visitor.ask("GET", "/v1/models", key=WRONG_KEY, sent="a wrong key"),
            visitor.ask("POST", COMPLETIONS, key=WRONG_KEY, body=visitor.body(COMPLETIONS), sent="a wrong key"),
            visitor.ask("POST", COMPLETIONS, key=right, body=unknown, sent="the right key, an unknown model"),
            visitor.ask("POST", COMPLETIONS, key=right, content=b'{"model": ', sent="the right key, broken JSON"),
            visitor.ask("GET", "/v1/deploypipe-no-such-route", key=right, sent="the right key, an unknown route"),
            visitor.ask("GET", "/metrics", key=right, sent="the right key"),
        ]
        leaks = [
            f"{e.route} with {e.sent}" for e in exchanges if any(_holds(e, key) for key in (right, WRONG_KEY) if key)
        ]
        evidence = {"exchanges": [e.evidence() for e in exchanges]}
        if leaks:
            return Outcome.failed(
                f"The answer repeats the key that was sent: {listed(leaks, 10)}.",
                value=float(len(leaks)),
                limit=0.0,
                unit="findings",
                evidence=evidence,
            )
        return Outcome.passed(
            f"None of {len(exchanges)} answers, errors and /metrics among them, repeats a key.",
            value=0.0,
            limit=0.0,
            unit="findings",
            evidence=evidence,
        )


def _holds(exchange: Exchange, key: str) -> bool:
    return key.encode() in exchange.body or any(key in value for value in exchange.headers.values())
