"""Compatibility as the version's files show it, and the engine's package and version."""

from __future__ import annotations

import json
import os
import pickle
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from examples.textgen import train
from registry.engines import EngineClient
from registry.qa.base import Context, Finding, Hardware, Outcome, RunningServer, Severity
from registry.qa.builtin.exchange import Exchange
from registry.qa.builtin.installed import IMPORTED, is_version, python_with, told_version
from registry.qa.catalogue import all_checks, find
from registry.qa.files import known
from registry.qa.policy import Policy
from registry.qa.runner import examine
from registry.scoring import Status
from tests.registry.faulty_engine import Engine, running_engine
from tests.registry.model_files import LLAMA, entries, gguf, safetensors, sharded, text, write_model

OURS = (
    "architecture", "remote_code", "quantization", "context_length", "parallelism", "tokenizer", "weights", "pickles",
    "memory", "engine_import",
)  # fmt: skip
ROOMY = Hardware(memory_bytes=64 * 10**9)
PASSED, FAILED, NOT_CHECKED = Status.PASSED, Status.FAILED, Status.NOT_CHECKED
NOT_APPLICABLE = Status.NOT_APPLICABLE


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_model(tmp_path / "model")


def context(
    folder: Path,
    *arguments: str,
    engine: str = "aphrodite",
    hardware: Hardware | None = ROOMY,
    server: RunningServer | None = None,
    **parameters: dict[str, Any],
) -> Context:
    policy = Policy(parameters={f"compatibility.{name}": value for name, value in parameters.items()})
    return Context(folder, None, engine, policy, server, hardware=hardware, engine_arguments=arguments)


def outcome(word: str, given: Context) -> Outcome:
    check = find(f"compatibility.{word}")
    assert check is not None
    return examine(given, [check])[0].outcome


def configure(folder: Path, **config: Any) -> None:
    (folder / "config.json").write_text(json.dumps({**LLAMA, **config}))


def severities(found: Outcome) -> list[Severity]:
    return [finding.severity for finding in found.findings]


def of_files(given: Context) -> dict[str, Outcome]:
    checks = [c for c in all_checks() if c.name.removeprefix("compatibility.") in OURS]
    assert len(checks) == len(OURS)
    return {result.name.partition(".")[2]: result.outcome for result in examine(given, checks)}


# -- all of them ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("engine", ["aphrodite", "vllm"])
def test_model_with_nothing_wrong_passes_everything_without_a_finding(model: Path, engine: str) -> None:
    found = of_files(context(model, engine=engine))
    assert {name for name, one in found.items() if one.status is FAILED} == set()
    assert {name for name, one in found.items() if one.status is NOT_CHECKED} <= {"engine_import"}
    assert {name for name, one in found.items() if one.findings} == set()
    assert {name for name, one in found.items() if one.status is NOT_APPLICABLE} == {"quantization", "parallelism"}


def test_model_of_the_demo_is_clean(tmp_path: Path) -> None:
    train.train(next(iter(train.KINDS)), tmp_path)
    found = of_files(context(tmp_path, engine="textgen"))
    assert {one.status for one in found.values()} == {PASSED, NOT_APPLICABLE}
    assert found["pickles"].reason == "None of the 2 files is a pickle."
    assert found["architecture"].reason == ("The engine textgen does not go by config.json; Aphrodite and vLLM do.")


def test_configuration_that_is_broken_fails_one_check_and_leaves_the_others_unchecked(model: Path) -> None:
    (model / "config.json").write_text("{")
    found = of_files(context(model))
    assert {name for name, one in found.items() if one.status is FAILED} == {"architecture"}
    assert "config.json is no JSON" in found["architecture"].reason
    unchecked = {"remote_code", "quantization", "context_length", "parallelism", "tokenizer"}
    assert {name for name, one in found.items() if one.status is NOT_CHECKED} - {"engine_import"} == unchecked


