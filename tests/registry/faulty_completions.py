"""How requests for text are read and answered, also under the probe's load."""

from __future__ import annotations

import asyncio
import json
import math
import random
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest
from typing import Any, NoReturn

from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse

from registry.qa.probe.prompts import PROMPTS
from tests.registry.faulty_language import Drawing, log_probabilities, words_of, write
from tests.registry.faulty_state import LOAD_TOKENS, MODEL, Engine

DRIPS_EVERY = 0.05
_WHOLE = (int,)
_NUMBER = (int, float)
# Field → kinds, what is allowed, and what stands for a value that a faulty engine takes although it is not.
LIMITS: dict[str, tuple[tuple[type, ...], Callable[[Any], bool], Any]] = {
    "max_tokens": (_WHOLE, lambda v: 0 < v < 4096, 1),
    "temperature": (_NUMBER, lambda v: v >= 0, 0.0),
    "top_p": (_NUMBER, lambda v: 0 < v <= 1, 1.0),
    "top_k": (_WHOLE, lambda v: v >= -1, -1),
    "min_p": (_NUMBER, lambda v: 0 <= v <= 1, 0.0),
    "n": (_WHOLE, lambda v: 1 <= v <= 128, 1),
    "seed": (_WHOLE, lambda v: abs(v) < 2**63, 0),
    "presence_penalty": (_NUMBER, lambda v: -2 <= v <= 2, 0.0),
    "frequency_penalty": (_NUMBER, lambda v: -2 <= v <= 2, 0.0),
    "repetition_penalty": (_NUMBER, lambda v: v > 0, 1.0),
    "prompt_logprobs": (_WHOLE, lambda v: v >= 0, 0),
    "nsigma": (_NUMBER, lambda v: v >= 0, 0.0),
    "top_a": (_NUMBER, lambda v: v >= 0, 0.0),
    "xtc_probability": (_NUMBER, lambda v: 0 <= v <= 1, 0.0),
    "no_repeat_ngram_size": (_WHOLE, lambda v: v >= 0, 0),
    "dry_multiplier": (_NUMBER, lambda v: v >= 0, 0.0),
}


@dataclass
class Choice:
    index: int
    pieces: list[str]
    finish: str | None

    @property
    def text(self) -> str:
        return "".join(self.pieces)


@dataclass
class Asked:
    """A request that was found sound."""

    body: dict[str, Any]
    chat: bool
    pressed: bool
    """It comes from the load probe."""
    prompt: list[str] = field(default_factory=list)

    @property
    def streams(self) -> bool:
        return bool(self.body.get("stream"))

    @property
    def counts_in_stream(self) -> bool:
        return bool((self.body.get("stream_options") or {}).get("include_usage"))


