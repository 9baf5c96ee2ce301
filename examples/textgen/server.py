"""Serve an artifact with the OpenAI-compatible API, as an inference engine does.

Keys come from the environment variable TEXTGEN_API_KEY, several with commas between them; without it all may ask.
"""

import argparse
import asyncio
import gc
import hmac
import os
import random
import signal
import socket
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from uuid import uuid4

import uvicorn
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from examples.textgen.corpus import Tokens, needs_space
from examples.textgen.faults import CRASH_EXIT_CODE, FAULTS, LONG_PROMPT_TOKENS, TOKENS_BEFORE_ERROR, Faults, fault_name
from examples.textgen.limiter import Bucket, Headers, Limit, Limiter
from examples.textgen.logprobs import told
from examples.textgen.model import ArtifactError, NgramModel, load
from examples.textgen.protocol import (
    DONE,
    ApiError,
    GenerationRequest,
    StreamFormat,
    Written,
    answer,
    dump,
    error_event,
    parse_body,
    parse_request,
)
from examples.textgen.telemetry import CONTENT_TYPE, Telemetry

VERSION = "0.1.0"
MAX_BODY_BYTES = 1 << 20
# Longer than the hour after which Envoy drops an idle connection: whoever closes second cannot cut off a request.
KEEP_ALIVE_SECONDS = 3700
_COMPLETIONS, _CHAT = "/v1/completions", "/v1/chat/completions"
_COUNTED = frozenset({_COMPLETIONS, _CHAT, "/v1/models"})
_UNCOUNTED = frozenset({"/health", "/ping", "/version", "/metrics"})
_TOO_MANY = ApiError(
    429, "Rate limit reached: too many requests with this key. Try again after the time in Retry-After."
)


@dataclass(frozen=True, slots=True)
class Settings:
    served_model_name: str
    root: str
    max_model_len: int
    api_keys: tuple[str, ...] = ()
    token_delay: float = 0.002
    max_num_seqs: int = 256
    seed: int = 0
    limit: Limit = field(default_factory=Limit)
    """Of the requests with one key."""
    faults: Faults = field(default_factory=Faults)


class Choice:
    """One text in the making. `step` draws a token and returns the text it lets out."""

    def __init__(self, model: NgramModel, prompt: Tokens, request: GenerationRequest, rng: random.Random) -> None:
        self._tokens = model.generate(prompt, request.sampling, rng)
        self._previous = prompt[-1] if prompt and not request.chat else None
        self._left = request.max_tokens
        self._stop = request.stop
        self._held = ""
        self.tokens: list[str] = []
        """What was drawn, where log probabilities are asked for."""
        self._notes = request.logprobs is not None
        self.finish_reason: str | None = None if self._left else "length"

    def step(self) -> str:
        token = next(self._tokens)
        self._left -= 1
        if token is None:
            self.finish_reason = "stop"
            return self._held
        if self._notes:
            self.tokens.append(token)
        text = f" {token}" if needs_space(self._previous, token) else token
        self._previous = token
        if self._stop:
            text = self._until_stop(text)
        if self._left == 0 and self.finish_reason is None:
            self.finish_reason = "length"
            text += self._held
        return text

    def _until_stop(self, text: str) -> str:
        """Text goes out only once it can no longer be the beginning of a stop string."""
        text = self._held + text
        places = [place for stop in self._stop if (place := text.find(stop)) >= 0]
        if places:
            self._held = ""
            self.finish_reason = "stop"
            return text[: min(places)]
        held = max(
            (size for stop in self._stop for size in range(1, len(stop)) if text.endswith(stop[:size])), default=0
        )
        self._held = text[len(text) - held :]
        return text[: len(text) - held]