def test_weights_in_gguf_need_no_config(tmp_path: Path) -> None:
    (tmp_path / "model.gguf").write_bytes(gguf({"general.architecture": (8, text("llama"))}, {"a": ((8,), 0, 0)}, 32))
    for engine, status in (("llamacpp", NOT_APPLICABLE), ("vllm", PASSED), ("aphrodite", FAILED)):
        found = of_files(context(tmp_path, engine=engine))
        assert found["quantization"].status is status
        assert found["weights"].status is PASSED
        assert found["architecture"].status is NOT_APPLICABLE
    assert "Aphrodite 0.24.1 does not know it" in found["quantization"].reason


# -- architecture --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("engine", "names", "status", "severity", "words"),
    [
        ("aphrodite", ["LlamaForCausalLM"], PASSED, [], "LlamaForCausalLM is native in Aphrodite 0.24.1."),
        ("vllm", ["LlamaForCausalLM"], PASSED, [], "that list stands in for the one of vllm"),
        ("aphrodite", ["Mine", "LlamaForCausalLM"], PASSED, [], "LlamaForCausalLM is native"),
        ("aphrodite", ["SmolLM3ForCausalLM"], PASSED, [], "served through Transformers"),
        ("aphrodite", ["BartModel"], PASSED, [Severity.MEDIUM], "with a plugin only"),
        ("aphrodite", ["LamaForCausalLM"], PASSED, [Severity.MEDIUM], "is LlamaForCausalLM meant?"),
        ("aphrodite", ["NgramModel"], PASSED, [Severity.MEDIUM], "The Transformers backend may do"),
        ("aphrodite", ["BaichuanForCausalLM"], FAILED, [Severity.HIGH], "0.23.0 was the last version with it"),
        ("vllm", ["BaichuanForCausalLM"], PASSED, [Severity.MEDIUM], "may be gone from vllm, too"),
        ("vllm", [], FAILED, [], "config.json names no architecture"),
    ],
)
def test_architecture_is_looked_up(
    model: Path, engine: str, names: list[str], status: Status, severity: list[Severity], words: str
) -> None:
    configure(model, architectures=names)
    found = outcome("architecture", context(model, engine=engine))
    assert (found.status, severities(found)) == (status, severity)
    assert words in found.reason


def test_list_of_architectures_is_read_when_asked_for_and_is_the_whole_one() -> None:
    groups = known.architectures()
    assert (len(groups.native), len(groups.transformers), len(groups.plugin), len(groups.last_version)) == (
        359,
        23,
        4,
        50,
    )
    assert not groups.native & set(groups.last_version)


# -- code of the model's own ---------------------------------------------------------------------------------------

AUTO_MAP = {"AutoModelForCausalLM": "modeling_mine.MineForCausalLM"}


@pytest.mark.parametrize(
    ("names", "arguments", "allowed", "status", "severity", "words"),
    [
        (["Mine"], (), False, FAILED, Severity.LOW, "needs --trust-remote-code"),
        (["Mine"], ("--trust-remote-code",), False, FAILED, Severity.HIGH, "is started with --trust-remote-code"),
        (["Mine"], ("--trust-remote-code",), True, PASSED, Severity.HIGH, "The policy allows the model's own code"),
        (["LlamaForCausalLM"], (), False, PASSED, Severity.LOW, "so none of that runs"),
        (["LlamaForCausalLM"], ("--trust_remote_code",), False, FAILED, Severity.HIGH, "modeling_mine.MineForCausalLM"),
    ],
)
def test_code_of_the_model_must_be_allowed(
    model: Path,
    names: list[str],
    arguments: tuple[str, ...],
    allowed: bool,
    status: Status,
    severity: Severity,
    words: str,
) -> None:
    configure(model, architectures=names, auto_map=AUTO_MAP)
    (model / "modeling_mine.py").write_text("")
    found = outcome("remote_code", context(model, *arguments, remote_code={"allow_remote_code": allowed}))
    assert (found.status, severities(found)) == (status, [severity])
    assert words in found.reason


def test_code_from_elsewhere_and_code_that_is_missing_are_findings(model: Path) -> None:
    auto_map = {"AutoConfig": "other/repo--config.Mine", "AutoTokenizer": ["tok.Slow", None]}
    (model / "tokenizer_config.json").write_text(json.dumps({"auto_map": auto_map}))
    found = outcome("remote_code", context(model, "--trust-remote-code"))
    assert found.status is FAILED
    sentences = [finding.sentence for finding in found.findings]
    assert any("other/repo--config.Mine is fetched from elsewhere" in sentence for sentence in sentences)
    assert any("tok.py is not in the folder" in sentence for sentence in sentences)


