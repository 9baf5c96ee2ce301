import json
import signal
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.examples.conftest import KEY, MODEL, TextgenServer, module, serving, wait_until

CHAT = [{"role": "system", "content": "Continue."}, {"role": "user", "content": "The class"}]


def events(answer: httpx.Response) -> list[Any]:
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"].startswith("text/event-stream")
    *whole, rest = answer.text.split("\n\n")
    assert rest == ""
    payloads = [event.removeprefix("data: ") for event in whole]
    assert payloads.pop() == "[DONE]"
    return [json.loads(payload) for payload in payloads]


def test_health_and_version_need_no_key(server: TextgenServer) -> None:
    health, version = server.anonymous.get("/health"), server.anonymous.get("/version")
    assert (health.status_code, health.content) == (200, b"")
    assert set(version.json()) == {"version"}


def test_models_names_the_served_model(server: TextgenServer) -> None:
    (card,) = server.http.get("/v1/models").json()["data"]
    assert (card["id"], card["object"], card["max_model_len"]) == (MODEL, "model", 512)
    assert {"created", "owned_by", "root", "permission"} <= set(card)


@pytest.mark.parametrize("path", ["/v1/models", "/v1/completions", "/v1/chat/completions", "/v1/else"])
@pytest.mark.parametrize("header", [None, "Bearer wrong", f"Basic {KEY}", KEY, "Bearer", f"Bearer {KEY},sk-second"])
def test_everything_under_v1_asks_for_a_key(server: TextgenServer, path: str, header: str | None) -> None:
    headers = {} if header is None else {"authorization": header}
    answer = server.anonymous.request("GET" if path == "/v1/models" else "POST", path, headers=headers)
    assert (answer.status_code, answer.json()) == (401, {"error": "Unauthorized"})


def test_each_of_several_keys_opens(server: TextgenServer) -> None:
    for key in (KEY, "sk-second"):
        answer = server.anonymous.get("/v1/models", headers={"authorization": f"Bearer {key}"})
        assert answer.status_code == 200


def test_completion_says_text_reason_and_usage(server: TextgenServer) -> None:
    body = server.complete(max_tokens=5, ignore_eos=True, seed=3).json()
    (choice,) = body["choices"]
    assert body["object"] == "text_completion"
    assert (choice["index"], choice["finish_reason"]) == (0, "length")
    assert choice["text"].strip()
    assert body["usage"] == {"prompt_tokens": 2, "completion_tokens": 5, "total_tokens": 7}


def test_several_prompts_and_choices_are_numbered_in_order(server: TextgenServer) -> None:
    answer = server.post("/v1/completions", prompt=["The class", "A function is"], n=2, max_tokens=3, seed=1).json()
    assert [choice["index"] for choice in answer["choices"]] == [0, 1, 2, 3]
    assert answer["usage"]["prompt_tokens"] == 5


def test_stream_and_whole_answer_say_the_same(server: TextgenServer) -> None:
    fields: dict[str, Any] = {"max_tokens": 12, "seed": 11, "temperature": 0.8}
    whole = server.complete(**fields).json()["choices"][0]
    parts = events(server.complete(**fields, stream=True))
    assert "".join(part["choices"][0]["text"] for part in parts) == whole["text"]
    assert [part["choices"][0]["finish_reason"] for part in parts][-1] == whole["finish_reason"]
    assert {part["choices"][0]["finish_reason"] for part in parts[:-1]} <= {None}


def test_usage_is_streamed_only_when_asked_for(server: TextgenServer) -> None:
    fields: dict[str, Any] = {"max_tokens": 4, "ignore_eos": True, "stream": True}
    assert all(part["choices"] for part in events(server.complete(**fields)))
    last = events(server.complete(**fields, stream_options={"include_usage": True}))[-1]
    assert last["choices"] == []
    assert last["usage"] == {"prompt_tokens": 2, "completion_tokens": 4, "total_tokens": 6}