class Engine:
    def __init__(self, model: NgramModel, settings: Settings, telemetry: Telemetry) -> None:
        self._model = model
        self.settings = settings
        self._telemetry = telemetry
        self._places = asyncio.Semaphore(settings.max_num_seqs)
        self._rng = random.Random(settings.seed)
        self._long_prompts = 0
        self._completions = 0

    async def respond(self, request: GenerationRequest, receive: Receive, send: Send) -> None:
        """Answer, unless the client goes away first; then the work is dropped, as engines do."""
        gone = asyncio.ensure_future(receive())
        started = time.perf_counter()
        try:
            if self._places.locked():
                self._telemetry.waiting.inc()
                try:
                    await self._places.acquire()
                finally:
                    self._telemetry.waiting.dec()
            else:
                await self._places.acquire()
            self._telemetry.running.inc()
            try:
                await self._generate(request, gone, send, started)
            finally:
                self._telemetry.running.dec()
                self._places.release()
        finally:
            gone.cancel()

    async def _generate(
        self, request: GenerationRequest, gone: asyncio.Future[Message], send: Send, started: float
    ) -> None:
        fails_after = await self._meet_faults(request, gone)
        if gone.done():
            return
        telemetry, delay = self._telemetry, self.settings.token_delay
        choices = [
            Choice(self._model, prompt, request, self._choice_rng(request, number))
            for number, prompt in enumerate(prompt for prompt in request.prompts for _ in range(request.n))
        ]
        telemetry.prompt_tokens.inc(request.prompt_tokens)
        answer_id, created = f"{'chatcmpl' if request.chat else 'cmpl'}-{uuid4().hex}", int(time.time())
        name = self.settings.served_model_name
        form = StreamFormat(chat=request.chat, answer_id=answer_id, created=created, model=name)
        texts = [""] * len(choices)
        running = [(index, choice) for index, choice in enumerate(choices) if choice.finish_reason is None]
        tokens, rounds, due, last = 0, 0, started, started
        while running and rounds != fails_after:
            due += delay
            await asyncio.sleep(max(0.0, due - time.perf_counter()))
            if gone.done():
                return
            events = b""
            for index, choice in running:
                text = choice.step()
                if request.stream:
                    events += form.piece(index, text, choice.finish_reason)
                else:
                    texts[index] += text
            tokens += len(running)
            telemetry.generation_tokens.inc(len(running))
            now = time.perf_counter()
            if rounds == 0:
                telemetry.first_token.observe(now - started)
            else:
                telemetry.inter_token.observe(now - last)
            last = now
            if request.stream:
                if rounds == 0:
                    await send(_start(200, b"text/event-stream; charset=utf-8"))
                    events = form.opening(len(choices)) + events
                await send(_body(events, more=True))
            rounds += 1
            running = [(index, choice) for index, choice in running if choice.finish_reason is None]
        if fails_after is not None:
            raise ApiError(500, "The engine failed on this prompt.")
        telemetry.whole.observe(last - started)
        for choice in choices:
            telemetry.success[choice.finish_reason or "error"].inc()
        if request.stream:
            ending = form.usage(request.prompt_tokens, tokens) if request.include_usage else b""
            await send(_body(ending + DONE))
            return
        whole = answer(
            chat=request.chat,
            answer_id=answer_id,
            created=created,
            model=name,
            choices=[self._written(request, index, choice, texts[index]) for index, choice in enumerate(choices)],
            prompt_tokens=request.prompt_tokens,
            completion_tokens=tokens,
        )
        await send(_start(200, b"application/json", len(whole)))
        await send(_body(whole))

    def _written(self, request: GenerationRequest, index: int, choice: Choice, text: str) -> Written:
        finish = choice.finish_reason or ""
        if not request.echo and request.logprobs is None:
            return Written(text, finish)
        number = index // request.n
        prompt = request.texts[number]
        logprobs = None
        if request.logprobs is not None:
            logprobs = told(self._model, prompt, choice.tokens, text, echo=request.echo, likeliest=request.logprobs)
        return Written(prompt + text if request.echo else text, finish, logprobs)

    async def _meet_faults(self, request: GenerationRequest, gone: asyncio.Future[Message]) -> int | None:
        """Die, hang, or say after how many tokens this request fails."""
        faults = self.settings.faults
        self._completions += 1
        if faults.hang_after is not None and self._completions > faults.hang_after:
            await gone
        if not any(len(prompt) > LONG_PROMPT_TOKENS for prompt in request.prompts):
            return None
        self._long_prompts += 1
        if self._long_prompts == faults.long_prompt_crash:
            os._exit(CRASH_EXIT_CODE)
        return TOKENS_BEFORE_ERROR if faults.long_prompt_error else None

    def _choice_rng(self, request: GenerationRequest, number: int) -> random.Random:
        return random.Random(self._rng.getrandbits(64) if request.seed is None else request.seed + number * 1_000_003)


class Generations:
    """One of the two completion routes. Plain ASGI, because a response object per token stream costs more than it."""

    def __init__(self, engine: Engine, *, chat: bool) -> None:
        self._engine = engine
        self._chat = chat

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        began = False

        async def watched(message: Message) -> None:
            nonlocal began
            began = True
            await send(message)

        try:
            settings = self._engine.settings
            content_type = next((value for name, value in scope["headers"] if name == b"content-type"), b"")
            body = await _read(receive)
            request = parse_request(
                parse_body(content_type.decode("latin-1"), body),
                chat=self._chat,
                served_model_name=settings.served_model_name,
                max_model_len=settings.max_model_len,
            )
            await self._engine.respond(request, receive, watched)
        except ApiError as error:
            if began:  # too late for a status: engines put the error into the stream of a 200
                await send(_body(error_event(error) + DONE))
            else:
                await _refuse(send, error.status, error.body())


