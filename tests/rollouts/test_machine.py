"""What the machine is found to have."""

from __future__ import annotations

import os
from pathlib import Path

import psutil
import pytest

from rollouts.targets.local import LocalTarget
from rollouts.targets.machine import Gpu, cgroup_limits, measured, nvidia_gpus


def test_memory_is_at_most_the_machines() -> None:
    found = measured().memory_bytes
    assert found is not None
    assert 0 < found <= psutil.virtual_memory().total


@pytest.mark.parametrize(
    ("line", "files", "limits"),
    [
        ("0::/", {"memory.max": "1000\n"}, [1000]),
        ("0::/", {"memory.max": "max\n"}, []),
        ("0::/a/b", {"a/b/memory.max": "max", "a/memory.max": "700", "memory.max": "900"}, [700, 900]),
        ("0::/not/seen/from/here", {"memory.max": "900"}, [900]),
        ("4:cpu,memory:/x", {"memory/x/memory.limit_in_bytes": "600"}, [600]),
        ("3:cpuset:/x", {"memory.max": "900"}, []),
        ("", {}, []),
    ],
)
def test_limit_of_the_container_is_read(tmp_path: Path, line: str, files: dict[str, str], limits: list[int]) -> None:
    root = tmp_path / "cgroup"
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(content)
    groups = tmp_path / "groups"
    groups.write_text(f"{line}\n")
    assert cgroup_limits(groups, root) == limits


def test_machine_without_control_groups_has_no_limit(tmp_path: Path) -> None:
    assert cgroup_limits(tmp_path / "absent", tmp_path) == []


def smi(folder: Path, script: str) -> dict[str, str]:
    folder.mkdir()
    command = folder / "nvidia-smi"
    command.write_text(f"#!/bin/sh\n{script}\n")
    command.chmod(0o755)
    return {"PATH": f"{folder}{os.pathsep}{os.environ['PATH']}"}


TWO = "printf '24564, 8.9\\n81920, 9.0\\n'"


def test_gpus_are_those_that_the_vendors_command_lists(tmp_path: Path) -> None:
    environment = smi(tmp_path / "bin", TWO)
    assert nvidia_gpus(environment) == [Gpu(24564 << 20, 89), Gpu(81920 << 20, 90)]
    assert nvidia_gpus({**environment, "CUDA_VISIBLE_DEVICES": "1"}) == [Gpu(81920 << 20, 90)]
    assert nvidia_gpus({**environment, "CUDA_VISIBLE_DEVICES": "7"}) == []
    assert len(nvidia_gpus({**environment, "CUDA_VISIBLE_DEVICES": "GPU-3f1c"})) == 1
    assert nvidia_gpus({**environment, "CUDA_VISIBLE_DEVICES": ""}) == []
    assert nvidia_gpus({**environment, "CUDA_VISIBLE_DEVICES": "-1"}) == []
    assert nvidia_gpus({**environment, "CUDA_VISIBLE_DEVICES": "1,-1,0"}) == [Gpu(81920 << 20, 90)]  # as CUDA does


@pytest.mark.parametrize("script", ["exit 9", "echo 'No devices were found'", "kill -9 $$"])
def test_command_that_fails_lists_no_gpu(tmp_path: Path, script: str) -> None:
    assert nvidia_gpus(smi(tmp_path / "bin", script)) == []


def test_gpu_that_keeps_its_memory_to_itself_is_counted(tmp_path: Path) -> None:
    assert nvidia_gpus(smi(tmp_path / "bin", "echo '[N/A], 12.1'")) == [Gpu(None, 121)]


def test_no_command_means_no_gpu(tmp_path: Path) -> None:
    assert nvidia_gpus({"PATH": str(tmp_path)}) == []


def test_what_is_declared_comes_before_what_is_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", smi(tmp_path / "bin", TWO)["PATH"])
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    found = LocalTarget(tmp_path, hardware={"gpu_memory_bytes": 7, "memory_bytes": 9}).hardware()
    assert found is not None
    assert (found.gpus, found.gpu_memory_bytes, found.memory_bytes, found.compute_capability) == (2, 7, 9, 89)
    with pytest.raises(TypeError, match="gpu_memory"):
        LocalTarget(tmp_path, hardware={"gpu_memory": 7})
