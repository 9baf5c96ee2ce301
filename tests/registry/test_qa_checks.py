"""Each fault is found by the check that is there for it, and by no other."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from registry import artifacts
from registry.qa.base import Context
from registry.qa.catalogue import all_checks, check
from registry.qa.policy import Load, Policy
from registry.qa.runner import Result, examine, to_scored
from registry.scoring import Band, Status, score
from tests.registry.faulty_engine import KEY, Engine, running_engine

SHORT = Load(requests_per_second=100, seconds=0.25, warm_up_requests=2, max_tokens=20)
POLICY = Policy(max_latency_ms=450, load=SHORT)

Gate = Callable[..., dict[str, Result]]


@pytest.fixture(scope="module")
def one_engine() -> Iterator[Engine]:
    with running_engine() as engine:
        yield engine


@pytest.fixture
def engine(one_engine: Engine) -> Engine:
    one_engine.reset()
    return one_engine


@pytest.fixture
def artifact(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "weights.bin").write_bytes(bytes(range(256)) * 40)
    (folder / "config.json").write_text("{}")
    return folder


@pytest.fixture
def gate(engine: Engine, artifact: Path) -> Gate:
    manifest = artifacts.build(artifact)

    def run(*faults: str, policy: Policy = POLICY, only: str = "") -> dict[str, Result]:
        engine.faults = set(faults)
        server = replace(engine.running, pid=os.getpid())
        context = Context(artifact, manifest, "vllm", policy, server)
        checks = [c for c in all_checks() if only in c.name]
        return {result.name: result for result in examine(context, checks)}

    return run


def not_passed(results: dict[str, Result]) -> dict[str, str]:
    fine = (Status.PASSED, Status.NOT_APPLICABLE)
    return {name: r.outcome.reason for name, r in results.items() if r.outcome.status not in fine}


def test_faultless_server_passes_every_check_and_scores_100(gate: Gate) -> None:
    results = gate()
    assert not_passed(results) == {}
    total = score([to_scored(result) for result in results.values()])
    assert (total.points, total.band, total.blocked) == (100.0, Band.EXCELLENT, False)
    assert results["integration.dtesn"].outcome.status is Status.NOT_APPLICABLE
    assert total.categories["integration"] is None


@pytest.mark.parametrize(
    ("fault", "name", "words"),
    [
        ("unhealthy", "compatibility.engine_answers", "GET /health answered 503"),
        ("other model", "compatibility.model_name", "names 'letters'; 'words' is expected"),
        ("max_tokens ignored", "compatibility.generation", "max_tokens was 6 and 11 tokens came"),
        ("no finish_reason", "compatibility.generation", "finish_reason is null"),
        ("streams are cut", "compatibility.generation", "it ends without [DONE]"),
        ("not repeatable", "compatibility.repeatable", "different from character 2 on"),
        ("slow under load", "performance.first_token", "the limit is 450 ms"),
        ("short answers under load", "performance.throughput", "at least 130 tokens/s are demanded"),
        ("one stream in five fails", "performance.error_rate", "ended with an error event inside a 200 answer"),
        ("open", "security.key_required", "answers completions without a key: POST /v1/completions"),
        ("open invocations", "security.key_required", "without a key: POST /invocations"),
        ("any key", "security.key_required", "accepts a wrong key: GET /v1/models, POST /v1/completions"),
        ("cold accepted", "security.input_validation", "a temperature of -1: answered 200"),
        ("deep JSON breaks", "security.input_validation", "20,000 nested lists: answered 500"),
        ("bad UTF-8 kills", "security.input_validation", "after bytes that are no UTF-8 GET /health answered 503"),
        ("words as errors", "security.input_validation", "max_tokens 0: answered 400 without a JSON error object"),
        ("key echoed", "security.keys_not_echoed", "GET /v1/models with a wrong key"),
        ("key in metrics", "security.keys_not_echoed", "GET /metrics"),
    ],
)
def test_fault_fails_its_own_check_and_no_other(gate: Gate, fault: str, name: str, words: str) -> None:
    results = gate(fault, policy=replace(POLICY, min_throughput_tokens_sec=130))
    wrong = not_passed(results)
    assert list(wrong) == [name]
    assert results[name].outcome.status is Status.FAILED
    assert words in wrong[name]


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda folder: (folder / "weights.bin").write_bytes(b"\1" + bytes(range(1, 256))), "bytes, 10,240 were"),
        (lambda folder: (folder / "config.json").write_text("[]"), "config.json has SHA-256"),
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
    others = [r for r in results.values() if r.name not in ("compatibility.digest", "integration.echo_self")]
    assert {r.outcome.status for r in others} == {Status.NOT_CHECKED}
    assert all(r.outcome.reason.startswith("The server was not started: The files are not") for r in others)
    total = score([to_scored(result) for result in results.values()])
    assert total.blocked
    assert words in total.sentence


@pytest.mark.parametrize(
    ("faults", "name", "status", "words"),
    [
        (("dtesn",), "integration.dtesn", Status.PASSED, "POST /v1/chat/completions/dtesn"),
        (("tree",), "integration.dtesn", Status.PASSED, "POST /deep_tree_echo/process"),
        (("dtesn", "dtesn unavailable"), "integration.dtesn", Status.FAILED, "does not say dtesn_available"),
        (("dtesn", "dtesn passed by"), "integration.dtesn", Status.FAILED, "X-DTESN-Processed false"),
        (("tree", "tree degraded"), "integration.dtesn", Status.FAILED, "answered 200 with degraded_mode true"),
        (("aar",), "integration.aar_core", Status.PASSED, "AAR Core lists"),
        (("aar broken",), "integration.aar_core", Status.FAILED, "GET /agents answered 500"),
    ],
)
def test_deep_tree_echo_is_judged_by_what_it_does(
    gate: Gate, faults: tuple[str, ...], name: str, status: Status, words: str
) -> None:
    results = gate(*faults, only="integration.")
    assert results[name].outcome.status is status
    assert words in results[name].outcome.reason
    assert set(not_passed(results)) <= {name}


def test_deep_tree_echo_is_not_applicable_when_the_policy_is_without_it(gate: Gate) -> None:
    results = gate("dtesn", "dtesn unavailable", only="integration.", policy=replace(POLICY, deep_tree_echo=False))
    assert {r.outcome.reason for r in results.values()} == {"The policy does not ask for Deep Tree Echo."}
    assert {r.outcome.status for r in results.values()} == {Status.NOT_APPLICABLE}


def test_policy_may_do_without_key_and_validation(gate: Gate) -> None:
    lax = replace(POLICY, require_authentication=False, require_input_validation=False)
    results = gate("open", "cold accepted", policy=lax, only="security.")
    assert results["security.key_required"].outcome.status is Status.NOT_APPLICABLE
    assert results["security.input_validation"].outcome.status is Status.NOT_APPLICABLE


def test_chat_only_engine_is_examined_through_its_chat(gate: Gate) -> None:
    results = gate("chat only")
    assert not_passed(results) == {}
    assert results["performance.error_rate"].outcome.evidence["path"] == "/v1/chat/completions"


def test_load_too_small_for_the_demanded_throughput_is_said_to_be_so(gate: Gate) -> None:
    results = gate(policy=replace(POLICY, min_throughput_tokens_sec=1e6), only="throughput")
    outcome = results["performance.throughput"].outcome
    assert outcome.status is Status.NOT_CHECKED
    assert "2000 tokens/s at most" in outcome.reason


def test_memory_out_of_reach_costs_no_points(gate: Gate, engine: Engine, artifact: Path) -> None:
    context = Context(artifact, artifacts.build(artifact), "vllm", POLICY, engine.running)
    results = examine(context, [c for c in all_checks() if c.name == "performance.memory"])
    assert results[0].outcome.status is Status.NOT_CHECKED
    assert results[0].weight == 0


def test_server_that_is_gone_fails_every_required_check_with_the_reason(artifact: Path) -> None:
    with running_engine() as engine:
        gone = engine.running
    context = Context(artifact, artifacts.build(artifact), "vllm", POLICY, gone)
    results = {result.name: result for result in examine(context, all_checks())}
    stops = {name for name, result in results.items() if result.stops}
    assert stops == {c.name for c in all_checks() if c.required and c.needs_server}
    assert "takes no connection" in results["compatibility.engine_answers"].outcome.reason
    assert "broke off" in results["performance.error_rate"].outcome.reason
    assert results["integration.dtesn"].outcome.status is Status.FAILED


def test_evidence_is_json_and_holds_no_key(gate: Gate) -> None:
    results = gate("key echoed", "key in metrics", "cold accepted")
    found = [[r.outcome.reason, r.outcome.evidence] for r in results.values()]
    stored = json.dumps(found, allow_nan=False, ensure_ascii=False)
    assert KEY not in stored
    assert 'key=\\"•••\\"' in stored
    bodies = [e["body"] for e in results["security.input_validation"].outcome.evidence["exchanges"]]
    assert all(len(body) <= 300 for body in bodies)


def test_checks_have_a_stable_order_and_names_of_their_category() -> None:
    names = [c.name for c in all_checks()]
    assert names == [c.name for c in all_checks()]
    assert names[0] == "compatibility.digest"
    assert [n.partition(".")[0] for n in names] == [c.category for c in all_checks()]
    assert len(set(names)) == len(names) == 15


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