class Gate:
    """Keys for everything under /v1, how much each key may ask, and the count of requests."""

    def __init__(self, app: ASGIApp, settings: Settings, telemetry: Telemetry) -> None:
        self._app = app
        self._keys = [key.encode() for key in settings.api_keys]
        self._open = frozenset({_COMPLETIONS, _CHAT}) if settings.faults.open_completions else frozenset()
        self._limiter = Limiter(settings.limit, time.monotonic)
        self._requests = telemetry.http_requests

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        path: str = scope["path"]
        if path in _UNCOUNTED:
            await self._app(scope, receive, send)
            return
        status = 500
        bucket: Bucket | None = None

        async def watched(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                if bucket is not None:
                    message["headers"] = [*message["headers"], *bucket.headers()]
            await send(message)

        try:
            key = self._key(scope)
            if key is None and not self._is_open(path, scope):
                await _refuse(watched, 401, {"error": "Unauthorized"})
                return
            bucket = self._limiter.bucket(key or b"")
            if bucket is None or bucket.take():
                await self._app(scope, receive, watched)
            else:
                await _refuse(watched, 429, _TOO_MANY.body(), bucket.retry_after())
        finally:
            handler = path if path in _COUNTED else "none"
            self._requests.labels(handler, scope["method"], f"{status // 100}xx").inc()

    def _is_open(self, path: str, scope: Scope) -> bool:
        return not self._keys or not path.startswith("/v1") or path in self._open or scope["method"] == "OPTIONS"

    def _key(self, scope: Scope) -> bytes | None:
        """The one that was sent, if it is right."""
        header: bytes = next((value for name, value in scope["headers"] if name == b"authorization"), b"")
        scheme, _, key = header.partition(b" ")
        # All keys are compared, each in constant time, so that the time says nothing about them.
        matches = [hmac.compare_digest(key, known) for known in self._keys]
        return key if scheme.lower() == b"bearer" and any(matches) else None


def create_app(model: NgramModel, settings: Settings) -> ASGIApp:
    telemetry = Telemetry(settings.served_model_name)
    engine = Engine(model, settings, telemetry)
    created = int(time.time())

    async def health(request: Request) -> Response:
        return Response(status_code=503 if settings.faults.never_ready else 200)

    async def version(request: Request) -> Response:
        return JSONResponse({"version": VERSION})

    async def metrics(request: Request) -> Response:
        return Response(telemetry.render(), headers={"content-type": CONTENT_TYPE})

    async def models(request: Request) -> Response:
        permission = {"id": f"modelperm-{uuid4().hex}", "object": "model_permission", "created": created}
        card = {
            "id": settings.served_model_name,
            "object": "model",
            "created": created,
            "owned_by": "textgen",
            "root": settings.root,
            "parent": None,
            "max_model_len": settings.max_model_len,
            "permission": [permission | {"allow_sampling": True, "allow_fine_tuning": False, "organization": "*"}],
        }
        return JSONResponse({"object": "list", "data": [card]})

    async def refused(request: Request, error: Exception) -> Response:
        status = error.status_code if isinstance(error, HTTPException) else 500
        text = str(error.detail) if isinstance(error, HTTPException) else "Internal server error."
        return Response(dump(ApiError(status, text).body()), status_code=status, media_type="application/json")

    routes = [
        Route("/health", health),
        Route("/ping", health, methods=["GET", "POST"]),
        Route("/version", version),
        Route("/metrics", metrics),
        Route("/v1/models", models),
        Route(_COMPLETIONS, Generations(engine, chat=False), methods=["POST"]),
        Route(_CHAT, Generations(engine, chat=True), methods=["POST"]),
    ]
    app = Starlette(routes=routes, exception_handlers={HTTPException: refused, Exception: refused})
    app.router.redirect_slashes = False
    return Gate(app, settings, telemetry)


async def _read(receive: Receive) -> bytes:
    body = bytearray()
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ApiError(400, "The client went away.")
        body += message.get("body", b"")
        if len(body) > MAX_BODY_BYTES:
            raise ApiError(400, f"The body is larger than {MAX_BODY_BYTES} bytes.")
        if not message.get("more_body", False):
            return bytes(body)


async def _refuse(send: Send, status: int, document: object, headers: Headers | None = None) -> None:
    body = dump(document)
    start = _start(status, b"application/json", len(body))
    start["headers"] += headers or []
    await send(start)
    await send(_body(body))


def _start(status: int, content_type: bytes, length: int | None = None) -> Message:
    headers = [(b"content-type", content_type)]
    if length is not None:
        headers.append((b"content-length", str(length).encode()))
    return {"type": "http.response.start", "status": status, "headers": headers}


def _body(body: bytes, *, more: bool = False) -> Message:
    return {"type": "http.response.body", "body": body, "more_body": more}


_LIMIT_HELP = "requests a second with one key, and how many at once (twice as many); 0: as many as come; default: 100"


def _limit(text: str) -> Limit:
    rate, colon, burst = text.partition(":")
    try:
        limit = Limit(float(rate), int(burst) if colon else max(1, round(2 * float(rate))))
    except (ValueError, OverflowError):
        limit = Limit(-1.0)
    if not 0.0 <= limit.per_second <= 1e9 or limit.burst < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a rate: give R or R:BURST, such as 100 or 100:200")
    return limit


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m examples.textgen.server", description=__doc__)
    parser.add_argument("--model", required=True, type=Path, metavar="DIR", help="artifact written by the trainer")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8000, help="0 takes a free one and says which")
    parser.add_argument("--served-model-name", metavar="NAME", help="default: the name of the folder")
    parser.add_argument("--max-model-len", type=int, help="default: what config.json says")
    parser.add_argument("--max-num-seqs", type=int, default=256, help="requests generated at once; others wait")
    parser.add_argument("--token-delay", type=float, default=0.002, metavar="S", help="seconds between two tokens")
    parser.add_argument("--rate-limit", type=_limit, default=Limit(), metavar="R[:BURST]", help=_LIMIT_HELP)
    parser.add_argument("--shutdown-timeout", type=int, default=30, metavar="S", help="for streams after SIGTERM")
    parser.add_argument(
        "--fault",
        action="append",
        default=[],
        type=fault_name,
        metavar="NAME",
        help="repeatable; " + "; ".join(f"{name}: {text}" for name, text in FAULTS.items()),
    )
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    faults = Faults.parse(options.fault)
    if faults.exit_at_once:
        print("textgen: the weights do not fit into memory (fault exit-at-once)", file=sys.stderr)
        return 3
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            # Bound before the model is loaded but not listening, as engines do: refused means "not yet".
            listener.bind((options.host, options.port))
        except OSError as error:
            print(f"textgen: cannot listen on {options.host}:{options.port}: {error.strerror}", file=sys.stderr)
            return 1
        try:
            model, config = load(options.model)
        except ArtifactError as error:
            print(f"textgen: {error}", file=sys.stderr)
            return 1
        _serve(model, _settings(options, config, faults), listener, options.shutdown_timeout)
    return 0


