"""How requests for text are read and answered, also under the probe's load."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse

from tests.registry.faulty_state import LOAD_TOKENS, MODEL, TEXT, Engine, error


class Completions:
    def __init__(self, engine: Engine) -> None:
        self.engine = engine

    async def respond(self, request: Request) -> Response:
        if self.engine.has("chat only") and request.url.path == "/v1/completions":
            return error(404, "Not Found")
        if not request.headers.get("content-type", "").startswith("application/json"):
            return error(400, "Unsupported Media Type")
        raw = await request.body()
        try:
            body = json.loads(raw)
        except RecursionError:
            return error(500, "Internal error") if self.engine.has("deep JSON breaks") else error(400, "too deep")
        except ValueError:
            self.engine.insulted = self.engine.has("bad UTF-8 kills") and b"\xff" in raw
            return error(400, "no JSON")
        if problem := self.problem(body):
            return problem
        return await self.answer(body)

    def problem(self, body: Any) -> Response | None:
        if not isinstance(body, dict):
            return error(400, "no object")
        if body.get("model") != MODEL:
            return error(404, "no such model")
        asked, warmth = body.get("max_tokens"), body.get("temperature")
        if not isinstance(asked, int) or not 0 < asked < 4096:
            if self.engine.has("words as errors"):
                return PlainTextResponse("bad max_tokens", 400)
            return error(400, "max_tokens")
        if not isinstance(warmth, int | float) or (warmth < 0 and not self.engine.has("cold accepted")):
            return error(400, "temperature")
        prompt = body.get("prompt") or body.get("messages")
        if not isinstance(prompt, str | list) or len(str(prompt)) > 100_000:
            return error(400, "prompt")
        if body.get("stop") is not None and not isinstance(body["stop"], str):
            return error(400, "stop")
        if body.get("stream") and self.engine.has("no streams"):
            return error(400, "this server does not stream")
        if body.get("stream_options") and self.engine.has("no stream options"):
            return error(400, "stream_options")
        return None

    async def answer(self, body: dict[str, Any]) -> Response:
        engine, pressed = self.engine, body["max_tokens"] >= LOAD_TOKENS
        engine.asked.set()
        meets = ""
        if pressed:
            number = next(engine.numbers)
            if number == engine.stall_at:
                time.sleep(1.0)  # not asyncio's: the whole server stands still
            if engine.cycle:
                meets = engine.cycle[number % len(engine.cycle)]
                engine.met[meets] += 1
            if engine.has("slow under load"):
                await asyncio.sleep(0.6)
            if engine.has("one stream in five fails") and number % 5 == 4:
                meets = "stream_error"
        while engine.has("hangs") and not engine.release.is_set():
            await asyncio.sleep(0.01)
        if meets == "http":
            return error(500, "Internal error")
        count = body["max_tokens"] + (5 if engine.has("max_tokens ignored") and not pressed else 0)
        words = [TEXT[i % len(TEXT)] for i in range(1 if engine.has("short answers under load") and pressed else count)]
        if engine.has("not repeatable"):
            words[0] = f" {next(engine.numbers)}"
        usage = {"prompt_tokens": 5, "completion_tokens": len(words), "total_tokens": 5 + len(words)}
        finish = None if engine.has("no finish_reason") and not pressed else "length"
        if body.get("stream"):
            counted = usage if (body.get("stream_options") or {}).get("include_usage") else None
            cut = engine.has("streams are cut") and not pressed
            pieces = self.stream(words, finish, counted, "incomplete" if cut else meets)
            return StreamingResponse(pieces, media_type="text/event-stream")
        await asyncio.sleep(engine.first_delay)
        text = "".join(words)
        choice = {"index": 0, "text": text, "message": {"content": text}, "finish_reason": finish}
        return JSONResponse({"choices": [choice], "usage": usage})

    async def stream(
        self, words: list[str], finish: str | None, usage: dict[str, int] | None, meets: str
    ) -> AsyncIterator[str]:
        await asyncio.sleep(self.engine.first_delay)
        for number, word in enumerate([] if meets == "empty" else words):
            if number:
                await asyncio.sleep(self.engine.gap_delay)
            if number == 2 and meets == "stream_error":
                yield 'data: {"error": {"message": "the engine failed"}}\n\n'
                return
            if number == 2 and meets == "transport":
                raise ConnectionResetError("the test breaks this stream")
            choice = {"index": 0, "text": word, "delta": {"content": word}, "finish_reason": None}
            if number == len(words) - 1:
                choice["finish_reason"] = finish
            yield f"data: {json.dumps({'choices': [choice]})}\n\n"
        if usage:
            yield f"data: {json.dumps({'choices': [], 'usage': usage})}\n\n"
        if meets != "incomplete":
            yield "data: [DONE]\n\n"