def test_trust_that_is_not_needed_is_a_finding(model: Path) -> None:
    found = outcome("remote_code", context(model, "--trust-remote-code"))
    assert (found.status, severities(found)) == (PASSED, [Severity.LOW])


# -- quantization --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("engine", "quantized", "capability", "status", "words"),
    [
        ("aphrodite", {"quant_method": "awq"}, 80, PASSED, "awq needs a GPU of compute capability 7.5; this one has 8"),
        ("aphrodite", {"quant_method": "awq"}, 70, FAILED, "compute capability 7.5 at least; this one has 7"),
        ("vllm", {"quant_method": "fp_quant"}, 90, FAILED, "compute capability 10 at least; this one has 9"),
        ("aphrodite", {"quant_method": "gptq"}, None, PASSED, "what the GPU can is not declared"),
        ("aphrodite", {"quant_method": "AWQ"}, 80, PASSED, "awq needs"),
        ("aphrodite", {"quant_method": "modelopt", "quant_algo": "MXFP8"}, 90, PASSED, "modelopt_mxfp8 needs"),
        ("aphrodite", {"quant_method": "exl2"}, 80, FAILED, "exl3 is the nearest that is known"),
        ("aphrodite", {"quant_method": "squeezellm"}, 80, FAILED, "Aphrodite 0.24.1 does not know it"),
        ("vllm", {"quant_method": "squeezellm"}, 80, FAILED, "neither Aphrodite 0.24.1 nor vLLM knows it"),
        ("vllm", {"quant_method": "hqq"}, 80, PASSED, "hqq (config.json) is known to vllm"),
        ("aphrodite", {"bits": 4}, 80, FAILED, "without a quant_method"),
        ("aphrodite", {"load_in_4bit": True}, 80, PASSED, "bitsandbytes needs"),
    ],
)
def test_quantization_is_held_against_engine_and_gpu(
    model: Path, engine: str, quantized: dict[str, Any], capability: int | None, status: Status, words: str
) -> None:
    configure(model, quantization_config=quantized)
    hardware = Hardware(gpus=1, gpu_memory_bytes=10**10, compute_capability=capability)
    found = outcome("quantization", context(model, engine=engine, hardware=hardware))
    assert found.status is status
    assert words in found.reason
    assert bool(found.findings) is (capability is None)


@pytest.mark.parametrize(
    ("file", "content", "method"),
    [
        ("hf_quant_config.json", {"quantization": {"quant_algo": "NVFP4"}}, "modelopt_fp4"),
        ("quantize_config.json", {"bits": 4, "group_size": 128}, "gptq"),
        ("quant_config.json", {"w_bit": 4}, "awq"),
    ],
)
def test_quantization_beside_the_config_is_found(model: Path, file: str, content: dict[str, Any], method: str) -> None:
    (model / file).write_text(json.dumps(content))
    found = outcome("quantization", context(model))
    assert (found.evidence["method"], found.evidence["source"]) == (method, file)


@pytest.mark.parametrize(
    ("method", "asked", "status"),
    [("gptq", "gptq_marlin", PASSED), ("gptq", "fp8", FAILED), (None, "fp8", PASSED), (None, "squeezellm", FAILED)],
)
def test_quantization_that_is_asked_for_must_fit_the_files(
    model: Path, method: str | None, asked: str, status: Status
) -> None:
    configure(model, **({"quantization_config": {"quant_method": method}} if method else {}))
    assert outcome("quantization", context(model, "-q", asked)).status is status


# -- arguments against the config ----------------------------------------------------------------------------------

YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 1024}


