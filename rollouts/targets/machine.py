"""What this machine has for a model server: its memory within the limits of our container, and its NVIDIA GPUs."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path

import psutil

from registry.qa.base import Hardware

ASK_SECONDS = 5.0
_MIB = 1 << 20


@dataclass(frozen=True)
class Gpu:
    memory_bytes: int | None
    compute_capability: int | None


def measured() -> Hardware:
    gpus = nvidia_gpus()
    memory = [gpu.memory_bytes for gpu in gpus if gpu.memory_bytes is not None]
    capability = [gpu.compute_capability for gpu in gpus if gpu.compute_capability is not None]
    return Hardware(
        memory_bytes=min([psutil.virtual_memory().total, *cgroup_limits()]),
        gpus=len(gpus),
        gpu_memory_bytes=min(memory, default=None),  # where they differ, a model is divided evenly all the same
        compute_capability=min(capability, default=None),
    )


def cgroup_limits(groups: Path = Path("/proc/self/cgroup"), root: Path = Path("/sys/fs/cgroup")) -> list[int]:
    """Of our own group and all that it lies in. No limit is written as "max", or as a number beyond any memory."""
    try:
        lines = groups.read_text().splitlines()
    except OSError:
        return []
    found: list[int] = []
    for line in lines:
        number, _, rest = line.partition(":")
        controllers, _, group = rest.partition(":")
        if number == "0" and not controllers:
            found += _limits(root, group, "memory.max")
        elif "memory" in controllers.split(","):
            found += _limits(root / "memory", group, "memory.limit_in_bytes")
    return found


def _limits(root: Path, group: str, name: str) -> list[int]:
    own = root / group.lstrip("/")
    folders = [own, *own.parents]
    texts = [_text(folder / name) for folder in folders[: len(folders) - len(root.parents)]]
    return [int(text) for text in texts if text.isdecimal()]


def _text(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""


def nvidia_gpus(environment: Mapping[str, str] = os.environ) -> list[Gpu]:
    """As the vendor's own command tells. Empty where there is none, or it does not answer."""
    command = shutil.which("nvidia-smi", path=environment.get("PATH", os.defpath))
    if command is None:
        return []
    query = [command, "--query-gpu=memory.total,compute_cap", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(query, capture_output=True, text=True, timeout=ASK_SECONDS, check=True)
    except (OSError, subprocess.SubprocessError, UnicodeDecodeError):
        return []
    gpus = [_gpu(line) for line in done.stdout.splitlines() if line.count(",") == 1]
    seen = environment.get("CUDA_VISIBLE_DEVICES")
    if seen is None:
        return gpus
    return [gpu for gpu in takewhile(bool, (_visible(name.strip(), gpus) for name in seen.split(","))) if gpu]


def _visible(name: str, gpus: list[Gpu]) -> Gpu | None:
    """None for one that is not there: CUDA ends the list at it."""
    if name.isdecimal():
        return gpus[int(name)] if int(name) < len(gpus) else None
    # By the vendor's identifier, which is not asked for: where the GPUs differ, the smallest is a safe guess.
    named = name.startswith(("GPU-", "MIG-")) and gpus
    return min(gpus, key=lambda gpu: (gpu.memory_bytes or 0, gpu.compute_capability or 0)) if named else None


def _gpu(line: str) -> Gpu:
    memory, _, capability = (part.strip() for part in line.partition(","))
    major, _, minor = capability.partition(".")
    return Gpu(
        memory_bytes=int(memory) * _MIB if memory.isdecimal() else None,
        compute_capability=int(major) * 10 + int(minor) if major.isdecimal() and minor.isdecimal() else None,
    )
