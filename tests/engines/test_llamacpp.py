"""The whole gate against a real small language model: SmolLM2-135M-Instruct on llama.cpp's own server."""

from __future__ import annotations

import json
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from http.client import HTTPConnection
from pathlib import Path

import pytest

from deploypipe.core.errors import EngineError
from registry.engines import ENGINES, IDLE_SECONDS, EngineClient, check_health
from registry.qa.base import RunningServer
from registry.qa.policy import Load, Policy
from registry.qa.probe.run import run_probe
from registry.scoring import Status
from rollouts.traffic.base import TOTAL_WEIGHT, Backend
from tests.engines.serving import KEY, Expected, Gate, Launch, unexplained, whole_gate
from tests.rollouts.test_envoy import running_gateway

pytestmark = pytest.mark.engine

# Less than one core can do, and limits that a busy machine keeps: what is judged here are the checks, not the machine.
LOAD = Load(requests_per_second=2, seconds=5, warm_up_requests=2, max_tokens=16)
POLICY = Policy(
    max_latency_ms=4000,
    min_throughput_tokens_sec=10,
    max_memory_gb=1,
    load=LOAD,
    parameters={"quality.held_out": {"file": "facts.jsonl"}},
)
FACTS = """\
{"prompt": "One, two, three, four,", "completion": " five"}
{"prompt": "Monday, Tuesday, Wednesday,", "completion": " Thursday"}
{"prompt": "The capital of France is", "completion": " Paris"}
"""

NO_CONFIG = "does not go by config.json"  # a GGUF file carries its own description
NOT_ECHO = "is not installed here"

