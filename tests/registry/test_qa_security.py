"""The security checks beyond the table of faults: what they pass, what they say, and how they end."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import Any

import pytest

from registry.engines import EngineClient
from registry.qa.base import Context, Outcome, RunningServer, Severity
from registry.qa.builtin.exchange import Visitor
from registry.qa.builtin.security_asking import Asking, GivenUp
from registry.qa.builtin.security_raw import RawRequest, send
from registry.qa.builtin.security_routes import (
    DEVELOPMENT,
    INFERENCE,
    Way,
    changes_something,
    foreign_references,
    routes_of,
)
from registry.qa.catalogue import all_checks
from registry.qa.policy import Policy
from registry.qa.runner import Result, examine
from registry.scoring import Status
from tests.registry.faults_security import FAULTS
from tests.registry.faulty_doors import AT_ONCE
from tests.registry.faulty_engine import KEY, MODEL, Engine

Ask = Callable[..., Result]
BODY = {"model": MODEL, "prompt": "The", "max_tokens": 1, "temperature": 0}


@pytest.fixture
def ask(engine: Engine) -> Ask:
    """Runs one check on the engine with the faults that are named."""

    def run(name: str, faults: str = "", policy: Policy | None = None, **parameters: Any) -> Result:
        engine.be(faults)
        named = f"security.{name}"
        chosen = replace(policy or Policy(), parameters={named: parameters})
        return one(named, Context(None, None, engine.speaks.engine, chosen, engine.running))

    return run


def one(name: str, context: Context) -> Result:
    return examine(context, [c for c in all_checks() if c.name == name])[0]


def alone(name: str, server: RunningServer, whole: Context | None = None) -> Outcome:
    """Of one check without the runner, which asks for a generation before all others: a hanging server has it wait."""
    check = next(c for c in all_checks() if c.name == name)
    return check().run(whole or Context(None, None, "vllm", Policy(), server))


@contextmanager
def served(answer: Callable[[socket.socket, bytes], None]) -> Iterator[RunningServer]:
    """A server that does with each connection, and the first piece that came over it, what it is told."""
    with socket.create_server(("127.0.0.1", 0), backlog=1024) as listener:
        kept: list[socket.socket] = []

        def attend(connection: socket.socket) -> None:
            with suppress(OSError):  # the check has gone
                answer(connection, connection.recv(65_536))

        def serve() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                kept.append(connection)
                threading.Thread(target=attend, args=(connection,), daemon=True).start()

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        try:
            yield RunningServer(f"http://127.0.0.1:{listener.getsockname()[1]}", MODEL, KEY)
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join(20)
            for connection in kept:
                connection.close()


def reply(connection: socket.socket, status: str, body: bytes = b"{}", headers: str = "") -> None:
    head = f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\nConnection: close\r\n{headers}\r\n"
    connection.sendall(head.encode() + body)
    connection.close()


# -- all of them -------------------------------------------------------------------------------------------------------


def test_what_may_bring_the_server_down_comes_last_and_the_rate_limit_last_of_all() -> None:
    last = [c.name for c in all_checks() if c.last]
    assert last[-3:] == ["security.input_validation", "security.fuzz", "security.rate_limit"]


@pytest.mark.parametrize("faults", ["", "openapi", "aphrodite-0.9", "aphrodite-0.24", "ids come back", "chat only"])
def test_sound_engine_passes_in_every_dialect(engine: Engine, faults: str) -> None:
    engine.be(faults)
    context = Context(None, None, engine.speaks.engine, Policy(), engine.running)
    results = examine(context, [c for c in all_checks() if c.category == "security"])
    unmet = {r.name: r.outcome.reason for r in results if r.outcome.status is not Status.PASSED}
    assert set(unmet) <= ({"security.fuzz"} if "openapi" not in faults else set()), unmet
    assert engine.met == {}


def test_each_fault_is_named_with_a_finding_and_what_to_do(ask: Ask) -> None:
    for fault, name, words in [fault for fault in FAULTS if "openapi" not in fault[0] and "for good" not in fault[0]]:
        result = ask(name.removeprefix("security."), fault)
        assert words in result.outcome.reason, fault
        assert result.outcome.findings, fault
        assert all(found.sentence and found.action.endswith(".") for found in result.outcome.findings)
        assert KEY not in json.dumps([result.outcome.evidence, result.outcome.reason])


def test_server_that_hangs_at_everything_is_not_waited_for_at_each_request() -> None:
    asked: list[bytes] = []
    with served(lambda connection, request: asked.append(request)) as server:
        context = Context(None, None, "vllm", Policy(), server)
        names = [c.name for c in all_checks() if c.category == "security"]
        with ThreadPoolExecutor(len(names)) as pool:
            outcomes = pool.map(lambda name: alone(name, server, context), names)
            results = dict(zip(names, outcomes, strict=True))
    # Three silences each at most, and one sound request before, which counts for all; what is last asks one thing.
    assert len(asked) <= 1 + 2 + 2 + 2 + 2 + 1 + 1 + 1
    assert {name for name, outcome in results.items() if outcome.status is Status.PASSED} == {"security.transport"}
    assert {outcome.status for outcome in results.values()} == {Status.PASSED, Status.NOT_CHECKED}
    reason = results["security.key_required"].reason
    assert "Of 38 routes 0 were tried without a key and 38 left" in reason
    assert "left GET /v1/models, POST /v1/completions without an answer" in reason
    assert "did not end within 3.0 s" in results["security.input_validation"].reason


def test_server_that_drips_is_given_up_in_the_middle_of_its_answer() -> None:
    over = threading.Event()

    def drip(connection: socket.socket, request: bytes) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n")
        while not over.wait(0.05):
            connection.sendall(b"x")

    with served(drip) as server:
        outcome = alone("security.request_id", server)
        over.set()
    assert outcome.status is Status.NOT_CHECKED
    assert "left 3 requests without an answer or in the middle of one" in outcome.reason


def test_server_that_closes_every_connection_passes_nothing_but_the_transport() -> None:
    with served(lambda connection, request: connection.close()) as server:
        context = Context(None, None, "vllm", Policy(), server)
        results = examine(context, [c for c in all_checks() if c.category == "security"])
    assert {r.name for r in results if r.outcome.status is Status.PASSED} == {"security.transport"}
    assert not [r.outcome.reason for r in results if r.outcome.status is Status.ERROR]


def test_asking_gives_up_after_three_silences_and_waits_for_a_limit_to_run_off() -> None:
    answers = iter(["429 Too Many Requests", "200 OK"])

    def limited(connection: socket.socket, request: bytes) -> None:
        reply(connection, next(answers, "200 OK"), headers="Retry-After: 0\r\n")

    with served(limited) as server, EngineClient(server.base_url, None) as client:
        asking = Asking(Visitor(server, client))
        assert asking.ask("GET", "/v1/models").status == 200
        assert [e.status for e in asking.exchanges] == [200]
    with EngineClient(server.base_url, None) as client:  # nobody is there any more
        asking = Asking(Visitor(server, client))
        for _ in range(3):
            asking.ask("GET", "/v1/models")
        with pytest.raises(GivenUp):
            asking.ask("GET", "/v1/models")


# -- keys --------------------------------------------------------------------------------------------------------------


def test_key_in_the_query_string_is_a_finding_that_does_not_block(ask: Ask) -> None:
    result = ask("key_required", "query key passes")
    assert result.outcome.status is Status.PASSED
    assert "takes the key from the query string, where it ends up in logs" in result.outcome.reason
    assert [found.severity for found in result.outcome.findings] == [Severity.MEDIUM]
    assert KEY not in json.dumps(result.outcome.evidence)


def test_route_that_looks_at_the_request_before_the_key_is_a_low_finding() -> None:
    def answer(connection: socket.socket, request: bytes) -> None:
        allowed = f"authorization: bearer {KEY}".encode() in request.lower()
        if request.startswith(b"POST /pooling"):
            reply(connection, "400 Bad Request")
        elif request.startswith((b"GET /v1/models", b"POST /v1/")):
            reply(connection, "200 OK" if allowed else "401 Unauthorized")
        else:
            reply(connection, "404 Not Found")

    with served(answer) as server:
        result = one("security.key_required", Context(None, None, "vllm", Policy(), server))
    assert result.outcome.status is Status.PASSED, result.outcome.reason
    assert "answers 400 and not 401 without a key to POST /pooling" in result.outcome.reason
    assert [found.severity for found in result.outcome.findings] == [Severity.LOW]


def test_every_inference_route_of_the_reference_is_tried(ask: Ask) -> None:
    result = ask("key_required", "openapi")
    assert "of the 39 tried" in result.outcome.reason
    assert len(INFERENCE) == 35  # and /v1/models, two completions and the document's /v1/words
    assert "POST /v1/words" in result.outcome.evidence["routes"]
    assert "36 ways round" in result.outcome.reason


@pytest.mark.parametrize("path", ["/invocations", "/score", "/v1/embeddings", "/cohere/v2/chat", "/v1/responses"])
def test_any_known_route_that_answers_without_a_key_is_found(path: str) -> None:
    def answer(connection: socket.socket, request: bytes) -> None:
        opened = request.startswith(f"POST {path} ".encode())
        known = opened or request.startswith((b"GET /v1/models ", b"POST /v1/completions "))
        if not known:
            return reply(connection, "404 Not Found")
        allowed = opened or f"Bearer {KEY}".encode() in request
        return reply(connection, "200 OK" if allowed else "401 Unauthorized", b'{"choices": []}')

    with served(answer) as server:
        result = one("security.key_required", Context(None, None, "vllm", Policy(), server))
    assert result.outcome.status is Status.FAILED
    assert f"answers requests without a key: POST {path}" in result.outcome.reason
    assert result.outcome.findings[0].severity is Severity.CRITICAL


def test_policy_without_authentication_has_no_key_check(ask: Ask) -> None:
    result = ask("key_required", "open", Policy(require_authentication=False))
    assert result.outcome.status is Status.NOT_APPLICABLE


def test_part_of_the_key_does_not_come_into_the_evidence(ask: Ask) -> None:
    result = ask("keys_not_echoed", "key in metrics+half a key")
    assert KEY[: len(KEY) // 2] not in json.dumps(result.outcome.evidence)
    assert {found.severity for found in result.outcome.findings} == {Severity.CRITICAL}


# -- what stands open --------------------------------------------------------------------------------------------------


def test_documents_and_figures_that_need_no_key_fail_only_where_the_policy_says_so(ask: Ask) -> None:
    lenient = ask("open_routes", "docs+openapi")
    assert lenient.outcome.status is Status.PASSED
    assert {found.severity for found in lenient.outcome.findings} == {Severity.LOW}
    assert "anybody can read /docs, /openapi.json" in lenient.outcome.reason
    documents = ask("open_routes", "docs+openapi", documents_closed=True)
    assert documents.outcome.status is Status.FAILED
    assert documents.outcome.reason == "Without a key anybody can read /docs, /openapi.json."
    figures = ask("open_routes", "docs+openapi", figures_closed=True)
    assert figures.outcome.reason == "Without a key anybody can read /metrics, /version."


@pytest.mark.parametrize("fault", ["sleep open", "adapters open", "profiler open"])
def test_open_development_route_is_found_without_setting_it_going(ask: Ask, engine: Engine, fault: str) -> None:
    result = ask("open_routes", fault)
    assert result.outcome.status is Status.FAILED
    ask("key_required", f"openapi+{fault}")
    ask("fuzz", f"openapi+{fault}", examples=4)
    assert engine.met == {}


def test_server_that_answers_every_address_alike_has_no_open_route() -> None:
    with served(lambda connection, request: reply(connection, "200 OK", b"<html>Welcome</html>")) as server:
        result = one("security.open_routes", Context(None, None, "vllm", Policy(), server))
    assert result.outcome.status is Status.PASSED
    assert result.outcome.findings == ()


def test_development_routes_are_all_held_back_from_trying_out() -> None:
    acting = [exposed.path for exposed in DEVELOPMENT if exposed.way is not Way.READ]
    assert [path for path in acting if not changes_something(path)] == []
    assert [path for path, _ in INFERENCE if changes_something(path)] == []


# -- the document of routes --------------------------------------------------------------------------------------------


def document(schema: dict[str, Any], path: str = "/made/up", **more: Any) -> dict[str, Any]:
    content = {"application/json": {"schema": schema}}
    return {"paths": {path: {"post": {"requestBody": {"content": content}}}}, **more}


def test_least_body_has_what_is_demanded_and_names_the_model() -> None:
    message = {
        "type": "object",
        "required": ["role", "content"],
        "properties": {"role": {"type": "string"}, "content": {"anyOf": [{"type": "null"}, {"type": "string"}]}},
    }
    schema = {
        "type": "object",
        "required": ["messages", "mode", "level", "on"],
        "properties": {
            "messages": {"type": "array", "items": {"$ref": "#/components/schemas/Message"}},
            "mode": {"enum": ["fast", "slow"]},
            "level": {"type": ["null", "integer"], "minimum": 3},
            "on": {"type": "boolean"},
            "model": {"type": "string"},
            "max_tokens": {"type": "integer", "default": 4096},
            "temperature": {"type": "number"},
        },
    }
    found = routes_of(document(schema, components={"schemas": {"Message": message}}), MODEL)
    assert [route.path for route in found] == ["/made/up"]
    said = found[0].body.pop("messages")
    assert [one_message["role"] for one_message in said] == ["user"]
    assert isinstance(said[0]["content"], str)
    assert found[0].body == {"mode": "fast", "level": 3, "on": False, "model": MODEL, "max_tokens": 4}


def test_question_is_put_also_where_the_document_calls_it_optional() -> None:
    schema = {"properties": {"prompt": {"type": "string"}, "suffix": {"type": "string"}}}
    assert list(routes_of(document(schema), MODEL)[0].body) == ["prompt"]


@pytest.mark.parametrize(
    "path", ["/sleep", "/v1/load_lora_adapter", "/scale_elastic_ep", "/v1/responses/{id}/cancel", "/update_weights"]
)
def test_route_that_changes_something_is_never_taken_from_the_document(path: str) -> None:
    assert routes_of(document({"type": "object"}, path), MODEL) == []


def test_parameters_in_an_address_are_filled_in() -> None:
    assert routes_of(document({}, "/models/{name}/predict"), MODEL)[0].path == "/models/deploypipe/predict"


@pytest.mark.parametrize(
    "schema",
    [
        {"$ref": "#/components/schemas/Endless"},
        {"type": "array", "minItems": 10**12, "items": {"$ref": "#/components/schemas/Endless"}},
        {"type": "object", "required": "all", "properties": 7},
        {"anyOf": 3},
        {"type": "number", "minimum": float("inf")},
    ],
)
def test_document_without_end_or_sense_is_read_all_the_same(schema: dict[str, Any]) -> None:
    many = [f"field{number}" for number in range(50)]
    endless = {
        "type": "object",
        "required": many,
        "properties": {name: {"$ref": "#/components/schemas/Endless"} for name in many},
    }
    whole = document({"type": "object", "required": ["a"], "properties": {"a": schema}})
    whole["components"] = {"schemas": {"Endless": endless}}
    assert len(routes_of(whole, MODEL)) == 1


def test_document_that_is_none_has_no_routes() -> None:
    assert routes_of({"paths": ["a"]}, MODEL) == []
    assert routes_of({}, MODEL) == []


def test_references_to_other_places_are_seen() -> None:
    assert foreign_references({"a": [{"$ref": "#/b"}, {"$ref": "http://x/y"}, {"$ref": "other.json"}]}) == [
        "http://x/y",
        "other.json",
    ]


# -- byte by byte ------------------------------------------------------------------------------------------------------


def test_raw_request_is_written_as_it_is_and_its_answer_read(engine: Engine) -> None:
    request = RawRequest("POST", "/v1/../v1/completions", (("X-A", b"b\tc"),), b"{}", sent="dots")
    assert request.encode(engine.running).startswith(b"POST /v1/../v1/completions HTTP/1.1\r\nHost: 127.0.0.1:")
    assert request.encode(engine.running).endswith(b"\r\nContent-Length: 2\r\n\r\n{}")
    found = send(engine.running, RawRequest("GET", "/version?x=1"))
    assert (found.status, found.path, found.json()["version"]) == (200, "/version", engine.speaks.version)
    assert found.head.startswith(b"HTTP/1.1 200")
    assert not found.late


@pytest.mark.parametrize(
    ("answer", "status", "problem"),
    [
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n\r\n", 200, ""),
        (b"HTTP/1.1 404 No\r\n\r\nwords", 404, ""),
        (b"nonsense", 0, "the connection was closed without an answer"),
        (b"", 0, "the connection was closed without an answer"),
    ],
)
def test_raw_answer_is_read_in_every_form(answer: bytes, status: int, problem: str) -> None:
    def write(connection: socket.socket, request: bytes) -> None:
        connection.sendall(answer)
        connection.close()

    with served(write) as server:
        found = send(server, RawRequest("GET", "/"))
    assert (found.status, found.problem) == (status, problem)


def test_server_that_is_gone_is_said_to_be_so() -> None:
    found = send(RunningServer("http://127.0.0.1:1", MODEL, KEY), RawRequest("GET", "/"))
    assert found.status == 0
    assert "Connection refused" in found.problem


# -- ids, bad input, limits --------------------------------------------------------------------------------------------


def test_long_id_that_comes_back_whole_is_a_low_finding(ask: Ask) -> None:
    result = ask("request_id", "ids come back")
    assert result.outcome.status is Status.PASSED
    assert "An id of 1,025 characters comes back whole" in result.outcome.reason
    assert "an id comes back" in result.outcome.reason
    assert "An id of 65 characters" in ask("request_id", "ids come back", longest_id=64).outcome.reason


def test_bare_line_feed_that_splits_the_answer_is_found() -> None:
    def reflect(connection: socket.socket, request: bytes) -> None:
        lines = [line for line in request.split(b"\r\n") if line.lower().startswith(b"x-request-id:")]
        given = lines[0] if lines else b"X-Request-Id: none"
        connection.sendall(b"HTTP/1.1 200 OK\r\n" + given + b"\r\nContent-Length: 2\r\n\r\n{}")
        connection.close()

    with served(reflect) as server:
        result = one("security.request_id", Context(None, None, "vllm", Policy(), server))
    assert result.outcome.status is Status.FAILED
    assert "An id with a bare LF, the right key lets a header of the client's stand in the answer" in (
        result.outcome.reason
    )
    assert "%0d%0a" not in result.outcome.reason  # it was reflected as it was, which is no line's end


def test_engine_that_dies_of_a_request_behind_a_healthy_route_is_found_by_a_generation(ask: Ask) -> None:
    result = ask("input_validation", "nothing after a zero")
    assert result.outcome.status is Status.FAILED
    assert "a sound request answered 500" in result.outcome.reason
    assert "a zero character: answered 500" in result.outcome.reason


def test_bad_input_check_says_how_much_it_sent_and_how_often_the_server_was_well_between(ask: Ask) -> None:
    reason = ask("input_validation").outcome.reason
    assert "All 44 hostile requests were survived, and the 14 that no server may accept" in reason
    assert "a sound request was answered 6 times" in reason


def test_rate_limit_says_after_how_many_requests_it_came(ask: Ask) -> None:
    result = ask("rate_limit")
    assert result.outcome.status is Status.PASSED
    statuses = result.outcome.evidence["statuses"]
    before = sum(many for status, many in statuses.items() if status != "429")
    assert AT_ONCE - 10 <= before <= AT_ONCE
    assert "429 with retry-after, x-ratelimit-limit came after" in result.outcome.reason
    assert "later it answered again" in result.outcome.reason


def test_limit_without_headers_is_a_low_finding(ask: Ask) -> None:
    result = ask("rate_limit", "429 without headers")
    assert result.outcome.status is Status.PASSED
    assert "without Retry-After or X-RateLimit headers" in result.outcome.reason
    assert [found.severity for found in result.outcome.findings] == [Severity.LOW]


def test_missing_limit_fails_only_where_the_policy_demands_one(ask: Ask) -> None:
    lax = Policy(require_rate_limiting=False)
    result = ask("rate_limit", "no limit", lax, requests=40)
    assert result.outcome.status is Status.NOT_APPLICABLE
    assert "None of 40 requests on 8 connections" in result.outcome.reason
    assert ask("rate_limit", "no limit", requests=40).outcome.status is Status.FAILED
    assert ask("rate_limit", "", lax).outcome.status is Status.PASSED


def test_burst_stays_within_its_number_of_requests(ask: Ask) -> None:
    result = ask("rate_limit", "no limit", requests=25)
    assert sum(result.outcome.evidence["statuses"].values()) == 25