@pytest.mark.parametrize(
    ("config", "arguments", "status", "words"),
    [
        ({}, (), PASSED, "takes the model's own 2,048 tokens (max_position_embeddings)"),
        ({}, ("--max-model-len", "2048"), PASSED, "2,048 is within the 2,048 tokens"),
        ({}, ("--max-model-len=2049",), FAILED, "2,049 is more than the 2,048 tokens"),
        ({}, ("--max_model_len", "4K"), FAILED, "4,096 is more than"),
        ({}, ("--max-model-len", "2k"), PASSED, "2,000 is within"),
        ({}, ("--max-model-len", "auto"), PASSED, "takes the model's own"),
        ({}, ("--max-model-len", "much"), FAILED, "--max-model-len is 'much', which is no whole number"),
        ({}, ("--max-model-len",), FAILED, "--max-model-len has no value"),
        ({}, ("--max-model-len", "9999", "--max-model-len", "9"), PASSED, "9 is within"),
        ({"rope_scaling": YARN}, ("--max-model-len", "4096"), PASSED, "1,024 x yarn factor 4"),
        (
            {"rope_scaling": {"type": "linear", "factor": 2}},
            ("--max-model-len", "4096"),
            PASSED,
            "2,048 x linear factor 2",
        ),
        (
            {"rope_scaling": {"rope_type": "llama3", "factor": 8}},
            ("--max-model-len", "4096"),
            FAILED,
            "more than the 2,048",
        ),
        ({"max_position_embeddings": None}, ("--max-model-len", "9"), NOT_APPLICABLE, "does not say how many tokens"),
        ({"text_config": {"n_positions": 64}}, ("--max-model-len", "65"), FAILED, "more than the 64 tokens"),
    ],
)
def test_context_length_is_held_against_the_model(
    model: Path, config: dict[str, Any], arguments: tuple[str, ...], status: Status, words: str
) -> None:
    configure(model, **config)
    found = outcome("context_length", context(model, *arguments))
    assert found.status is status
    assert words in found.reason


@pytest.mark.parametrize(
    ("config", "arguments", "gpus", "status", "words"),
    [
        ({}, (), 0, NOT_APPLICABLE, "runs on one device"),
        ({}, ("-tp", "2"), 2, PASSED, "4 attention heads are divided among 2"),
        ({}, ("-tp", "4"), 4, PASSED, "4 attention heads are divided among 4"),
        ({}, ("--tensor-parallel-size", "3"), 4, FAILED, "4 attention heads cannot be divided among 3"),
        ({"num_attention_heads": 12, "num_key_value_heads": 4}, ("-tp=6",), 8, FAILED, "4 heads of keys and values"),
        ({}, ("-pp", "3"), 4, FAILED, "2 layers cannot be divided among 3"),
        ({}, ("-tp", "2", "-dp", "2"), 3, FAILED, "4 GPUs are asked for and 3 are there"),
        ({}, ("-tp", "0"), 3, FAILED, "--tensor-parallel-size is 0"),
    ],
)
def test_parallelism_is_held_against_the_model_and_the_machine(
    model: Path, config: dict[str, Any], arguments: tuple[str, ...], gpus: int, status: Status, words: str
) -> None:
    configure(model, **config)
    found = outcome("parallelism", context(model, *arguments, hardware=Hardware(gpus=gpus)))
    assert found.status is status
    assert words in found.reason


# -- tokenizer -----------------------------------------------------------------------------------------------------


def test_tokenizer_that_is_missing_fails(model: Path) -> None:
    (model / "tokenizer.json").unlink()
    assert "There is no tokenizer" in outcome("tokenizer", context(model)).reason
    found = outcome("tokenizer", context(model, "--tokenizer", "other/model"))
    assert (found.status, severities(found)) == (PASSED, [Severity.MEDIUM])
    assert outcome("tokenizer", context(model, "--skip-tokenizer-init")).status is NOT_APPLICABLE


def test_tokenizer_that_is_no_json_fails(model: Path) -> None:
    (model / "tokenizer.json").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")
    found = outcome("tokenizer", context(model))
    assert found.status is FAILED
    assert found.reason.startswith("tokenizer.json is a Git LFS pointer and not the file itself")


def test_model_without_a_chat_template_passes_with_a_finding(model: Path) -> None:
    (model / "tokenizer_config.json").write_text("{}")
    found = outcome("tokenizer", context(model))
    assert (found.status, severities(found)) == (PASSED, [Severity.MEDIUM])
    assert "there is no chat template, so chat is refused" in found.reason
    assert outcome("tokenizer", context(model, "--chat-template", "x.jinja")).findings == ()
    (model / "chat_template.jinja").write_text("{{ messages }}")
    assert outcome("tokenizer", context(model)).findings == ()


