"""The security checks on servers that are slow, that limit whoever asks, and that have no end: what is sound passes,
what is open fails, and of the rest it is said how far it was looked at.
"""

from __future__ import annotations

import json
import socket
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import pytest

from registry.engines import EngineClient
from registry.qa.base import Context, RunningServer
from registry.qa.builtin import security, security_exposure, security_hostile, security_splitting
from registry.qa.builtin.exchange import Visitor
from registry.qa.builtin.security_asking import Asking, GivenUp, Request, asking_within
from registry.qa.builtin.security_pace import LONGEST_PATIENCE, Pace, longest_for, pace_of
from registry.qa.builtin.security_raw import ANSWER_WITHIN, RawRequest, send
from registry.qa.catalogue import all_checks
from registry.qa.policy import Policy
from registry.qa.runner import Result, examine
from registry.scoring import Status
from tests.registry.faulty_engine import KEY, MODEL, Engine, running_engine
from tests.registry.test_qa_security import one, reply, served
from tests.registry.worst_servers import endless_body, serving

LATE = 2.8
ANSWERED = b'{"choices": [{"text": " a"}]}'
MODELS = b'{"data": [{"id": "words"}]}'


@dataclass
class Slow:
    """Sound but for what it is told; a delay before each answer, or only before a generation."""

    each: float = 0.0
    generation: float = 0.0
    open_path: str = ""
    silent_path: str = ""
    most_at_once: int = 1000
    limit: Callable[[], str] = field(default=lambda: "")
    """The Retry-After of this request's 429; empty where it is let through."""
    over: threading.Event = field(default_factory=threading.Event)
    met: Counter[str] = field(default_factory=Counter)
    busy: int = 0

    def __call__(self, connection: socket.socket, request: bytes) -> None:
        self.busy += 1
        crowded = self.busy > self.most_at_once
        try:
            self.answer(connection, request, crowded)
        finally:
            self.busy -= 1

    def answer(self, connection: socket.socket, request: bytes, crowded: bool) -> None:
        request = _whole(connection, request)
        method, target = request.split(b" ")[:2] if request.count(b" ") > 1 else (b"", b"")
        path = target.partition(b"?")[0].decode("latin-1")
        self.met[path] += 1
        if path == self.silent_path or crowded:
            connection.recv(1)  # until the other one has enough of it
            return None
        self.over.wait(self.each)
        if wait := self.limit():
            return reply(connection, "429 Too Many Requests", headers=f"Retry-After: {wait}\r\n")
        if path == "/health":
            return reply(connection, "200 OK")
        if path == self.open_path:
            self.over.wait(self.generation)
            return reply(connection, "200 OK", ANSWERED)
        if path not in ("/v1/models", "/v1/completions", "/v1/chat/completions"):
            return reply(connection, "404 Not Found", b'{"error": "no such route"}')
        if f"Bearer {KEY}".encode() not in request:
            return reply(connection, "401 Unauthorized")
        if path == "/v1/models":
            return reply(connection, "200 OK", MODELS)
        head, _, content = request.partition(b"\r\n\r\n")
        if b"text/plain" in head:
            return reply(connection, "415 Unsupported Media Type", b'{"error": "not so"}')
        return self.complete(connection, method, content)

    def complete(self, connection: socket.socket, method: bytes, content: bytes) -> None:
        if method != b"POST" or not _sound(content):
            return reply(connection, "400 Bad Request", b'{"error": "not so"}')
        self.over.wait(self.generation)
        return reply(connection, "200 OK", ANSWERED)


