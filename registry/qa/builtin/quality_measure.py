"""Held-out texts as one server knows them: how surprised it is by each, and which it continues word for word."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from registry.qa.builtin.answers import read
from registry.qa.builtin.exchange import COMPLETIONS, MOST_PATIENCE, Exchange, Visitor, patience
from registry.qa.held_out import HeldOut, Task, Text

WITHIN = 60.0
"""Seconds for all lines of one server."""
LARGEST_EXPONENT = 700.0  # e to more than 709 is no float; engines write -9999 for a probability of 0


class Way(StrEnum):
    """How a server tells the probabilities of a text that it is given."""

    ECHO = "echo"  # OpenAI's completions
    ECHO_OF_ONE = "echo, max_tokens 1"  # the same, where at least one token must be generated
    PROMPT_LOGPROBS = "prompt_logprobs"  # vLLM's and Aphrodite's own field


WAYS: dict[Way, dict[str, Any]] = {
    Way.ECHO: {"echo": True, "logprobs": 1, "max_tokens": 0},
    Way.ECHO_OF_ONE: {"echo": True, "logprobs": 1, "max_tokens": 1},
    Way.PROMPT_LOGPROBS: {"prompt_logprobs": 0, "max_tokens": 1},
}


@dataclass(frozen=True)
class Loss:
    """Of one text: how surprised the model was by it."""

    line: int
    nats: float
    tokens: int
    """That have a probability: the first has none."""
    size: int
    """In bytes of UTF-8: it does not depend on how a model cuts words."""


@dataclass(frozen=True)
class Match:
    line: int
    right: bool
    text: str
    wanted: str


@dataclass
class Measured:
    losses: list[Loss] = field(default_factory=list)
    matches: list[Match] = field(default_factory=list)
    way: Way | None = None
    no_probabilities: str = ""
    """Why the texts could not be judged on this server; a sentence."""

    @property
    def perplexity(self) -> float:
        mean = _sum(loss.nats for loss in self.losses) / sum(loss.tokens for loss in self.losses)
        return math.exp(min(mean, LARGEST_EXPONENT))

    @property
    def bits_per_byte(self) -> float:
        return _sum(loss.nats for loss in self.losses) / math.log(2) / sum(loss.size for loss in self.losses)

    @property
    def right(self) -> int:
        return sum(match.right for match in self.matches)

    @property
    def exact_match_percent(self) -> float:
        return 100.0 * self.right / len(self.matches)

    def to_json(self) -> dict[str, Any]:
        shown: dict[str, Any] = {"way": self.way.value if self.way else None}
        if self.losses:
            shown["texts"] = {
                "count": len(self.losses),
                "tokens": sum(loss.tokens for loss in self.losses),
                "perplexity": round(self.perplexity, 3),
                "bits_per_byte": round(self.bits_per_byte, 4),
            }
        if self.matches:
            shown["prompts"] = {"count": len(self.matches), "right": self.right}
            wrong = [match for match in self.matches if not match.right]
            shown["wrong"] = [{"line": m.line, "wanted": m.wanted[:100], "came": m.text[:100]} for m in wrong[:5]]
        if self.no_probabilities:
            shown["no_probabilities"] = self.no_probabilities
        return shown


class Unmeasured(Exception):
    """The server did not answer as it must; the text is a sentence."""

    def __init__(self, text: str, exchange: Exchange | None = None) -> None:
        super().__init__(text)
        self.evidence = {"exchanges": [exchange.evidence()]} if exchange else {}


class TooSlow(Unmeasured):
    """It answered, but not all of it in the time there is: nothing is known of its quality."""


def measure(visitor: Visitor, held_out: HeldOut, *, clock: Callable[[], float] = time.monotonic) -> Measured:
    """Every line of one server. Raises Unmeasured where it does not answer as it must."""
    found, ends = Measured(), clock() + WITHIN
    within, slowest, before = MOST_PATIENCE, 0.0, math.inf  # the first may have to be prepared for
    path = visitor.completions_path() if held_out.tasks else COMPLETIONS
    lines: tuple[Text | Task, ...] = (*held_out.texts, *held_out.tasks)
    for done, line in enumerate(lines):
        if (now := clock()) > ends:
            raise TooSlow(
                f"Only {done} of {len(lines)} lines were answered within {WITHIN:g} s; "
                "set most_lines of quality.held_out to fewer."
            )
        if done:
            slowest = max(slowest, now - before)
            within = patience(slowest)
        before = now
        if isinstance(line, Task):
            found.matches.append(_match(visitor, path, line, within))
        elif not found.no_probabilities:
            _add_loss(visitor, line, found, within)
    return found


def _match(visitor: Visitor, path: str, task: Task, within: float) -> Match:
    wanted = task.completion.strip()
    most = len(wanted.encode()) + 1  # a token has a byte at the least; one more for the space before it
    answer = read(visitor.complete(path, task.prompt, max_tokens=most, sent=f"line {task.line}", timeout=within))
    if answer.problem not in ("", "there is no text"):  # to say nothing at all is an answer, and the wrong one
        raise Unmeasured(f"Line {task.line} has no answer: {answer.problem}.", answer.exchange)
    text = answer.text.strip()
    return Match(task.line, _begins_with(text, wanted), text, wanted)


def _begins_with(text: str, wanted: str) -> bool:
    """A model does not know where the wanted text ends; but a word that goes on is another word."""
    rest = text[len(wanted) :]
    return text.startswith(wanted) and not (wanted[-1].isalnum() and rest[:1].isalnum())


def _add_loss(visitor: Visitor, text: Text, found: Measured, within: float) -> None:
    ways = [found.way] if found.way else list(Way)
    said: list[str] = []
    for way in ways:
        sent = f"line {text.line}, {way.value}"
        exchange = visitor.complete(COMPLETIONS, text.text, sent=sent, timeout=within, **WAYS[way])
        if exchange.status == 0 or (exchange.status >= 500 and exchange.status != 501):
            raise Unmeasured(f"Line {text.line} has no answer: the server {exchange.said}.", exchange)
        if loss := loss_of(text, way, exchange):
            found.way = way
            found.losses.append(loss)
            return
        said.append(f"{way.value}: it {exchange.said}{_reason(exchange)}")
    if found.way:
        raise Unmeasured(f"Line {text.line} has no probabilities, while others have: {said[0]}.", exchange)
    found.no_probabilities = (
        f"This server does not tell the probabilities of a text that it is given ({'; '.join(said)}), so there is no "
        "perplexity."
    )


def _reason(exchange: Exchange) -> str:
    if exchange.status == 200:
        return " without them"
    error = exchange.json().get("error")
    message = error.get("message") if isinstance(error, dict) else None
    return f" ({message[:100].removesuffix('.')})" if isinstance(message, str) else ""


def loss_of(text: Text, way: Way, exchange: Exchange) -> Loss | None:
    """None where the answer does not hold them."""
    if exchange.status != 200:
        return None
    answer = read(exchange)
    said = answer.first
    logs = _prompt_logprobs(said.prompt_logprobs) if way is Way.PROMPT_LOGPROBS else None
    if way is not Way.PROMPT_LOGPROBS and said.text.startswith(text.text):
        logs = _echoed(said.logprobs, len(text.text))
    if not logs:
        return None
    return Loss(text.line, -_sum(logs), len(logs), len(text.text.encode()))


def _echoed(told: Any, end: int) -> list[float] | None:
    """OpenAI's shape. What was generated after the text begins at its end."""
    if not isinstance(told, dict):
        return None
    logs, offsets = told.get("token_logprobs"), told.get("text_offset")
    if not isinstance(logs, list) or not isinstance(offsets, list) or len(logs) != len(offsets):
        return None
    start = offsets[0] if offsets else 0
    own = [log for log, at in zip(logs, offsets, strict=True) if isinstance(at, int) and at - start < end]
    return _numbers(own)


def _prompt_logprobs(told: Any) -> list[float] | None:
    """One object a token, keyed by the token's number; the text's own token is its first entry."""
    if not isinstance(told, list):
        return None
    firsts = [next(iter(entry.values()), None) if isinstance(entry, dict) else None for entry in told]
    return _numbers([first.get("logprob") if isinstance(first, dict) else None for first in firsts])


def _numbers(logs: Sequence[object]) -> list[float] | None:
    """Without the first, which has nothing before it. None if one is missing or no log probability."""
    rest = logs[1:] if logs and logs[0] is None else logs
    found = [float(log) for log in rest if isinstance(log, int | float) and math.isfinite(log) and log <= 1e-6]
    return found if found and len(found) == len(rest) else None


def _sum(values: Any) -> float:
    return math.fsum(values)