def test_tokens_beyond_the_vocabulary_of_the_model_are_a_finding(model: Path) -> None:
    configure(model, vocab_size=31)
    found = outcome("tokenizer", context(model))
    assert severities(found) == [Severity.HIGH]
    assert found.findings[0].sentence == "tokenizer.json has tokens up to number 31 and the model only 31 (vocab_size)."


# -- weights -------------------------------------------------------------------------------------------------------


def test_weights_that_are_cut_off_block_the_version(model: Path) -> None:
    path = model / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    found = outcome("weights", context(model))
    assert found.status is FAILED
    assert found.reason == (
        "model.safetensors is cut off: its header promises 8,192 bytes of tensors and 8,092 are there."
    )
    check = find("compatibility.weights")
    assert check is not None
    assert check.required


def test_weights_that_are_whole_are_counted(model: Path) -> None:
    found = outcome("weights", context(model))
    assert found.status is PASSED
    assert found.evidence["parameters"] == 2 * 32 * 64
    assert found.evidence["tensor_bytes"] == 2 * 32 * 64 * 2
    assert "2 tensors with 4,096 numbers (BF16)" in found.reason


def test_shard_that_is_missing_blocks_and_a_wrong_size_is_a_finding(model: Path) -> None:
    (model / "model.safetensors").unlink()
    sharded(model, {"model-00001-of-00002.safetensors": {"a": ("F32", (4,))}, "b.safetensors": {"b": ("F32", (1,))}}, 7)
    found = outcome("weights", context(model))
    assert (found.status, severities(found)) == (PASSED, [Severity.LOW])
    (model / "b.safetensors").unlink()
    assert outcome("weights", context(model)).status is FAILED


# -- pickles -------------------------------------------------------------------------------------------------------


def test_pickle_of_ordinary_things_passes_with_a_finding_unless_the_policy_allows_none(model: Path) -> None:
    (model / "pytorch_model.bin").write_bytes(pickle.dumps({"a": {1, 2}}, 2))
    found = outcome("pickles", context(model))
    assert (found.status, severities(found)) == (PASSED, [Severity.MEDIUM])
    found = outcome("pickles", context(model, pickles={"allow_pickles": False}))
    assert (found.status, found.reason) == (FAILED, "pytorch_model.bin is a pickle, and the policy allows none.")


def test_pickle_that_runs_a_command_is_critical(model: Path) -> None:
    (model / "pytorch_model.bin").write_bytes(b"cos\nsystem\n(S'exit 7'\ntR.")
    (model / "training_args.bin").write_bytes(b"\x80\x04\x8c\x0ctransformers\x8c\x01X\x93.")
    found = outcome("pickles", context(model))
    assert found.status is FAILED
    assert found.reason == (
        "pytorch_model.bin imports os.system when it is loaded, which no weights need (and so does 1 more)."
    )
    assert found.findings[0] == Finding(
        Severity.CRITICAL,
        "pytorch_model.bin imports os.system when it is loaded.",
        "Do not load it; find out who made it.",
    )
    assert found.findings[1].action == "Remove it: no engine reads it."


# -- memory --------------------------------------------------------------------------------------------------------


def large(folder: Path, size: int) -> None:
    """Weights of that many bytes, which take none on the disk."""
    header = json.dumps({"a": {"dtype": "U8", "shape": [size], "data_offsets": [0, size]}}).encode()
    content = safetensors(header, 0)
    with (folder / "model.safetensors").open("wb") as file:
        file.write(content)
        file.truncate(len(content) + size)


# 32 layers, 8 heads of keys and values of width 128, 2 bytes: 131,072 bytes a token.
EIGHT = {"num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8, "hidden_size": 4096,
         "max_position_embeddings": 8192}  # fmt: skip
GPU = Hardware(gpus=1, gpu_memory_bytes=24 * 10**9)
TWO_GPUS = Hardware(gpus=2, gpu_memory_bytes=12 * 10**9)


