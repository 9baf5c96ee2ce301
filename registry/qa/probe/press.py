"""Sends requests and notes when what comes back.

Open loop: a request is sent when it is due, at random times that the server has no influence on, however many are
still unanswered, and its latency counts from when it was due. A closed loop waits for a slow server and so measures it
less often exactly when it is slow ("coordinated omission", Tene 2013); it shows what a set number of users at once see.
"""

from __future__ import annotations

import asyncio
import errno
import json
import random
import ssl
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from itertools import islice
from typing import Any

import httpx

from registry.qa.policy import Load
from registry.qa.probe.answer import Answer, body_of, events, streams
from registry.qa.probe.engine_side import snapshot
from registry.qa.probe.measured import Alternated, Alternation, Failure, Measured, Question, Request, Slice, Spec
from registry.qa.probe.prompts import PROMPTS, Asked, asked

TRIAL_TOKENS = 32
"""At most, of the answer that shows how the server wants to be asked: it need not be as long as the load's."""
AFTER_DONE = 0.5
"""Seconds that a server has to end the stream after [DONE]."""
CLOSES_WITHIN = 0.02
"""Seconds after a stream's end in which a server that closes the connection has done so; measured: 2 ms."""
AFTER_FAILURE = 0.05
"""Seconds that a closed loop rests then: one that refuses at once is not asked ten thousand times."""


LOADING = "load"


class OutOfFiles(Exception):
    """This process may not open so many connections: that is not the server's failure."""


def _no_more_files(error: BaseException | None) -> bool:
    while error is not None:
        if isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE):
            return True
        error = error.__cause__ or error.__context__
    return False


@dataclass(frozen=True)
class Form:
    """How this server wants to be asked."""

    path: str
    streamed: bool
    with_usage: bool = False
    to_the_limit: bool = False
    """Every answer has max_tokens tokens, so that the load is the same for every version."""

    def __str__(self) -> str:
        return f"POST {self.path} {'streamed' if self.streamed else 'not streamed'}"

    @property
    def is_chat(self) -> bool:
        return self.path.endswith("/chat/completions")

    def body(self, model: str, ask: Asked) -> dict[str, Any]:
        body: dict[str, Any] = {"model": model, "max_tokens": ask.max_tokens, "temperature": 0}
        if self.is_chat:
            body["messages"] = list(ask.question.messages) or [{"role": "user", "content": ask.question.prompt}]
        else:
            body["prompt"] = ask.question.prompt
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


def first_arrivals(rate: float, count: int, seed: int) -> list[float]:
    """The same process, from one request on until there are `count`."""
    rng = random.Random(f"arrivals {seed}")  # noqa: S311
    times = [0.0]
    while len(times) < count:
        times.append(times[-1] + rng.expovariate(rate))
    return times


def tokens_asked(load: Load, seed: int = 1) -> int:
    """By an open loop's requests altogether, as `press` sends them."""
    asks = asked(load, (), seed=seed, purpose=LOADING)
    return sum(ask.max_tokens for ask in islice(asks, len(arrivals(load.requests_per_second, load.seconds, seed))))


async def press(spec: Spec) -> Measured:
    async with _prober(spec) as prober:
        form = await prober.choose_form()
        warm_up, seconds = await prober.warm_up(form)
        if warm_up and all(request.unanswered for request in warm_up):
            return Measured(form.path, form.streamed, seconds, tuple(warm_up), gave_up=True)
        before = await prober.look()
        requests, seconds = await prober.measure(form)
        after = await prober.look() if before else {}
    return Measured(form.path, form.streamed, seconds, tuple(requests), False, before, after)


async def alternate(both: Alternation) -> Alternated:
    async with _prober(both.live) as live, _prober(both.candidate) as candidate:
        form, problem = await _common_form(candidate, live)
        if form is None:
            return Alternated((), False, problem)
        for who, warmed in zip(
            (candidate, live), await asyncio.gather(candidate.warm_up(form), live.warm_up(form)), strict=True
        ):
            if warmed[0] and all(request.unanswered for request in warmed[0]):
                said = f"{_NAMES[_which(who is live)]} answered none of its {len(warmed[0])} warm-up requests."
                return Alternated((), form.streamed, said, _which(who is live))
        return await _Turns(both, candidate, live, form).take()


async def _common_form(candidate: _Prober, live: _Prober) -> tuple[Form | None, str]:
    """Both must be asked in one way, or the comparison would be of two things."""
    mine, other = await candidate.choose_form(), await live.choose_form()
    if mine == other:
        return mine, ""
    for form, who in ((other, candidate), (mine, live)):
        if await who.accepts(form):
            return form, ""
    return None, f"The two take no request of one form: this version takes {mine}, the live one {other}."


