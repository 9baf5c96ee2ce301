"""What an answer says, choice by choice, and the greedy answer that several checks build on."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from registry.qa.base import Context, Outcome
from registry.qa.builtin.exchange import (
    ABSENT,
    CHAT,
    COMPLETIONS,
    LEAST_PATIENCE,
    MOST_PATIENCE,
    TOO_MANY,
    Exchange,
    Visitor,
    events,
    patience,
)
from registry.qa.probe.prompts import PROMPTS

MAX_TOKENS = 16
FINISHED = ("stop", "length", "repetition", "tool_calls", "eos")
FULL = frozenset({"vllm", "aphrodite", "textgen"})
"""Engines that are known to do all that is asked of them; others may say clearly that they cannot."""
FEWEST_WORDS = 4
PROMPTS_TRIED = 3
SCRATCH = "compatibility.greedy"


@dataclass
class Said:
    """One choice of an answer."""

    text: str = ""
    pieces: int = 0
    """Events with text; 1 without streaming."""
    finish_reason: str | None = None
    logprobs: Any = None
    prompt_logprobs: Any = None

    def add(self, choice: dict[str, Any]) -> None:
        said = choice.get("delta") or choice.get("message") or {}
        said = said if isinstance(said, dict) else {}
        # Reasoning is text, too: some models say nothing else in so few tokens.
        piece = choice.get("text") or said.get("content") or said.get("reasoning") or said.get("reasoning_content")
        if isinstance(piece, str) and piece:
            self.text += piece
            self.pieces += 1
        finish = choice.get("finish_reason")
        self.finish_reason = finish if isinstance(finish, str) else self.finish_reason
        self.logprobs = choice.get("logprobs") or self.logprobs
        self.prompt_logprobs = choice.get("prompt_logprobs") or self.prompt_logprobs


@dataclass
class Answer:
    exchange: Exchange
    streamed: bool = False
    choices: dict[int, Said] = field(default_factory=dict)
    unnumbered: int = 0
    """Choices without an index of their own."""
    usage: dict[str, Any] = field(default_factory=dict)
    models: set[str] = field(default_factory=set)
    problem: str = ""
    """Why it is no sound answer, to stand after a colon; empty where it is one."""

    @property
    def first(self) -> Said:
        return self.choices.get(0) or next(iter(self.choices.values()), Said())

    @property
    def text(self) -> str:
        return self.first.text

    @property
    def tokens(self) -> int | None:
        """As the server counts them."""
        counted = self.usage.get("completion_tokens")
        return counted if isinstance(counted, int) and not isinstance(counted, bool) else None

    def add(self, event: dict[str, Any]) -> None:
        if "error" in event or event.get("object") == "error":
            error = event.get("error", event)
            said = str(error.get("message", error) if isinstance(error, dict) else error)
            self.problem = f"an error came inside the 200 answer: {said[:200].removesuffix('.')}"
        usage = event.get("usage")
        self.usage = usage if isinstance(usage, dict) else self.usage
        if isinstance(event.get("model"), str):
            self.models.add(event["model"])
        choices = event.get("choices")
        indexes: set[int] = set()
        for place, choice in enumerate(choices if isinstance(choices, list) else ()):
            if not isinstance(choice, dict):
                continue
            index = choice.get("index", place)
            if not isinstance(index, int) or index in indexes:
                self.unnumbered += 1
                continue
            indexes.add(index)
            self.choices.setdefault(index, Said()).add(choice)


def read(exchange: Exchange) -> Answer:
    """What came, whether as one body or as a stream."""
    answer = Answer(exchange)
    if exchange.status != 200:
        answer.problem = f"the server {exchange.said}"
    elif exchange.headers.get("content-type", "").startswith("text/event-stream"):
        answer.streamed = True
        _read_events(answer, events(exchange.body))
    elif document := exchange.json():
        answer.add(document)
    else:
        answer.problem = "the answer is no JSON object"
    if not answer.problem and not answer.text:
        answer.problem = "there is no text"
    return answer


def _read_events(answer: Answer, data: Sequence[str]) -> None:
    for number, event in enumerate(data, start=1):
        if event == "[DONE]":
            return
        try:
            value = json.loads(event)
        except (ValueError, RecursionError):
            answer.problem = f"event {number} is not JSON"
            return
        if isinstance(value, dict):
            answer.add(value)
        if answer.problem:
            return
    answer.problem = "there is no text, and it ends without [DONE]" if not answer.text else "it ends without [DONE]"


@dataclass(frozen=True)
class Greedy:
    """The same prompt at temperature 0, plain and streamed, asked once for all checks."""

    path: str
    prompt: str
    plain: Answer
    streamed: Answer
    patience: float = LEAST_PATIENCE
    """Seconds for one answer as long as these, by how long they took."""

    @property
    def text(self) -> str:
        return self.plain.text

    @property
    def nothing(self) -> Outcome | None:
        """For a check that has no text to work with. The check of generation says what is wrong."""
        if not self.plain.problem:
            return None
        why = self.plain.problem.removesuffix(".")
        return Outcome.not_checked(
            f"There is no text to try it on: POST {self.path}: {why}.",
            evidence={"exchanges": [self.plain.exchange.evidence()]},
        )

    @property
    def streams(self) -> bool:
        """Whether a stream can be judged at all."""
        return self.streamed.streamed and not self.streamed.problem


def greedy(context: Context, visitor: Visitor) -> Greedy:
    # One lock for one examination: checks that run together must not ask a server that hangs one after the other.
    with context.scratch.setdefault(f"{SCRATCH}.lock", threading.Lock()):
        if SCRATCH not in context.scratch:
            context.scratch[SCRATCH] = _ask(visitor)
        found: Greedy = context.scratch[SCRATCH]
        return found


def _ask(visitor: Visitor) -> Greedy:
    path = COMPLETIONS
    # A cold engine has been seen to need 20 s for its first text.
    first = visitor.complete(path, PROMPTS[0], max_tokens=1, sent="max_tokens 1", timeout=MOST_PATIENCE)
    if first.status in ABSENT:
        chat = visitor.complete(CHAT, PROMPTS[0], max_tokens=1, sent="max_tokens 1", timeout=MOST_PATIENCE)
        path, first = (CHAT, chat) if chat.status not in ABSENT else (path, first)
    if first.status == 0:
        return Greedy(path, PROMPTS[0], read(first), read(first))
    tried: list[tuple[int, str, Answer]] = []
    within = MOST_PATIENCE  # until one of this length was seen
    for number, prompt in enumerate(PROMPTS[:PROMPTS_TRIED]):
        began = time.monotonic()
        sent = _sent("temperature 0")
        answer = read(visitor.complete(path, prompt, max_tokens=MAX_TOKENS, sent=sent, timeout=within))
        within = patience(time.monotonic() - began)
        tried.append((-number, prompt, answer))
        if answer.problem not in ("", "there is no text") or len(answer.text.split()) >= FEWEST_WORDS:
            break
    else:  # none says much: the longest will do
        tried.sort(key=lambda one: (len(one[2].text.split()), one[0]))
    _, prompt, plain = tried[-1]
    return Greedy(path, prompt, plain, _streamed(visitor, path, prompt, within), within)


def _streamed(visitor: Visitor, path: str, prompt: str, within: float) -> Answer:
    """With the usage at its end, where the server can do that."""
    tried: tuple[dict[str, Any], ...] = ({"stream_options": {"include_usage": True}}, {})
    for options in tried:
        sent = _sent("temperature 0, streamed")
        exchange = visitor.complete(
            path, prompt, max_tokens=MAX_TOKENS, stream=True, sent=sent, timeout=within, **options
        )
        if exchange.status not in (400, 422):
            break
    return read(exchange)


def limited(path: str) -> str:
    """The sentence for an answer 429, which says nothing of what was asked."""
    return (
        f"POST {path} answered {TOO_MANY} (too many requests) again and again, so this could not be tried: "
        "give the key of the examination a higher rate limit."
    )


def parting(first: str, second: str) -> int:
    """The first character, counted from 1, in which two texts differ."""
    pairs = zip(first, second, strict=False)
    return 1 + next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(first), len(second)))


def _sent(how: str) -> str:
    return f"max_tokens {MAX_TOKENS}, {how}"
