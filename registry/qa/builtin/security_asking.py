"""How the security checks ask: with an end to their patience, and byte by byte where a client library would tidy up."""

from __future__ import annotations

import socket
import ssl
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from registry.qa.base import Finding, Outcome, RunningServer, Severity
from registry.qa.builtin.exchange import Exchange, Visitor

CATEGORY = "security"
WRONG_KEY = "deploypipe-wrong-key-7f3a9c"
NO_SUCH_ROUTE = "/deploypipe-no-such-route"
NO_SUCH_MODEL = "deploypipe-no-such-model"
ANSWER_WITHIN = 3.0
MOST_SILENCES = 3  # then the rest is not tried: a server that hangs is not waited for thirty times
MOST_RAW_BYTES = 256 * 1024
TOO_MANY = 429
BLAMED = (Severity.CRITICAL, Severity.HIGH)


class GivenUp(Exception):
    """The server left so many requests without an answer that no more are sent."""


@dataclass
class Asking:
    """Asks on behalf of one check and keeps all exchanges. Raises GivenUp instead of asking a server that hangs."""

    visitor: Visitor
    exchanges: list[Exchange] = field(default_factory=list)
    silences: int = 0
    patience: float = 3.0
    """Seconds that this check may wait altogether because of answers 429: they say nothing about what was asked."""

    @property
    def key(self) -> str:
        return self.visitor.server.api_key

    def ask(self, method: str, path: str, **how: Any) -> Exchange:
        self._still_willing()
        found = self.visitor.ask(method, path, timeout=ANSWER_WITHIN, **how)
        if found.status == TOO_MANY and self._waited(found):
            found = self.visitor.ask(method, path, timeout=ANSWER_WITHIN, **how)
        self._keep(found, silent=not found.status)
        return found

    def raw(self, request: RawRequest, *, silence_counts: bool = True) -> RawExchange:
        self._still_willing()
        found = send(self.visitor.server, request)
        if found.status == TOO_MANY and self._waited(found):
            found = send(self.visitor.server, request)
        # A connection that is closed is a refusal, too; only one that is left hanging is waited for.
        self._keep(found, silent=found.late and silence_counts)
        return found

    def _keep(self, found: Exchange, *, silent: bool) -> None:
        self.exchanges.append(found)
        self.silences += silent

    def _still_willing(self) -> None:
        if self.silences >= MOST_SILENCES:
            raise GivenUp

    def _waited(self, refused: Exchange) -> bool:
        seconds = min(retry_after(refused) or 1.0, 3.0)
        if seconds > self.patience:
            return False
        self.patience -= seconds
        time.sleep(seconds)
        return True


def retry_after(answer: Exchange) -> float | None:
    """Seconds. None where the server does not say, or says a date."""
    try:
        return max(0.0, float(answer.headers.get("retry-after", "")))
    except ValueError:
        return None


# -- byte by byte ------------------------------------------------------------------------------------------------------


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
    timeout: float = ANSWER_WITHIN
    sent: str = ""

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
    """It did not end in time; what came until then is here."""


def with_key(key: str) -> tuple[tuple[str, bytes], ...]:
    return (("Authorization", b"Bearer " + key.encode()),) if key else ()


def send(server: RunningServer, request: RawRequest) -> RawExchange:
    """Ends within the request's time-out, also when the server drips."""
    ends = time.monotonic() + request.timeout
    received, problem, late = b"", "", False
    try:
        with _connected(server, request.timeout) as connection:
            connection.settimeout(request.timeout)
            connection.sendall(request.encode(server))
            if request.ends_early:
                connection.shutdown(socket.SHUT_WR)
            while not _whole(received) and len(received) < MOST_RAW_BYTES:
                connection.settimeout(max(0.01, ends - time.monotonic()))
                if not (piece := connection.recv(65_536)):
                    break
                received += piece
                if time.monotonic() >= ends:
                    raise TimeoutError
    except TimeoutError:
        problem, late = f"it did not end within {request.timeout:g} s", True
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


# -- what was found ----------------------------------------------------------------------------------------------------


def judged(findings: list[Finding], passed: str, evidence: Mapping[str, Any]) -> Outcome:
    """Failed where a finding is grave enough. What is not is shown all the same."""
    ordered = sorted(findings, key=lambda found: list(Severity).index(found.severity))
    grave = [found for found in ordered if found.severity in BLAMED]
    more: dict[str, Any] = {"value": float(len(grave)), "limit": 0.0, "unit": "findings"}
    more |= {"evidence": evidence, "findings": tuple(ordered)}
    if grave:
        return Outcome.failed(sentences(grave), **more)
    return Outcome.passed(f"{passed} To be looked at: {sentences(ordered)}" if ordered else passed, **more)


def sentences(findings: list[Finding], most: int = 4) -> str:
    said = " ".join(found.sentence for found in findings[:most])
    return said if len(findings) <= most else f"{said} And {len(findings) - most} more."


def shown(exchanges: list[Exchange], most: int = 120) -> list[dict[str, Any]]:
    return [exchange.evidence() for exchange in exchanges[:most]]
