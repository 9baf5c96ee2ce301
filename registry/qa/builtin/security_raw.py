"""Requests byte by byte, where a client library would tidy up."""

from __future__ import annotations

import socket
import ssl
import time
from dataclasses import dataclass
from urllib.parse import urlsplit

from registry.qa.base import RunningServer
from registry.qa.builtin.exchange import Exchange

ANSWER_WITHIN = 3.0
MOST_RAW_BYTES = 256 * 1024


@dataclass(frozen=True)
class RawRequest:
    """Put on the connection as it is written here: nothing is normalised, escaped or checked."""

    method: str
    target: str
    """Path and query as they stand in the request line, without the path of the server's own address."""
    headers: tuple[tuple[str, bytes], ...] = ()
    content: bytes | None = None
    content_length: str = ""
    """Instead of the true one."""
    absolute: bool = False
    """The request line carries the whole address, as to a proxy."""
    ends_early: bool = False
    """Say that nothing more will come once all is written, so that the server need not wait for a rest."""
    share: float = 1.0
    """Of the patience that there is for one answer: less where a server may wait for what does not come."""
    sent: str = ""

    @property
    def counts(self) -> bool:
        """Whether no answer within that time says anything against the server."""
        return not self.ends_early

    def encode(self, server: RunningServer) -> bytes:
        address = urlsplit(server.base_url)
        whole = f"{address.scheme}://{address.netloc}" if self.absolute else ""
        lines = [
            f"{self.method} {whole}{address.path.rstrip('/')}{self.target} HTTP/1.1".encode("latin-1", "replace"),
            b"Host: " + address.netloc.rpartition("@")[2].encode(),
            b"Connection: close",
            *(name.encode() + b": " + value for name, value in self.headers),
        ]
        if self.content is not None:
            length = self.content_length or str(len(self.content))
            lines += [b"Content-Type: application/json", b"Content-Length: " + length.encode()]
        return b"\r\n".join(lines) + b"\r\n\r\n" + (self.content or b"")


@dataclass(frozen=True)
class RawExchange(Exchange):
    head: bytes = b""
    """Status line and headers as they came."""
    late: bool = False
    """It did not end in time, or has no end; what came until then is here."""


def with_key(key: str) -> tuple[tuple[str, bytes], ...]:
    return (("Authorization", b"Bearer " + key.encode()),) if key else ()


def send(server: RunningServer, request: RawRequest, within: float = ANSWER_WITHIN) -> RawExchange:
    """Ends within so many seconds, also when the server drips, and after so many bytes, when it pours."""
    ends = time.monotonic() + within
    received, problem, late = b"", "", False
    try:
        with _connected(server, within) as connection:
            connection.settimeout(within)
            connection.sendall(request.encode(server))
            if request.ends_early:
                connection.shutdown(socket.SHUT_WR)
            while not _whole(received):
                if len(received) >= MOST_RAW_BYTES:
                    late = not _says_its_length(received)
                    problem = f"it did not end within {MOST_RAW_BYTES // 1024} kB" if late else ""
                    break
                connection.settimeout(max(0.01, ends - time.monotonic()))
                if not (piece := connection.recv(65_536)):
                    break
                received += piece
                if time.monotonic() >= ends:
                    raise TimeoutError
    except TimeoutError:
        problem, late = f"it did not end within {within:.1f} s", True
    except (OSError, ValueError) as error:  # a server may close on what it does not like before all is written
        problem = f"the connection broke off: {error}"
    return _parsed(server, request, received, problem or "the connection was closed without an answer", late)


def _connected(server: RunningServer, timeout: float) -> socket.socket:
    address = urlsplit(server.base_url)
    host, tls = address.hostname or "", address.scheme == "https"
    connection = socket.create_connection((host, address.port or (443 if tls else 80)), timeout)
    if not tls:
        return connection
    try:
        return ssl.create_default_context().wrap_socket(connection, server_hostname=host)
    except BaseException:
        connection.close()
        raise


def _whole(received: bytes) -> bool:
    """Whether the answer is complete, where it says how long it is; else the connection's end tells."""
    head, found, body = received.partition(b"\r\n\r\n")
    if not found:
        return False
    fields = _fields(head)
    if "chunked" in fields.get("transfer-encoding", ""):
        return body.endswith(b"0\r\n\r\n")
    length = fields.get("content-length", "")
    return length.isdecimal() and len(body) >= int(length)


def _says_its_length(received: bytes) -> bool:
    head, found, _ = received.partition(b"\r\n\r\n")
    return bool(found) and _fields(head).get("content-length", "").isdecimal()


def _parsed(server: RunningServer, request: RawRequest, received: bytes, problem: str, late: bool) -> RawExchange:
    head, _, body = received.partition(b"\r\n\r\n")
    words = head.split(b" ", 2)
    valid = len(words) > 1 and words[0].startswith(b"HTTP/") and words[1][:3].isdigit()
    return RawExchange(
        method=request.method[:40],
        path=request.target.partition("?")[0][:80],  # not the query: it may carry the key
        status=int(words[1][:3]) if valid else 0,
        problem="" if valid else problem,
        headers=_fields(head),
        body=body,
        secret=server.api_key,
        sent=request.sent,
        head=head,
        late=late,
    )


def _fields(head: bytes) -> dict[str, str]:
    lines = head.decode("latin-1").split("\r\n")[1:]
    return {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
