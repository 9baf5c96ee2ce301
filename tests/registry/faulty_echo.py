"""Deep Tree Echo, where a test says that the engine has it."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from tests.registry.faulty_state import Engine, error


class Echo:
    def __init__(self, engine: Engine) -> None:
        self.engine = engine

    def routes(self) -> list[BaseRoute]:
        return [
            Route("/v1/dtesn/status", self.dtesn_status),
            Route("/v1/chat/completions/dtesn", self.dtesn, methods=["POST"]),
            Route("/deep_tree_echo/status", self.tree_status),
            Route("/deep_tree_echo/process", self.tree, methods=["POST"]),
            Route("/agents", self.aar),
            Route("/functions", self.aar),
        ]

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
