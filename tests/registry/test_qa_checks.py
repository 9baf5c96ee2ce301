"""Each fault is found by the check that is there for it, and by no other."""

from __future__ import annotations

import json
import os
import random
import struct
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from importlib import import_module
from pathlib import Path

import pytest

from registry import artifacts
from registry.qa.base import Context
from registry.qa.catalogue import all_checks, check
from registry.qa.policy import Load, Policy
from registry.qa.runner import Result, examine, to_scored
from registry.scoring import Band, Status, score
from tests.registry.faulty_engine import KEY, Engine, running_engine
from tests.registry.faulty_language import Drawing, write
from tests.registry.faulty_state import DIALECTS

SHORT = Load(requests_per_second=100, seconds=0.25, warm_up_requests=2, max_tokens=20)
HELD_OUT = {"file": "held-out.jsonl", "most_perplexity": 12.0}
# So wide a limit that a busy machine does not meet it; what is slow here takes two seconds.
POLICY = Policy(max_latency_ms=1500, load=SHORT, parameters={"quality.held_out": HELD_OUT})

AREAS = ("behaviour", "performance", "security", "integration")
ELSEWHERE = {
    "compatibility.engine_version": "it fails only where the policy names a version",
    "performance.between_tokens": "it has no limit until the policy sets one",
    "performance.whole": "it has no limit until the policy sets one",
    "performance.closed_loop": "it is off until the policy asks for it",
    "performance.knee": "it is off until the policy asks for it",
    "performance.memory": "the server is this process, which must not grow so large",
    "security.transport": "it needs certificates",
}
"""Checks that no fault of this server can make fail, with the reason; their own test files show that they do fail."""

Gate = Callable[..., dict[str, Result]]


@pytest.fixture
def artifact(tmp_path: Path) -> Path:
    return fill(tmp_path / "model")


def fill(folder: Path) -> Path:
    """The files of a model, as small as it can be, of which nothing can be said against."""
    folder.mkdir(exist_ok=True)
    (folder / "weights.bin").write_bytes(bytes(range(256)) * 40)
    shape = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 2}
    config = {"architectures": ["LlamaForCausalLM"], "torch_dtype": "float32", "max_position_embeddings": 512, **shape}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "tokenizer.json").write_text(json.dumps({"version": "1.0", "model": {"type": "BPE", "vocab": {"a": 0}}}))
    (folder / "tokenizer_config.json").write_text(json.dumps({"chat_template": "{{ messages[0].content }}"}))
    header = json.dumps({"embedding": {"dtype": "F32", "shape": [2, 8], "data_offsets": [0, 64]}}).encode()
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + bytes(64))
    return folder


@pytest.fixture
def gate(engine: Engine, artifact: Path) -> Gate:
    manifest = artifacts.build(artifact)
    texts = ["".join(write([], 12, Drawing(), random.Random(seed))) for seed in range(20)]
    (artifact.parent / "held-out.jsonl").write_text("\n".join(json.dumps({"text": text}) for text in texts))

    def run(*faults: str, policy: Policy = POLICY, only: str = "") -> dict[str, Result]:
        engine.be("+".join(faults))
        server = replace(engine.running, pid=os.getpid())
        context = Context(artifact, manifest, engine.speaks.engine, policy, server, files=artifact.parent)
        checks = [c for c in all_checks() if only in c.name]
        return {result.name: result for result in examine(context, checks)}

    return run


def not_passed(results: dict[str, Result]) -> dict[str, str]:
    """What is not as it must be. A check without weight may be unable to look: it is there to be read."""
    fine = (Status.PASSED, Status.NOT_APPLICABLE)
    wrong = {name: r for name, r in results.items() if r.outcome.status not in fine}
    return {name: r.outcome.reason for name, r in wrong.items() if r.weight or r.outcome.status is Status.FAILED}


@pytest.mark.parametrize(("kind", "status"), [("openai", Status.PASSED), ("vllm", Status.FAILED)])
def test_only_a_server_of_another_kind_may_lack_a_health_route(engine: Engine, kind: str, status: Status) -> None:
    engine.be("no health route")
    context = Context(None, None, kind, POLICY, engine.running)
    outcome = examine(context, [c for c in all_checks() if c.name == "compatibility.engine_answers"])[0].outcome
    assert outcome.status is status
    assert "/health" in outcome.reason


def test_folder_that_cannot_be_registered_fails_the_digest(artifact: Path) -> None:
    (artifact / "elsewhere").symlink_to(artifact.parent)
    context = Context(artifact, None, "openai", POLICY)
    outcome = examine(context, [c for c in all_checks() if c.name == "compatibility.digest"])[0].outcome
    assert outcome.status is Status.FAILED
    assert "elsewhere is a link to a folder" in outcome.reason


@pytest.mark.parametrize("dialect", DIALECTS)
def test_faultless_server_passes_every_check_and_scores_100(gate: Gate, dialect: str) -> None:
    results = gate(dialect)
    assert not_passed(results) == {}
    total = score([to_scored(result) for result in results.values()])
    assert (total.points, total.band, total.blocked) == (100.0, Band.EXCELLENT, False)
    assert results["integration.dtesn"].outcome.status is Status.NOT_APPLICABLE
    assert total.categories["integration"] is None


def faults() -> list[tuple[str, str, str]]:
    """Of every area: a fault ("a+b" is both, a dialect's name may be among them), its check, words of the reason."""
    found: list[tuple[str, str, str]] = []
    for area in AREAS:
        found += import_module(f"tests.registry.faults_{area}").FAULTS
    return found