def _whole(connection: socket.socket, request: bytes) -> bytes:
    """With its body, as far as its length is one that a server takes."""
    head, _, body = request.partition(b"\r\n\r\n")
    while b"\r\n\r\n" not in request and (piece := connection.recv(65_536)):
        request += piece
        head, _, body = request.partition(b"\r\n\r\n")
    lengths = [line[15:].strip() for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:")]
    wanted = int(lengths[0]) if lengths and lengths[0].isdigit() and len(lengths[0]) < 8 else 0
    while len(body) < wanted and (piece := connection.recv(65_536)):
        body += piece
    return head + b"\r\n\r\n" + body


def _sound(content: bytes) -> bool:
    try:
        body = json.loads(content)
    except (ValueError, RecursionError):
        return False
    return (
        isinstance(body, dict)
        and body.get("model") == MODEL
        and isinstance(body.get("prompt", body.get("messages")), str | list)
        and isinstance(body.get("temperature"), int | float)
        and isinstance(body.get("max_tokens"), int | float)
        and isinstance(body.get("stop", ""), str | list)
        and len(content) < 100_000
    )


@contextmanager
def slow(behaviour: Slow) -> Iterator[RunningServer]:
    with served(behaviour) as server:
        try:
            yield server
        finally:
            behaviour.over.set()


def context(server: RunningServer) -> Context:
    return Context(None, None, "vllm", Policy(), server)


def checked(behaviour: Slow, *names: str) -> dict[str, Result]:
    """The named checks as the runner runs them."""
    wanted = {f"security.{name}" for name in names}
    with slow(behaviour) as server:
        return {r.name: r for r in examine(context(server), [c for c in all_checks() if c.name in wanted])}


TOGETHER = ("key_required", "keys_not_echoed", "open_routes", "request_id")


# -- slow and sound ----------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_sound_server_that_takes_long_for_every_answer_passes() -> None:
    results = checked(Slow(each=LATE), *TOGETHER, "input_validation")
    unmet = {r.name: r.outcome.reason for r in results.values() if r.outcome.status is not Status.PASSED}
    assert unmet == {}
    assert "of the 38 tried, and none of 36 ways round" in results["security.key_required"].outcome.reason
    assert "All 44 hostile requests were survived" in results["security.input_validation"].outcome.reason


@pytest.mark.slow
def test_open_server_that_takes_long_for_every_answer_does_not_pass() -> None:
    result = checked(Slow(each=LATE, open_path="/cohere/v2/chat"), "key_required")["security.key_required"]
    assert result.outcome.status is Status.FAILED
    assert "answers requests without a key: POST /cohere/v2/chat" in result.outcome.reason


def test_server_of_slow_generations_and_quick_refusals_passes(engine: Engine) -> None:
    engine.first_delay = ANSWER_WITHIN + 0.3  # longer than an unknown server is waited for
    wanted = {f"security.{name}" for name in TOGETHER}
    results = examine(context(engine.running), [c for c in all_checks() if c.name in wanted])
    assert {r.name: r.outcome.reason for r in results if r.outcome.status is not Status.PASSED} == {}
    assert results[0].outcome.reason.endswith("it does not refuse the right key.")  # not that it was silent


def test_open_route_of_slow_generations_is_found(engine: Engine) -> None:
    engine.be("open invocations")
    engine.first_delay = LATE
    outcome = one("security.key_required", context(engine.running)).outcome
    assert outcome.status is Status.FAILED
    assert "without a key: POST /invocations" in outcome.reason


def test_slow_server_that_breaks_is_found_with_the_requests_after_which_it_did(engine: Engine) -> None:
    engine.be("bad UTF-8 kills")
    engine.first_delay = 0.6
    outcome = one("security.input_validation", context(engine.running)).outcome
    assert outcome.status is Status.FAILED
    assert "after one of " in outcome.reason
    assert "bytes that are no UTF-8" in outcome.reason
    assert "GET /health answered 503" in outcome.reason


def test_silence_on_a_route_is_neither_refused_nor_let_in() -> None:
    result = checked(Slow(silent_path="/generate"), "key_required")["security.key_required"]
    assert result.outcome.status is Status.NOT_CHECKED
    assert result.stops
    assert "Of 38 routes 37 were tried without a key and 1 left" in result.outcome.reason
    assert "The server left POST /generate without an answer" in result.outcome.reason


def test_server_that_hangs_when_asked_several_things_at_once_is_asked_one_by_one() -> None:
    outcome = checked(Slow(most_at_once=2), "open_routes")["security.open_routes"].outcome
    assert outcome.status is Status.PASSED, outcome.reason


@pytest.fixture
def engine() -> Iterator[Engine]:
    with running_engine() as running:
        yield running


# -- how long an answer is waited for ----------------------------------------------------------------------------------


def test_patience_follows_what_the_server_has_shown_between_its_limits() -> None:
    assert (longest_for(0), longest_for(0.01)) == (ANSWER_WITHIN, ANSWER_WITHIN)
    assert longest_for(LATE) == pytest.approx(4 * LATE)
    assert longest_for(60) == LONGEST_PATIENCE


def test_pace_is_measured_once_for_all_checks_by_a_sound_generation(engine: Engine) -> None:
    engine.first_delay = 0.6
    whole = context(engine.running)
    with EngineClient(engine.base_url, None) as client:
        visitor = Visitor(engine.running, client)
        found = pace_of(whole, visitor)
        assert pace_of(whole, visitor) is found
    assert found.seconds >= 0.6
    assert found.slow
    assert not found.silent


def test_bad_input_has_the_time_that_the_checks_before_have_left() -> None:
    pace = Pace()
    assert pace.left(75) == 75
    pace.spend(20)
    pace.spend(50)
    assert (pace.spent, pace.left(75)) == (50, 40)


def test_time_that_is_up_leaves_the_rest_untried_and_is_no_silence() -> None:
    behaviour = Slow(silent_path="/late")
    with slow(behaviour) as server, EngineClient(server.base_url, None) as client:
        asking = Asking(Visitor(server, client), seconds=0.5)
        found = asking.every([Request("GET", "/health"), *[Request("GET", "/late") for _ in range(9)]], 4)
        assert asking.exchanges == [found[0]]
        assert found[1:] == [None] * 9
        assert asking.silences == 0
        assert "the 0.5 s of this check were used up" in asking.over
        with pytest.raises(GivenUp, match="used up"):
            asking.ask("GET", "/health")
        alone = Asking(Visitor(server, client), seconds=0.5)
        with pytest.raises(GivenUp, match=r"the 0\.5 s of this check were used up"):
            alone.ask("GET", "/late")
        assert (alone.exchanges, alone.silences) == ([], 0)


def test_answers_come_in_the_order_of_their_requests() -> None:
    with slow(Slow()) as server, EngineClient(server.base_url, None) as client:
        asking = Asking(Visitor(server, client))
        paths = [f"/path{number}" for number in range(40)]
        found = asking.every([Request("GET", path) for path in paths], 12)
        assert [e.path for e in found if e] == paths == [e.path for e in asking.exchanges]


def test_finding_stands_also_where_time_was_up_before_the_rest_was_tried() -> None:
    taken = iter(range(1000))
    closing = Slow(open_path="/v1/models", limit=lambda: "" if next(taken) < 8 else "600")
    outcome = checked(closing, "key_required")["security.key_required"].outcome
    assert outcome.status is Status.FAILED
    assert "lists its models without a key: GET /v1/models" in outcome.reason


def test_checks_end_before_the_runner_gives_them_up() -> None:
    for name, seconds in (
        ("security.key_required", security.SECONDS),
        ("security.keys_not_echoed", security.ECHO_SECONDS),
        ("security.open_routes", security_exposure.SECONDS),
        ("security.request_id", security_splitting.SECONDS),
        ("security.input_validation", security_hostile.SECONDS),
    ):
        assert next(c for c in all_checks() if c.name == name).timeout >= seconds + 5, name


# -- limits ------------------------------------------------------------------------------------------------------------


def test_limit_is_waited_for_and_no_429_is_taken_for_a_refusal() -> None:
    numbers = iter(range(10_000))
    behaviour = Slow(limit=lambda: "0.01" if next(numbers) % 5 == 4 else "")
    results = checked(behaviour, *TOGETHER)
    assert {r.name: r.outcome.reason for r in results.values() if r.outcome.status is not Status.PASSED} == {}
    assert "refuses all 3 routes" in results["security.key_required"].outcome.reason


@pytest.mark.parametrize("name", [*TOGETHER, "input_validation"])
def test_limit_that_outlasts_the_check_leaves_the_rest_unchecked_and_says_so(name: str) -> None:
    numbers = iter(range(10_000))
    behaviour = Slow(limit=lambda: "" if next(numbers) < 12 else "600")
    outcome = checked(behaviour, name)[f"security.{name}"].outcome
    assert outcome.status is Status.NOT_CHECKED, outcome.reason
    assert "the server limits requests (429 to " in outcome.reason
    assert "wants a wait of 600 s" in outcome.reason
    assert "were tried" in outcome.reason
    assert " left" in outcome.reason
    assert "Let the machine that examines ask more often." in outcome.reason


# -- without end -------------------------------------------------------------------------------------------------------


def test_answer_without_end_is_a_silence_however_fast_it_pours() -> None:
    over = threading.Event()

    def pour(connection: socket.socket, request: bytes) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
        while not over.is_set():
            connection.sendall(b"x" * 65_536)

    with served(pour) as server:
        found = send(server, RawRequest("GET", "/"))
        over.set()
    assert (found.status, found.late) == (200, True)


def test_long_answer_that_says_how_long_it_is_is_no_silence() -> None:
    with served(lambda connection, request: reply(connection, "200 OK", b"x" * 1_000_000)) as server:
        found = send(server, RawRequest("GET", "/"))
    assert (found.status, found.late, found.problem) == (200, False, "")


def test_server_that_streams_for_ever_is_given_up_after_three_requests() -> None:
    with serving(endless_body) as url:
        server = RunningServer(url, MODEL, KEY)
        with EngineClient(url, None) as client:
            asking = Asking(Visitor(server, client))
            found = asking.every([RawRequest("GET", "/v1/models") for _ in range(20)], 4)
    assert sum(one_of_them is not None for one_of_them in found) == 3
    assert "left 3 requests without an answer or in the middle of one" in asking.over


def test_check_that_nobody_waits_for_asks_nothing_more() -> None:
    behaviour = Slow()
    with slow(behaviour) as server, EngineClient(server.base_url, None) as client:
        whole = context(server)
        visitor = Visitor(server, client, whole.given_up)
        with asking_within(whole, visitor, 30) as asking:
            whole.given_up.set()
            before = sum(behaviour.met.values())
            with pytest.raises(TimeoutError, match="Nobody waits"):
                asking.every([RawRequest("GET", "/v1/models")] * 5, 4)
    assert sum(behaviour.met.values()) == before
