"""What an engine is known to serve, from lists that are shipped: read when first asked for."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from enum import StrEnum
from functools import cache
from importlib.resources import files
from typing import Any

ENGINE, VERSION = "aphrodite", "0.24.1"
"""Whose lists these are."""

_OTHERS = {
    "_PREVIOUSLY_SUPPORTED_MODELS", "_OOT_SUPPORTED_MODELS", "_TRANSFORMERS_SUPPORTED_MODELS",
    "_TRANSFORMERS_BACKEND_MODELS",
}  # fmt: skip

VLLM_METHODS = frozenset(
    (
        "aqlm", "auto-round", "bitblas", "cpu_awq", "deepgemm_fp8", "deepspeedfp", "gguf", "gptq_bitblas",
        "gptq_marlin_24", "hqq", "ipex", "marlin", "neuron_quant", "petit_nvfp4", "ptpc_fp8", "qqq", "rtn", "tpu_int8",
    )
)  # fmt: skip
"""Quantizations that vLLM names, 0.9 to 0.12, beside those of the list."""


class Support(StrEnum):
    NATIVE = "native"
    TRANSFORMERS = "transformers"
    """Served, through the Transformers backend."""
    PLUGIN = "plugin"
    REMOVED = "removed"
    UNKNOWN = "unknown"


@dataclass(frozen=True)
class Known:
    native: frozenset[str]
    transformers: frozenset[str]
    plugin: frozenset[str]
    last_version: Mapping[str, str]

    def support(self, architectures: Iterable[str]) -> tuple[Support, str]:
        """The best that any of them has, and which one has it."""
        names = list(architectures)
        for group, support in (
            (self.native, Support.NATIVE),
            (self.transformers, Support.TRANSFORMERS),
            (self.plugin, Support.PLUGIN),
            (self.last_version, Support.REMOVED),
        ):
            if found := next((name for name in names if name in group), ""):
                return support, found
        return Support.UNKNOWN, names[0] if names else ""

    def like(self, name: str) -> str:
        """The served architecture whose name is nearest; empty where none is near."""
        near = get_close_matches(name, sorted(self.native | self.transformers), n=1, cutoff=0.8)
        return near[0] if near else ""


@cache
def architectures() -> Known:
    content = _content("aphrodite_0.24.1_architectures.json")
    groups: dict[str, list[str]] = content["groups"]
    transformers = {*groups["_TRANSFORMERS_SUPPORTED_MODELS"], *groups["_TRANSFORMERS_BACKEND_MODELS"]}
    return Known(
        native=frozenset(name for group, names in groups.items() if group not in _OTHERS for name in names),
        transformers=frozenset(transformers),
        plugin=frozenset(groups["_OOT_SUPPORTED_MODELS"]),
        last_version=content["previously_supported_last_version"],
    )


@cache
def minimum_capability() -> Mapping[str, int]:
    """By quantization method; CUDA's number times ten."""
    found: dict[str, int] = _content("aphrodite_quant_min_sm.json")["min_cuda_sm"]
    return found


def methods(engine: str) -> frozenset[str]:
    listed = frozenset(minimum_capability())
    return listed if engine == ENGINE else listed | VLLM_METHODS


def nearest(word: str, words: Iterable[str]) -> str:
    near = get_close_matches(word, sorted(words), n=1, cutoff=0.5)
    return near[0] if near else ""


def _content(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((files("registry.qa") / "data" / name).read_text("utf-8"))
    return found
