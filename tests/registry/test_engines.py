"""Engines are tried against real servers on the loopback, each of which answers as one route table says."""

from __future__ import annotations

import json
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from deploypipe.core.errors import EngineError
from registry.engines import ENGINES, PROMPT, EngineClient, Health, Layer, check_health, launch_command

KEY = "sk-never-show-me"

Route = Callable[["Handler"], None]


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    routes: dict[str, Route]
    over: threading.Event
    """Set when the test has ended: whoever hangs may go home."""

    def do_GET(self) -> None:
        self.body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        with suppress(OSError):
            self.routes.get(self.path, status(404, {"error": {"message": "no such route"}}))(self)

    do_POST = do_GET

    def answer(self, code: int, content: bytes, kind: str = "application/json") -> None:
        self.send_response(code)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *arguments: object) -> None:
        pass


def status(code: int, body: Any = None) -> Route:
    content = b"" if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
    return lambda handler: handler.answer(code, content)


def stream(*events: Any, done: bool = True, newline: str = "\n") -> Route:
    lines = [f"data: {event if isinstance(event, str) else json.dumps(event)}" for event in events]
    lines += ["data: [DONE]"] if done else []
    content = "".join(f"{line}{newline}{newline}" for line in lines).encode()

    def answer(handler: Handler) -> None:
        handler.answer(200, content, "text/event-stream")
        handler.close_connection = True

    return answer


def hang(handler: Handler) -> None:
    handler.over.wait(10)


def drip(piece: bytes, start: bytes = b"") -> Route:
    """Send a little often enough that no single read takes long."""

    def answer(handler: Handler) -> None:
        handler.wfile.write(start)
        while not handler.over.wait(0.02):
            handler.wfile.write(piece)

    return answer


def token(text: str, finish: str | None = None) -> dict[str, Any]:
    return {"choices": [{"index": 0, "text": text, "finish_reason": finish}]}


def only_with_key(route: Route) -> Route:
    def answer(handler: Handler) -> None:
        allowed = handler.headers.get("Authorization") == f"Bearer {KEY}"
        (route if allowed else status(401, {"error": "Unauthorized"}))(handler)

    return answer


HEALTHY: dict[str, Route] = {
    "/health": status(200),
    "/version": status(200, {"version": "0.24.1"}),
    "/v1/models": status(200, {"object": "list", "data": [{"id": "textgen"}, {"id": "other"}]}),
    "/v1/completions": status(200, {**token("the end", "length"), "usage": {"completion_tokens": 2}}),
}