EXPECTED: Expected = [
    # The files: one GGUF file, read and understood without llama.cpp.
    ("compatibility.digest", Status.PASSED, "The SHA-256 of the one file (98,362,432 bytes) is as registered."),
    ("compatibility.weights", Status.PASSED, "272 tensors with 134,515,008 numbers"),
    ("compatibility.pickles", Status.PASSED, "The one file is no pickle."),
    ("compatibility.memory", Status.PASSED, "98.4 MB of weights (1 GGUF file)"),
    ("compatibility.architecture", Status.NOT_APPLICABLE, NO_CONFIG),
    ("compatibility.remote_code", Status.NOT_APPLICABLE, NO_CONFIG),
    ("compatibility.quantization", Status.NOT_APPLICABLE, NO_CONFIG),
    ("compatibility.context_length", Status.NOT_APPLICABLE, NO_CONFIG),
    ("compatibility.parallelism", Status.NOT_APPLICABLE, NO_CONFIG),
    ("compatibility.tokenizer", Status.NOT_APPLICABLE, NO_CONFIG),
    ("compatibility.engine_import", Status.NOT_APPLICABLE, "is no Python package"),
    # The server keeps the interface. It has no /version, and its fingerprint is "b0-unknown" in this build.
    ("compatibility.engine_answers", Status.PASSED, "The engine (llamacpp) answers on /health."),
    ("compatibility.engine_version", Status.NOT_APPLICABLE, "does not tell its version: GET /version answered 404"),
    ("compatibility.model_name", Status.PASSED, "names 'smollm2'"),
    ("compatibility.generation", Status.PASSED, "generated text plain and streamed: 16 tokens"),
    ("compatibility.repeatable", Status.PASSED, "gave the same text twice"),
    ("compatibility.seed", Status.PASSED, "4 seeds gave 4 texts"),
    ("compatibility.stop", Status.PASSED, "with finish_reason stop (plain and streamed)"),
    ("compatibility.max_tokens", Status.PASSED, "max_tokens 1 and 5 (plain and streamed) kept to it"),
    ("compatibility.several", Status.PASSED, "n 3 gave 3 choices"),
    ("compatibility.samplers", Status.PASSED, "top_k 1, min_p 1"),
    # True of llama.cpp: it takes the nearest value it can use and says nothing.
    ("compatibility.refuses", Status.FAILED, "temperature -1: the server answered 200"),
    # Measured, within limits that are wide on purpose.
    ("performance.first_token", Status.PASSED, "requests at 2 requests/s"),
    ("performance.between_tokens", Status.NOT_APPLICABLE, "no limit is set"),
    ("performance.whole", Status.NOT_APPLICABLE, "no limit is set"),
    ("performance.throughput", Status.PASSED, "over all streams together"),
    ("performance.error_rate", Status.PASSED, "0 of "),
    ("performance.memory", Status.PASSED, "GB resident in 1 process"),
    ("performance.closed_loop", Status.NOT_APPLICABLE, "The policy sets no concurrency"),
    ("performance.knee", Status.NOT_APPLICABLE, "The policy does not ask"),
    ("performance.baseline", Status.NOT_APPLICABLE, "No other version is live"),
    # Its guard stands before all routes but /health; there is no document of its routes to fuzz by.
    ("security.key_required", Status.PASSED, "Without a key and with a wrong one the server refuses all"),
    ("security.keys_not_echoed", Status.PASSED, "repeats a key"),
    ("security.open_routes", Status.PASSED, "development routes is open without a key"),
    ("security.request_id", Status.PASSED, "writes a header into the answer"),
    ("security.transport", Status.PASSED, "on loopback only"),
    ("security.fuzz", Status.NOT_APPLICABLE, "/openapi.json answered 404"),
    # True of llama.cpp, and why it belongs behind a proxy: any model name is answered, max_tokens -1 means "no end", a
    # billion logprobs are the whole vocabulary for each token (18 MB for an answer of 4), and nothing limits a client.
    ("security.input_validation", Status.FAILED, "an unknown model: answered 200"),
    ("security.rate_limit", Status.FAILED, "was refused with 429"),
    # A plain engine.
    ("integration.dtesn", Status.NOT_APPLICABLE, "The engine has no DTESN routes"),
    ("integration.membrane_topology", Status.NOT_APPLICABLE, "does not report membranes"),
    ("integration.aar_core", Status.NOT_APPLICABLE, "The engine has no AAR Core routes"),
    ("integration.dtesn_import", Status.NOT_APPLICABLE, NOT_ECHO),
    ("integration.aar_core_import", Status.NOT_APPLICABLE, NOT_ECHO),
    ("integration.echo_self", Status.NOT_APPLICABLE, NOT_ECHO),
    # What the model knows.
    ("quality.held_out", Status.PASSED, "of 3 prompts"),
    ("quality.against_live", Status.NOT_APPLICABLE, "No other version is live"),
]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("files")
    (folder / "facts.jsonl").write_text(FACTS)
    (folder / "texts.jsonl").write_text('{"text": "The quick brown fox jumps over the lazy dog."}\n')
    return folder


@pytest.fixture(scope="module")
def gate(smollm2: Launch, llama: RunningServer, files: Path) -> Gate:
    return whole_gate(smollm2, llama, POLICY, files)


@pytest.mark.parametrize(("name", "status", "words"), EXPECTED, ids=[name for name, _, _ in EXPECTED])
def test_each_check_ends_on_llamacpp_as_it_is_explained(gate: Gate, name: str, status: Status, words: str) -> None:
    assert (gate.statuses[name], gate.reason(name)) == (status, gate.reason(name))
    assert words in gate.reason(name)


def test_every_check_is_explained_for_llamacpp(gate: Gate) -> None:
    assert unexplained(gate, EXPECTED) == set()


def test_llamacpp_is_blocked_for_what_it_lets_any_client_do(gate: Gate) -> None:
    assert gate.score.blocked
    assert gate.score.sentence.startswith("Blocked: ")
    assert gate.score.categories["compatibility"] == pytest.approx(97, abs=3)
    assert gate.score.categories["performance"] == 100
    found = {finding.sentence for finding in gate.results["security.input_validation"].outcome.findings}
    assert any("max_tokens -1" in sentence for sentence in found)
    assert any("logprobs 1000000000" in sentence for sentence in found)


def test_model_knows_the_days_of_the_week(gate: Gate) -> None:
    outcome = gate.results["quality.held_out"].outcome
    assert outcome.value is not None
    assert outcome.value >= 60, outcome.evidence