def test_chat_answers_as_an_assistant(server: TextgenServer) -> None:
    fields: dict[str, Any] = {"messages": CHAT, "max_tokens": 6, "seed": 5}
    whole = server.post("/v1/chat/completions", **fields).json()
    first, *parts = events(server.post("/v1/chat/completions", **fields, stream=True))
    assert whole["object"] == "chat.completion"
    assert first["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    text = "".join(part["choices"][0]["delta"]["content"] for part in parts)
    assert whole["choices"][0]["message"] == {"role": "assistant", "content": text}


def test_greedy_answers_do_not_vary(server: TextgenServer) -> None:
    texts = {server.complete(temperature=0, max_tokens=8).json()["choices"][0]["text"] for _ in range(3)}
    assert len(texts) == 1


@pytest.mark.parametrize("stream", [False, True])
def test_stop_string_ends_the_text_before_it(server: TextgenServer, stream: bool) -> None:
    fields: dict[str, Any] = {"seed": 4, "max_tokens": 40, "ignore_eos": True}
    text = server.complete(**fields).json()["choices"][0]["text"]
    stop = text[10:14]  # crosses the borders of tokens
    answer = server.complete(**fields, stop=[stop, "not there"], stream=stream)
    choices = [part["choices"][0] for part in events(answer)] if stream else answer.json()["choices"]
    assert "".join(choice["text"] for choice in choices) == text[: text.index(stop)]
    assert choices[-1]["finish_reason"] == "stop"


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"temperature": -1}, "temperature"),
        ({"temperature": "hot"}, "temperature"),
        ({"temperature": True}, "temperature"),
        ({"top_p": 0}, "top_p"),
        ({"top_p": 1.01}, "top_p"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": 1.5}, "max_tokens"),
        ({"max_tokens": 10**400}, "max_tokens"),
        ({"max_tokens": 512}, "max_tokens"),
        ({"n": 0}, "n"),
        ({"n": 2, "temperature": 0}, "n"),
        ({"seed": "x"}, "seed"),
        ({"seed": 2**70}, "seed"),
        ({"stop": 5}, "stop"),
        ({"stop": [""]}, "stop"),
        ({"stream": "yes"}, "stream"),
        ({"stream_options": {"include_usage": True}}, "stream_options"),
        ({"top_k": -2}, "top_k"),
        ({"top_k": 1.5}, "top_k"),
        ({"min_p": 1.1}, "min_p"),
        ({"presence_penalty": 2.5}, "presence_penalty"),
        ({"frequency_penalty": 0.5}, "frequency_penalty"),
        ({"repetition_penalty": 0}, "repetition_penalty"),
        ({"logprobs": 21}, "logprobs"),
        ({"logprobs": True}, "logprobs"),
        ({"logprobs": 0, "stream": True}, "logprobs"),
        ({"echo": True, "stream": True}, "echo"),
        ({"echo": "yes"}, "echo"),
        ({"prompt_logprobs": 1}, "prompt_logprobs"),
        ({"model": 7}, "model"),
        ({"prompt": None}, "prompt"),
        ({"prompt": []}, "prompt"),
        ({"prompt": [1, "x"]}, "prompt"),
        ({"prompt": "word " * 600}, "prompt"),
    ],
)
def test_bad_field_is_refused_by_name(server: TextgenServer, fields: dict[str, Any], param: str) -> None:
    answer = server.post("/v1/completions", **({"prompt": "The"} | fields))
    error = answer.json()["error"]
    assert (answer.status_code, error["type"], error["param"], error["code"]) == (400, "BadRequestError", param, 400)


@pytest.mark.parametrize(
    "messages",
    [None, [], "hi", [{"role": "king", "content": "x"}], [{"role": "user"}], [{"role": "user", "content": 1}]],
)
def test_bad_messages_are_refused(server: TextgenServer, messages: object) -> None:
    answer = server.post("/v1/chat/completions", messages=messages)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "messages")


@pytest.mark.parametrize(
    ("body", "content_type"),
    [
        (b"{broken", "application/json"),
        (b"[1]", "application/json"),
        (b"\xff\xfe", "application/json"),
        (b"[" * 100_000, "application/json"),
        (b'{"prompt":"x","temperature":NaN}', "application/json"),
        (b'{"prompt":"x"}', "text/plain"),
        (b'{"prompt":"' + b"x" * (1 << 20) + b'"}', "application/json"),
    ],
)
def test_bad_body_is_a_400(server: TextgenServer, body: bytes, content_type: str) -> None:
    answer = server.http.post("/v1/completions", content=body, headers={"content-type": content_type})
    assert (answer.status_code, answer.json()["error"]["type"]) == (400, "BadRequestError")
    assert server.http.get("/health").status_code == 200


@pytest.mark.parametrize("name", ["other", "", "\\ud800"])
def test_unknown_model_is_a_404(server: TextgenServer, name: str) -> None:
    answer = server.http.post(
        "/v1/completions", content=f'{{"model":"{name}","prompt":"x"}}', headers={"content-type": "application/json"}
    )
    error = answer.json()["error"]
    assert (answer.status_code, error["type"], error["param"]) == (404, "NotFoundError", "model")


def test_unknown_path_and_method_answer_with_an_error_object(server: TextgenServer) -> None:
    assert server.post("/v1/else").json()["error"]["code"] == 404
    assert server.http.get("/v1/completions").json()["error"]["code"] == 405


