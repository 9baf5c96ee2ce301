"""Sampling parameters are judged by what they do: a server that dropped one takes the field and says nothing."""

from __future__ import annotations

import re
import time
from dataclasses import dataclass, field
from itertools import product
from typing import Any

from registry.qa.base import Context, Finding, Outcome, Severity
from registry.qa.builtin.answers import FULL, MAX_TOKENS, Answer, Greedy, greedy, limited, parting, read
from registry.qa.builtin.exchange import TOO_MANY, VisitingCheck, Visitor, listed
from registry.qa.catalogue import check

CATEGORY = "compatibility"
WARM = 1.0
SEEDS = (11, 12, 13, 14)
LIMITS = (1, 5)
SPARE_SECONDS = 2.0
"""Before its time is up a check says itself how far it came."""
CHOICES = 3


class SamplingCheck(VisitingCheck):
    category = CATEGORY
    required = False
    timeout = 60.0

    def ask(self, context: Context, visitor: Visitor) -> Outcome:
        began = time.monotonic()
        base = greedy(context, visitor)
        if nothing := base.nothing:
            return nothing
        asking = Asking(visitor, base, began + self.timeout)
        try:
            return self.judge(context, asking)
        except Undecided as why:
            return Outcome.not_checked(str(why), evidence=asking.evidence)

    def judge(self, context: Context, asking: Asking) -> Outcome:
        raise NotImplementedError


class Undecided(Exception):
    """The server may be sound, and could not be asked all that shows it; the text is a sentence."""


@dataclass
class Asking:
    """Asks for the text that all these checks know, in other ways, and keeps what was said as evidence."""

    visitor: Visitor
    base: Greedy
    ends: float
    """When the runner gives the check up (`time.monotonic`)."""
    answers: list[Answer] = field(default_factory=list)

    def __call__(self, sent: str, prompt: str = "", **more: Any) -> Answer:
        if self.silent:  # it hangs or is gone: one time-out is enough for a check
            return self.answers[-1]
        left = self.ends - SPARE_SECONDS - time.monotonic()
        if left <= 0:
            raise Undecided(self._too_slow)
        body: dict[str, Any] = {"max_tokens": MAX_TOKENS, "timeout": min(self.base.patience, left), **more}
        answer = read(self.visitor.complete(self.base.path, prompt or self.base.prompt, sent=sent, **body))
        if not answer.exchange.status and left < self.base.patience:
            raise Undecided(self._too_slow)
        self.answers.append(answer)
        if answer.exchange.status == TOO_MANY:
            raise Undecided(limited(self.base.path))
        return answer

    @property
    def _too_slow(self) -> str:
        return f"The server is too slow for it: after {len(self.answers)} answers the check's time was used up."

    @property
    def silent(self) -> bool:
        return bool(self.answers) and not self.answers[-1].exchange.status

    @property
    def evidence(self) -> dict[str, Any]:
        return {"prompt": self.base.prompt, "exchanges": [answer.exchange.evidence() for answer in self.answers]}

    @property
    def route(self) -> str:
        return f"POST {self.base.path}"


@check
class Seed(SamplingCheck):
    name = "compatibility.seed"
    label = "A seed repeats its text"
    weight = 1.0
    alone = True  # what is computed beside other requests has other rounding errors

    def judge(self, context: Context, asking: Asking) -> Outcome:
        texts: list[str] = []
        for seed in (SEEDS[0], *SEEDS):
            answer = asking(f"temperature {WARM:g}, seed {seed}", temperature=WARM, seed=seed)
            if answer.problem:
                return Outcome.failed(f"{asking.route} with a seed: {answer.problem}.", evidence=asking.evidence)
            texts.append(answer.text)
        evidence = {**asking.evidence, "texts": texts}
        first, *others = texts
        if first != others[0]:
            return Outcome.failed(
                f"The seed {SEEDS[0]} gave two texts at temperature {WARM:g}, different from character "
                f"{parting(first, others[0])} on.",
                evidence=evidence,
            )
        if len(set(others)) == 1:
            as_greedy = ", which is that of temperature 0" if first == asking.base.text else ""
            return Outcome.failed(
                f"{len(SEEDS)} seeds gave the same text at temperature {WARM:g}{as_greedy}: the seed has no effect "
                "that can be seen.",
                evidence=evidence,
            )
        return Outcome.passed(
            f"The same seed gave the same text twice at temperature {WARM:g}, and {len(SEEDS)} seeds gave "
            f"{len(set(others))} texts.",
            evidence=evidence,
        )