Serve = Callable[..., str]


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Start an engine that answers as the routes say; its address."""
    over = threading.Event()
    servers: list[tuple[ThreadingHTTPServer, threading.Thread]] = []

    def start(routes: dict[str, Route]) -> str:
        handler = type("Routes", (Handler,), {"routes": {**HEALTHY, **routes}, "over": over})
        server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        servers.append((server, thread))
        return f"127.0.0.1:{server.server_port}"

    yield start
    over.set()
    for server, thread in servers:
        server.shutdown()
        server.server_close()
        thread.join()


def completions(serve: Serve, route: Route) -> EngineClient:
    return EngineClient(f"http://{serve({'/v1/completions': route})}", KEY, timeout=2)


def failure(call: Callable[[], object]) -> EngineError:
    with pytest.raises(EngineError) as failed:
        call()
    assert KEY not in str(failed.value)
    return failed.value


# -- starting ----------------------------------------------------------------------------------------------------------


def test_command_names_artifact_and_model_and_leaves_the_place_to_the_target() -> None:
    command = launch_command(
        ENGINES["textgen"], artifact=Path("/models/{model}"), model="tiny", arguments=["--seed", "7"]
    )
    assert command[:3] == (sys.executable, "-m", "examples.textgen.server")
    assert " ".join(command[3:]) == (
        "--model /models/{model} --host {host} --port {port} --served-model-name tiny --seed 7"
    )


@pytest.mark.parametrize(("name", "start"), [("aphrodite", ("aphrodite", "run")), ("vllm", ("vllm", "serve"))])
def test_engines_of_the_family_are_started_alike(name: str, start: tuple[str, ...]) -> None:
    command = launch_command(ENGINES[name], artifact=Path("/m"), model="tiny", arguments=())
    assert command == (*start, "/m", "--host", "{host}", "--port", "{port}", "--served-model-name", "tiny")
    assert ENGINES[name].metrics_prefix == f"{name}:"


@pytest.mark.parametrize(
    ("files", "served"),
    [
        (["words.Q4_1.gguf", "README.md"], "words.Q4_1.gguf"),
        (["q4/words-00001-of-00003.gguf", "q4/words-00002-of-00003.gguf", "q4/words-00003-of-00003.gguf"],
         "q4/words-00001-of-00003.gguf"),
        (["words.gguf", "mmproj-words.gguf"], "words.gguf"),
        (["words-10-of-10.gguf", "words-01-of-10.gguf"], "words-01-of-10.gguf"),
    ],
)  # fmt: skip
def test_llamacpp_is_started_with_the_one_model_file_of_the_folder(
    tmp_path: Path, files: list[str], served: str
) -> None:
    for file in files:
        (tmp_path / file).parent.mkdir(exist_ok=True)
        (tmp_path / file).write_bytes(b"")
    command = launch_command(ENGINES["llamacpp"], artifact=tmp_path, model="words", arguments=["--parallel", "4"])
    assert command[:3] == ("llama-server", "--model", str(tmp_path / served))
    assert " ".join(command[3:]) == "--alias words --host {host} --port {port} --metrics --parallel 4"


@pytest.mark.parametrize(
    ("files", "words"),
    [(["model.safetensors"], "has no such file"), (["a.gguf", "b.gguf"], "has a.gguf, b.gguf")],
)
def test_llamacpp_needs_exactly_one_model_file(tmp_path: Path, files: list[str], words: str) -> None:
    for file in files:
        (tmp_path / file).write_bytes(b"")
    refused = failure(lambda: launch_command(ENGINES["llamacpp"], artifact=tmp_path, model="words"))
    assert refused.permanent
    assert str(refused) == f"The engine serves one GGUF model, and {tmp_path} {words}."


# -- asking ------------------------------------------------------------------------------------------------------------


def test_healthy_engine_says_its_version_and_models(serve: Serve) -> None:
    with EngineClient(f"http://{serve({})}") as client:
        client.health()
        assert client.version() == "0.24.1"
        assert client.models() == ["textgen", "other"]


@pytest.mark.parametrize("route", [status(404), status(401, {"error": "Unauthorized"}), status(200, {})])
def test_engine_that_does_not_say_its_version_has_none(serve: Serve, route: Route) -> None:
    with EngineClient(f"http://{serve({'/version': route})}") as client:
        assert client.version() is None


def test_key_is_sent_by_questions_and_not_by_raw_requests(serve: Serve) -> None:
    address = serve({"/v1/models": only_with_key(HEALTHY["/v1/models"])})
    with EngineClient(f"http://{address}", KEY) as client:
        assert client.models()
        assert client.raw("GET", "/v1/models").status_code == 401
        assert client.raw("GET", "/v1/models", headers={"Authorization": f"Bearer {KEY}"}).status_code == 200
    with EngineClient(f"http://{address}", "wrong") as client:
        refused = failure(client.models)
    assert str(refused) == "/v1/models answered 401: Unauthorized."
    assert refused.permanent


@pytest.mark.parametrize(
    ("code", "body", "sentence", "permanent"),
    [
        (
            400,
            {"error": {"message": "max_tokens must be positive.", "code": 400}},
            "max_tokens must be positive.",
            True,
        ),
        (404, {"object": "error", "message": "no such model", "code": 404}, "no such model.", True),
        (422, {"detail": "wrong"}, "wrong.", True),
        (503, b"<h1>busy</h1>", "<h1>busy</h1>.", False),
        (429, {"error": "slow down"}, "slow down.", False),
        (500, {"error": f"your key {KEY} is odd"}, "your key ••• is odd.", False),
        (500, ("x" * 290 + KEY).encode(), "x" * 290 + "•••.", False),
    ],
)
@pytest.mark.parametrize("streamed", [False, True])
def test_refusal_is_told_in_the_words_of_the_engine(
    serve: Serve, streamed: bool, code: int, body: Any, sentence: str, permanent: bool
) -> None:
    with completions(serve, status(code, body)) as client:
        refused = failure(lambda: client.complete("textgen", "The", max_tokens=4, stream=streamed))
    assert str(refused) == f"/v1/completions answered {code}: {sentence}"
    assert refused.permanent is permanent


@pytest.mark.parametrize("body", [b"not json", [], {}, {"choices": []}, {"choices": [1]}, {"choices": [{}]}, 7])
def test_answer_that_is_no_completion_is_an_error(serve: Serve, body: Any) -> None:
    with completions(serve, status(200, body)) as client:
        assert "answered 200 with a body that is" in str(
            failure(lambda: client.complete("textgen", "The", max_tokens=4))
        )


@pytest.mark.parametrize("body", [b"[", [], {}, {"data": 7}, {"data": [7]}, {"data": [{}]}])
def test_answer_that_is_no_list_of_models_is_an_error(serve: Serve, body: Any) -> None:
    with EngineClient(f"http://{serve({'/v1/models': status(200, body)})}") as client:
        assert "/v1/models answered 200" in str(failure(client.models))


def test_completion_without_a_stream_is_one_event(serve: Serve) -> None:
    sent: list[dict[str, Any]] = []

    def answer(handler: Handler) -> None:
        sent.append(json.loads(handler.body))
        HEALTHY["/v1/completions"](handler)

    with completions(serve, answer) as client:
        found = client.complete("textgen", "The", max_tokens=4, temperature=0.5, seed=3)
    assert (found.text, found.events, found.finish_reason, found.completion_tokens) == ("the end", 1, "length", 2)
    assert 0 < found.first_event == found.total < 2
    assert sent == [
        {"model": "textgen", "prompt": "The", "max_tokens": 4, "temperature": 0.5, "seed": 3, "stream": False}
    ]


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_stream_counts_events_also_those_without_text(serve: Serve, newline: str) -> None:
    usage = {"choices": [], "usage": {"completion_tokens": 3}}
    events = (token("the"), token(""), token(" end", "stop"), usage)
    with completions(serve, stream(*events, newline=newline)) as client:
        found = client.complete("textgen", "The", max_tokens=4, stream=True)
    assert (found.text, found.events, found.finish_reason, found.completion_tokens) == ("the end", 3, "stop", 3)
    assert 0 < found.first_event <= found.total


def test_time_of_the_first_event_is_not_that_of_the_last(serve: Serve) -> None:
    def answer(handler: Handler) -> None:
        handler.wfile.write(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n: alive\n\n")
        handler.wfile.write(f"data: {json.dumps(token('the'))}\n\n".encode())
        handler.over.wait(0.2)
        handler.wfile.write(f"data: {json.dumps(token('end', 'stop'))}\n\ndata: [DONE]\n\n".encode())
        handler.close_connection = True

    with completions(serve, answer) as client:
        found = client.complete("textgen", "The", max_tokens=4, stream=True)
    assert found.events == 2
    assert found.first_event < 0.15 < 0.2 <= found.total


@pytest.mark.parametrize(
    "event", [{"error": {"message": "engine died"}}, {"object": "error", "message": "engine died"}]
)
def test_error_inside_a_stream_that_answered_200_is_an_error(serve: Serve, event: dict[str, Any]) -> None:
    with completions(serve, stream(token("the"), token("end"), event)) as client:
        failed = failure(lambda: client.complete("textgen", "The", max_tokens=4, stream=True))
    assert str(failed) == "/v1/completions answered 200 and failed in its stream after 2 events: engine died."
    assert not failed.permanent


@pytest.mark.parametrize(
    ("route", "sentence"),
    [
        (stream(token("the"), done=False), "its stream was cut off after 1 event."),
        (stream(), "a stream that has no event"),
        (stream("{broken"), "a body that is not JSON"),
        (stream("7"), "an event that is no object"),
        (stream({"choices": [7]}), "an event that is no completion"),
        (lambda handler: handler.connection.shutdown(socket.SHUT_RDWR), "/v1/completions broke off"),
        (lambda handler: handler.wfile.write(b"hello\r\n\r\n"), "/v1/completions broke off"),
    ],
)
def test_stream_that_is_not_whole_is_an_error(serve: Serve, route: Route, sentence: str) -> None:
    def answer(handler: Handler) -> None:
        route(handler)
        handler.close_connection = True

    with completions(serve, answer) as client:
        assert sentence in str(failure(lambda: client.complete("textgen", "The", max_tokens=4, stream=True)))


def test_stream_without_done_but_with_a_reason_to_finish_is_whole(serve: Serve) -> None:
    with completions(serve, stream(token("the", "stop"), done=False)) as client:
        assert client.complete("textgen", "The", max_tokens=4, stream=True).events == 1


# -- time --------------------------------------------------------------------------------------------------------------

CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
ENDLESS = {
    "no answer": hang,
    "status in drips": drip(b"H"),
    "headers in drips": drip(b"x-a: b\r\n", b"HTTP/1.1 200 OK\r\n"),
    "body in drips": drip(b"1\r\n \r\n", CHUNKED),
    "signs of life": drip(b"9\r\n: alive\n\n\r\n", CHUNKED),
    "tokens for ever": drip(b'20\r\ndata: {"choices":[{"text":"x"}]}\r\n2\r\n\n\n\r\n', CHUNKED),
}


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("how", ENDLESS)
def test_call_ends_at_its_deadline_however_the_server_drips(serve: Serve, how: str, streamed: bool) -> None:
    with completions(serve, ENDLESS[how]) as client:
        before = time.monotonic()
        failed = failure(lambda: client.complete("textgen", "The", max_tokens=4, stream=streamed, timeout=0.2))
        assert 0.15 < time.monotonic() - before < 1
    assert str(failed) == "/v1/completions did not end within 0.2 s."
    assert not failed.permanent


def test_client_is_usable_after_a_deadline(serve: Serve) -> None:
    with completions(serve, hang) as client:
        failure(lambda: client.complete("textgen", "The", max_tokens=4, timeout=0.05))
        assert client.models()


def test_answer_without_end_is_cut(serve: Serve) -> None:
    with completions(serve, drip(b"100000\r\n" + b" " * 0x100000 + b"\r\n", CHUNKED)) as client:
        assert "answered more than 16 MiB" in str(
            failure(lambda: client.complete("textgen", "The", max_tokens=4, timeout=10))
        )


def test_port_where_nobody_listens_is_a_sentence() -> None:
    with socket.create_server(("127.0.0.1", 0)) as gone:
        address = f"127.0.0.1:{gone.getsockname()[1]}"
    with EngineClient(f"http://{address}") as client:
        failed = failure(client.health)
    assert address in str(failed)
    assert "Connection refused" in str(failed)
    assert not failed.permanent


@pytest.mark.parametrize("address", ["", "engine:80", "ftp://engine", "http://", "http://engine:port"])
def test_what_is_no_address_is_refused_for_good(address: str) -> None:
    assert failure(lambda: EngineClient(address)).permanent


@pytest.mark.parametrize("key", [f"{KEY}\n", f"{KEY} {KEY}", "schlüssel"])
def test_key_that_no_header_can_carry_is_refused_without_showing_it(key: str) -> None:
    failed = failure(lambda: EngineClient("http://127.0.0.1:1", key))
    assert failed.permanent
    assert key not in str(failed)


def test_request_that_cannot_be_written_is_refused_without_showing_it(serve: Serve) -> None:
    with EngineClient(f"http://{serve({})}") as client:
        failed = failure(lambda: client.raw("GET", "/health", headers={"Authorization": f"Bearer {KEY}\r\nx"}))
    assert failed.permanent


@pytest.mark.parametrize(("streams", "said"), [(True, "close"), (False, "keep-alive")])
def test_connection_of_a_stream_is_not_used_again(serve: Serve, streams: bool, said: str) -> None:
    """llama.cpp closes it, though it has promised to keep it."""
    headers: list[str | None] = []

    def answer(handler: Handler) -> None:
        headers.append(handler.headers.get("Connection"))
        (stream(token("a", "stop")) if streams else HEALTHY["/v1/completions"])(handler)

    with completions(serve, answer) as client:
        for _ in range(2):
            client.complete("textgen", "x", max_tokens=1, stream=streams)
    assert headers == [said, said]


# -- metrics -----------------------------------------------------------------------------------------------------------


def metrics(prefix: str, gauge: str) -> bytes:
    return (
        f"# TYPE {prefix}prompt_tokens_total counter\n"
        f'{prefix}prompt_tokens_total{{model_name="textgen"}} 42\n'
        f"# TYPE {prefix}{gauge} gauge\n"
        f'{prefix}{gauge}{{model_name="textgen"}} 0.5\n'
        f"# TYPE {prefix}time_to_first_token_seconds histogram\n"
        f'{prefix}time_to_first_token_seconds_bucket{{le="0.1"}} 3\n'
        f'{prefix}time_to_first_token_seconds_bucket{{le="+Inf"}} 4\n'
        f"{prefix}time_to_first_token_seconds_count 4\n"
        f"{prefix}time_to_first_token_seconds_sum 0.7\n"
        "# TYPE http_requests_total counter\n"
        'http_requests_total{status="5xx"} 1\n'
    ).encode()


@pytest.mark.parametrize(
    ("prefix", "gauge"),
    [("aphrodite:", "kv_cache_usage_perc"), ("vllm:", "kv_cache_usage_perc"), ("aphrodite:", "gpu_cache_usage_perc")],
)
def test_metrics_have_one_name_whatever_the_engine(serve: Serve, prefix: str, gauge: str) -> None:
    with EngineClient(f"http://{serve({'/metrics': status(200, metrics(prefix, gauge))})}") as client:
        found = client.metrics()
    assert set(found) == {"prompt_tokens", "kv_cache_usage_perc", "time_to_first_token_seconds", "http_requests"}
    assert found["prompt_tokens"].samples[0].name == "prompt_tokens_total"
    assert found["prompt_tokens"].samples[0].value == 42
    assert found["kv_cache_usage_perc"].samples[0].name == "kv_cache_usage_perc"
    assert found["kv_cache_usage_perc"].samples[0].labels == {"model_name": "textgen"}
    assert found["time_to_first_token_seconds"].kind == "histogram"
    assert [sample.value for sample in found["time_to_first_token_seconds"].samples] == [3, 4, 4, 0.7]


def test_text_that_is_no_metrics_is_an_error(serve: Serve) -> None:
    with EngineClient(f"http://{serve({'/metrics': status(200, b'<html>{ hello')})}") as client:
        assert "/metrics answered 200" in str(failure(client.metrics))


def test_counters_of_llamacpp_have_the_names_of_the_others(serve: Serve) -> None:
    text = b"""# TYPE llamacpp:tokens_predicted_total counter
