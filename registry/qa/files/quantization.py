"""By which method the weights of a folder are quantized, as its files say."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from registry.qa.files.config import NAME, ModelConfig
from registry.qa.files.reading import json_object

_MODELOPT = {"NVFP4": "modelopt_fp4", "MXFP8": "modelopt_mxfp8", "MIXED_PRECISION": "modelopt_mixed"}
_OLD_FILES = {"quantize_config.json": "gptq", "quant_config.json": "awq"}
"""Of the first AutoGPTQ and AutoAWQ, which did not always name the method."""


@dataclass(frozen=True)
class Quantization:
    method: str
    """Empty where the weights are quantized and the file does not say how."""
    file: str


def of_folder(folder: Path, config: ModelConfig) -> Quantization | None:
    """None where nothing says that they are quantized. Raises Unreadable."""
    for holder in (config.raw, config.text):
        for name in ("quantization_config", "compression_config"):
            found = holder.get(name)
            if isinstance(found, dict) and found:
                return Quantization(_named(found), NAME)
    if (found := _object(folder / "hf_quant_config.json")) is not None:
        inner = found.get("quantization")
        algorithm = str(inner.get("quant_algo", "")) if isinstance(inner, dict) else ""
        return Quantization(_MODELOPT.get(algorithm.upper(), "modelopt"), "hf_quant_config.json")
    for name, usual in _OLD_FILES.items():
        if (found := _object(folder / name)) is not None:
            return Quantization(_named(found) or usual, name)
    return None


def _named(found: Mapping[str, Any]) -> str:
    method = str(found.get("quant_method") or "").lower().replace("compressed_tensors", "compressed-tensors")
    if method == "modelopt":
        return _MODELOPT.get(str(found.get("quant_algo", "")).upper(), method)
    if not method and (found.get("load_in_4bit") or found.get("load_in_8bit")):
        return "bitsandbytes"
    return method


def _object(path: Path) -> dict[str, Any] | None:
    try:
        return json_object(path)
    except FileNotFoundError:
        return None
