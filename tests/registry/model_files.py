"""Small model folders written by hand, byte for byte: no library's idea of the formats is in them."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

LLAMA: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 2048,
    "vocab_size": 32,
    "torch_dtype": "bfloat16",
}
WIDTHS = {"F32": 4, "BF16": 2, "F16": 2, "I8": 1, "U8": 1, "F64": 8, "I64": 8, "BOOL": 1}

Shapes = Mapping[str, tuple[str, Sequence[int]]]


def entries(shapes: Shapes) -> dict[str, Any]:
    """The header's fields, the tensors one after the other."""
    found: dict[str, Any] = {}
    at = 0
    for name, (dtype, shape) in shapes.items():
        size = WIDTHS[dtype]
        for length in shape:
            size *= length
        found[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [at, at + size]}
        at += size
    return found


def safetensors(fields: Any, data: int | None = None) -> bytes:
    """A file with that header; `data` bytes after it, by default as many as it promises."""
    header = fields if isinstance(fields, bytes) else json.dumps(fields).encode()
    if data is None:
        data = max((entry["data_offsets"][1] for entry in fields.values() if "dtype" in entry), default=0)
    return struct.pack("<Q", len(header)) + header + bytes(data)


def sharded(folder: Path, shards: Mapping[str, Shapes], total: int | None = None) -> None:
    """The files and `model.safetensors.index.json`."""
    sizes = 0
    for name, shapes in shards.items():
        content = safetensors(entries(shapes))
        (folder / name).write_bytes(content)
        sizes += len(content) - 8 - struct.unpack("<Q", content[:8])[0]
    placed = {tensor: name for name, shapes in shards.items() for tensor in shapes}
    index = {"metadata": {"total_size": sizes if total is None else total}, "weight_map": placed}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def text(value: str) -> bytes:
    return struct.pack("<Q", len(value.encode())) + value.encode()


def gguf(
    fields: Mapping[str, tuple[int, bytes]],
    tensors: Mapping[str, tuple[Sequence[int], int, int]],
    data: int,
    *,
    version: int = 3,
    alignment: int = 32,
) -> bytes:
    """`fields`: kind and bytes; `tensors`: dimensions, type and offset."""
    head = b"GGUF" + struct.pack("<IQQ", version, len(tensors), len(fields))
    for name, (kind, content) in fields.items():
        head += text(name) + struct.pack("<I", kind) + content
    for name, (shape, dtype, offset) in tensors.items():
        head += text(name) + struct.pack("<I", len(shape)) + b"".join(struct.pack("<Q", length) for length in shape)
        head += struct.pack("<IQ", dtype, offset)
    return head + bytes(-len(head) % alignment) + bytes(data)


def write_model(folder: Path, **config: Any) -> Path:
    """A folder with nothing wrong in it, as transformers would write a tiny Llama."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps({**LLAMA, **config}))
    shapes: Shapes = {"model.embed_tokens.weight": ("BF16", (32, 64)), "lm_head.weight": ("BF16", (32, 64))}
    (folder / "model.safetensors").write_bytes(safetensors(entries(shapes)))
    vocabulary = {f"w{number}": number for number in range(32)}
    (folder / "tokenizer.json").write_text(json.dumps({"model": {"type": "BPE", "vocab": vocabulary, "merges": []}}))
    (folder / "tokenizer_config.json").write_text(json.dumps({"chat_template": "{{ messages }}"}))
    return folder