def test_llamacpp_tells_no_probabilities_of_a_given_text(smollm2: Launch, llama: RunningServer, files: Path) -> None:
    """It takes `echo` and ignores it, so a perplexity out of what it answers would be one of other text."""
    policy = Policy(load=LOAD, parameters={"quality.held_out": {"file": "texts.jsonl"}})
    gate = whole_gate(smollm2, llama, policy, files, only="quality.held_out")
    assert gate.statuses == {"quality.held_out": Status.NOT_CHECKED}
    assert "so there is no perplexity" in gate.reason("quality.held_out")


def test_llamacpp_is_healthy_to_its_deepest_layer(llama: RunningServer) -> None:
    found = check_health(llama.base_url.removeprefix("http://"), model="smollm2", api_key=KEY, deadline=5)
    assert found.ok, found.message


def test_counter_of_generated_tokens_grows_by_what_the_probe_counted(llama: RunningServer) -> None:
    with EngineClient(llama.base_url, KEY) as client:

        def generated() -> float:
            [sample] = client.metrics()["generation_tokens"].samples
            return sample.value

        before = generated()
        report = run_probe(llama, Load(requests_per_second=2, seconds=2, warm_up_requests=0, max_tokens=8))
        after = generated()
    assert report.requests > 0
    assert report.failed == 0
    # The probe asks once beforehand whether the server streams, and the engine counts a stop that has no text.
    assert after - before >= report.tokens > 0


def test_llamacpp_closes_the_connection_of_a_stream_that_it_promised_to_keep(llama: RunningServer) -> None:
    """That is all there is to "the first connection was dropped": whoever sends on it at once gets no answer."""
    body = json.dumps({"model": "smollm2", "prompt": "The", "max_tokens": 2, "stream": True})
    headers = {"Authorization": f"Bearer {KEY}", "Content-Type": "application/json"}
    with closing(HTTPConnection(llama.base_url.removeprefix("http://"))) as connection:
        connection.request("POST", "/v1/completions", body, headers)
        answer = connection.getresponse()
        assert answer.read().endswith(b"data: [DONE]\n\n")
        assert (answer.headers["Keep-Alive"], answer.headers["Connection"]) == ("timeout=5, max=100", None)
        connection.sock.settimeout(2)  # before the 5 s
        assert connection.sock.recv(1) == b""


def test_no_request_is_lost_on_such_a_connection(llama: RunningServer) -> None:
    load = Load(concurrency=2, seconds=2, warm_up_requests=0, max_tokens=2)
    report = run_probe(llama, load)
    assert (report.failures, report.examples) == ({}, {})
    assert report.requests > 10
    with EngineClient(llama.base_url, KEY) as client:
        for _ in range(10):
            assert client.complete("smollm2", "The", max_tokens=2, stream=True).events > 0
            assert client.models() == ["smollm2"]


def test_no_client_of_the_gateway_meets_such_a_connection(llama: RunningServer, tmp_path: Path) -> None:
    """With connections used again, 31 of 400 streams were answered 503 here; told to try again, 16."""
    backend = Backend(
        "smollm2", llama.base_url.removeprefix("http://"), TOTAL_WEIGHT, ENGINES["llamacpp"].keeps_connections
    )
    with running_gateway(tmp_path) as gateway:
        gateway.route(backend, model="smollm2")
        with ThreadPoolExecutor(4) as clients:
            statuses = Counter(clients.map(lambda _: _streamed(f"{gateway.url}/prod/smollm2"), range(200)))
    assert statuses == {"one event": 200}


def _streamed(url: str) -> str:
    """What came of one stream, in words."""
    with EngineClient(url, KEY, timeout=30) as client:
        try:
            return "one event" if client.complete("smollm2", "The", max_tokens=1, stream=True).events else "no event"
        except EngineError as error:
            return error.message


def test_client_leaves_a_silent_connection_before_llamacpp_does(llama: RunningServer) -> None:
    with closing(HTTPConnection(llama.base_url.removeprefix("http://"))) as connection:
        connection.request("GET", "/health")
        connection.getresponse().read()
        connection.sock.settimeout(IDLE_SECONDS + 1)
        with pytest.raises(TimeoutError):
            connection.sock.recv(1)
