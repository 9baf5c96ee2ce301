"""A lean HTTP/1.1 client for token streams: one parser callback per piece, no response objects, connections kept."""

import asyncio
import time
from dataclasses import dataclass
from typing import cast
from urllib.parse import urlsplit

import httptools


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole answer, read to its end. `events` counts the data events that are neither an error nor `[DONE]`."""

    status: int
    events: int
    has_error: bool
    is_done: bool
    first_event_seconds: float | None


class TransportFailure(Exception):
    """No whole answer came. `before_answer` says that not one byte of it did, so asking again repeats nothing."""

    def __init__(self, kind: str, *, before_answer: bool) -> None:
        super().__init__(kind)
        self.kind = kind
        self.before_answer = before_answer


class _Connection(asyncio.Protocol):
    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self._answer: asyncio.Future[Answer] | None = None
        self.is_open = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's does not inherit from it
        self.is_open = True

    def ask(self, request: bytes) -> asyncio.Future[Answer]:
        if self._transport is None:
            raise RuntimeError("not connected")
        self._answer = asyncio.get_running_loop().create_future()
        self._parser = httptools.HttpResponseParser(self)
        self._started = time.perf_counter()
        self._status = self._events = 0
        self._has_error = self._is_done = False
        self._first_event: float | None = None
        self._rest = b""
        self._has_bytes = False
        self._transport.write(request)
        return self._answer

    def close(self) -> None:
        self.is_open = False
        if self._transport is not None:
            self._transport.abort()

    def data_received(self, data: bytes) -> None:
        if self._answer is None or self._answer.done():
            self.close()  # bytes that nobody asked for: never take them for the next answer
            return
        self._has_bytes = True
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            self._fail("malformed")
            self.close()

    def connection_lost(self, error: Exception | None) -> None:
        self.is_open = False
        self._fail("cut" if self._answer is not None and self._has_bytes else "reset")

    def _fail(self, kind: str) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(TransportFailure(kind, before_answer=not self._has_bytes))

    def on_headers_complete(self) -> None:
        self._status = self._parser.get_status_code()

    def on_body(self, body: bytes) -> None:
        *lines, self._rest = (self._rest + body).split(b"\n")
        for line in lines:
            if line.startswith(b"data:"):
                self._event(line[5:].strip())

    def _event(self, payload: bytes) -> None:
        if payload == b"[DONE]":
            self._is_done = True
        elif payload.startswith(b"{") and payload[1:].lstrip().startswith(b'"error"'):
            self._has_error = True
        else:
            self._events += 1
            if self._first_event is None:
                self._first_event = time.perf_counter() - self._started

    def on_message_complete(self) -> None:
        if not self._parser.should_keep_alive():
            self.is_open = False
        if self._answer is not None and not self._answer.done():
            self._answer.set_result(
                Answer(self._status, self._events, self._has_error, self._is_done, self._first_event)
            )


class StreamClient:
    """Asks one server. A connection carries one request at a time and is used again after a whole answer."""

    def __init__(self, base_url: str, *, timeout: float = 30.0) -> None:
        parts = urlsplit(base_url)
        if parts.scheme != "http" or not parts.hostname:
            raise ValueError(f"base URL must be http://host[:port][/path], got {base_url!r}")
        self._host, self._port = parts.hostname, parts.port or 80
        self._path = parts.path.rstrip("/")
        self._authority = parts.netloc.rpartition("@")[2]
        self._timeout = timeout
        self._idle: list[_Connection] = []

    def request(self, path: str, body: bytes, headers: dict[str, str]) -> bytes:
        lines = [f"POST {self._path}{path} HTTP/1.1", f"host: {self._authority}", "content-type: application/json"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        return "\r\n".join([*lines, f"content-length: {len(body)}", "", ""]).encode() + body

    async def ask(self, request: bytes) -> Answer:
        connection: _Connection | None = None
        try:
            async with asyncio.timeout(self._timeout):
                connection = self._take() or await self._connect()
                answer = await connection.ask(request)
        except BaseException as error:
            if connection is not None:
                connection.close()
            if isinstance(error, TimeoutError):
                raise TransportFailure("timeout", before_answer=False) from None
            raise
        if connection.is_open:
            self._idle.append(connection)
        else:
            connection.close()
        return answer

    def close(self) -> None:
        for connection in self._idle:
            connection.close()
        self._idle.clear()

    def _take(self) -> _Connection | None:
        while self._idle:
            connection = self._idle.pop()
            if connection.is_open:
                return connection
        return None

    async def _connect(self) -> _Connection:
        loop = asyncio.get_running_loop()
        try:
            _, connection = await loop.create_connection(_Connection, self._host, self._port)
        except ConnectionRefusedError:
            raise TransportFailure("refused", before_answer=True) from None
        except ConnectionError:
            raise TransportFailure("reset", before_answer=True) from None
        except TimeoutError:
            raise
        except OSError as error:
            kind = error.strerror or type(error).__name__
            raise TransportFailure(f"cannot connect: {kind}", before_answer=True) from None
        return connection
