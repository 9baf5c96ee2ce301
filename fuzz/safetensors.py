"""`python -m fuzz.safetensors --seconds 60`: the reader of safetensors headers."""

from __future__ import annotations

import io
import json
import struct
import sys

from fuzz.damage import main
from registry.qa.files.reading import Unreadable
from registry.qa.files.safetensors import parse


def written(header: object, data: int) -> bytes:
    content = json.dumps(header).encode()
    return struct.pack("<Q", len(content)) + content + bytes(data)


SEEDS = [
    written({}, 0),
    written({"a": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}}, 24),
    written(
        {
            "__metadata__": {"format": "pt"},
            "layer.0": {"dtype": "BF16", "shape": [], "data_offsets": [0, 2]},
            "layer.1": {"dtype": "F4", "shape": [4], "data_offsets": [2, 4]},
            "layer.\u00e9": {"dtype": "I8", "shape": [0, 9], "data_offsets": [4, 4]},
        },
        4,
    ),
]


def reader(content: bytes) -> bool:
    stream = io.BytesIO(content)
    try:
        found = parse(stream, len(content))
    except Unreadable as problem:
        if not str(problem):
            raise AssertionError("refused without a word") from problem
        return False
    if stream.tell() != found.header_bytes or found.header_bytes + found.data_bytes != len(content):
        raise AssertionError("it read more than the header, or less")
    if sum(tensor.end - tensor.begin for tensor in found.tensors) != found.data_bytes:
        raise AssertionError("the tensors do not fill the file")
    return True


if __name__ == "__main__":
    sys.exit(main("safetensors", reader, SEEDS))
