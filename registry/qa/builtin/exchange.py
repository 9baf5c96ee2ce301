"""One request and what came of it, as the checks look at it and as it is kept for evidence."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from deploypipe.core.errors import EngineError
from registry.engines import EngineClient
from registry.qa.base import Check, Context, Outcome, RunningServer

COMPLETIONS = "/v1/completions"
CHAT = "/v1/chat/completions"
BODY_START = 300
PROMPT = "The statement is used to"
REFUSED = (401, 403)
ABSENT = (404, 405)
TOO_MANY = 429
TRIES = 3
"""Of a request that is answered 429."""
LONGEST_WAIT = 2.0
LEAST_PATIENCE, MOST_PATIENCE = 5.0, 20.0
PATIENCE = 4.0
"""One answer may take so many times as long as such a one was seen to take: others may be asked for beside it."""


def patience(seconds: float, least: float = LEAST_PATIENCE, most: float = MOST_PATIENCE) -> float:
    """For one answer of a server that has been seen to take `seconds` for one."""
    return min(max(least, PATIENCE * seconds), most)


@dataclass(frozen=True)
class Exchange:
    method: str
    path: str
    status: int
    """0 where no answer came."""
    problem: str = ""
    """Why no answer came, as a sentence."""
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""
    secret: str = field(default="", repr=False)
    sent: str = ""

    @property
    def route(self) -> str:
        return f"{self.method} {self.path}"

    @property
    def said(self) -> str:
        """How it ended, to stand after "the server …"."""
        return f"answered {self.status}" if self.status else f"gave no answer ({self.problem.removesuffix('.')})"

    @property
    def retry_after(self) -> float:
        """Seconds that a 429 asks for, within reason (RFC 9110, section 10.2.3)."""
        said = self.headers.get("retry-after", "")
        return min(float(said), LONGEST_WAIT) if said.isdecimal() else 0.5

    @property
    def start(self) -> str:
        text = self.body[: 4 * BODY_START + len(self.secret)].decode(errors="replace")
        if self.secret:  # before the cut, which could leave half a key
            text = text.replace(self.secret, "•••")
        return text[:BODY_START]

    def json(self) -> dict[str, Any]:
        """Empty where the body is no JSON object."""
        try:
            value = json.loads(self.body)
        except (ValueError, RecursionError):
            return {}
        return value if isinstance(value, dict) else {}

    def evidence(self) -> dict[str, Any]:
        shown: dict[str, Any] = {"request": self.route, "sent": self.sent, "status": self.status}
        shown["problem" if self.problem else "body"] = self.problem or self.start
        return shown


@dataclass(frozen=True)
class Visitor:
    """Asks one server. The key goes along only where a call says so."""

    server: RunningServer
    client: EngineClient
    given_up: threading.Event = field(default_factory=threading.Event, repr=False, compare=False)

    def ask(
        self,
        method: str,
        path: str,
        *,
        key: str | None = None,
        body: Mapping[str, Any] | None = None,
        content: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        sent: str = "",
        timeout: float = LEAST_PATIENCE,
    ) -> Exchange:
        """`sent` says for the evidence what was special about the request."""
        if self.given_up.is_set():
            raise TimeoutError("Nobody waits for this check any more.")
        every = dict(headers or {})
        if key:
            every["Authorization"] = f"Bearer {key}"
        secret = self.server.api_key
        try:
            answer = self.client.raw(method, path, headers=every, json=body, content=content, timeout=timeout)
        except EngineError as error:
            return Exchange(method, path, 0, problem=error.message, secret=secret, sent=sent)
        return Exchange(method, path, answer.status_code, "", answer.headers, answer.content, secret, sent)

    def complete(
        self, path: str, prompt: str = PROMPT, *, sent: str = "", timeout: float = LEAST_PATIENCE, **more: Any
    ) -> Exchange:
        """A completion with the right key. Where the server says that it is too much just now, it waits a little."""
        body = self.body(path, prompt, **more)
        for left in reversed(range(TRIES)):
            found = self.ask("POST", path, key=self.server.api_key, body=body, sent=sent, timeout=timeout)
            if found.status != TOO_MANY or not left:
                break
            time.sleep(found.retry_after)
        return found

    def body(self, path: str, prompt: str = PROMPT, **more: Any) -> dict[str, Any]:
        question: dict[str, Any] = {"prompt": prompt}
        if "/chat/" in path or path == "/invocations":
            question = {"messages": [{"role": "user", "content": prompt}]}
        return {"model": self.server.model, "max_tokens": 4, "temperature": 0, **question, **more}

    def completions_path(self) -> str:
        """The chat's where the server has no plain completions."""
        if self.complete(COMPLETIONS, max_tokens=1).status in ABSENT:
            return CHAT if self.complete(CHAT, max_tokens=1).status not in ABSENT else COMPLETIONS
        return COMPLETIONS


def server_of(context: Context) -> RunningServer:
    """The server that the runner promised: a check that needs one is not run without."""
    if context.server is None:
        raise RuntimeError("this check needs a server and was run without one")
    return context.server


@contextmanager
def visit(context: Context) -> Iterator[Visitor]:
    server = server_of(context)
    with EngineClient(server.base_url, None) as client:  # no key of its own: each request says which one it carries
        yield Visitor(server, client, context.given_up)


class VisitingCheck(Check):
    """A check that asks the running server something. The subclass says what, in `ask`."""

    needs_server = True
    alone = False

    def run(self, context: Context) -> Outcome:
        if reason := self.off(context):
            return Outcome.not_applicable(reason)
        with visit(context) as visitor:
            return self.ask(context, visitor)

    def off(self, context: Context) -> str:
        """Why the policy does not ask for this check, as a sentence; empty where it does."""
        return ""

    def ask(self, context: Context, visitor: Visitor) -> Outcome:
        raise NotImplementedError


def events(body: bytes) -> list[str]:
    """The data of a whole stream's server-sent events (WHATWG HTML, section 9.2.6)."""
    found: list[str] = []
    for block in body.decode(errors="replace").replace("\r\n", "\n").split("\n\n"):
        lines = [line[5:].removeprefix(" ") for line in block.split("\n") if line.startswith("data:")]
        if lines:
            found.append("\n".join(lines))
    return found


def listed(items: list[str], most: int = 5) -> str:
    """ "a, b and 3 more" """
    shown = ", ".join(items[:most])
    return shown if len(items) <= most else f"{shown} and {len(items) - most} more"
