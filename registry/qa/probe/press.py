"""Sends requests at random times that the server has no influence on, and notes when what comes back.

Open loop: a request is sent when it is due, however many are still unanswered, and its latency counts from when it was
due. A closed loop would wait for a slow server and so measure it less often exactly when it is slow ("coordinated
omission", Tene 2013).
"""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import AsyncIterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import httpx

from registry.qa.probe.measured import Failure, Measured, Request, Spec
from registry.qa.probe.prompts import PROMPTS

DETAIL = 200


@dataclass(frozen=True)
class Form:
    """How this server wants to be asked."""

    path: str
    streamed: bool
    with_usage: bool = False
    to_the_limit: bool = False
    """Every answer has max_tokens tokens, so that the load is the same for every version."""

    def body(self, spec: Spec, prompt: str) -> dict[str, Any]:
        body: dict[str, Any] = {"model": spec.model, "max_tokens": spec.load.max_tokens, "temperature": 0}
        if self.path.endswith("/chat/completions"):
            body["messages"] = [{"role": "user", "content": prompt}]
        else:
            body["prompt"] = prompt
        if self.streamed:
            body["stream"] = True
        if self.with_usage:
            body["stream_options"] = {"include_usage": True}
        if self.to_the_limit:
            body["ignore_eos"] = True
        return body


FORMS = tuple(
    Form(path, streamed, with_usage, to_the_limit)
    for streamed, with_usage, to_the_limit in (
        (True, True, True),
        (True, True, False),
        (True, False, False),
        (False, False, False),
    )
    for path in ("/v1/completions", "/v1/chat/completions")
)


def arrivals(rate: float, seconds: float, seed: int) -> list[float]:
    """A Poisson process; when nothing falls into so short a time, one request at its beginning."""
    rng = random.Random(f"arrivals {seed}")  # noqa: S311
    times: list[float] = []
    at = rng.expovariate(rate)
    while at < seconds:
        times.append(at)
        at += rng.expovariate(rate)
    return times or [0.0]


async def press(spec: Spec) -> Measured:
    rng = random.Random(f"prompts {spec.seed}")  # noqa: S311
    rate = spec.load.requests_per_second
    warm_up = [index / rate for index in range(spec.load.warm_up_requests)]
    measured = arrivals(rate, spec.load.seconds, spec.seed)
    prompts = [rng.choice(PROMPTS) for _ in range(len(warm_up) + len(measured))]
    async with httpx.AsyncClient(
        base_url=spec.base_url.rstrip("/"),
        headers={"Authorization": f"Bearer {spec.api_key}"} if spec.api_key else {},
        timeout=None,  # noqa: S113 - each request has one deadline for all of it
        limits=httpx.Limits(max_connections=None, max_keepalive_connections=None, keepalive_expiry=2.0),
        trust_env=False,
    ) as client:
        prober = _Prober(client, spec, asyncio.get_running_loop())
        form = await prober.choose_form()
        await prober.send_all(form, prompts[: len(warm_up)], warm_up)
        requests, seconds = await prober.send_all(form, prompts[len(warm_up) :], measured)
    return Measured(form.path, form.streamed, max(seconds, spec.load.seconds), tuple(requests))


@dataclass(frozen=True)
class _Prober:
    client: httpx.AsyncClient
    spec: Spec
    loop: asyncio.AbstractEventLoop

    async def choose_form(self) -> Form:
        """The first way of asking that is not refused as such; a server that fails otherwise is measured failing."""
        for form in FORMS:
            try:
                async with asyncio.timeout(self.spec.request_timeout):
                    status, streams = await self._try(form)
            except (TimeoutError, httpx.HTTPError, httpx.InvalidURL):
                return FORMS[0]
            if status == 200 and streams == form.streamed:
                return form
            if status not in (200, 400, 404, 405, 415, 422, 501):
                return FORMS[0]
        return FORMS[0]

    async def _try(self, form: Form) -> tuple[int, bool]:
        async with self.client.stream("POST", form.path, json=form.body(self.spec, PROMPTS[0])) as response:
            await response.aread()
            return response.status_code, _streams(response)

    async def send_all(self, form: Form, prompts: list[str], times: list[float]) -> tuple[list[Request], float]:
        zero = self.loop.time()
        tasks: list[asyncio.Task[Request]] = []
        for prompt, at in zip(prompts, times, strict=True):
            await asyncio.sleep(zero + at - self.loop.time())
            tasks.append(asyncio.create_task(self._measure(form, prompt, zero + at)))
        requests = await asyncio.gather(*tasks)
        return list(requests), self.loop.time() - zero

    async def _measure(self, form: Form, prompt: str, due: float) -> Request:
        answer = _Answer(due, lag=max(0.0, self.loop.time() - due))
        try:
            async with asyncio.timeout_at(due + self.spec.request_timeout):
                await self._ask(form, prompt, answer)
        except TimeoutError:
            if answer.done is None or not answer.times:
                answer.fail(Failure.TIMEOUT, f"no end within {self.spec.request_timeout:g} s")
        except (httpx.HTTPError, httpx.InvalidURL, httpx.StreamError) as error:
            answer.fail(Failure.TRANSPORT, f"{type(error).__name__}: {error}")
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            answer.fail(Failure.TRANSPORT, f"what came is no answer of this protocol: {error}")
        return answer.request(self.loop.time(), self.spec.api_key)

    async def _ask(self, form: Form, prompt: str, answer: _Answer) -> None:
        async with self.client.stream("POST", form.path, json=form.body(self.spec, prompt)) as response:
            if response.status_code != 200:
                said = (await response.aread()).decode(errors="replace")
                answer.fail(Failure.HTTP, f"{response.status_code} {said}")
            elif form.streamed and _streams(response):
                async for data in _events(response):  # to its end, so that the connection is used again
                    answer.take(data, self.loop.time())
                answer.end_stream()
            else:
                whole = json.loads(await response.aread())
                answer.take_event(whole, self.loop.time())
                answer.end()


class _Answer:
    def __init__(self, due: float, lag: float) -> None:
        self.due = due
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
            self.tokens = tokens if isinstance(tokens, int) and tokens >= 0 else self.tokens
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

    def request(self, now: float, secret: str) -> Request:
        waited = (now if self.done is None else self.done) - self.due
        first = self.times[0] - self.due if self.times else None
        if first is None and self.failure is Failure.TIMEOUT:
            first = waited  # it took at least that long: leaving it out would make a hanging server look fast
        detail = self.detail.replace(secret, "•••") if secret else self.detail
        return Request(
            lag=self.lag,
            first=first,
            whole=waited if self.failure in (None, Failure.TIMEOUT) else None,
            gaps=tuple(b - a for a, b in pairwise(self.times)),
            pieces=len(self.times),
            tokens=self.tokens,
            failure=self.failure,
            detail=detail[:DETAIL],
        )


def _streams(response: httpx.Response) -> bool:
    return str(response.headers.get("content-type", "")).startswith("text/event-stream")


def _has_text(choice: dict[str, Any]) -> bool:
    """Reasoning counts: the person sees that something comes."""
    said = choice.get("delta") or choice.get("message") or {}
    texts = (choice.get("text"), said.get("content"), said.get("reasoning"), said.get("reasoning_content"))
    return any(text for text in texts)


async def _events(response: httpx.Response) -> AsyncIterator[str]:
    """The data of each server-sent event (WHATWG HTML, section 9.2.6)."""
    buffer = b""
    data: list[str] = []
    async for piece in response.aiter_bytes():
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
