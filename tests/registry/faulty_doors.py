"""Who is let in, and what stands open beside the API itself."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import BaseRoute, Route

from tests.registry.faulty_completions import Completions
from tests.registry.faulty_state import KEY, MODEL, Engine, error


class Doors:
    def __init__(self, engine: Engine, completions: Completions) -> None:
        self.engine = engine
        self.inner = completions

    def routes(self) -> list[BaseRoute]:
        return [
            Route("/health", self.health),
            Route("/version", self.version),
            Route("/v1/models", self.models),
            Route("/v1/completions", self.completions, methods=["POST"]),
            Route("/v1/chat/completions", self.completions, methods=["POST"]),
            Route("/invocations", self.invocations, methods=["POST"]),
            Route("/metrics", self.metrics),
        ]

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

    async def completions(self, request: Request) -> Response:
        return self.refusal(request) or await self.inner.respond(request)

    async def metrics(self, request: Request) -> Response:
        key = f'{{key="{KEY}"}}' if self.engine.has("key in metrics") else ""
        return PlainTextResponse(f"vllm:num_requests_running{key} 0\n")

    async def invocations(self, request: Request) -> Response:
        if not self.engine.has("open invocations"):
            return error(404, "Not Found")
        return await self.inner.answer(await request.json())
