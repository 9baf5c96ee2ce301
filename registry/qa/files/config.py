"""`config.json` of a model folder, as transformers writes it: the facts that decide whether an engine can serve it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from registry.qa.files.reading import Unreadable, json_object

NAME = "config.json"
_BEYOND = 1 << 63
_INNER = ("text_config", "llm_config", "language_config")
_LENGTHS = (
    "max_position_embeddings", "n_positions", "max_seq_len", "seq_length", "model_max_length", "max_sequence_length",
    "max_seq_length", "seq_len", "max_target_positions",
)  # fmt: skip
_KEEPS_LENGTH = ("default", "su", "longrope", "llama3", "mrope", "proportional")
"""Ways of scaling whose config.json names the scaled length already."""


@dataclass(frozen=True)
class ModelConfig:
    raw: Mapping[str, Any]

    @classmethod
    def of(cls, folder: Path) -> ModelConfig:
        """Raises Unreadable, also where there is none."""
        try:
            return cls(json_object(folder / NAME))
        except FileNotFoundError:
            raise Unreadable("is missing") from None

    @property
    def text(self) -> Mapping[str, Any]:
        """Of the language model inside one that also sees or hears."""
        inner = (self.raw.get(name) for name in _INNER)
        return next((found for found in inner if isinstance(found, dict)), self.raw)

    @property
    def architectures(self) -> list[str]:
        found = self.raw.get("architectures")
        return [name for name in found if isinstance(name, str)] if isinstance(found, list) else []

    def whole(self, *names: str) -> int | None:
        """The first of these that is a whole number above 0."""
        for name in names:
            found = self.text.get(name)
            if isinstance(found, int) and not isinstance(found, bool) and 0 < found < _BEYOND:
                return found
        return None

    @property
    def heads(self) -> int | None:
        return self.whole("num_attention_heads", "n_head", "num_heads")

    @property
    def kv_heads(self) -> int | None:
        """As many as heads where nothing is said of them."""
        if self.text.get("multi_query") is True and not self.text.get("new_decoder_architecture"):
            return 1
        return self.whole("num_key_value_heads", "n_head_kv", "num_kv_heads", "multi_query_group_num") or self.heads

    @property
    def layers(self) -> int | None:
        return self.whole("num_hidden_layers", "n_layer", "n_layers", "num_layers")

    @property
    def head_dim(self) -> int | None:
        width, heads = self.whole("hidden_size", "n_embd", "d_model"), self.heads
        return self.whole("head_dim") or (width // heads if width and heads else None)

    @property
    def context_length(self) -> tuple[int, str] | None:
        """Tokens, and how they come about; None where the file does not say."""
        given = [(length, name) for name in _LENGTHS if (length := self.whole(name)) is not None]
        if not given:
            return None
        length, name = min(given)
        kind, factor, original = self._scaling()
        if factor <= 1 or kind in _KEEPS_LENGTH:
            return length, name
        if kind == "yarn" and original:
            return int(original * factor), f"original_max_position_embeddings {original:,} x {kind} factor {factor:g}"
        return int(length * factor), f"{name} {length:,} x {kind} factor {factor:g}"

    def _scaling(self) -> tuple[str, float, int | None]:
        found = self.text.get("rope_scaling") or self.text.get("rope_parameters")
        if not isinstance(found, dict):
            return "default", 1.0, None
        factor, original = found.get("factor"), found.get("original_max_position_embeddings")
        number = float(factor) if isinstance(factor, int | float) and 0 < factor < 1e6 else 1.0
        whole = original if isinstance(original, int) and 0 < original < _BEYOND else None
        return str(found.get("rope_type", found.get("type", "default"))), number, whole

    @property
    def special_attention(self) -> str:
        """Why keys and values cannot be counted by heads and layers alone; empty where they can."""
        text = self.text
        if text.get("kv_lora_rank"):
            return "it compresses keys and values (MLA, kv_lora_rank)"
        if name := next((name for name in _STATE if text.get(name)), ""):
            return f"not all of its layers keep keys and values ({name})"
        listed = text.get("layer_types")
        kinds = {str(kind) for kind in listed} if isinstance(listed, list) else set()
        if others := kinds - {"full_attention", "sliding_attention"}:
            return f"not all of its layers keep keys and values (layer_types has {min(others)})"
        slides = text.get("sliding_window") and text.get("use_sliding_window") is not False
        if slides or "sliding_attention" in kinds:
            return "its layers look at a sliding window only"
        return ""


_STATE = (
    "mamba_d_state", "ssm_state_size", "state_size", "mamba_n_heads", "attn_layer_period", "hybrid_override_pattern",
    "layers_block_type", "linear_num_key_heads", "conv_L_cache", "ssm_cfg",
)  # fmt: skip
