"""Who is let in, and what stands open beside the API itself.

Not faults but parts that an engine may have: "openapi" (a document of its routes), "docs", "ids come back".
"""

from __future__ import annotations

import json
import math
import posixpath
import re
import time
from typing import Any
from urllib.parse import unquote

from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response
from starlette.routing import BaseRoute, Route

from tests.registry.faulty_completions import Completions
from tests.registry.faulty_state import KEY, MODEL, Engine

COMPLETIONS, CHAT = "/v1/completions", "/v1/chat/completions"
AT_ONCE = 150
QUIET = 0.5
SHUT = 0.15
_ONE_TOKEN = re.compile(rb'"max_tokens": ?1[,}]')
_EVERY = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]
_TEXT = {"type": "string"}


class Limit:
    """At most `AT_ONCE` requests without a pause; then the door is shut for a moment. Only those for one token count:
    the rate check's own, so that no other check meets it however quick the machine is."""

    def __init__(self) -> None:
        self.counted = 0
        self.last = 0.0
        self.shut_until = 0.0

    def exceeded(self, for_good: bool) -> bool:
        now = time.monotonic()
        over = now >= self.shut_until or (self.shut_until == math.inf and not for_good)
        if over if self.shut_until else now - self.last > QUIET:
            self.counted, self.shut_until = 0, 0.0
        self.last = now
        self.counted += 1
        if self.counted > AT_ONCE and not self.shut_until:
            self.shut_until = now + (math.inf if for_good else SHUT)
        return bool(self.shut_until)


