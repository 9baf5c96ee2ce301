"""Whether an id that a client gives can write headers of its own into the answer."""

from __future__ import annotations

import re

from registry.qa.base import Context, Finding, Outcome, Severity
from registry.qa.builtin.exchange import Exchange, VisitingCheck, Visitor
from registry.qa.builtin.security_asking import (
    CATEGORY,
    Asking,
    Request,
    asking_within,
    blamed,
    judged,
    left_untried,
    shown,
)
from registry.qa.builtin.security_raw import RawExchange, RawRequest, with_key
from registry.qa.catalogue import check
from registry.qa.parameters import Parameter

MODELS = "/v1/models"
INJECTED = "X-Deploypipe-Injected"
HEADERS = ("X-Request-Id", "X-Correlation-Id")
SECONDS = 30.0
AT_ONCE = 6
_LINE = re.compile(rb"[\r\n]+")

# What follows the line's end would be a header of ours. The last two are letters whose code ends in that of CR and LF.
SPLITS: tuple[tuple[str, bytes], ...] = (
    ("a bare CR", b"\r"),
    ("a bare LF", b"\n"),
    ("a folded line", b"\r\n "),
    ("%0d%0a", b"%0d%0a"),
    ("%0A", b"%0A"),
    ("%250d%250a", b"%250d%250a"),
    (r"\r\n in letters", rb"\r\n"),
    ("U+010D U+010A", "\u010d\u010a".encode()),
    ("U+560D U+560A", "\u560d\u560a".encode()),
)


@check
class RequestId(VisitingCheck):
    name = "security.request_id"
    label = "Request ids cannot split the answer"
    category = CATEGORY
    weight = 1.0
    required = False
    timeout = 40.0
    parameters = (
        Parameter(
            "longest_id",
            int,
            1024,
            "An id that is longer and comes back whole is a finding.",
            unit="characters",
            lowest=64,
            highest=8192,
        ),
    )

    def ask(self, context: Context, visitor: Visitor) -> Outcome:
        longest = int(context.parameter(self, "longest_id"))
        with asking_within(context, visitor, SECONDS) as asking:
            keys = dict.fromkeys((visitor.server.api_key, ""))  # refusals are often written by another part
            split = [_with_id(key, what, split) for key in keys for what, split in SPLITS]
            plain = Request("GET", MODELS, asking.key, sent="no id, after all others")
            found = asking.every([*split, _long(asking, longest)], AT_ONCE) + asking.every([plain], 1)
        answers = [one for one in found[: len(split)] if isinstance(one, RawExchange)]
        long, last = found[-2:]
        findings = [*_long_id(long, longest), *(_finding(answer) for answer in answers if _split(answer))]
        evidence = {"exchanges": shown(asking.exchanges)}
        if not blamed(findings) and not (last and last.status):
            answered = sum(one is not None and not _late(one) for one in found)
            reason = left_untried(asking, answered, len(found), "requests", "what it does with ids")
            return Outcome.not_checked(reason, evidence=evidence)
        closed = sum(not answer.status for answer in answers)
        echoed = "comes back" if any(_echoed(answer) for answer in answers) else "does not come back"
        return judged(
            findings,
            f"None of {len(answers)} ids with line ends, plain and encoded, writes a header into the answer "
            f"({closed} were refused by closing the connection); an id {echoed}.",
            evidence,
        )


def _finding(answer: RawExchange) -> Finding:
    sentence = f"{_capital(answer.sent)} lets a header of the client's stand in the answer to {answer.route}."
    action = "Let the server refuse or drop an id that is not letters, digits and hyphens."
    return Finding(Severity.HIGH, sentence, action)


def _with_id(key: str, what: str, split: bytes) -> RawRequest:
    value = b"deploypipe" + split + INJECTED.encode() + b": 1"
    headers = (*((name, value) for name in HEADERS), *with_key(key))
    sent = f"an id with {what}, {'the right key' if key else 'no key'}"
    return RawRequest("GET", MODELS, headers, sent=sent)


def _late(answer: Exchange) -> bool:
    return answer.late if isinstance(answer, RawExchange) else not answer.status


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _split(answer: RawExchange) -> bool:
    return any(line.lower().startswith(INJECTED.lower().encode() + b":") for line in _LINE.split(answer.head))


def _echoed(answer: Exchange) -> bool:
    return any(value.startswith("deploypipe") for value in answer.headers.values())


def _long(asking: Asking, longest: int) -> RawRequest:
    headers = (("X-Request-Id", b"d" * (longest + 1)), *with_key(asking.key))
    return RawRequest("GET", MODELS, headers, sent=f"an id of {longest + 1:,} characters")


def _long_id(answer: Exchange | None, longest: int) -> list[Finding]:
    if answer is None:
        return []
    sent = answer.sent
    if answer.status >= 500:
        sentence = f"{_capital(sent)} was answered with {answer.status}."
        return [Finding(Severity.HIGH, sentence, "Refuse over-long headers with 431.")]
    if "d" * (longest + 1) in "\n".join(answer.headers.values()):
        sentence = f"{_capital(sent)} comes back whole, and stands in every log on its way."
        return [Finding(Severity.LOW, sentence, "Cut or replace ids that are longer than a UUID.")]
    return []