@check
class Stop(SamplingCheck):
    name = "compatibility.stop"
    label = "A stop string ends the text"
    weight = 1.0
    alone = True  # the text must be the one that is known

    def judge(self, context: Context, asking: Asking) -> Outcome:
        base = asking.base
        stop = stop_string(base.text)
        if not stop:
            return Outcome.not_checked(
                f"The greedy text {base.text[:60]!r} has no word in its middle to stop at.", evidence=asking.evidence
            )
        problems = self._problems(asking, stop, streamed=False)
        if base.streams:
            problems += self._problems(asking, stop, streamed=True)
        if problems:
            return Outcome.failed(
                f"With the stop string {stop!r} {'; '.join(problems)}.", evidence={**asking.evidence, "stop": stop}
            )
        how = "plain and streamed" if base.streams else "plain; a stream cannot be judged on this server"
        return Outcome.passed(
            f"The stop string {stop!r} ended the text before it, with finish_reason stop ({how}).",
            evidence={**asking.evidence, "stop": stop},
        )

    def _problems(self, asking: Asking, stop: str, *, streamed: bool) -> list[str]:
        more: dict[str, Any] = {"stream": True} if streamed else {}
        answer = asking(f"temperature 0, stop {stop!r}{', streamed' if streamed else ''}", stop=[stop], **more)
        found = _stop_problem(asking, answer, stop, asking.base.streamed if streamed else asking.base.plain)
        return [f"the {'stream' if streamed else 'plain answer'} {found}"] if found else []


