"""A small model server that remembers what it was asked, for tests of the load probe."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from registry.qa.base import RunningServer


class Recorder:
    """Answers every request with two words; `most_at_once` is how many were under way together."""

    def __init__(self) -> None:
        self.base_url = ""
        self.bodies: list[dict[str, Any]] = []
        self.paths: list[str] = []
        self.most_at_once = 0
        self.metrics_text = ""
        self.holds_open = False
        """It does not close the stream after [DONE]."""
        self.endless = False
        """It sends bytes that never make an event."""
        self.status = 200
        self.released = threading.Event()
        self._under_way = 0

    @property
    def running(self) -> RunningServer:
        return RunningServer(self.base_url, "two-words", "key-of-the-recorder")

    @property
    def prompts(self) -> list[Any]:
        return [body.get("messages") or body["prompt"] for body in self.bodies]

    def app(self) -> Starlette:
        routes = [Route(path, self.answer, methods=["POST"]) for path in ("/v1/completions", "/v1/chat/completions")]
        return Starlette(routes=[*routes, Route("/metrics", self.metrics)])

    async def metrics(self, request: Request) -> Response:
        return PlainTextResponse(self.metrics_text)

    async def answer(self, request: Request) -> Response:
        self.bodies.append(json.loads(await request.body()))
        self.paths.append(request.url.path)
        if self.status != 200:
            return PlainTextResponse("no", self.status)
        return StreamingResponse(self.pieces(), media_type="text/event-stream")

    async def pieces(self) -> AsyncIterator[str]:
        self._under_way += 1
        self.most_at_once = max(self.most_at_once, self._under_way)
        try:
            await asyncio.sleep(0.02)
            while self.endless and not self.released.is_set():
                yield "x" * 1_000_000
            for word in ("one", "two"):
                yield f"data: {json.dumps({'choices': [{'text': word, 'delta': {'content': word}}]})}\n\n"
            yield "data: [DONE]\n\n"
            while self.holds_open and not self.released.is_set():
                await asyncio.sleep(0.01)
        finally:
            self._under_way -= 1


@contextmanager
def recording() -> Iterator[Recorder]:
    """In a thread of this process, on a port of its own."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(1024)
        recorder = Recorder()
        recorder.base_url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        config = uvicorn.Config(recorder.app(), log_config=None, ws="none", lifespan="off", access_log=False)
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        try:
            yield recorder
        finally:
            recorder.released.set()
            server.should_exit = True
            thread.join(20)
