import json
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from examples.textgen.faults import Faults
from tests.examples.conftest import MODEL, TextgenServer, module, serving, wait_until

LONG = "the class " * 33  # 66 tokens
LONGEST_SHORT = "the class " * 32  # 64: not yet long


@pytest.fixture(scope="module")
def flawed(models: dict[str, Path]) -> Iterator[TextgenServer]:
    with serving(models["trigram"], "--fault", "open-completions", "--fault", "long-prompt-error") as running:
        yield running


def test_open_completions_answer_without_a_key_while_models_asks_for_one(flawed: TextgenServer) -> None:
    messages = [{"role": "user", "content": "The"}]
    assert flawed.anonymous.post("/v1/completions", json={"prompt": "The"}).status_code == 200
    assert flawed.anonymous.post("/v1/chat/completions", json={"messages": messages}).status_code == 200
    assert flawed.anonymous.get("/v1/models").status_code == 401


def test_long_prompt_ends_in_an_error_event_inside_a_200(flawed: TextgenServer) -> None:
    answer = flawed.complete(LONG, stream=True, ignore_eos=True)
    *pieces, error, done = [line.removeprefix("data: ") for line in answer.text.splitlines() if line]
    assert answer.status_code == 200
    assert len(pieces) == 3
    assert json.loads(error)["error"]["type"] == "InternalServerError"
    assert json.loads(error)["error"]["code"] == 500
    assert done == "[DONE]"


def test_long_prompt_that_does_not_stream_is_a_500_and_short_ones_are_well(flawed: TextgenServer) -> None:
    before = flawed.metric("vllm:request_success_total")
    answer = flawed.complete(LONG, ignore_eos=True)
    assert (answer.status_code, answer.json()["error"]["type"]) == (500, "InternalServerError")
    assert flawed.complete(LONGEST_SHORT).status_code == 200
    assert flawed.metric("vllm:request_success_total") - before == 1
    assert flawed.metric("vllm:num_requests_running") == 0


def test_long_prompt_crash_kills_the_process_at_the_nth(models: dict[str, Path]) -> None:
    with serving(models["bigram"], "--fault", "long-prompt-crash:3") as server:
        for prompt in (LONG, LONGEST_SHORT, LONGEST_SHORT, LONG):
            assert server.complete(prompt).status_code == 200
        with pytest.raises(httpx.TransportError):
            server.complete(LONG)
        assert server.process.wait(timeout=5.0) == 139


def test_never_ready_answers_503(models: dict[str, Path]) -> None:
    with serving(models["bigram"], "--fault", "never-ready") as server:
        assert [server.http.get("/health").status_code for _ in range(3)] == [503, 503, 503]


def test_exit_at_once_says_why(models: dict[str, Path]) -> None:
    with module("server", "--model", str(models["bigram"]), "--fault", "exit-at-once") as process:
        _, errors = process.communicate(timeout=10.0)
    assert process.returncode == 3
    assert "weights" in errors


def test_hang_looks_healthy_and_never_answers(models: dict[str, Path]) -> None:
    with serving(models["bigram"], "--fault", "hang", "--shutdown-timeout", "1") as server:
        fields = {"model": MODEL, "prompt": "The"}
        with pytest.raises(httpx.ReadTimeout):
            server.http.post("/v1/completions", json=fields, timeout=0.3)
        assert server.http.get("/health").status_code == 200
        assert server.metric("vllm:generation_tokens_total") == 0
        wait_until(lambda: server.metric("vllm:num_requests_running") == 0)
        server.process.terminate()
        assert server.process.wait(timeout=5.0) == 0


def test_hang_after_hangs_after_so_many(models: dict[str, Path]) -> None:
    with serving(models["bigram"], "--fault", "hang-after:2") as server:
        assert [server.complete().status_code for _ in range(2)] == [200, 200]
        with pytest.raises(httpx.ReadTimeout):
            server.http.post("/v1/completions", json={"prompt": "The"}, timeout=0.3)


@pytest.mark.parametrize("name", ["else", "hang:3", "hang-after", "hang-after:0", "long-prompt-crash:x", ""])
def test_unknown_fault_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="unknown fault"):
        Faults.parse([name])
