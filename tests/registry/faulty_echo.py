"""Deep Tree Echo, where a test says that the engine has it: "dtesn", "tree" and "aar" are not faults but its parts."""

from __future__ import annotations

from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import BaseRoute, Route

from tests.registry.faulty_state import KEY, Engine, error


class Echo:
    def __init__(self, engine: Engine) -> None:
        self.engine = engine

    def routes(self) -> list[BaseRoute]:
        return [
            Route("/v1/dtesn/status", self.dtesn_status),
            Route("/v1/chat/completions/dtesn", self.dtesn, methods=["POST"]),
            Route("/deep_tree_echo/status", self.tree_status),
            Route("/deep_tree_echo/process", self.process, methods=["POST"]),
            Route("/deep_tree_echo/membrane_info", self.membranes),
            Route("/deep_tree_echo/monitoring", self.monitoring),
            Route("/agents", self.listing),
            Route("/functions", self.listing),
            Route("/functions/invoke/{name}", self.invoke, methods=["POST"]),
        ]

    def refusal(self, request: Request, part: str) -> Response | None:
        """Where the engine lacks this part, and for whom comes without the key."""
        if self.engine.has(f"{part} forbidden"):
            return error(403, "Forbidden")
        if not self.engine.has(part):
            return error(404, "Not Found")
        if request.headers.get("authorization") != f"Bearer {KEY}":
            return JSONResponse({"error": "Unauthorized"}, 401)
        return None

    async def dtesn_status(self, request: Request) -> Response:
        if refusal := self.refusal(request, "dtesn"):
            return refusal
        if self.engine.has("dtesn not initialised"):
            return JSONResponse({"detail": "DTESN handler not initialized"}, 503)
        return JSONResponse({"dtesn_available": not self.engine.has("dtesn unavailable"), "server_rendered": True})

    async def dtesn(self, request: Request) -> Response:
        if refusal := self.refusal(request, "dtesn"):
            return refusal
        if request.headers.get("x-dtesn-enable") != "true":
            return error(404, "Not Found")
        if self.engine.has("dtesn error inside 200"):
            return JSONResponse({"object": "error", "message": "it failed", "type": "dtesn_processing_error"})
        processed = "false" if self.engine.has("dtesn passed by") else "true"
        text = "" if self.engine.has("dtesn says nothing") else "words"
        return JSONResponse(
            {"choices": [{"index": 0, "message": {"content": text}, "finish_reason": "length"}]},
            headers={"X-DTESN-Processed": processed},
        )

    async def tree_status(self, request: Request) -> Response:
        if refusal := self.refusal(request, "tree"):
            return refusal
        if self.engine.has("tree out of service"):
            return JSONResponse({"detail": "DTESN service unavailable"}, 503)
        engine = "unavailable" if self.engine.has("tree without engine") else "available"
        return JSONResponse({"dtesn_system": "operational", "engine_integration": {"engine_status": engine}})

    async def process(self, request: Request) -> Response:
        if refusal := self.refusal(request, "tree"):
            return refusal
        if self.engine.has("tree breaks"):
            return error(500, "DTESN processing failed")
        text = str((await request.json()).get("input_data"))
        output = "constant" if self.engine.has("tree constant") else " ".join(sorted(text.split()))
        return JSONResponse(
            {
                "status": "success",
                "result": {"input": text, "output": None if self.engine.has("tree without output") else output},
                "membrane_layers": 0 if self.engine.has("tree without layers") else 4,
                "degraded_mode": self.engine.has("tree degraded"),
                "fallback_used": self.engine.has("tree falls back"),
            }
        )

    async def monitoring(self, request: Request) -> Response:
        if refusal := self.refusal(request, "tree"):
            return refusal
        is_open = self.engine.has("tree breaker open")
        return JSONResponse({"system_status": "healthy", "metrics": {"circuit_breaker_open": is_open}})

    async def membranes(self, request: Request) -> Response:
        if refusal := self.refusal(request, "tree"):
            return refusal
        if self.engine.has("membranes unreadable"):
            return error(500, "Internal error")
        sequence = "A000108" if self.engine.has("membranes of another sequence") else "A000081"
        said: dict[str, Any] = {"hierarchy_type": "rooted_tree", "oeis_sequence": sequence, "max_depth": 5}
        if not self.engine.has("membranes uncounted"):
            levels = [1, 1, 2, 5, 9] if self.engine.has("membranes miscounted") else [1, 1, 2, 4, 9]
            said["psystem_summary"] = {"membranes_per_level": levels}
        return JSONResponse(said)

    async def listing(self, request: Request) -> Response:
        if self.engine.has("page for every address"):
            return Response("<html>Welcome</html>", media_type="text/html")
        if refusal := self.refusal(request, "aar"):
            return refusal
        if self.engine.has("aar broken"):
            return error(500, "Internal error")
        return PlainTextResponse("agents: 2") if self.engine.has("aar in prose") else JSONResponse([])

    async def invoke(self, request: Request) -> Response:
        if refusal := self.refusal(request, "aar"):
            return refusal
        return JSONResponse({}) if self.engine.has("aar invokes anything") else error(404, "unknown function")