def stop_string(text: str) -> str:
    """A word from the middle of the text that is not in it before."""
    words = [match for match in re.finditer(r"[^\s\ufffd]{2,}", text) if match.start() > 0]
    for match in words[len(words) // 3 :]:
        if text.find(match.group()) == match.start() and text[: match.start()].strip():
            return match.group()
    return ""


def _stop_problem(asking: Asking, answer: Answer, stop: str, without: Answer) -> str:
    """To stand after "the answer"."""
    if answer.problem and answer.problem != "there is no text":
        return f"is not sound: {answer.problem}"
    if stop in answer.text:
        end = answer.text[answer.text.find(stop) :]
        return "ends with it instead of before it" if end == stop else "goes on past it"
    expected = asking.base.text[: asking.base.text.find(stop)]
    if answer.text.rstrip() != expected.rstrip():
        again = asking("temperature 0, without stop")
        if again.text == asking.base.text:  # else the text is another each time, and says nothing about the stop
            return f"is {answer.text[:80]!r}, not {expected[:80]!r}"
    # Where a reason is missing without a stop string, too, that is not the stop's fault.
    if without.first.finish_reason is not None and answer.first.finish_reason != "stop":
        return f"has the finish_reason {answer.first.finish_reason!r}, not 'stop'"
    return ""


@check
class MaxTokens(SamplingCheck):
    name = "compatibility.max_tokens"
    label = "max_tokens is kept"
    weight = 1.0

    def judge(self, context: Context, asking: Asking) -> Outcome:
        problems: list[str] = []
        for limit, streamed in product(LIMITS, (False, True)[: 1 + asking.base.streams]):
            more: dict[str, Any] = {"stream": True} if streamed else {}
            answer = asking(f"max_tokens {limit}{', streamed' if streamed else ''}", max_tokens=limit, **more)
            how = f"with max_tokens {limit}{' in a stream' if streamed else ''}"
            if answer.problem and answer.problem != "there is no text":  # a first token's may be empty
                problems.append(f"{how} {answer.problem}")
            elif came := _too_much(answer, limit):
                problems.append(f"{how} {came} came")
            if asking.silent:
                break
        if problems:
            return Outcome.failed(f"{asking.route}: {'; '.join(problems)}.", evidence=asking.evidence)
        how = "plain and streamed" if asking.base.streams else "plain"
        return Outcome.passed(
            f"Answers with max_tokens {' and '.join(map(str, LIMITS))} ({how}) kept to it.", evidence=asking.evidence
        )


def _too_much(answer: Answer, limit: int) -> str:
    """By the server's own count, by the stream's events (none of which has less than a token), else by words."""
    if answer.tokens is not None and answer.tokens > limit:
        return f"{answer.tokens} tokens"
    if answer.streamed and answer.first.pieces > limit:
        return f"{answer.first.pieces} pieces of text"
    words = len(answer.text.split())
    if answer.tokens is None and not answer.streamed and words > limit + 1:
        return f"{words} words"
    return ""


@check
class Several(SamplingCheck):
    name = "compatibility.several"
    label = "n gives n choices"
    weight = 0.5

    def judge(self, context: Context, asking: Asking) -> Outcome:
        plain = asking(f"n {CHOICES}, temperature {WARM:g}", n=CHOICES, temperature=WARM)
        status = plain.exchange.status
        if (400 <= status < 500 or status == 501) and context.engine not in FULL:
            return Outcome.not_applicable(
                f"The server says that it cannot: {asking.route} with n {CHOICES} answered {status}.",
                evidence=asking.evidence,
            )
        problems = [f"the plain answer {found}" for found in _choice_problems(plain)]
        if not problems and self._alike(asking, plain):
            problems = [f"the {CHOICES} choices are one and the same text, while single requests differ"]
        if not problems and asking.base.streams:
            streamed = asking(f"n {CHOICES}, temperature {WARM:g}, streamed", n=CHOICES, temperature=WARM, stream=True)
            problems = [f"the stream {found}" for found in _choice_problems(streamed)]
        if problems:
            return Outcome.failed(
                f"{asking.route} with n {CHOICES}: {'; '.join(problems)}.",
                value=float(len(plain.choices)),
                limit=float(CHOICES),
                unit="choices",
                evidence=asking.evidence,
            )
        how = "plain and streamed" if asking.base.streams else "plain"
        return Outcome.passed(
            f"{asking.route} with n {CHOICES} gave {CHOICES} choices, numbered from 0 ({how}).",
            value=float(CHOICES),
            limit=float(CHOICES),
            unit="choices",
            evidence=asking.evidence,
        )

    def _alike(self, asking: Asking, plain: Answer) -> bool:
        if len({said.text for said in plain.choices.values()}) > 1:
            return False
        singles = [asking(f"temperature {WARM:g}, seed {s}", temperature=WARM, seed=s) for s in SEEDS[:2]]
        return singles[0].text != singles[1].text


def _choice_problems(answer: Answer) -> list[str]:
    """Each to stand after "the answer"."""
    if answer.problem:
        return [f"is not sound: {answer.problem}"]
    if answer.unnumbered:
        return [f"has {answer.unnumbered} choices without an index of their own"]
    if len(answer.choices) != CHOICES:
        came = "1 choice" if len(answer.choices) == 1 else f"{len(answer.choices)} choices"
        return [f"has {came}" + (" only" if len(answer.choices) < CHOICES else "")]
    if set(answer.choices) != set(range(CHOICES)):
        return [f"numbers its choices {listed(list(map(str, sorted(answer.choices))))}"]
    return []


# Values outside the interface's limits. The second list is of what only these engines define, or limit more narrowly.
OUT_OF_RANGE: tuple[tuple[str, float], ...] = (
    ("temperature", -1.0),
    ("top_p", 1.5),
    ("n", 0),
    ("max_tokens", 0),
    ("presence_penalty", 3.0),
    ("frequency_penalty", -3.0),
)
OUT_OF_RANGE_MORE: tuple[tuple[str, float], ...] = (
    ("top_p", 0.0),
    ("top_k", -5),
    ("min_p", 2.0),
    ("repetition_penalty", -1.0),
)


@check
class Refuses(SamplingCheck):
    name = "compatibility.refuses"
    label = "Sampling values out of range are refused"
    weight = 0.5

    def judge(self, context: Context, asking: Asking) -> Outcome:
        values = OUT_OF_RANGE + (OUT_OF_RANGE_MORE if context.engine in FULL else ())
        findings: list[Finding] = []
        for name, value in values:
            body: dict[str, Any] = {"temperature": WARM, name: value}
            answer = asking(f"{name} {value:g}", **body)
            if not 400 <= answer.exchange.status < 500:
                findings.append(_taken(name, value, answer))
            if asking.silent:
                break
        if findings:
            return Outcome.failed(
                f"Of {len(values)} values out of range {len(findings)} were not refused with a 4xx error: "
                f"{listed([found.sentence.removesuffix('.') for found in findings])}.",
                value=float(len(findings)),
                limit=0.0,
                unit="values",
                evidence=asking.evidence,
                findings=tuple(findings),
            )
        return Outcome.passed(
            f"All {len(values)} values out of range were refused with a 4xx error.",
            value=0.0,
            limit=0.0,
            unit="values",
            evidence=asking.evidence,
        )


def _taken(name: str, value: float, answer: Answer) -> Finding:
    return Finding(
        Severity.LOW,
        f"{name} {value:g}: the server {answer.exchange.said}.",
        f"Refuse {name} {value:g} with 400, so that a client's mistake is seen and not guessed at.",
    )
