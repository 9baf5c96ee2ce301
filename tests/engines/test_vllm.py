"""The whole gate against vLLM on this machine's CPU, with a tiny model of random weights: `make test-vllm`."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from registry.engines import EngineClient
from registry.qa.base import RunningServer
from registry.qa.policy import Load, Policy
from registry.qa.probe.run import run_probe
from registry.scoring import Status
from tests.engines.serving import KEY, VLLM, Expected, Gate, Launch, unexplained, whole_gate

pytestmark = pytest.mark.engine

LOAD = Load(requests_per_second=4, seconds=5, warm_up_requests=4, max_tokens=16)
POLICY = Policy(
    max_latency_ms=2000,
    min_throughput_tokens_sec=30,
    load=LOAD,
    parameters={"quality.held_out": {"file": "texts.jsonl"}, "compatibility.engine_version": {"expected": "0.32"}},
)
TEXTS = """\
{"text": "The quick brown fox jumps over the lazy dog."}
{"text": "Water is made of hydrogen and oxygen, and it boils at one hundred degrees."}
{"text": "She opened the door and looked out into the garden, where the children were playing."}
"""

NOT_ECHO = "is not installed here"

EXPECTED: Expected = [
    # The files: what transformers wrote, read without it.
    ("compatibility.digest", Status.PASSED, "is as registered"),
    ("compatibility.architecture", Status.PASSED, "LlamaForCausalLM is native"),
    ("compatibility.remote_code", Status.PASSED, "No auto_map"),
    ("compatibility.quantization", Status.NOT_APPLICABLE, "not quantized"),
    ("compatibility.context_length", Status.PASSED, "--max-model-len 512 is within the 512 tokens"),
    ("compatibility.parallelism", Status.NOT_APPLICABLE, ""),
    ("compatibility.tokenizer", Status.PASSED, "chat_template.jinja the chat template"),
    ("compatibility.weights", Status.PASSED, "model.safetensors: 21 tensors with 205,120 numbers (BF16)"),
    ("compatibility.pickles", Status.PASSED, "is a pickle"),
    ("compatibility.memory", Status.PASSED, "0.4 MB of weights"),
    # Imported in vLLM's own environment, which the command `vllm` on the PATH leads to.
    ("compatibility.engine_import", Status.PASSED, "vllm 0.32.0 was imported"),
    # The server keeps the interface.
    ("compatibility.engine_answers", Status.PASSED, "The engine (vllm, version 0.32.0) answers on /health."),
    ("compatibility.engine_version", Status.PASSED, "/version says 0.32.0, as the policy expects (0.32)"),
    ("compatibility.model_name", Status.PASSED, "names 'tiny'"),
    ("compatibility.generation", Status.PASSED, "generated text plain and streamed: 16 tokens"),
    ("compatibility.repeatable", Status.PASSED, "gave the same text twice"),
    ("compatibility.seed", Status.PASSED, "4 seeds gave 4 texts"),
    ("compatibility.stop", Status.PASSED, "with finish_reason stop (plain and streamed)"),
    ("compatibility.max_tokens", Status.PASSED, "max_tokens 1 and 5 (plain and streamed) kept to it"),
    ("compatibility.several", Status.PASSED, "n 3 gave 3 choices"),
    ("compatibility.refuses", Status.PASSED, "All 10 values out of range were refused"),
    ("compatibility.samplers", Status.PASSED, "top_k 1, min_p 1"),
    # Measured, within limits that are wide on purpose.
    ("performance.first_token", Status.PASSED, "requests at 4 requests/s"),
    ("performance.between_tokens", Status.NOT_APPLICABLE, "no limit is set"),
    ("performance.whole", Status.NOT_APPLICABLE, "no limit is set"),
    ("performance.throughput", Status.PASSED, "tokens/s"),
    ("performance.error_rate", Status.PASSED, "0 of "),
    ("performance.memory", Status.PASSED, "GB resident in"),
    ("performance.closed_loop", Status.NOT_APPLICABLE, "The policy sets no concurrency"),
    ("performance.knee", Status.NOT_APPLICABLE, "The policy does not ask"),
    ("performance.baseline", Status.NOT_APPLICABLE, "No other version is live"),
    # True of vLLM: its guard looks at some prefixes of the path only, and these routes have another.
    ("security.key_required", Status.FAILED, "POST /invocations"),
    ("security.open_routes", Status.FAILED, "/scale_elastic_ep"),
    ("security.keys_not_echoed", Status.PASSED, "repeats a key"),
    ("security.request_id", Status.PASSED, "writes a header into the answer"),
    ("security.transport", Status.PASSED, "on loopback only"),
    # What vLLM is good at: it looks at every field before it works.
    ("security.input_validation", Status.PASSED, "were refused with a 4xx error"),
    ("security.fuzz", Status.PASSED, "generated requests"),
    ("security.rate_limit", Status.FAILED, "was refused with 429"),
    # A plain engine.
    ("integration.dtesn", Status.NOT_APPLICABLE, "The engine has no DTESN routes"),
    ("integration.membrane_topology", Status.NOT_APPLICABLE, "does not report membranes"),
    ("integration.aar_core", Status.NOT_APPLICABLE, "The engine has no AAR Core routes"),
    ("integration.dtesn_import", Status.NOT_APPLICABLE, NOT_ECHO),
    ("integration.aar_core_import", Status.NOT_APPLICABLE, NOT_ECHO),
    ("integration.echo_self", Status.NOT_APPLICABLE, NOT_ECHO),
    ("quality.held_out", Status.PASSED, "The perplexity of 3 held-out texts is"),
    ("quality.against_live", Status.NOT_APPLICABLE, "No other version is live"),
]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("files")
    (folder / "texts.jsonl").write_text(TEXTS)
    return folder


@pytest.fixture(scope="module")
def gate(tiny: Launch, vllm: RunningServer, files: Path) -> Gate:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", f"{VLLM / 'bin'}{os.pathsep}{os.environ['PATH']}")
        return whole_gate(tiny, vllm, POLICY, files)


@pytest.mark.parametrize(("name", "status", "words"), EXPECTED, ids=[name for name, _, _ in EXPECTED])
def test_each_check_ends_on_vllm_as_it_is_explained(gate: Gate, name: str, status: Status, words: str) -> None:
    assert (gate.statuses[name], gate.reason(name)) == (status, gate.reason(name))
    assert words in gate.reason(name)


def test_every_check_is_explained_for_vllm(gate: Gate) -> None:
    assert unexplained(gate, EXPECTED) == set()


def test_vllm_is_blocked_for_its_open_routes_only(gate: Gate) -> None:
    assert gate.score.blocked
    assert gate.score.sentence.startswith("Blocked: The server answers requests without a key: ")
    assert gate.score.categories["compatibility"] == 100
    assert gate.score.categories["performance"] == 100
    failed = {name for name, status in gate.statuses.items() if status == Status.FAILED}
    assert failed == {"security.key_required", "security.open_routes", "security.rate_limit"}


def test_the_open_route_really_writes_text_for_anybody(vllm: RunningServer) -> None:
    body = {"model": "tiny", "prompt": "The statement is", "max_tokens": 4}
    with EngineClient(vllm.base_url) as client:
        answer = client.raw("POST", "/invocations", json=body)
        refused = client.raw("POST", "/v1/completions", json=body)
    assert answer.status_code == 200
    assert answer.json()["usage"]["completion_tokens"] == 4
    assert (refused.status_code, refused.json()) == (401, {"error": "Unauthorized"})


def test_perplexity_through_the_api_is_that_of_transformers(gate: Gate, tiny: Launch, files: Path) -> None:
    script = Path(__file__).with_name("perplexity.py")
    command = [VLLM / "bin" / "python", script, tiny.artifact, files / "texts.jsonl"]
    told = subprocess.run(command, check=True, capture_output=True, text=True, timeout=120)
    expected = float(told.stdout.split()[-1])
    value = gate.results["quality.held_out"].outcome.value
    assert value == pytest.approx(expected, rel=0.05)  # vLLM computes in bfloat16, transformers here in float32


def test_counters_of_vllm_grow_by_what_the_probe_counted(vllm: RunningServer) -> None:
    with EngineClient(vllm.base_url, KEY) as client:

        def generated() -> float:
            return sum(
                sample.value
                for sample in client.metrics()["generation_tokens"].samples
                if sample.name == "generation_tokens_total"
            )

        before = generated()
        report = run_probe(vllm, Load(requests_per_second=8, seconds=2, warm_up_requests=0, max_tokens=8))
        after = generated()
    assert (report.failures, report.requests > 5) == ({}, True)
    trial = 8  # the probe's own first question, by which it sees how the server may be asked
    assert after - before == report.tokens + trial