class Completions:
    def __init__(self, engine: Engine) -> None:
        self.engine = engine

    async def respond(self, request: Request) -> Response:
        engine = self.engine
        if engine.has("chat only") and request.url.path == "/v1/completions":
            return engine.error(404, "Not Found")
        if not request.headers.get("content-type", "").startswith("application/json"):
            return engine.error(400, "Unsupported Media Type")
        raw = await request.body()
        try:
            body = json.loads(raw, parse_constant=_refuse)
        except RecursionError:
            return engine.error(500, "Internal error") if engine.has("deep JSON breaks") else engine.error(400, "deep")
        except ValueError:
            engine.insulted = engine.insulted or (engine.has("bad UTF-8 kills") and b"\xff" in raw)
            return engine.error(400, "no JSON")
        if problem := self.problem(body):
            return problem
        if engine.has("busy at first") and next(engine.numbers) == 0:
            return JSONResponse({"error": {"message": "too many requests"}}, 429, {"Retry-After": "0"})
        return await self.answer(body)

    def problem(self, body: Any) -> Response | None:
        engine = self.engine
        if not isinstance(body, dict):
            return engine.error(400, "no object")
        if body.get("model") != MODEL:
            return engine.error(404, "no such model", "model")
        if name := self._out_of_limits(body):
            if name == "max_tokens" and engine.has("words as errors"):
                return PlainTextResponse("bad max_tokens", 400)
            return engine.error(400, f"{name} is out of range", name)
        prompt = body.get("prompt") or body.get("messages")
        if not isinstance(prompt, str | list) or len(str(prompt)) > 100_000 or not _is_text(prompt):
            return engine.error(400, "prompt", "prompt")
        if not _is_stop(body.get("stop")):
            return engine.error(400, "stop", "stop")
        if body.get("stream") and engine.has("no streams"):
            return engine.error(400, "this server does not stream", "stream")
        if body.get("stream_options") and engine.has("no stream options"):
            return engine.error(400, "stream_options", "stream_options")
        return self._cannot(body)

    def _out_of_limits(self, body: dict[str, Any]) -> str:
        for name, (kinds, allowed, instead) in LIMITS.items():
            value = body.get(name)
            if value is None or (name == "max_tokens" and value == 0 and body.get("echo")):
                continue
            if (
                isinstance(value, bool)
                or not isinstance(value, kinds)
                or value in (math.inf, -math.inf)
                or value != value
            ):
                return name
            if not allowed(value):
                if not self.engine.has(f"accepts {name} {value}"):
                    return name
                body[name] = instead
        return ""

    def _cannot(self, body: dict[str, Any]) -> Response | None:
        engine, several = self.engine, (body.get("n") or 1) > 1
        if several and engine.has("cannot do several"):
            return engine.error(501, "only one choice is possible", "n")
        if several and body.get("temperature") == 0:
            return engine.error(400, "n must be 1 when using greedy sampling", "n")
        if (body.get("echo") and engine.has("no echo")) or (
            body.get("prompt_logprobs") is not None and engine.has("no prompt_logprobs")
        ):
            return engine.error(400, "no log-probabilities of the prompt", "echo")
        if body.get("max_tokens") == 0 and engine.has("max_tokens 0 refused"):
            return engine.error(400, "max_tokens must be at least 1", "max_tokens")
        if engine.has("fails"):
            return engine.error(500, "Internal error")
        refused = [name for name in LIMITS if name in body and engine.has(f"refuses {name}")]
        return engine.error(400, f"{refused[0]} is not supported", refused[0]) if refused else None

    async def answer(self, body: dict[str, Any]) -> Response:
        engine = self.engine
        body.setdefault("max_tokens", 16)
        asked = Asked(body, "messages" in body, pressed=body["max_tokens"] >= LOAD_TOKENS)
        asked.prompt = words_of(_prompt(body))
        engine.asked.set()
        meets = await self._meet(asked.pressed)
        if engine.has("hangs"):
            next(engine.numbers)
        while self._hangs(body) and not engine.release.is_set():
            await asyncio.sleep(0.01)
        if meets == "http":
            return engine.error(500, "Internal error")
        choices = self.choices(asked)
        if asked.streams and not engine.has("streams come plain"):
            return StreamingResponse(self.stream(asked, choices, meets), media_type="text/event-stream")
        await asyncio.sleep(engine.first_delay)
        shaped = [self._whole(asked, choice) for choice in choices]
        answer = {**self._head(), "choices": shaped, "usage": self.usage(asked, choices)}
        if engine.has("no usage"):
            del answer["usage"]
        return JSONResponse(answer)

    async def _meet(self, pressed: bool) -> str:
        """What befalls this request of the load."""
        engine, meets = self.engine, ""
        if not pressed:
            return meets
        number = next(engine.numbers)
        if number == engine.stall_at:
            time.sleep(1.0)  # not asyncio's: the whole server stands still
        if engine.cycle:
            meets = engine.cycle[number % len(engine.cycle)]
            engine.met[meets] += 1
        if engine.has("very slow under load"):
            await asyncio.sleep(2.0)
        if engine.has("slow under load"):
            await asyncio.sleep(0.6)
        if engine.has("one stream in five fails") and number % 5 == 4:
            meets = "stream_error"
        return meets

    def _hangs(self, body: dict[str, Any]) -> bool:
        has = self.engine.has
        return (
            has("hangs")
            or (has("hangs at several") and (body.get("n") or 1) > 1)
            or (has("hangs when hot") and (body.get("temperature") or 0) > 1)
            or (has("hangs at one token") and body["max_tokens"] == 1 and bool(body.get("stream")))
        )

    # -- the text ----------------------------------------------------------------------------------------------------

    def choices(self, asked: Asked) -> list[Choice]:
        engine, body = self.engine, asked.body
        several = body.get("n") or 1
        if engine.has("n ignored") or (asked.streams and engine.has("n ignored in streams")):
            several = 1
        texts = [self._text(asked, i) for i in range(several)]
        if engine.has("choices are alike"):
            texts = texts[:1] * several
        same = engine.has("indexes are all 0")
        return [Choice(0 if same else i, *text) for i, text in enumerate(texts)]

    def _text(self, asked: Asked, number: int) -> tuple[list[str], str | None]:
        engine, body = self.engine, asked.body
        words = self._written(asked, number)
        if body.get("temperature") == 0 and engine.has("not repeatable") and words:
            words[0] = f" {next(engine.numbers)}"
        if body.get("top_k") == 1 and engine.has("top_k misses a word"):
            words[3] = " missed"
        finish: str | None = "length"
        stops = [body["stop"]] if isinstance(body.get("stop"), str) else body.get("stop") or []
        if stops and not engine.has("stop ignored") and not (asked.streams and engine.has("stop ignored in streams")):
            words, finish = self._stopped(words, stops)
        if body.get("echo"):
            words = asked.prompt + words
        if engine.has("no finish_reason") and not asked.pressed:
            finish = None
        if engine.has("no text") and not asked.pressed:
            words = [""]
        return words, finish

    def _written(self, asked: Asked, number: int) -> list[str]:
        engine, body = self.engine, asked.body
        count = body["max_tokens"]
        if asked.pressed and engine.has("short answers under load"):
            count = 1
        if not asked.pressed and (
            engine.has("max_tokens ignored") or (asked.streams and engine.has("max_tokens ignored in streams"))
        ):
            count += 5
        unknown = [name for name in LIMITS if engine.has(f"{name} ignored")]
        aphrodites = {"nsigma", "top_a", "xtc_probability", "no_repeat_ngram_size", "dry_multiplier"}
        if engine.has("always greedy"):
            body = {**body, "temperature": 0}
        if engine.has("short answer to the first prompt") and "".join(asked.prompt) == PROMPTS[0]:
            count = 1
        if body.get("top_k") == 1 and engine.has("top_k is too many"):
            body = {**body, "top_k": 5}
        drawing = Drawing.of(body, [*unknown, *(aphrodites - engine.speaks.samplers)])
        return write(asked.prompt, count, drawing, self._rng(body, number))

    def _rng(self, body: dict[str, Any], number: int) -> random.Random:
        seed = body.get("seed")
        if self.engine.has("seeds are alike"):
            seed = 0
        elif seed is None or self.engine.has("seed ignored"):
            return random.Random()
        return random.Random(f"{seed} {number}")

    def _stopped(self, words: list[str], stops: Sequence[str]) -> tuple[list[str], str]:
        engine, text = self.engine, "".join(words)
        found = [(text.find(stop), stop) for stop in stops if stop in text]
        if not found:
            return words, "length"
        end, stop = min(found)
        if engine.has("stop is kept in the text"):
            end += len(stop)
        reason = "length" if engine.has("stop without its reason") else "stop"
        kept: list[str] = []
        for word in words:
            kept.append(word[: max(0, end)])
            end -= len(word)
        return [word for word in kept if word], reason

    # -- its shape ---------------------------------------------------------------------------------------------------

    def _head(self) -> dict[str, Any]:
        name = "letters" if self.engine.has("another model in the answer") else MODEL
        if self.engine.has("dated edition in the answer"):
            name = f"{MODEL}-2026-01-01"
        return {"id": "cmpl-1", "object": "text_completion", "created": 1, "model": name}

    def usage(self, asked: Asked, choices: Sequence[Choice]) -> dict[str, int]:
        prompt, written = len(asked.prompt), sum(len(choice.pieces) for choice in choices)
        if asked.body.get("echo"):
            written -= prompt * len(choices)
        wrong = 7 if self.engine.has("usage does not add up") and not asked.pressed else 0
        return {"prompt_tokens": prompt, "completion_tokens": written, "total_tokens": prompt + written + wrong}

    def _said(self, asked: Asked, text: str, role: str) -> dict[str, Any]:
        if not asked.chat:
            return {"text": text}
        if self.engine.has("reasoning only"):
            return {role: {"role": "assistant", "content": None, "reasoning_content": text}}
        return {role: {"role": "assistant", "content": text}}

    def _whole(self, asked: Asked, choice: Choice) -> dict[str, Any]:
        shaped = {"index": choice.index, **self._said(asked, choice.text, "message"), "finish_reason": choice.finish}
        body, words = asked.body, choice.pieces
        if body.get("logprobs") is not None and not asked.chat:
            first = [] if body.get("echo") else asked.prompt
            shaped["logprobs"] = _openai_logprobs(words, self._logs([*first, *words])[len(first) :])
        if body.get("prompt_logprobs") is not None:
            shaped["prompt_logprobs"] = [
                None if p is None else {"7": {"logprob": p, "rank": 1, "decoded_token": word}}
                for word, p in zip(asked.prompt, self._logs(asked.prompt), strict=True)
            ]
        return shaped

    def _logs(self, words: Sequence[str]) -> list[float | None]:
        return log_probabilities(words, knows=0.1 if self.engine.has("knows less") else 1.0)

    async def stream(self, asked: Asked, choices: Sequence[Choice], meets: str) -> AsyncIterator[str]:
        engine = self.engine
        if not asked.pressed:
            meets = next((what for name, what in STREAM_FAULTS.items() if engine.has(name)), meets)
        await asyncio.sleep(engine.first_delay)
        if asked.counts_in_stream and not asked.pressed and engine.has("streams drip"):
            while not engine.release.is_set():
                yield ": still here\n\n"
                await asyncio.sleep(DRIPS_EVERY)
        rounds = [] if meets == "empty" else list(zip_longest(*(choice.pieces for choice in choices)))
        for number, words in enumerate(rounds):
            if number:
                await asyncio.sleep(engine.gap_delay)
            if number == 2 and meets == "stream_error":
                yield f"data: {bytes(engine.error(500, 'the engine failed').body).decode()}\n\n"
                return
            if number == 2 and meets == "transport":
                raise ConnectionResetError("the test breaks this stream")
            if number == 2 and meets == "no JSON":
                yield "data: {'index': 0}\n\n"
            for choice, word in zip(choices, words, strict=True):
                if word is not None:
                    last = number == len(choice.pieces) - 1
                    yield self._event(asked, choice, word, choice.finish if last else None)
        if asked.counts_in_stream and not engine.has("no usage in streams"):
            yield f"data: {json.dumps({**self._head(), 'choices': [], 'usage': self.usage(asked, choices)})}\n\n"
        if meets != "incomplete":
            yield "data: [DONE]\n\n"

    def _event(self, asked: Asked, choice: Choice, word: str, finish: str | None) -> str:
        shaped = {"index": choice.index, **self._said(asked, word, "delta"), "finish_reason": finish}
        return f"data: {json.dumps({**self._head(), 'choices': [shaped]})}\n\n"


STREAM_FAULTS = {
    "streams are cut": "incomplete",
    "streams are empty": "empty",
    "streams fail inside": "stream_error",
    "streams break off": "transport",
    "streams hold no JSON": "no JSON",
}


def _openai_logprobs(words: Sequence[str], logs: Sequence[float | None]) -> dict[str, Any]:
    places = [sum(map(len, words[:i])) for i in range(len(words))]
    tops = [None if p is None else {word: p} for word, p in zip(words, logs, strict=True)]
    return {"tokens": list(words), "token_logprobs": list(logs), "top_logprobs": tops, "text_offset": places}


def _prompt(body: dict[str, Any]) -> str:
    if isinstance(body.get("messages"), list):
        return "\n".join(str(m.get("content")) for m in body["messages"] if isinstance(m, dict))
    return str(body.get("prompt"))


def _is_text(value: object) -> bool:
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:  # half a surrogate pair
        return False
    return True


def _is_stop(stop: object) -> bool:
    stops = stop if isinstance(stop, list) else [stop]
    return stop is None or all(isinstance(one, str) and one for one in stops)


def _refuse(text: str) -> NoReturn:
    raise ValueError(f"{text} is no number")