@pytest.mark.parametrize(
    ("engine", "config", "arguments", "hardware", "status", "value", "limit"),
    [
        ("vllm", {}, (), GPU, PASSED, 17.074, 21.6),
        ("aphrodite", {}, (), GPU, PASSED, 17.074, 22.08),
        ("vllm", {}, ("--gpu-memory-utilization", "0.7"), GPU, FAILED, 17.074, 16.8),
        ("vllm", {}, ("--gpu-memory-utilization", "0.7", "--max-model-len", "4096"), GPU, PASSED, 16.537, 16.8),
        ("vllm", {}, ("--gpu-memory-utilization=0.7", "--kv-cache-dtype", "fp8"), GPU, PASSED, 16.537, 16.8),
        ("vllm", {}, (), TWO_GPUS, FAILED, 17.074, 10.8),
        ("vllm", {}, ("-tp", "2"), TWO_GPUS, PASSED, 17.074, 21.6),
        ("vllm", {"max_position_embeddings": 131072}, (), GPU, FAILED, 33.18, 21.6),
        ("vllm", {"max_position_embeddings": 131072, "sliding_window": 4096}, (), GPU, PASSED, 16.0, 21.6),
        ("vllm", {"kv_lora_rank": 512}, (), GPU, PASSED, 17.074, 21.6),
        ("vllm", {"num_hidden_layers": None}, (), GPU, PASSED, 16.0, 21.6),
        ("vllm", {}, (), Hardware(memory_bytes=17 * 10**9), FAILED, 17.074, 17.0),
        ("vllm", {}, ("--cpu-offload-gb", "10", "--gpu-memory-utilization", "0.5"), GPU, PASSED, 17.074, 22.737),
        ("llamacpp", {}, (), Hardware(memory_bytes=17 * 10**9), PASSED, 16.0, 17.0),
        ("llamacpp", {}, (), Hardware(memory_bytes=15 * 10**9), FAILED, 16.0, 15.0),
    ],
)
def test_memory_is_estimated_against_the_place(
    model: Path,
    engine: str,
    config: dict[str, Any],
    arguments: tuple[str, ...],
    hardware: Hardware,
    status: Status,
    value: float,
    limit: float,
) -> None:
    large(model, 16 * 10**9)
    configure(model, **{**EIGHT, **config})
    found = outcome("memory", context(model, *arguments, engine=engine, hardware=hardware))
    assert found.status is status, found.reason
    assert found.value == pytest.approx(value, abs=0.001)
    assert found.limit == pytest.approx(limit, abs=0.001)
    assert found.unit == "GB"


def test_estimate_says_when_it_is_not_valid(model: Path) -> None:
    large(model, 16 * 10**9)
    configure(model, **{**EIGHT, "max_position_embeddings": 131072, "kv_lora_rank": 512})
    found = outcome("memory", context(model, engine="vllm", hardware=GPU))
    assert "keys and values are not counted, because it compresses keys and values (MLA, kv_lora_rank)" in found.reason


def test_weights_that_are_quantized_at_the_start_are_not_called_too_large(model: Path) -> None:
    large(model, 30 * 10**9)
    found = outcome("memory", context(model, "-q", "fp8", engine="vllm", hardware=GPU))
    assert found.status is NOT_CHECKED
    assert "--quantization makes them smaller" in found.reason


def test_memory_that_is_not_declared_is_not_checked_unless_the_server_runs_already(model: Path) -> None:
    found = outcome("memory", context(model, hardware=None))
    assert found.status is NOT_CHECKED
    assert "The target declares no memory" in found.reason
    server = RunningServer("http://127.0.0.1:1", "m", "")
    assert outcome("memory", context(model, hardware=None, server=server)).status is NOT_APPLICABLE


# -- the engine's package ------------------------------------------------------------------------------------------

