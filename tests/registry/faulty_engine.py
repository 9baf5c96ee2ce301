"""An engine that is faultless until a test tells it to be wrong in one way."""

from __future__ import annotations

import asyncio
import itertools
import json
import socket
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from registry.qa.base import RunningServer

MODEL = "words"
KEY = "right-key-0123456789abcdef"
LOAD_TOKENS = 20  # requests of at least that many tokens come from the load probe
TEXT = [" The", " names", " are", " bound", " to", " the", " objects", " in", " their", " order", ","]


@dataclass
class Engine:
    base_url: str
    faults: set[str] = field(default_factory=set)
    first_delay: float = 0.0
    gap_delay: float = 0.0
    stall_at: int = -1
    """The number of the load's request that blocks the whole server for a second."""
    cycle: tuple[str, ...] = ()
    """What the load's requests meet, one after the other."""
    met: Counter[str] = field(default_factory=Counter)
    asked: threading.Event = field(default_factory=threading.Event)
    release: threading.Event = field(default_factory=threading.Event)
    numbers: Iterator[int] = field(default_factory=itertools.count)
    insulted: bool = False

    @property
    def running(self) -> RunningServer:
        return RunningServer(self.base_url, MODEL, KEY)

    def reset(self) -> None:
        """Faultless again, for the next test."""
        fresh = Engine(self.base_url)
        self.release.set()
        self.__dict__.update(fresh.__dict__)

    def has(self, fault: str) -> bool:
        return fault in self.faults


def error(status: int, message: str, **more: Any) -> JSONResponse:
    return JSONResponse({"error": {"message": message, "type": "BadRequestError", "code": status, **more}}, status)


class App:
    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.app = Starlette(
            routes=[
                Route("/health", self.health),
                Route("/version", self.version),
                Route("/v1/models", self.models),
                Route("/v1/completions", self.completions, methods=["POST"]),
                Route("/v1/chat/completions", self.completions, methods=["POST"]),
                Route("/invocations", self.invocations, methods=["POST"]),
                Route("/metrics", self.metrics),
                Route("/v1/dtesn/status", self.dtesn_status),
                Route("/v1/chat/completions/dtesn", self.dtesn, methods=["POST"]),
                Route("/deep_tree_echo/status", self.tree_status),
                Route("/deep_tree_echo/process", self.tree, methods=["POST"]),
                Route("/agents", self.aar),
                Route("/functions", self.aar),
            ]
        )

    def refusal(self, request: Request) -> Response | None:
        has = self.engine.has
        if has("open") and request.url.path == "/v1/completions":
            return None
        given = request.headers.get("authorization", "").removeprefix("Bearer ")
        if given == KEY or (has("any key") and given):
            return None
        said = f"Unauthorized: {given}" if has("key echoed") else "Unauthorized"
        return JSONResponse({"error": said}, 401)

    async def health(self, request: Request) -> Response:
        down = self.engine.has("unhealthy") or self.engine.insulted
        return Response(status_code=503 if down else 200)

    async def version(self, request: Request) -> Response:
        return JSONResponse({"version": "0.24.1"})

    async def models(self, request: Request) -> Response:
        if refusal := self.refusal(request):
            return refusal
        name = "letters" if self.engine.has("other model") else MODEL
        return JSONResponse({"object": "list", "data": [{"id": name, "object": "model"}]})

    async def metrics(self, request: Request) -> Response:
        key = f'{{key="{KEY}"}}' if self.engine.has("key in metrics") else ""
        return PlainTextResponse(f"vllm:num_requests_running{key} 0\n")

    async def invocations(self, request: Request) -> Response:
        if not self.engine.has("open invocations"):
            return error(404, "Not Found")
        return await self.answer(await request.json())

    async def completions(self, request: Request) -> Response:
        if refusal := self.refusal(request):
            return refusal
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

    async def dtesn_status(self, request: Request) -> Response:
        if not self.engine.has("dtesn"):
            return error(404, "Not Found")
        return JSONResponse({"dtesn_available": not self.engine.has("dtesn unavailable")})

    async def dtesn(self, request: Request) -> Response:
        if not self.engine.has("dtesn") or request.headers.get("x-dtesn-enable") != "true":
            return error(404, "Not Found")
        choices = {"choices": [{"message": {"content": "words"}}]}
        processed = "false" if self.engine.has("dtesn passed by") else "true"
        return JSONResponse(choices, headers={"X-DTESN-Processed": processed})

    async def tree_status(self, request: Request) -> Response:
        if not self.engine.has("tree"):
            return error(404, "Not Found")
        return JSONResponse({"dtesn_system": "operational", "membrane_hierarchy": "active"})

    async def tree(self, request: Request) -> Response:
        degraded = self.engine.has("tree degraded")
        return JSONResponse({"membrane_layers": 4, "degraded_mode": degraded, "fallback_used": False})

    async def aar(self, request: Request) -> Response:
        if self.engine.has("aar broken"):
            return error(500, "Internal error")
        return JSONResponse([]) if self.engine.has("aar") else error(404, "Not Found")


@contextmanager
def running_engine() -> Iterator[Engine]:
    """In a thread of this process, on a port of its own."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(1024)  # whoever connects before the server is up waits in this queue
        engine = Engine(f"http://127.0.0.1:{listener.getsockname()[1]}")
        config = uvicorn.Config(App(engine).app, log_config=None, ws="none", lifespan="off", access_log=False)
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        try:
            yield engine
        finally:
            engine.release.set()
            server.should_exit = True
            thread.join(20)