_NAMES = {"candidate": "This version", "live": "The live version's copy"}


def _which(live: bool) -> str:
    return "live" if live else "candidate"


@dataclass(frozen=True)
class _Turns:
    both: Alternation
    candidate: _Prober
    live: _Prober
    form: Form

    async def take(self) -> Alternated:
        ends = asyncio.get_running_loop().time() + self.both.most_seconds
        slices: list[Slice] = []
        for pair in range(self.both.pairs):
            for who in (self.candidate, self.live) if pair % 2 == 0 else (self.live, self.candidate):
                requests, seconds = await who.measure_some(self.form, self.both.requests, pair)
                slices.append(Slice(who is self.candidate, pair, seconds, tuple(requests)))
                if all(request.unanswered for request in requests):
                    which = _which(who is self.live)
                    said = f"{_NAMES[which]} answered none of the {len(requests)} requests of a turn."
                    return Alternated(tuple(slices), self.form.streamed, said, which)
                if asyncio.get_running_loop().time() > ends:
                    said = f"The {self.both.most_seconds:g} s for it were used up."
                    return Alternated(tuple(slices), self.form.streamed, said)
        return Alternated(tuple(slices), self.form.streamed)


@asynccontextmanager
async def _prober(spec: Spec) -> AsyncIterator[_Prober]:
    # The machine's own authorities, as everywhere; without https none are read, which takes longer than a request.
    secure = spec.base_url.lower().startswith("https:")
    async with httpx.AsyncClient(
        base_url=spec.base_url.rstrip("/"),
        headers={"Authorization": f"Bearer {spec.api_key}"} if spec.api_key else {},
        timeout=None,  # noqa: S113 - each request has one deadline for all of it
        limits=httpx.Limits(max_connections=None, max_keepalive_connections=None, keepalive_expiry=2.0),
        trust_env=False,
        verify=ssl.create_default_context() if secure else ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT),
    ) as client:
        yield _Prober(client, spec, asyncio.get_running_loop())