SAMPLING = """
__version__ = "0.24.1"
class SamplingParams:
    def __init__(self, n=1, temperature=1.0, top_p=1.0, top_k=0, min_p=0.0, presence_penalty=0.0,
                 frequency_penalty=0.0, repetition_penalty=1.0, max_tokens=16, seed=None, stop=None):
        right = (n >= 1, temperature >= 0, 0 < top_p <= 1, top_k >= -1, 0 <= min_p <= 1, repetition_penalty > 0,
                 -2 <= presence_penalty <= 2, -2 <= frequency_penalty <= 2, max_tokens >= 1)
        if not all(right):
            raise ValueError("out of range")
"""

Install = Callable[[str], None]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Install:
    """Installs an `aphrodite` with that source as people do: beside us, with a command that names its own Python."""
    site, programs = tmp_path / "site", tmp_path / "bin"
    programs.mkdir()
    python = programs / "python"
    python.write_text(f'#!/bin/sh\nPYTHONPATH="{site}" exec "{sys.executable}" "$@"\n')
    command = programs / "aphrodite"
    command.write_text(f"#!{python}\n")
    for program in (python, command):
        program.chmod(0o755)

    def put(source: str) -> None:
        (site / "aphrodite").mkdir(parents=True)
        (site / "aphrodite" / "__init__.py").write_text(source)
        monkeypatch.setenv("PATH", f"{programs}{os.pathsep}{os.environ['PATH']}")

    return put


def test_engine_that_is_not_installed_is_not_checked_and_costs_nothing(model: Path) -> None:
    if python_with("aphrodite"):
        pytest.skip("aphrodite is installed here")
    found = outcome("engine_import", context(model))
    assert (found.status, found.reason) == (
        NOT_CHECKED,
        "aphrodite is not installed here, so its package was not imported.",
    )
    check = find("compatibility.engine_import")
    assert check is not None
    assert check.weight == 0
    assert outcome("engine_import", context(model, engine="textgen")).status is NOT_APPLICABLE


def test_sampling_parameters_of_the_installed_engine_are_tried(model: Path, install: Install) -> None:
    install(SAMPLING)
    given = context(model)
    found = outcome("engine_import", given)
    assert found.status is PASSED, found.reason
    assert "aphrodite 0.24.1 was imported" in found.reason
    assert "refuses 10 values" in found.reason
    assert given.scratch[IMPORTED] == "0.24.1"


@pytest.mark.parametrize(
    ("source", "status", "words"),
    [
        (SAMPLING.replace("temperature >= 0, ", ""), FAILED, "accepts what is out of range: temperature -1"),
        (SAMPLING.replace("seed=None, ", ""), FAILED, "SamplingParams with n 2, temperature 0.7"),
        ("", FAILED, "aphrodite.SamplingParams failed: AttributeError"),
        ("import no_such_module", FAILED, "import aphrodite failed: ModuleNotFoundError"),
        ("raise SystemExit(3)", FAILED, "import aphrodite failed: SystemExit: 3"),
        ("import os; print('bad GPU', flush=True); os._exit(3)", FAILED, "ended its process: bad GPU"),
        ("import os; os.environ['DEPLOYPIPE_VAR']", FAILED, "KeyError: 'DEPLOYPIPE_VAR'"),
        ("import threading; threading.Event().wait()", Status.ERROR, "did not end within 1 s"),
    ],
)
def test_engine_that_cannot_be_used_is_told_so(
    model: Path, install: Install, source: str, status: Status, words: str
) -> None:
    install(source)
    seconds = {"seconds": 1.0 if status is Status.ERROR else 60.0}
    found = outcome("engine_import", context(model, engine_import=seconds))
    assert found.status is status
    assert words in found.reason


@pytest.mark.parametrize("name", ["max_position_embeddings", "num_hidden_layers", "head_dim"])
def test_number_beyond_all_measure_is_none(model: Path, name: str) -> None:
    (model / "config.json").write_text(json.dumps({**LLAMA, name: 10**400, "rope_scaling": {"factor": 2.0}}))
    for check in ("context_length", "memory", "parallelism"):
        assert outcome(check, context(model, engine="vllm", hardware=Hardware(memory_bytes=10**12))).status in (
            PASSED,
            NOT_APPLICABLE,
        )


