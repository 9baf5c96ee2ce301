"""The process of the fuzz check: reads its task from stdin, and writes what happens as lines of JSON, each at once.

In a process of its own, because it is killed when its time is up, and schemathesis keeps state of its own.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator, Mapping, Set
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis.errors import Unsatisfiable
from schemathesis import APIOperation, Case, GenerationMode
from schemathesis.core.result import Ok

from deploypipe.core.errors import EngineError
from registry.engines import EngineClient
from registry.qa.builtin.security_routes import KNOWN_PATHS, changes_something, routes_of

_Case = Case[Any]
_Operation = APIOperation[Any, Any, Any, Any]
METHODS = ("get", "post")
MOST_SILENCES = 3
MOST_CRASHES = 5
BITE = 3
"""Requests to one operation and of one kind, before the next has its turn: time may be up before all is tried."""
TURNS = 8
MANY_FIELDS = 10
LONGEST_ARRAY = 3
UNTOUCHED = ("properties", "allOf")
"""The first is gone through by itself; parts of the second would contradict each other if each were closed."""
ALWAYS = ("model", "prompt", "messages", "input", "text", "max_tokens")
MOST_TOKENS = 16
_COUNTS = ("max_tokens", "max_completion_tokens", "max_output_tokens", "min_tokens", "n", "best_of", "max_length")
_NOT_BROKEN = (501,)
"""What is not implemented may say so."""


class TimeIsUp(Exception):
    """Says why."""


def say(event: str, **more: Any) -> None:
    sys.stdout.write(json.dumps({"event": event, **more}) + "\n")
    sys.stdout.flush()


@dataclass
class Session:
    client: EngineClient
    model: str
    key: str
    prefix: str
    seconds: float
    answer_within: float
    naming: Set[str]
    """Paths whose requests name a model."""
    ends: float = 0.0
    """Counted from the first request: what it takes to make that up is not the server's time."""
    silences: int = 0
    crashes: int = 0
    over: str = ""
    """Why no more is sent: hypothesis calls a test that has raised once more."""

    def send(self, operation: str, case: _Case) -> None:
        self.ends = self.ends or time.monotonic() + self.seconds
        if time.monotonic() >= self.ends:
            self._end("when its time was up")
        if self.over:
            raise TimeIsUp(self.over)
        try:
            request = _prepared(case, self.prefix)
        except (ValueError, UnicodeError, requests.RequestException):
            return  # what no client can put on the connection
        headers = {name: str(value) for name, value in request.headers.items() if name.lower() != "authorization"}
        headers = {**headers, "Connection": "close", **({"Authorization": f"Bearer {self.key}"} if self.key else {})}
        address = urlsplit(str(request.url))
        path = address.path + (f"?{address.query}" if address.query else "")
        content = request.body.encode("utf-8", "surrogatepass") if isinstance(request.body, str) else request.body
        if not isinstance(content, bytes | None):
            return
        shown = self._shown(str(request.method), path, content or b"")
        try:
            answer = self.client.raw(
                str(request.method), path, headers=headers, content=content, timeout=self.answer_within
            )
        except EngineError as error:
            self._no_answer(operation, shown, error)
            return
        say("answer", operation=operation, status=answer.status_code)
        if answer.status_code == 429:
            self._rest(answer.headers.get("retry-after", ""))
        elif answer.status_code >= 500 and answer.status_code not in _NOT_BROKEN:
            body = self._hidden(answer.content[:1000].decode(errors="replace"))[:300]
            self._crash(operation, f"answered {answer.status_code}", shown, body)

    def _no_answer(self, operation: str, shown: str, error: EngineError) -> None:
        if error.permanent:
            return  # it was not sent
        say("answer", operation=operation, status=0)
        if "did not end within" in error.message:
            # A generation may take long; whether the server is still there is looked at afterwards.
            say("silence", operation=operation)
            self.silences += 1
            if self.silences >= MOST_SILENCES:
                self._end(f"after {MOST_SILENCES} requests without an answer")
            return
        self._crash(operation, "dropped the connection", shown, self._hidden(error.message))
        if "takes no connection" in error.message:
            self._end("because the server takes no connections any more")

    def _crash(self, operation: str, said: str, shown: str, body: str) -> None:
        say("crash", operation=operation, said=said, request=shown, body=body)
        self.crashes += 1
        if self.crashes >= MOST_CRASHES:
            self._end(f"after {MOST_CRASHES} crashes")

    def _rest(self, retry_after: str) -> None:
        wanted = float(retry_after) if retry_after.isdecimal() else 0.2
        left = self.ends - time.monotonic()
        if wanted > left:
            self._end(f"because the server refuses more for {wanted:g} s")
        time.sleep(max(0.05, wanted))

    def _end(self, why: str) -> None:
        self.over = self.over or why
        raise TimeIsUp(self.over)

    def _shown(self, method: str, path: str, content: bytes) -> str:
        return self._hidden(f"{method} {path[:200]} {content[:1000].decode(errors='replace')}")[:300]

    def _hidden(self, text: str) -> str:
        return text.replace(self.key, "•••") if self.key else text