def _settings(options: argparse.Namespace, config: Mapping[str, object], faults: Faults) -> Settings:
    length, seed = config.get("max_position_embeddings"), config.get("seed")
    return Settings(
        served_model_name=options.served_model_name or options.model.resolve().name,
        root=str(options.model),
        max_model_len=options.max_model_len or (length if isinstance(length, int) else 512),
        api_keys=tuple(filter(None, map(str.strip, os.environ.get("TEXTGEN_API_KEY", "").split(",")))),
        token_delay=options.token_delay,
        max_num_seqs=options.max_num_seqs,
        seed=seed if isinstance(seed, int) else 0,
        limit=options.rate_limit,
        faults=faults,
    )


def _serve(model: NgramModel, settings: Settings, listener: socket.socket, shutdown_timeout: int) -> None:
    gc.collect()
    gc.freeze()  # the model is hundreds of thousands of objects that never die
    server = uvicorn.Server(
        uvicorn.Config(
            create_app(model, settings),
            log_level="warning",
            access_log=False,
            lifespan="off",
            ws="none",
            timeout_keep_alive=KEEP_ALIVE_SECONDS,
            timeout_graceful_shutdown=shutdown_timeout,
        )
    )
    # uvicorn raises the signal again when it is done; with its default action a clean stop would look like a kill.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: None)
    host, port = listener.getsockname()[:2]
    print(f"textgen: serving {settings.served_model_name} on http://{host}:{port}", file=sys.stderr, flush=True)
    server.run(sockets=[listener])


if __name__ == "__main__":
    sys.exit(main())