def test_many_pickles_have_not_as_many_findings_and_the_worst_come_first(model: Path) -> None:
    for number in range(60):
        (model / f"a{number}.pkl").write_bytes(pickle.dumps([1]))
    (model / "z.pkl").write_bytes(b"cos\nsystem\n(Vtrue\ntR.")
    found = outcome("pickles", context(model))
    assert (len(found.findings), found.findings[0].sentence) == (50, "z.pkl imports os.system when it is loaded.")


def test_heads_that_are_not_counted_are_not_called_divided(model: Path) -> None:
    (model / "config.json").write_text(json.dumps({**LLAMA, "num_attention_heads": None}))
    two = context(model, "-tp", "2")
    assert outcome("parallelism", two).status is NOT_CHECKED
    assert "does not count the attention heads" in outcome("parallelism", two).reason
    assert outcome("parallelism", context(model, "-pp", "2")).status is PASSED


# -- the version that runs -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def one_engine() -> Iterator[Engine]:
    with running_engine() as engine:
        yield engine


@pytest.fixture
def told(one_engine: Engine) -> str:
    one_engine.reset()
    with EngineClient(one_engine.base_url) as client:
        version = client.version()
    assert version is not None
    return version


@pytest.mark.parametrize("parts", [0, 2, 3])
def test_version_is_held_against_the_policy(model: Path, one_engine: Engine, told: str, parts: int) -> None:
    expected = ".".join(told.split(".")[:parts])
    given = context(model, engine="vllm", server=one_engine.running, engine_version={"expected": expected})
    found = outcome("engine_version", given)
    assert (found.status, found.evidence["version"]) == (PASSED, told)
    assert found.reason == f"/version says {told}{f', as the policy expects ({expected})' if expected else ''}."


def test_other_version_than_the_policy_expects_fails(model: Path, one_engine: Engine, told: str) -> None:
    given = context(model, engine="vllm", server=one_engine.running, engine_version={"expected": told[:-1]})
    found = outcome("engine_version", given)
    assert (found.status, found.reason) == (FAILED, f"/version says {told}; the policy expects {told[:-1]}.")


def test_version_other_than_the_one_installed_here_is_a_finding(model: Path, one_engine: Engine, told: str) -> None:
    given = context(model, engine="vllm", server=one_engine.running)
    given.scratch[IMPORTED] = "0.23.0"
    found = outcome("engine_version", given)
    assert [finding.sentence for finding in found.findings] == [
        f"The server runs {told}, and vllm 0.23.0 is installed here."
    ]


def test_server_that_is_gone_has_no_known_version(model: Path) -> None:
    with running_engine() as engine:
        gone = engine.running
    found = outcome("engine_version", context(model, server=gone))
    assert found.status is FAILED
    assert "The version of the engine is not known" in found.reason


@pytest.mark.parametrize(
    ("body", "version"),
    [
        (b'{"version": "0.24.1"}', "0.24.1"),
        (b'{"version": "b0-unknown"}', ""),
        (b'{"version": "Unknown"}', ""),
        (b'{"version": null}', ""),
        (b'{"version": {"major": 1}}', ""),
        (b"[]", ""),
    ],
)
def test_version_that_says_unknown_is_not_told(body: bytes, version: str) -> None:
    assert told_version(Exchange("GET", "/version", 200, body=body), "version") == version
    assert told_version(Exchange("GET", "/version", 500, body=body), "version") == ""


@pytest.mark.parametrize(
    ("told", "expected", "same"),
    [
        ("0.24.1", "0.24.1", True),
        ("0.24.1+cpu", "0.24.1", True),
        ("0.24.1", "0.24", True),
        ("0.24.1", "0.2", False),
        ("0.24.10", "0.24.1", False),
        ("10.24.1", "0.24.1", False),
        ("1.0.24.1", "0.24.1", False),
        ("aphrodite-0.24.1-tp2-1a2b3c4d", "0.24.1", True),
        ("0.24.1rc1", "0.24.1", False),
    ],
)
def test_versions_are_compared_by_their_parts(told: str, expected: str, same: bool) -> None:
    assert is_version(told, expected) is same


def test_entries_of_the_test_files_are_what_they_say() -> None:
    assert entries({"a": ("BF16", (2,)), "b": ("I8", (3,))})["b"]["data_offsets"] == [4, 7]