class Doors:
    def __init__(self, engine: Engine, completions: Completions) -> None:
        self.engine = engine
        self.inner = completions
        self.limit = Limit()

    def routes(self) -> list[BaseRoute]:
        return [
            Route("/health", self.health),
            Route("/version", self.version),
            Route("/v1/models", self.models),
            Route(COMPLETIONS, self.completions, methods=["POST"]),
            Route(CHAT, self.completions, methods=["POST"]),
            Route("/invocations", self.invocations, methods=["POST"]),
            Route("/v1/words", self.words, methods=["POST"]),
            Route("/words", self.words, methods=["POST"]),
            Route("/metrics", self.metrics),
            Route("/openapi.json", self.document),
            Route("/docs", self.docs),
            Route("/server_info", self.server_info),
            Route("/sleep", self.sleep, methods=_EVERY),
            Route("/v1/load_lora_adapter", self.adapter, methods=_EVERY),
            Route("/start_profile", self.profiler, methods=_EVERY),
            *[Route(path, self.odd, methods=_EVERY) for path in ("//{rest:path}", "/{first:path}..{rest:path}")],
            *[Route(path, self.odd, methods=_EVERY) for path in (f"{COMPLETIONS}/", COMPLETIONS.upper())],
            Route("/../{rest:path}", self.file),
        ]

    # -- the key -------------------------------------------------------------------------------------------------------

    def refusal(self, request: Request) -> Response | None:
        has, headers = self.engine.has, request.headers
        if (
            (has("open") and request.url.path == COMPLETIONS)
            or (has("x-api-key passes") and headers.get("x-api-key"))
            or (has("forwarded passes") and headers.get("x-forwarded-for") == "127.0.0.1")
            or (has("escapes pass") and b"%" in request.scope["raw_path"])
            or (has("HEAD passes") and request.method == "HEAD")
            or (has("query key passes") and request.query_params.get("api_key") == KEY)
        ):
            return None
        given = headers.get("authorization", "").removeprefix("Bearer ")
        if given == KEY or (has("any key") and given):
            return None
        said = f"Unauthorized: {given}" if has("key echoed") else "Unauthorized"
        return JSONResponse({"error": said}, 401, headers=self.ids(request))

    async def odd(self, request: Request) -> Response:
        """Addresses that are another's in disguise: tidied up behind the guard where a test says so."""
        path = request.scope["path"]
        for fault, tidied in (
            ("double slash passes", re.sub("/+", "/", path)),
            ("dots pass", posixpath.normpath(path)),
            ("slash at the end passes", path.rstrip("/")),
            ("capitals pass", path.lower()),
        ):
            if self.engine.has(fault) and path != tidied == COMPLETIONS and request.method == "POST":
                return await self.inner.respond(request)
        if self.engine.has("files by path") and path.endswith("/etc/passwd"):
            return PlainTextResponse("root:x:0:0:root:/root:/bin/sh\n")
        return self.engine.error(404, "Not Found")

    async def file(self, request: Request) -> Response:
        return await self.odd(request)

    def ids(self, request: Request) -> dict[str, str]:
        given = request.headers.get("x-request-id", "")
        if self.engine.has("ids split"):
            # The server below refuses line ends; on the wire it is the same.
            first, *lines = unquote(given).split("\r\n")
            return {"X-Request-Id": first, **dict(line.split(": ", 1) for line in lines)}
        if self.engine.has("ids come back"):
            return {"X-Request-Id": given}
        return {}

    # -- the API -------------------------------------------------------------------------------------------------------

    async def models(self, request: Request) -> Response:
        if refusal := self.refusal(request):
            return refusal
        if self.engine.has("long id breaks") and len(request.headers.get("x-request-id", "")) > 1000:
            return self.engine.error(500, "Internal error")
        name = "letters" if self.engine.has("other model") else MODEL
        headers = self.ids(request)
        if self.engine.has("key in a header"):
            headers["X-Seen"] = request.headers.get("authorization", "")
        if self.engine.has("half a key"):
            headers["X-Account"] = f"{KEY[: len(KEY) // 2]}..."
        card = {"id": name, "object": "model", "owned_by": self.engine.speaks.owned_by}
        return JSONResponse({"object": "list", "data": [card]}, headers=headers)

    async def completions(self, request: Request) -> Response:
        if refusal := self.refusal(request):
            return refusal
        try:
            raw = await request.body()
        except ClientDisconnect:  # a body that was announced and did not come
            return self.engine.error(400, "the body broke off")
        if _ONE_TOKEN.search(raw) and not self.engine.has("no limit") and self.exceeded():
            return self.too_many()
        if self.engine.has("surrogates break") and rb"\ud800" in raw:
            return self.engine.error(500, "surrogates not allowed")
        if self.engine.has("NaN breaks") and b"NaN" in raw:
            return self.engine.error(500, "Internal error")
        if self.engine.has("nothing after a zero") and rb"\u0000" in raw:
            self.engine.faults.add("stuck")
        if self.engine.has("stuck"):
            return self.engine.error(500, "the engine is dead")
        return await self.inner.respond(request)

    def exceeded(self) -> bool:
        return self.limit.exceeded(for_good=self.engine.has("limit for good"))

    def too_many(self) -> Response:
        if self.engine.has("503 for too many"):
            return self.engine.error(503, "overloaded")
        said = {"error": {"message": "Too many requests.", "type": "rate_limit_error", "code": 429}}
        silent = self.engine.has("429 without headers") or self.engine.has("limit for good")
        return JSONResponse(said, 429, headers={} if silent else {"Retry-After": "0", "X-RateLimit-Limit": "150"})

    async def invocations(self, request: Request) -> Response:
        if not self.engine.has("open invocations"):
            return self.engine.error(404, "Not Found")
        return await self.inner.answer(await request.json())

    async def words(self, request: Request) -> Response:
        """A route that no list of known ones has: only the document shows it."""
        guarded = request.url.path == "/v1/words"
        if not self.engine.has("openapi") or (not guarded and not self.engine.has("shown route open")):
            return self.engine.error(404, "Not Found")
        if guarded and (refusal := self.refusal(request)):
            return refusal
        try:
            body = json.loads(await request.body())
        except (ValueError, RecursionError):
            return self.engine.error(400, "no JSON")
        text = body.get("text") if isinstance(body, dict) else None
        if self.engine.has("empty text breaks") and text == "":
            return self.engine.error(500, f"division by zero for {KEY}")
        if not isinstance(text, str):
            self.engine.insulted = self.engine.insulted or self.engine.has("wrong text kills")
            return self.engine.error(400, "text")
        return JSONResponse({"words": len(text.split())})

    # -- beside it -----------------------------------------------------------------------------------------------------

    async def health(self, request: Request) -> Response:
        if self.engine.insulted:
            return Response(status_code=self.engine.speaks.dead_status)
        if self.engine.has("no health route"):
            return self.engine.error(404, "Not Found")
        return Response(status_code=503 if self.engine.has("unhealthy") else 200)

    async def version(self, request: Request) -> Response:
        return JSONResponse({"version": self.engine.speaks.version})

    async def metrics(self, request: Request) -> Response:
        key = f'{{key="{KEY}"}}' if self.engine.has("key in metrics") else ""
        return PlainTextResponse(f"{self.engine.speaks.prefix}num_requests_running{key} 0\n")

    async def document(self, request: Request) -> Response:
        if self.engine.has("document elsewhere"):
            return JSONResponse({"openapi": "3.1.0", "paths": {"/a": {"$ref": "http://127.0.0.1:1/all.json"}}})
        if not self.engine.has("openapi"):
            return self.engine.error(404, "Not Found")
        return JSONResponse(self.shown())

    def shown(self) -> dict[str, Any]:
        def post(path: str, required: list[str], **fields: Any) -> dict[str, Any]:
            schema = {"type": "object", "required": required, "properties": fields}
            body = {"required": True, "content": {"application/json": {"schema": schema}}}
            return {path: {"post": {"requestBody": body, "responses": {"200": {"description": "It is done."}}}}}

        whole, number = {"type": "integer"}, {"type": "number"}
        read = {"get": {"responses": {"200": {"description": "The models."}}}}
        words = "/words" if self.engine.has("shown route open") else "/v1/words"
        paths = {
            "/v1/models": read,
            **post(COMPLETIONS, ["prompt"], model=_TEXT, prompt=_TEXT, max_tokens=whole, temperature=number),
            **post(words, ["text"], text={"$ref": "#/components/schemas/Text"}),
            **post("/sleep", ["level"], level=whole),
        }
        return {
            "openapi": "3.1.0",
            "info": {"title": "words", "version": "1"},
            "paths": paths,
            "components": {"schemas": {"Text": _TEXT}},
        }

    async def docs(self, request: Request) -> Response:
        return HTMLResponse("<html>docs</html>") if self.engine.has("docs") else self.engine.error(404, "Not Found")

    async def server_info(self, request: Request) -> Response:
        if not self.engine.has("server_info open"):
            return self.engine.error(404, "Not Found")
        return JSONResponse({"config": {"model": MODEL}})

    async def sleep(self, request: Request) -> Response:
        if not self.engine.has("sleep open"):
            return self.engine.error(404, "Not Found")
        if request.method != "POST":
            return self.engine.error(405, "Method Not Allowed")
        self.engine.met["slept"] += 1
        return Response(status_code=200)

    async def adapter(self, request: Request) -> Response:
        if not self.engine.has("adapters open"):
            return self.refusal(request) or self.engine.error(404, "Not Found")
        try:
            json.loads(await request.body())
        except ValueError:
            return self.engine.error(400, "no JSON")
        self.engine.met["loaded"] += 1
        return Response(status_code=200)

    async def profiler(self, request: Request) -> Response:
        if not self.engine.has("profiler open"):
            return self.engine.error(404, "Not Found")
        if request.method == "OPTIONS":
            return self.engine.error(405, "Method Not Allowed")
        self.engine.met["profiled"] += 1
        return Response(status_code=200)
