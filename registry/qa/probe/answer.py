"""One answer as it comes in: when each piece of text came, and what was wrong with it."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from itertools import pairwise
from typing import Any

import httpx

from registry.qa.probe.measured import Failure, Request

DETAIL = 200
MOST_BYTES = 16_000_000


class Answer:
    def __init__(self, due: float, most_tokens: int, lag: float) -> None:
        self.due = due
        self.most_tokens = most_tokens
        self.lag = lag
        self.times: list[float] = []
        self.tokens: int | None = None
        self.failure: Failure | None = None
        self.detail = ""
        self.done: float | None = None

    def take(self, data: str, now: float) -> None:
        if self.done is not None or self.failure:
            return
        if data == "[DONE]":
            self.done = now
        else:
            self.take_event(json.loads(data), now)

    def take_event(self, event: dict[str, Any], now: float) -> None:
        if "error" in event or event.get("object") == "error":
            self.fail(Failure.STREAM_ERROR, json.dumps(event))
            return
        if isinstance(usage := event.get("usage"), dict):
            tokens = usage.get("completion_tokens")
            # A count that is above what was asked for is no count: nothing is made of it.
            self.tokens = tokens if isinstance(tokens, int) and 0 <= tokens <= self.most_tokens else self.tokens
        for choice in event.get("choices") or ():
            if _has_text(choice):
                self.times.append(now)
            if choice.get("finish_reason") in ("error", "abort"):
                self.fail(Failure.STREAM_ERROR, f"finish_reason {choice['finish_reason']}")

    def end_stream(self) -> None:
        if self.done is None:
            self.fail(Failure.INCOMPLETE, "the stream ended without [DONE]")
        self.end()

    def end(self) -> None:
        if not self.times:
            self.fail(Failure.EMPTY, "the answer holds no text")

    def fail(self, failure: Failure, detail: str) -> None:
        """The first failure is the cause of the others."""
        if self.failure is None:
            self.failure, self.detail = failure, detail

    def request(self, zero: float, now: float, secret: str) -> Request:
        ended = now if self.done is None else self.done
        waited = ended - self.due
        first = self.times[0] - self.due if self.times else None
        if first is None and self.failure is Failure.TIMEOUT:
            first = waited  # it took at least that long: leaving it out would make a hanging server look fast
        detail = self.detail.replace(secret, "•••") if secret else self.detail
        stalled = [ended] if self.failure is Failure.TIMEOUT and self.times else []
        return Request(
            due=self.due - zero,
            ended=ended - zero,
            lag=self.lag,
            first=first,
            whole=waited if self.failure in (None, Failure.TIMEOUT) else None,
            gaps=tuple(b - a for a, b in pairwise([*self.times, *stalled])),
            pieces=len(self.times),
            tokens=self.tokens,
            failure=self.failure,
            detail=detail[:DETAIL],
        )


def streams(response: httpx.Response) -> bool:
    return str(response.headers.get("content-type", "")).startswith("text/event-stream")


async def body_of(response: httpx.Response) -> bytes:
    return b"".join([piece async for piece in _pieces(response)])


async def events(response: httpx.Response) -> AsyncIterator[str]:
    """The data of each server-sent event (WHATWG HTML, section 9.2.6)."""
    buffer = b""
    data: list[str] = []
    async for piece in _pieces(response):
        *lines, buffer = (buffer + piece).split(b"\n")
        for line in lines:
            text = line.removesuffix(b"\r").decode(errors="replace")
            if text.startswith("data:"):
                data.append(text[5:].removeprefix(" "))
            elif not text and data:
                yield "\n".join(data)
                data = []
    if data:
        yield "\n".join(data)


async def _pieces(response: httpx.Response) -> AsyncIterator[bytes]:
    size = 0
    async for piece in response.aiter_bytes():
        size += len(piece)
        if size > MOST_BYTES:
            raise ValueError(f"more than {MOST_BYTES:,} bytes")
        yield piece


def _has_text(choice: dict[str, Any]) -> bool:
    """Reasoning counts: the person sees that something comes."""
    said = choice.get("delta") or choice.get("message") or {}
    texts = (choice.get("text"), said.get("content"), said.get("reasoning"), said.get("reasoning_content"))
    return any(text for text in texts)