@pytest.mark.parametrize("prompt", ["The class", "  The class (x)\n", "", "never-seen"])
def test_echo_tells_the_prompt_and_its_log_probabilities(server: TextgenServer, prompt: str) -> None:
    fields: dict[str, Any] = {"max_tokens": 4, "temperature": 0, "ignore_eos": True, "logprobs": 2}
    own = server.complete(prompt, **fields).json()["choices"][0]
    (choice,) = server.complete(prompt, **fields, echo=True).json()["choices"]
    told = choice["logprobs"]
    asked = len(told["tokens"]) - 4
    assert choice["text"] == prompt + own["text"]
    assert "".join(told["tokens"]) == choice["text"]
    places = zip(told["tokens"], told["text_offset"], strict=True)
    assert all(choice["text"][at:].startswith(piece) for piece, at in places)
    assert told["text_offset"][asked] == len(prompt)
    assert told["token_logprobs"][0] is None
    assert all(log < 0 for log in told["token_logprobs"][1:])
    assert told["token_logprobs"][asked + 1 :] == own["logprobs"]["token_logprobs"][1:]
    # Greedy: each word is the likeliest but for those that are never written.
    assert all(len(tops) == 2 and max(tops.values()) >= log for tops, log in zip(
        told["top_logprobs"][1:], told["token_logprobs"][1:], strict=True))  # fmt: skip


def test_echo_without_generation_costs_no_token(server: TextgenServer) -> None:
    answer = server.complete("The class is", echo=True, logprobs=0, max_tokens=0).json()
    (choice,) = answer["choices"]
    assert (choice["text"], choice["finish_reason"]) == ("The class is", "length")
    assert choice["logprobs"]["tokens"] == ["The", " class", " is"]
    assert choice["logprobs"]["top_logprobs"] is None
    assert answer["usage"] == {"prompt_tokens": 3, "completion_tokens": 0, "total_tokens": 3}


def test_several_echoed_prompts_keep_their_own_text(server: TextgenServer) -> None:
    answer = server.post("/v1/completions", prompt=["The class", "A function"], n=2, max_tokens=2, echo=True).json()
    begins = [choice["text"][:10] for choice in answer["choices"]]
    assert begins == ["The class ", "The class ", "A function", "A function"]


def test_log_probabilities_end_with_the_text(server: TextgenServer) -> None:
    fields: dict[str, Any] = {"seed": 4, "max_tokens": 40, "ignore_eos": True, "logprobs": 1}
    text = server.complete(**fields).json()["choices"][0]["text"]
    (choice,) = server.complete(**fields, stop=text[10:14]).json()["choices"]
    told = choice["logprobs"]
    assert choice["finish_reason"] == "stop"
    assert max(told["text_offset"]) < len(choice["text"])
    assert "".join(told["tokens"]).startswith(choice["text"])


def test_chat_has_no_log_probabilities_and_says_so(server: TextgenServer) -> None:
    answer = server.post("/v1/chat/completions", messages=CHAT, logprobs=True)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "logprobs")


def test_neutral_penalties_are_taken(server: TextgenServer) -> None:
    neutral: dict[str, Any] = {"presence_penalty": 0, "frequency_penalty": 0.0, "repetition_penalty": 1}
    assert server.complete(**neutral, max_tokens=1).status_code == 200


@pytest.fixture(scope="module")
def limited(models: dict[str, Path]) -> Iterator[TextgenServer]:
    with serving(models["bigram"], "--rate-limit", "0.01:5") as running:  # five, and the next in 100 seconds
        yield running


def test_requests_beyond_the_limit_are_refused_for_their_key_only(limited: TextgenServer) -> None:
    answers = [limited.complete(max_tokens=1) for _ in range(7)]
    assert [answer.status_code for answer in answers] == [200] * 5 + [429] * 2
    assert [answer.headers["x-ratelimit-remaining"] for answer in answers] == ["4", "3", "2", "1", "0", "0", "0"]
    assert {answer.headers["x-ratelimit-limit"] for answer in answers} == {"5"}
    refused = answers[-1]
    assert 90 <= int(refused.headers["retry-after"]) <= 100
    assert 490 <= int(refused.headers["x-ratelimit-reset"]) <= 500
    error = refused.json()["error"]
    assert (error["type"], error["code"]) == ("RateLimitError", 429)
    assert "Retry-After" in error["message"]
    assert limited.metric('http_requests_total{handler="/v1/completions",status="4xx"}') == 2
    other = {"authorization": "Bearer sk-second"}
    assert limited.anonymous.get("/v1/models", headers=other).status_code == 200
    assert limited.anonymous.get("/v1/models", headers={"authorization": "Bearer wrong"}).status_code == 401
    for path in ("/health", "/ping", "/version", "/metrics"):
        free = limited.http.get(path)
        assert (free.status_code, "x-ratelimit-limit" in free.headers) == (200, False)