def _prepared(case: _Case, prefix: str) -> requests.PreparedRequest:
    # The address is only for the form: who is asked is decided by the client, and never by the document.
    wanted = case.as_transport_kwargs(base_url=f"http://localhost{prefix}")
    names = ("method", "url", "headers", "files", "data", "params", "cookies", "json")
    return requests.Request(**{name: wanted[name] for name in names if name in wanted}).prepare()


def _aimed(case: _Case, model: str, named: bool) -> None:
    """Let it name the served model, else it would be refused before it comes to the engine; and ask for little, else
    the engine would be busy for minutes."""
    if not isinstance(case.body, dict):
        return
    if named and isinstance(case.body.get("model", ""), str):
        case.body["model"] = model
    for name in _COUNTS:
        given_count = case.body.get(name)
        if isinstance(given_count, int) and given_count > MOST_TOKENS:
            case.body[name] = MOST_TOKENS


def operations(document: Mapping[str, Any]) -> Iterator[_Operation]:
    """Those that may be tried out, the engine's main ones first: time may be up before the last has its turn."""
    schema = schemathesis.openapi.from_dict(dict(document), config=schemathesis.Config())
    found = [one.ok() for one in schema.get_all_operations() if isinstance(one, Ok)]
    for operation in sorted(found, key=lambda one: one.path not in KNOWN_PATHS):
        if operation.method.lower() in METHODS and not changes_something(operation.path):
            yield operation


def tell_what_is_left_out(document: Mapping[str, Any]) -> None:
    schema = schemathesis.openapi.from_dict(dict(document), config=schemathesis.Config())
    wanted = {operation.label for operation in operations(document)}
    for found in schema.get_all_operations():
        if not isinstance(found, Ok):
            say("problem", operation="an operation", problem=str(found.err())[:300])
        elif found.ok().label not in wanted:
            say("left out", operation=found.ok().label)


def thinned(value: Any, turn: int, turns: int) -> Any:
    """The same document with small bodies: short arrays, no fields but those that are named, and of what is optional in
    a large object one part in `turns`. An engine's request has a hundred fields, and a body with all of them, and more
    of its own, takes longer to make up than all else together.
    """
    if isinstance(value, list):
        return [thinned(item, turn, turns) for item in value]
    if not isinstance(value, dict):
        return value
    small = {name: item if name in UNTOUCHED else thinned(item, turn, turns) for name, item in value.items()}
    if isinstance(fields := value.get("properties"), dict):
        part = _part(fields, value.get("required"), turn, turns)
        small["properties"] = {name: thinned(field, turn, turns) for name, field in part.items()}
        if value.get("additionalProperties", True) is True:
            small["additionalProperties"] = False
    elif value.get("type") == "array" and isinstance(least := value.get("minItems", 0), int):
        small.setdefault("maxItems", max(LONGEST_ARRAY, least))
    return small


def _part(fields: dict[str, Any], required: Any, turn: int, turns: int) -> dict[str, Any]:
    if len(fields) <= MANY_FIELDS:
        return fields
    always = {*(required if isinstance(required, list) else ()), *ALWAYS}
    return {
        name: field for place, (name, field) in enumerate(fields.items()) if place % turns == turn or name in always
    }


def bite(session: Session, operation: _Operation, mode: GenerationMode, number: int, examples: int) -> None:
    @seed(number)
    @settings(
        max_examples=examples,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=operation.as_strategy(generation_mode=mode))
    def ask(case: _Case) -> None:
        _aimed(case, session.model, operation.path in session.naming)
        session.send(operation.label, case)

    ask()


def main() -> None:
    task = json.load(sys.stdin)
    with EngineClient(task["base_url"], None) as client:
        model, document = task["model"], task["document"]
        session = Session(
            client,
            model,
            task["api_key"],
            prefix=urlsplit(task["base_url"]).path.rstrip("/"),
            seconds=task["seconds"],
            answer_within=task["answer_within"],
            naming={route.path for route in routes_of(document, model) if "model" in route.body},
        )
        tell_what_is_left_out(document)
        try:
            rounds(session, document, task["examples"])
        except TimeIsUp as why:
            say("ended", why=str(why))


def rounds(session: Session, document: Mapping[str, Any], examples: int) -> None:
    turns, failing = -(-examples // BITE), set[str]()
    for turn in range(turns):
        for operation in operations(thinned(document, turn % TURNS, min(turns, TURNS))):
            for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE):
                if operation.label in failing:
                    break
                try:
                    bite(session, operation, mode, turn, min(BITE, examples - turn * BITE))
                except TimeIsUp:
                    raise
                except Unsatisfiable:
                    continue  # nothing of it can be made wrong
                except Exception as error:
                    failing.add(operation.label)
                    say("problem", operation=operation.label, problem=f"{type(error).__name__}: {error}"[:300])


if __name__ == "__main__":
    main()