@pytest.mark.parametrize(("fault", "name", "words"), faults(), ids=[f"{fault}: {name}" for fault, name, _ in faults()])
def test_fault_fails_its_own_check_and_no_other(gate: Gate, fault: str, name: str, words: str) -> None:
    results = gate(fault, policy=replace(POLICY, min_throughput_tokens_sec=130))
    wrong = not_passed(results)
    assert list(wrong) == [name], wrong
    assert results[name].outcome.status is Status.FAILED
    assert words in wrong[name]


def test_there_are_at_least_40_ways_to_be_wrong_and_none_is_said_twice() -> None:
    named = [fault for fault, _, _ in faults()]
    assert len(named) == len(set(named)) >= 40


def test_every_check_that_asks_the_server_has_a_fault_that_it_finds() -> None:
    asking = {c.name for c in all_checks() if c.needs_server and not c.needs_live}
    assert asking - {name for _, name, _ in faults()} == ELSEWHERE.keys()


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda folder: (folder / "weights.bin").write_bytes(b"\1" + bytes(range(1, 256))), "bytes, 10,240 were"),
        (lambda folder: (folder / "config.json").write_bytes(bytes(191)), "config.json has SHA-256"),
        (lambda folder: (folder / "config.json").unlink(), "config.json is missing"),
        (lambda folder: (folder / "more.bin").write_bytes(b""), "more.bin is there but was not registered"),
    ],
)
def test_changed_files_fail_the_digest_and_no_server_is_examined(
    gate: Gate, artifact: Path, damage: Callable[[Path], object], words: str
) -> None:
    damage(artifact)
    results = gate()
    assert results["compatibility.digest"].outcome.status is Status.FAILED
    assert words in results["compatibility.digest"].outcome.reason
    others = [results[c.name] for c in all_checks() if c.needs_server]
    assert {r.outcome.status for r in others} == {Status.NOT_CHECKED}
    assert all(r.outcome.reason.startswith("The server was not started: The files are not") for r in others)
    total = score([to_scored(result) for result in results.values()])
    assert total.blocked
    assert words in total.sentence


def test_policy_may_do_without_key_and_validation(gate: Gate) -> None:
    lax = replace(POLICY, require_authentication=False, require_input_validation=False)
    results = gate("open", "words as errors", policy=lax, only="security.")
    assert results["security.key_required"].outcome.status is Status.NOT_APPLICABLE
    assert results["security.input_validation"].outcome.status is Status.NOT_APPLICABLE


def test_chat_only_engine_is_examined_through_its_chat(gate: Gate) -> None:
    results = gate("chat only", policy=replace(POLICY, parameters={}))  # a chat has no probabilities of a text
    assert not_passed(results) == {}
    assert results["performance.error_rate"].outcome.evidence["path"] == "/v1/chat/completions"


def test_load_too_small_for_the_demanded_throughput_is_said_to_be_so(gate: Gate) -> None:
    results = gate(policy=replace(POLICY, min_throughput_tokens_sec=1e6), only="throughput")
    outcome = results["performance.throughput"].outcome
    assert outcome.status is Status.NOT_CHECKED
    assert "100 requests/s for 0.25 s ask for 2320 tokens/s at most" in outcome.reason  # 29 requests fall into it


def test_server_that_is_gone_fails_every_required_check_with_the_reason(artifact: Path) -> None:
    with running_engine() as engine:
        gone = engine.running
    context = Context(artifact, artifacts.build(artifact), "vllm", POLICY, gone)
    results = {result.name: result for result in examine(context, all_checks())}
    stops = {name for name, result in results.items() if result.stops}
    assert stops == {c.name for c in all_checks() if c.required and c.needs_server}
    assert "takes no connection" in results["compatibility.engine_answers"].outcome.reason
    assert "broke off" in results["performance.error_rate"].outcome.reason
    assert results["compatibility.seed"].outcome.status is Status.NOT_CHECKED
    assert "There is no text to try it on" in results["compatibility.seed"].outcome.reason


def test_evidence_is_json_and_holds_no_key(gate: Gate) -> None:
    results = gate("key echoed", "key in metrics", "words as errors")
    found = [[r.outcome.reason, r.outcome.evidence] for r in results.values()]
    stored = json.dumps(found, allow_nan=False, ensure_ascii=False)
    assert KEY not in stored
    assert 'key=\\"•••\\"' in stored
    bodies = [e.get("body", "") for e in results["security.input_validation"].outcome.evidence["exchanges"]]
    assert all(len(body) <= 300 for body in bodies)


def test_checks_have_a_stable_order_and_names_of_their_category() -> None:
    names = [c.name for c in all_checks()]
    assert names == [c.name for c in all_checks()]
    assert names[0] == "compatibility.digest"
    assert [n.partition(".")[0] for n in names] == [c.category for c in all_checks()]
    assert len(set(names)) == len(names)


def test_check_with_a_name_outside_its_category_is_refused() -> None:
    first = all_checks()[0]
    with pytest.raises(ValueError, match=r'give "compatibility\.word"'):
        check(type("Wrong", (first,), {"name": "security.other"}))
    with pytest.raises(ValueError, match="is already the check"):
        check(type("Double", (first,), {}))
    assert all_checks()[0] is first


def test_the_gate_works_without_django() -> None:
    code = (
        "import sys; from registry.qa import runner, catalogue; catalogue.all_checks(); print('django' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "False"