@pytest.mark.parametrize("rate", ["x", "-1", "5:0", "5:x", "nan", "inf", ""])
def test_rate_that_is_none_is_refused(models: dict[str, Path], rate: str) -> None:
    with module("server", "--model", str(models["bigram"]), f"--rate-limit={rate}") as process:
        _, errors = process.communicate(timeout=10.0)
    assert process.returncode == 2
    assert "is not a rate: give R or R:BURST" in errors


def test_metrics_count_what_was_done(server: TextgenServer) -> None:
    names = [
        "vllm:prompt_tokens_total",
        "vllm:generation_tokens_total",
        'vllm:request_success_total{finished_reason="length"}',
        "vllm:time_to_first_token_seconds_count",
        "vllm:inter_token_latency_seconds_count",
        "vllm:e2e_request_latency_seconds_count",
        'http_requests_total{handler="/v1/completions",status="2xx"}',
        'http_requests_total{handler="/v1/completions",status="4xx"}',
    ]
    before = {name: server.metric(name) for name in names}
    server.complete(max_tokens=5, ignore_eos=True)
    server.complete(max_tokens=0)
    assert [server.metric(name) - before[name] for name in names] == [2, 5, 1, 1, 4, 1, 1, 1]
    assert 'model_name="textgen"' in server.http.get("/metrics").text


def test_tokens_leave_one_by_one_and_a_client_that_goes_away_stops_the_work(models: dict[str, Path]) -> None:
    with serving(models["bigram"], "--token-delay", "0.02") as server:
        fields = {"model": MODEL, "prompt": "The", "max_tokens": 500, "stream": True, "ignore_eos": True}
        with server.http.stream("POST", "/v1/completions", json=fields) as answer:
            next(answer.iter_lines())
            assert server.metric("vllm:num_requests_running") == 1
        wait_until(lambda: server.metric("vllm:num_requests_running") == 0, seconds=2.0)
        assert server.metric("vllm:generation_tokens_total") < 250
        assert server.metric("vllm:request_success_total") == 0


def test_requests_beyond_the_limit_wait(models: dict[str, Path]) -> None:
    with serving(models["bigram"], "--token-delay", "0.02", "--max-num-seqs", "1") as server:
        fields = {"max_tokens": 30, "ignore_eos": True}
        threads = [threading.Thread(target=server.complete, kwargs=fields) for _ in range(3)]
        for thread in threads:
            thread.start()
        wait_until(lambda: server.metric("vllm:num_requests_waiting") == 2)
        assert server.metric("vllm:num_requests_running") == 1
        for thread in threads:
            thread.join()
        assert server.metric("vllm:request_success_total") == 3


def test_sigterm_lets_a_stream_finish(models: dict[str, Path]) -> None:
    with serving(models["bigram"], "--token-delay", "0.02") as server:
        fields = {"model": MODEL, "prompt": "The", "max_tokens": 30, "stream": True, "ignore_eos": True}
        with server.http.stream("POST", "/v1/completions", json=fields) as answer:
            lines = answer.iter_lines()
            first = next(lines)
            server.process.send_signal(signal.SIGTERM)
            rest = [line for line in lines if line]
        assert first.startswith("data: {")
        assert len(rest) == 30
        assert rest[-1] == "data: [DONE]"
        assert server.process.wait(timeout=5.0) == 0


def test_without_keys_everybody_may_ask(models: dict[str, Path]) -> None:
    with serving(models["bigram"], keys="") as server:
        assert server.anonymous.post("/v1/completions", json={"prompt": "The"}).status_code == 200


def test_taken_port_is_one_clear_sentence(models: dict[str, Path]) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with module("server", "--model", str(models["bigram"]), "--port", str(port)) as process:
            _, errors = process.communicate(timeout=10.0)
    assert process.returncode == 1
    assert errors == f"textgen: cannot listen on 127.0.0.1:{port}: Address already in use\n"


def test_missing_model_is_one_clear_sentence(tmp_path: Path) -> None:
    with module("server", "--model", str(tmp_path), "--port", "0") as process:
        _, errors = process.communicate(timeout=10.0)
    assert process.returncode == 1
    assert errors.startswith("textgen: ")
    assert errors.count("\n") == 1
