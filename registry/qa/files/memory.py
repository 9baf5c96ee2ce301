"""Whether a model fits where it shall run: its weights and the keys and values of one sequence of full length.

Keys and values per token: 2 x layers x heads of them x width of a head x bytes of a number.
"""

from __future__ import annotations

from dataclasses import dataclass

from registry.qa.files.arguments import EngineArguments
from registry.qa.files.config import ModelConfig

GB = 1e9
SHARE = {"aphrodite": 0.92, "vllm": 0.9}
"""Of a GPU's memory, where --gpu-memory-utilization does not say otherwise."""
_OFFLOAD_UNIT = 2**30


def amount(size: float) -> str:
    """ "16.1 GB" """
    if size >= GB / 10:
        return f"{size / GB:,.1f} GB"
    return f"{size / 1e6:,.1f} MB" if size >= 1e5 else f"{size:,.0f} bytes"


@dataclass(frozen=True)
class Cache:
    """Of one sequence of full length."""

    tokens: int
    per_token: int
    doubt: str = ""
    """Why it may well take less; empty where the formula holds."""

    @property
    def size(self) -> int:
        return self.tokens * self.per_token


def cache(config: ModelConfig, arguments: EngineArguments) -> Cache | str:
    """Or why it cannot be estimated, to stand after "because"."""
    layers, kv_heads, width = config.layers, config.kv_heads, config.head_dim
    asked, known = arguments.whole("--max-model-len"), config.context_length
    tokens = asked or (known[0] if known else None)
    needed = {
        "layers": layers,
        "attention heads": kv_heads,
        "the width of a head": width,
        "a context length": tokens,
    }
    if layers is None or kv_heads is None or width is None or tokens is None:
        return f"config.json does not give {next(name for name, value in needed.items() if value is None)}"
    copies = max(kv_heads, arguments.size("--tensor-parallel-size"))  # each GPU keeps one head at least
    return Cache(tokens, 2 * layers * copies * width * _width(config, arguments), config.special_attention)


def _width(config: ModelConfig, arguments: EngineArguments) -> int:
    """Bytes of a number. Engines take 16 bits also for weights of 32, unless they are told."""
    if (arguments.text("--kv-cache-dtype") or "auto").startswith(("fp8", "int8")):
        return 1
    return 4 if arguments.text("--dtype") in ("float32", "float") else 2


@dataclass(frozen=True)
class Room:
    size: float
    """Bytes."""
    words: str
    """What they are, to stand after "of"."""


def room_on_gpus(engine: str, arguments: EngineArguments, gpu_bytes: int, gpus: int) -> Room:
    wanted = arguments.size("--tensor-parallel-size") * arguments.size("--pipeline-parallel-size")
    used = min(wanted, gpus)
    share = arguments.share("--gpu-memory-utilization", SHARE[engine])
    offload = arguments.amount("--cpu-offload-gb", 0.0) * _OFFLOAD_UNIT * used
    beside = f" and {amount(offload)} beside" if offload else ""
    each = "the GPU has" if used == 1 else f"{used} GPUs have"
    return Room(used * gpu_bytes * share + offload, f"{share:g} of the {amount(used * gpu_bytes)} that {each}{beside}")
