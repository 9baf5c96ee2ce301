"""Nobody gets an answer without the key, and keys stay secret."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from registry.qa.base import Context, Finding, Outcome, Severity
from registry.qa.builtin.exchange import ABSENT, CHAT, COMPLETIONS, REFUSED, Exchange, VisitingCheck, Visitor, listed
from registry.qa.builtin.security_asking import (
    CATEGORY,
    NO_SUCH_MODEL,
    NO_SUCH_ROUTE,
    WRONG_KEY,
    Asking,
    Request,
    asking_within,
    blamed,
    judged,
    left_untried,
    not_known,
    shown,
    why_left,
)
from registry.qa.builtin.security_raw import RawRequest, with_key
from registry.qa.builtin.security_routes import DOCUMENT, INFERENCE, KNOWN_PATHS, routes_of
from registry.qa.catalogue import check

MODELS = "/v1/models"
NO_KEY = "no key"
A_WRONG_KEY = "a wrong key"
THE_RIGHT_KEY = "the right key"
HIDDEN = "•••"
SECONDS = 50.0
"""For all requests of the check for the key."""
AT_ONCE = 12
"""Of its requests, where answers take long: it has about 120, nearly all of them to be refused."""
ECHO_SECONDS = 25.0
ECHO_AT_ONCE = 4
BEFORE_THE_KEY = (400, 415, 422)
"""What was asked is looked at, so the key was not, or not yet."""


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
        with asking_within(context, visitor, SECONDS) as asking:
            looking = _Guard(asking)
            looking.look()
        here = [e for e in asking.exchanges if e.status not in ABSENT]
        routes = _routes([e for e in here if e.sent.startswith(NO_KEY) and e.status])
        evidence = {"exchanges": shown(here), "routes": routes}
        findings = looking.findings()
        if looking.untried and not blamed(findings):
            # Not refused in time is not refused, and not let in either.
            return Outcome.not_checked(looking.told_untried(), evidence=evidence, findings=tuple(findings))
        return judged(
            findings,
            f"Without a key and with a wrong one the server refuses all {len(routes)} routes that it has of the "
            f"{len(looking.wanted)} tried, and none of {looking.ways} ways round the key gets an answer; "
            f"{looking.told_right()}.",
            evidence,
        )


@dataclass
class _Guard:
    """What the server answers to whom, on each of its inference routes. A refusal costs a server nothing, a generation
    its time: whoever must be refused asks first, and the right key last.
    """

    asking: Asking
    plain: list[Exchange] = field(default_factory=list)
    """Routes as they are written, each without a key, some with a wrong one and with the right one too."""
    round_about: list[tuple[Way, Exchange]] = field(default_factory=list)
    wanted: list[str] = field(default_factory=list)
    """Routes to try without a key."""
    ways: int = 0
    """Round the key, to try."""
    untried: bool = False
    """Something was left, or was not answered."""

    def look(self) -> None:
        main = self._main()
        known = [Request("POST", path, body={"model": self._model, **more}, sent=NO_KEY) for path, more in INFERENCE]
        self.wanted = list(dict.fromkeys(f"{one.method} {one.path}" for one in (*main, *known)))
        self._plain([*_as(main, NO_KEY), *_as(main, A_WRONG_KEY, WRONG_KEY)])
        shown_too = self._shown_by_the_document()
        self.wanted += [f"{one.method} {one.path}" for one in shown_too]
        refused = self._plain([*known, *shown_too])
        self._ways_round()
        self._plain(_as([one for one in (*known, *shown_too) if one.path in refused], A_WRONG_KEY, WRONG_KEY))
        if self.asking.key and not self.untried:
            right = _as(main, THE_RIGHT_KEY, self.asking.key)
            # It is not the guard that is silent where a generation takes long.
            self.plain += [e for e in self.asking.every([replace(one, counts=False) for one in right], AT_ONCE) if e]

    @property
    def _model(self) -> str:
        return self.asking.visitor.server.model

    def _main(self) -> list[Request]:
        body = self.asking.visitor.body
        found = [Request("GET", MODELS)]
        for path in (COMPLETIONS, CHAT):
            found.append(Request("POST", path, body=body(path), sent=", plain"))
            found.append(Request("POST", path, body=body(path, stream=True), sent=", streamed"))
        return found

    def _plain(self, requests: Sequence[Request]) -> set[str]:
        """The paths that refuse."""
        answers = self._every(requests)
        self.plain += answers
        return {e.path for e in answers if e.status in REFUSED}

    def _every(self, requests: Sequence[Request]) -> list[Exchange]:
        found = self.asking.every(requests, AT_ONCE)
        self.untried = self.untried or any(one is None or not one.status for one in found)
        return [one for one in found if one]

    def _shown_by_the_document(self) -> list[Request]:
        answers = self._every([Request("GET", DOCUMENT, self.asking.key, sent="the document")])
        found = routes_of(answers[0].json(), self._model) if answers else []
        return [Request("POST", r.path, body=r.body, sent=NO_KEY) for r in found if r.path not in KNOWN_PATHS]

    def _ways_round(self) -> None:
        guarded = next((e.path for e in self.plain if e.sent == f"{NO_KEY}, plain" and e.status in REFUSED), None)
        if guarded is None:
            return  # there is nothing to get round
        ways = ways_round(self.asking.visitor, guarded)
        self.ways = len(ways)
        answers = self.asking.every([way.request for way in ways], AT_ONCE)
        self.untried = self.untried or None in answers
        self.round_about += [(way, answer) for way, answer in zip(ways, answers, strict=True) if answer]

    # -- what it means -------------------------------------------------------------------------------------------------

    def findings(self) -> list[Finding]:
        return [*self._let_in(), *self._got_round(), *self._strange(), *self._looked_at_first()]

    def told_untried(self) -> str:
        tried = _routes([e for e in self.plain if e.sent.startswith(NO_KEY) and e.status])
        wrong = _routes([e for e in self.plain if e.sent.startswith(A_WRONG_KEY) and e.status])
        ways = f", and of {self.ways} ways round the key {len(self.round_about)}" if self.ways else ""
        return (
            f"Of {len(self.wanted)} routes {len(tried)} were tried without a key and {len(self.wanted) - len(tried)} "
            f"left, with a wrong one {len(wrong)} were tried{ways}: {why_left(self.asking)}, so "
            f"{not_known(self.asking, 'the guard')}"
        )

    def told_right(self) -> str:
        right = [e for e in self.plain if e.sent.startswith(THE_RIGHT_KEY)]
        silent = [e for e in right if not e.status]
        if not silent:
            return "it does not refuse the right key"
        return f"with the right key it left {listed(_routes(silent))} without an answer"

    def _let_in(self) -> Iterator[Finding]:
        inside = [e for e in self.plain if e.sent.startswith(NO_KEY) and _lets_in(e)]
        open_routes = _routes(inside)
        for deed, routes in (
            ("lists its models", [r for r in open_routes if r == f"GET {MODELS}"]),
            ("answers completions", [r for r in open_routes if r in (f"POST {COMPLETIONS}", f"POST {CHAT}")]),
            ("answers requests", [r for r in open_routes if r.split()[1] not in (MODELS, COMPLETIONS, CHAT)]),
        ):
            if routes:
                graver = Severity.HIGH if deed == "lists its models" else Severity.CRITICAL
                yield Finding(graver, f"The server {deed} without a key: {listed(routes, 20)}.", _CLOSE)
        wrong = _routes([e for e in self.plain if e.sent.startswith(A_WRONG_KEY) and _lets_in(e)])
        if routes := [route for route in wrong if route not in open_routes]:
            yield Finding(Severity.CRITICAL, f"The server accepts a wrong key: {listed(routes, 20)}.", _COMPARE)
        refused = [e for e in self.plain if e.sent.startswith(THE_RIGHT_KEY) and e.status in REFUSED]
        if refused:
            action = "Start the server with the key that the pipeline was given."
            yield Finding(Severity.HIGH, f"The server refuses the right key: {listed(_routes(refused), 20)}.", action)

    def _got_round(self) -> Iterator[Finding]:
        for way, answer in self.round_about:
            if way.harmless:
                if _generated(answer):
                    sentence = f"The server takes the key from {way.what}, where it ends up in logs."
                    yield Finding(Severity.MEDIUM, sentence, "Accept keys in the Authorization header only.")
            elif _generated(answer) or (way.any_success and _lets_in(answer)):
                sentence = f"The server is got round without the key by {way.what}: {answer.said} to {answer.route}."
                yield Finding(Severity.CRITICAL, sentence, _NORMALISE)

    def _strange(self) -> Iterator[Finding]:
        strange = [
            e
            for e in self.plain
            if not e.sent.startswith(THE_RIGHT_KEY) and e.path in (MODELS, COMPLETIONS, CHAT) and _neither(e)
        ]
        for e in strange[:3]:
            sentence = f"The server {e.said} to {e.route} with {e.sent}, instead of 401."
            yield Finding(Severity.HIGH, sentence, "Let the guard stand before everything that can fail.")

    def _looked_at_first(self) -> list[Finding]:
        early = [e for e in self.plain if e.sent == NO_KEY and e.status in BEFORE_THE_KEY]
        if not early:
            return []
        sentence = (
            f"The server answers {early[0].status} and not 401 without a key to {listed(_routes(early))}: this model "
            "cannot be used there, and the next one may be."
        )
        return [Finding(Severity.LOW, sentence, _CLOSE)]


_CLOSE = "Guard the route, or let the proxy in front pass only the routes that are used."
_COMPARE = "Let the server compare the key with the one that it was given."
_NORMALISE = (
    "Let the guard look at the route that is served and not at the text of the address, and close it by default."
)


def _lets_in(exchange: Exchange) -> bool:
    return 200 <= exchange.status < 300


def _neither(exchange: Exchange) -> bool:
    return bool(exchange.status) and not _lets_in(exchange) and exchange.status not in (*REFUSED, *ABSENT)


def _generated(exchange: Exchange) -> bool:
    """A success alone can be another page: only a generation shows that the way leads inside."""
    return _lets_in(exchange) and b'"choices"' in exchange.body


def _as(requests: Sequence[Request], who: str, key: str = "") -> list[Request]:
    return [replace(one, key=key, sent=f"{who}{one.sent.removeprefix(NO_KEY)}") for one in requests]


def _routes(exchanges: list[Exchange]) -> list[str]:
    return list(dict.fromkeys(e.route for e in exchanges))


@dataclass(frozen=True)
class Way:
    what: str
    request: RawRequest
    any_success: bool = False
    """A success is enough to show that it leads inside."""
    harmless: bool = False
    """It carries the right key, only in another place."""


def ways_round(visitor: Visitor, path: str) -> list[Way]:
    """Requests that carry no right key, or carry it elsewhere, for a route that refuses those without."""
    content = json.dumps(visitor.body(path)).encode()
    wrong, right = WRONG_KEY.encode(), visitor.server.api_key
    basic = base64.b64encode(b"user:" + wrong)
    ways: list[Way] = []

    def way(what: str, target: str = path, method: str = "POST", **more: Any) -> None:
        headers = more.pop("headers", ())
        request = RawRequest(method, target, headers, content, sent=what, absolute=more.pop("absolute", False))
        ways.append(Way(what, request, **more))

    for name, value in (
        ("x-api-key", wrong),
        ("api-key", wrong),
        ("Authorization", b"Basic " + basic),
        ("Authorization", wrong),
        ("Authorization", b"Bearer"),
        ("Authorization", b"Bearer null"),
        ("Authorization", b"Bearer undefined"),
        ("X-Forwarded-For", b"127.0.0.1"),
        ("X-Original-URL", b"/health"),
        ("X-HTTP-Method-Override", b"OPTIONS"),
    ):
        way(f"the header {name}: {value.decode()}", headers=((name, value),))
    way("a wrong key in the query string", f"{path}?api_key={WRONG_KEY}&key={WRONG_KEY}&token={WRONG_KEY}")
    for method in ("OPTIONS", "PUT", "GET"):
        way(f"the method {method}", method=method)
    way("the method HEAD", MODELS, "HEAD", any_success=True)
    for what, target in address_variants(path):
        way(what, target)
    way("the whole address in the request line", absolute=True)
    if right:
        way("the query string", f"{path}?api_key={right}&key={right}&token={right}", harmless=True)
    return ways


def address_variants(path: str) -> list[tuple[str, str]]:
    first, _, rest = path.lstrip("/").partition("/")
    escaped = "".join(f"%{byte:02x}" for byte in first.encode())
    return [
        ("a slash at the end", f"{path}/"),
        ("a double slash at the beginning", f"/{path}"),
        ("a double slash in the middle", f"/{first}//{rest}"),
        ("capitals", path.upper()),
        ("a capital first part", f"/{first.upper()}/{rest}"),
        ("a dot in the address", f"/.{path}"),
        ("dots from another route", f"/health/..{path}"),
        ("dots from the guarded part", f"/{first}/../invocations"),
        ("dots out of and into the guarded part", f"/{first}/../{first}/{rest}"),
        ("escaped dots", f"/health/%2e%2e{path}"),
        ("an escaped slash", f"/{first}%2f{rest}"),
        ("escaped dots and slash", f"/health%2f..%2f{first}%2f{rest}"),
        ("escaped letters", f"/{escaped}/{rest}"),
        ("letters escaped twice", f"/{escaped.replace('%', '%25')}/{rest}"),
        ("a path parameter", f"{path};x=1"),
        ("a path parameter before it", f"/;x{path}"),
        ("an escaped zero at the end", f"{path}%00"),
        ("an escaped space at the end", f"{path}%20"),
        ("a backslash", f"/\\{first}/{rest}"),
    ]


@check
class KeysNotEchoed(VisitingCheck):
    name = "security.keys_not_echoed"
    label = "Keys are not echoed"
    category = CATEGORY
    weight = 1.0
    required = False
    timeout = 30.0

    def ask(self, context: Context, visitor: Visitor) -> Outcome:
        with asking_within(context, visitor, ECHO_SECONDS) as asking:
            wanted = _provoking(asking)
            found = asking.every(wanted, ECHO_AT_ONCE)
        answered = [e for e in found if e and e.status]
        evidence = {"exchanges": [_without(e, asking.key) for e in asking.exchanges]}
        findings = [_leak(e, asking.key) for e in answered if _leaks(e, asking.key)]
        given_up = bool(asking.over) or not answered
        if given_up and not findings:
            reason = left_untried(asking, len(answered), len(wanted), "requests", "what its errors say")
            return Outcome.not_checked(reason, evidence=evidence)
        return judged(
            findings,
            f"None of {len(answered)} answers, errors and /metrics among them, repeats a key in its text or headers.",
            evidence,
        )


def _provoking(asking: Asking) -> list[Request | RawRequest]:
    right, body = asking.key, asking.visitor.body(COMPLETIONS)

    def post(key: str, sent: str, **more: Any) -> Request:
        return Request("POST", COMPLETIONS, key, sent=sent, **more)

    return [
        Request("GET", MODELS, WRONG_KEY, sent=A_WRONG_KEY),
        post(WRONG_KEY, A_WRONG_KEY, body=body),
        post("", "a wrong key as x-api-key", body=body, headers={"x-api-key": WRONG_KEY}),
        post(right, f"{THE_RIGHT_KEY}, no model", body={**body, "model": NO_SUCH_MODEL}),
        post(right, f"{THE_RIGHT_KEY}, broken JSON", content=b'{"model": '),
        post(right, f"{THE_RIGHT_KEY}, a wrong type", body={**body, "max_tokens": "many"}),
        post(right, f"{THE_RIGHT_KEY}, no content type", content=b"words"),
        Request("GET", f"/v1{NO_SUCH_ROUTE}", right, sent=f"{THE_RIGHT_KEY}, an unknown route"),
        Request("GET", COMPLETIONS, right, sent=f"{THE_RIGHT_KEY}, a wrong method"),
        *(
            Request("GET", path, right, sent=THE_RIGHT_KEY)
            for path in (MODELS, "/metrics", "/version", "/health", "/server_info", DOCUMENT)
        ),
        RawRequest("NONSENSE", COMPLETIONS, with_key(right), sent=f"{THE_RIGHT_KEY}, an unknown method"),
    ]


def _leak(exchange: Exchange, right: str) -> Finding:
    where = f"The answer to {exchange.route} with {exchange.sent} repeats a key."
    sent_now = "a wrong key" in exchange.sent
    severity = Severity.HIGH if sent_now or not right else Severity.CRITICAL
    return Finding(severity, where, "Take the key out of messages, headers and labels; replace it if it was logged.")


def _leaks(exchange: Exchange, right: str) -> bool:
    text = exchange.body + b"\n" + "\n".join(exchange.headers.values()).encode("utf-8", "replace")
    return any(form in text for key in (right, WRONG_KEY) if key for form in _forms(key))


def _without(exchange: Exchange, right: str) -> dict[str, Any]:
    """The evidence, also without what is only a part of the key."""
    found = exchange.evidence()
    for form in _forms(right) if right else ():
        found["body"] = str(found.get("body", "")).replace(form.decode(), HIDDEN)
    return found


def _forms(key: str) -> Iterator[bytes]:
    """The key, either half of it if that is long enough to be no chance, and the key in base64."""
    whole = key.encode()
    yield whole
    half = len(whole) // 2
    if half >= 10:
        yield whole[:half]
        yield whole[-half:]
        yield base64.b64encode(whole).rstrip(b"=")[:-1]
