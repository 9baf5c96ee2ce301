"""schemathesis against a server's own document, in a process of its own."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from registry.qa.base import Context, RunningServer
from registry.qa.builtin import security_openapi
from registry.qa.builtin.security_openapi_process import thinned
from registry.qa.catalogue import all_checks
from registry.qa.policy import Policy
from registry.qa.probe.run import INHERITED
from registry.qa.runner import Result, examine
from registry.scoring import Status
from tests.registry.faulty_engine import KEY, MODEL, Engine
from tests.registry.test_qa_security import reply, served

Fuzz = Callable[..., Result]
NAME = "security.fuzz"
KINDS = ("number", "integer", "string", "boolean", "array")
EMPTY = {"openapi": "3.1.0", "info": {"title": "a", "version": "1"}, "paths": {}}
TASK = {
    "base_url": "http://127.0.0.1:1",
    "model": MODEL,
    "api_key": KEY,
    "document": EMPTY,
    "seconds": 5,
    "answer_within": 3,
    "examples": 1,
}


@pytest.fixture
def fuzz(engine: Engine) -> Fuzz:
    def run(faults: str, **parameters: Any) -> Result:
        engine.be(faults)
        return fuzzed(engine.running, **parameters)

    return run


def fuzzed(server: RunningServer, **parameters: Any) -> Result:
    context = Context(None, None, "vllm", Policy(parameters={NAME: parameters}), server)
    return examine(context, [c for c in all_checks() if c.name == NAME])[0]


def test_server_without_a_document_is_not_fuzzed(fuzz: Fuzz) -> None:
    outcome = fuzz("").outcome
    assert outcome.status is Status.NOT_APPLICABLE
    assert outcome.reason == "The server has no document of its routes: /openapi.json answered 404."


def test_sound_server_survives_requests_to_all_that_its_document_shows(fuzz: Fuzz, engine: Engine) -> None:
    outcome = fuzz("openapi").outcome
    assert outcome.status is Status.PASSED, outcome.reason
    assert outcome.evidence["operations"] == 3
    assert outcome.evidence["requests"] >= 30
    assert outcome.evidence["left_out"] == ["POST /sleep"]
    assert outcome.evidence["problems"] == []
    # Sound requests come to the engine, broken ones are refused: neither kind is missing.
    assert outcome.evidence["statuses"]["200"] >= 5
    assert outcome.evidence["statuses"]["400"] >= 5
    assert engine.met["slept"] == 0


def test_crash_is_found_with_the_request_that_made_it_and_without_the_key(fuzz: Fuzz) -> None:
    result = fuzz("openapi+empty text breaks")
    assert result.outcome.status is Status.FAILED
    assert 'POST /v1/words answered 500 to POST /v1/words {"text": ""}' in result.outcome.reason
    crash = result.outcome.evidence["crashes"][0]
    assert crash["request"] == 'POST /v1/words {"text": ""}'
    assert "division by zero for •••" in crash["body"]
    assert KEY not in json.dumps(result.outcome.evidence)
    assert not result.stops


def test_server_that_is_ill_afterwards_is_found(fuzz: Fuzz) -> None:
    outcome = fuzz("openapi+wrong text kills").outcome
    assert outcome.status is Status.FAILED
    assert "afterwards GET /health answered 503" in outcome.reason


def test_server_that_drops_the_connection_is_found() -> None:
    schema = {"type": "object", "required": ["text"], "properties": {"text": {"type": "string"}}}
    content = {"application/json": {"schema": schema}}
    operation = {"requestBody": {"required": True, "content": content}, "responses": {"200": {"description": "Yes."}}}
    shown = {**EMPTY, "paths": {"/words": {"post": operation}}}

    def answer(connection: Any, request: bytes) -> None:
        if request.startswith(b"POST /words"):
            connection.close()
        elif request.startswith(b"GET /openapi.json"):
            reply(connection, "200 OK", json.dumps(shown).encode())
        else:
            reply(connection, "200 OK")

    with served(answer) as server:
        outcome = fuzzed(server).outcome
    assert outcome.status is Status.FAILED
    assert "POST /words dropped the connection to POST /words" in outcome.reason
    assert "It ended after 5 crashes" in outcome.reason


def test_document_that_refers_elsewhere_is_not_followed(fuzz: Fuzz) -> None:
    outcome = fuzz("document elsewhere").outcome
    assert outcome.status is Status.ERROR
    assert "refers to documents elsewhere, which are not fetched: http://127.0.0.1:1/all.json" in outcome.reason


def test_server_that_was_broken_before_is_not_blamed_here(fuzz: Fuzz) -> None:
    outcome = fuzz("openapi+stuck").outcome
    assert outcome.status is Status.NOT_CHECKED
    assert "answered 500 to a sound request before any other" in outcome.reason


def test_time_is_up_in_the_middle_and_what_was_seen_is_kept(fuzz: Fuzz) -> None:
    outcome = fuzz("openapi", seconds=1.0, examples=1000).outcome
    assert outcome.status is Status.PASSED
    assert outcome.reason.endswith("It ended when its time was up.")
    assert outcome.evidence["requests"] > 0


def test_process_that_does_not_end_is_killed() -> None:
    lines, ended = security_openapi._spawn(json.dumps(TASK), 0.01)
    assert lines == []
    assert ended == "with its process, which was still busy after 0.01 s"


def test_process_that_fails_says_why() -> None:
    lines, ended = security_openapi._spawn("no JSON", 30)
    assert lines == []
    assert ended.startswith("with an error of its own: json.decoder.JSONDecodeError")


def test_process_does_not_see_what_the_product_has_in_its_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONHASHSEED", "an interpreter that saw this would not start")
    lines, ended = security_openapi._spawn(json.dumps(TASK), 30)
    assert (lines, ended) == ([], "")
    assert not [name for name in INHERITED if "KEY" in name or "DEPLOYPIPE" in name]


def test_large_body_is_tried_in_parts_and_small_ones_whole() -> None:
    many: dict[str, Any] = {f"field{number}": {"type": "integer"} for number in range(30)}
    fields = {"prompt": {"type": "array", "minItems": 5}, **many}
    large = {"type": "object", "required": ["field0"], "additionalProperties": True, "properties": fields}
    parts = [thinned({"schema": large}, turn, 3)["schema"] for turn in range(3)]
    assert set().union(*(part["properties"] for part in parts)) == fields.keys()
    assert all(len(part["properties"]) <= 13 for part in parts)
    assert all({"field0", "prompt"} <= part["properties"].keys() for part in parts)
    assert {part["additionalProperties"] for part in parts} == {False}
    assert parts[0]["properties"]["prompt"] == {"type": "array", "minItems": 5, "maxItems": 5}
    small = {"type": "object", "properties": {"properties": {"type": "string"}}, "additionalProperties": {}}
    assert thinned(small, 0, 3) == small
    assert thinned({"allOf": [large]}, 0, 3) == {"allOf": [large]}


def test_hundreds_of_requests_are_made_from_a_document_as_large_as_an_engine_s(engine: Engine) -> None:
    engine.be("openapi")
    optional = {f"field{n}": {"anyOf": [{"type": kind}, {"type": "null"}]} for n, kind in enumerate(KINDS * 10)}
    schema = {"type": "object", "required": ["prompt"], "properties": {"prompt": {"type": "string"}, **optional}}
    operation = {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}
    operation["responses"] = {"200": {"description": "Yes."}}
    paths = {f"/v1/route{number}": {"post": operation} for number in range(20)}
    task = {**TASK, "base_url": engine.base_url, "document": {**EMPTY, "paths": paths}, "seconds": 30, "examples": 6}
    lines, ended = security_openapi._spawn(json.dumps(task), 45)
    found = security_openapi._read(lines, ended)
    assert (found.ended, found.operations, found.problems) == ("", 20, [])
    assert found.requests >= 200