@dataclass(frozen=True)
class _Prober:
    client: httpx.AsyncClient
    spec: Spec
    loop: asyncio.AbstractEventLoop

    # -- how to ask

    async def choose_form(self) -> Form:
        """The first way of asking that is not refused as such; a server that fails otherwise is measured failing."""
        # Messages of the team's own cannot be put to a plain completion.
        chat_only = any(question.messages for question in self.spec.questions)
        forms = [form for form in FORMS if form.is_chat or not chat_only]
        try:
            async with asyncio.timeout(self.spec.request_timeout):
                for form in forms:
                    status, fits = await self._try(form)
                    if status == 200 and fits:
                        return form
                    if status not in (200, 400, 404, 405, 415, 422, 501):
                        break
        except (TimeoutError, httpx.HTTPError, httpx.InvalidURL, ValueError):
            pass
        return forms[0]

    async def accepts(self, form: Form) -> bool:
        try:
            async with asyncio.timeout(self.spec.request_timeout):
                status, fits = await self._try(form)
        except (TimeoutError, httpx.HTTPError, httpx.InvalidURL, ValueError):
            return False
        return status == 200 and fits

    async def _try(self, form: Form) -> tuple[int, bool]:
        ask = Asked(Question(PROMPTS[0]), min(TRIAL_TOKENS, self.spec.load.max_tokens))
        async with self.client.stream("POST", form.path, json=form.body(self.spec.model, ask)) as response:
            if streams(response):
                await self._read_trial(response)
            else:
                await body_of(response)
            return response.status_code, streams(response) == form.streamed

    async def _read_trial(self, response: httpx.Response) -> None:
        """llama.cpp closes the connection after each stream although it has promised to keep it; whoever sends the next
        request on it at once gets no answer. Such a server is asked on a new connection each time.
        """
        with suppress(TimeoutError):
            async with asyncio.timeout(None) as limit:
                async for data in events(response):
                    if data == "[DONE]":
                        limit.reschedule(self.loop.time() + AFTER_DONE)
            await asyncio.sleep(CLOSES_WITHIN)
            if response.extensions["network_stream"].get_extra_info("is_readable"):
                self.client.headers["Connection"] = "close"

    async def look(self) -> dict[str, float]:
        return await asyncio.to_thread(snapshot, self.spec.base_url, self.spec.api_key)

    # -- what to ask when

    async def warm_up(self, form: Form) -> tuple[list[Request], float]:
        load = self.spec.load
        asks = list(islice(self._asks("warm-up"), load.warm_up_requests))
        if load.concurrency:
            return await self._keep_asking(form, iter(asks), load.concurrency, seconds=None)
        return await self._send_at(form, asks, [index / load.requests_per_second for index in range(len(asks))])

    async def measure(self, form: Form) -> tuple[list[Request], float]:
        load = self.spec.load
        if load.concurrency:
            return await self._keep_asking(form, self._asks(LOADING), load.concurrency, load.seconds)
        times = arrivals(load.requests_per_second, load.seconds, self.spec.seed)
        requests, seconds = await self._send_at(form, islice(self._asks(LOADING), len(times)), times)
        return requests, max(seconds, load.seconds)

    async def measure_some(self, form: Form, count: int, number: int) -> tuple[list[Request], float]:
        load = self.spec.load
        asks = islice(self._asks(f"slice {number}"), count)
        if load.concurrency:
            return await self._keep_asking(form, asks, load.concurrency, seconds=None)
        times = first_arrivals(load.requests_per_second, count, self.spec.seed + number)
        return await self._send_at(form, asks, times)

    def _asks(self, purpose: str) -> Iterator[Asked]:
        return asked(self.spec.load, self.spec.questions, seed=self.spec.seed, purpose=purpose)

    async def _send_at(self, form: Form, asks: Iterable[Asked], times: Sequence[float]) -> tuple[list[Request], float]:
        zero = self.loop.time()
        tasks: list[asyncio.Task[Request]] = []
        for ask, at in zip(asks, times, strict=True):
            await asyncio.sleep(zero + at - self.loop.time())
            tasks.append(asyncio.create_task(self._measure(form, ask, zero, zero + at)))
        requests = await asyncio.gather(*tasks)
        return list(requests), max((request.ended for request in requests), default=0.0)

    async def _keep_asking(
        self, form: Form, asks: Iterator[Asked], at_once: int, seconds: float | None
    ) -> tuple[list[Request], float]:
        """Until the time is up, or until there is nothing more to ask; whatever was begun is waited for."""
        zero = self.loop.time()
        found: list[Request] = []

        async def one_user() -> None:
            for ask in asks:
                found.append(await self._measure(form, ask, zero, self.loop.time()))
                if found[-1].failure:
                    await asyncio.sleep(AFTER_FAILURE)
                if seconds is not None and self.loop.time() - zero >= seconds:
                    return

        async with asyncio.TaskGroup() as users:
            for _ in range(at_once):
                users.create_task(one_user())
        return sorted(found, key=lambda one: one.due), max((one.ended for one in found), default=0.0)

    # -- one request

    async def _measure(self, form: Form, ask: Asked, zero: float, due: float) -> Request:
        answer = Answer(due, ask.max_tokens, lag=max(0.0, self.loop.time() - due))
        whole = self.spec.whole_timeout(ask.max_tokens)
        first = self.spec.request_timeout if form.streamed else whole
        try:
            async with asyncio.timeout_at(due + first) as limit:
                await self._ask(form, ask, answer, limit)
        except TimeoutError:
            if not answer.times:
                answer.fail(Failure.TIMEOUT, f"no text within {first:g} s")
            elif answer.done is None:
                answer.fail(Failure.TIMEOUT, f"no end within {whole:g} s")
        except (httpx.HTTPError, httpx.InvalidURL, httpx.StreamError) as error:
            if _no_more_files(error):
                raise OutOfFiles from error
            answer.fail(Failure.TRANSPORT, f"{type(error).__name__}: {error}")
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
            answer.fail(Failure.TRANSPORT, f"what came is no answer of this protocol: {error}")
        return answer.request(zero, self.loop.time(), self.spec.api_key)

    async def _ask(self, form: Form, ask: Asked, answer: Answer, limit: asyncio.Timeout) -> None:
        async with self.client.stream("POST", form.path, json=form.body(self.spec.model, ask)) as response:
            if response.status_code != 200:
                said = (await body_of(response)).decode(errors="replace")
                answer.fail(Failure.HTTP, f"{response.status_code} {said}")
            elif form.streamed and streams(response):
                async for data in events(response):  # to its end, so that the connection is used again
                    pieces, done = len(answer.times), answer.done
                    answer.take(data, self.loop.time())
                    if answer.times and not pieces:
                        limit.reschedule(answer.due + self.spec.whole_timeout(ask.max_tokens))
                    if answer.done is not None and done is None:
                        limit.reschedule(min(limit.when() or answer.done, answer.done + AFTER_DONE))
                answer.end_stream()
            else:
                whole = json.loads(await body_of(response))
                answer.take_event(whole, self.loop.time())
                answer.end()