llamacpp:tokens_predicted_total 298
# TYPE llamacpp:requests_processing gauge
llamacpp:requests_processing 2
# TYPE llamacpp:requests_deferred gauge
llamacpp:requests_deferred 5
"""
    with EngineClient(f"http://{serve({'/metrics': status(200, text)})}") as client:
        found = client.metrics()
    samples = {sample.name: sample.value for family in found.values() for sample in family.samples}
    assert samples == {"generation_tokens_total": 298, "num_requests_running": 2, "num_requests_waiting": 5}


# -- before it counts --------------------------------------------------------------------------------------------------


def asked(into: list[tuple[str, Any]], code: int) -> Route:
    def answer(handler: Handler) -> None:
        into.append((handler.path, json.loads(handler.body)))
        status(code, {})(handler)

    return answer


def test_warming_up_asks_for_what_is_compiled_at_the_first_request(serve: Serve) -> None:
    seen: list[tuple[str, Any]] = []
    with EngineClient(f"http://{serve({'/v1/completions': only_with_key(asked(seen, 200))})}", KEY) as client:
        client.warm_up("textgen", seconds=5)
    [(path, body)] = seen
    assert path == "/v1/completions"
    assert (body["model"], body["logprobs"], body["temperature"], body["seed"]) == ("textgen", 1, 1, 1)


def test_warming_up_asks_the_chat_of_an_engine_that_has_no_other(serve: Serve) -> None:
    seen: list[tuple[str, Any]] = []
    routes = {"/v1/completions": status(404), "/v1/chat/completions": asked(seen, 200)}
    with EngineClient(f"http://{serve(routes)}") as client:
        client.warm_up("textgen", seconds=5)
    assert [body["messages"] for _, body in seen] == [[{"role": "user", "content": PROMPT}]]


@pytest.mark.parametrize("route", [hang, status(500), status(200, b"no JSON")])
def test_warming_up_leaves_faults_to_those_who_ask_next(serve: Serve, route: Route) -> None:
    seen: list[tuple[str, Any]] = []
    with EngineClient(
        f"http://{serve({'/v1/completions': route, '/v1/chat/completions': asked(seen, 500)})}"
    ) as client:
        client.warm_up("textgen", seconds=0.3)
        assert client.models() == ["textgen", "other"]


# -- health ------------------------------------------------------------------------------------------------------------


def health(address: str, **fields: Any) -> Health:
    return check_health(address, **{"model": "textgen", "api_key": KEY, "deadline": 0.3, **fields})


def test_engine_that_generates_is_healthy(serve: Serve) -> None:
    found = health(serve({path: only_with_key(route) for path, route in HEALTHY.items() if path.startswith("/v1")}))
    assert found.ok
    assert found.layer is Layer.GENERATION
    assert "One token was generated in 0." in found.message


@pytest.mark.parametrize(
    ("routes", "layer", "sentence"),
    [
        ({"/health": status(503)}, Layer.HEALTH, "takes connections but /health answered 503."),
        ({"/health": hang}, Layer.HEALTH, "takes connections but /health did not end within 0.3 s."),
        ({"/v1/models": status(500)}, Layer.MODELS, "/health answers 200 but /v1/models answered 500."),
        (
            {"/v1/models": status(200, {"data": [{"id": "other"}]})},
            Layer.MODELS,
            "/health answers 200 but other is served, not textgen.",
        ),
        (
            {"/v1/models": status(200, {"data": []})},
            Layer.MODELS,
            "/health answers 200 but no model is served, not textgen.",
        ),
        (
            {"/v1/completions": hang},
            Layer.GENERATION,
            "/health answers 200 but a one-token generation did not end within 0.3 s.",
        ),
        (
            {"/v1/completions": status(500, {"error": "engine died"})},
            Layer.GENERATION,
            "/health answers 200 but /v1/completions answered 500: engine died.",
        ),
    ],
)
def test_first_layer_that_fails_is_named(serve: Serve, routes: dict[str, Route], layer: Layer, sentence: str) -> None:
    found = health(serve(routes))
    assert not found.ok
    assert found.layer is layer
    assert found.message.endswith(sentence)
    assert found.seconds < 2


@pytest.mark.parametrize("address", ["127.0.0.1:1", "127.0.0.1", "127.0.0.1:99999", ":80", "127.0.0.1:"])
def test_address_without_a_server_fails_at_the_first_layer(address: str) -> None:
    found = health(address)
    assert not found.ok
    assert found.layer is Layer.TCP
    assert address in found.message
