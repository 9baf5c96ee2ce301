"""`python -m fuzz.gguf --seconds 60`: the reader of GGUF heads."""

from __future__ import annotations

import io
import struct
import sys

from fuzz.damage import main
from registry.qa.files.gguf import parse
from registry.qa.files.reading import Unreadable


def text(value: str) -> bytes:
    return struct.pack("<Q", len(value)) + value.encode()


HEAD = (
    b"GGUF"
    + struct.pack("<IQQ", 3, 1, 3)
    + (text("general.architecture") + struct.pack("<I", 8) + text("llama"))
    + (text("llama.block_count") + struct.pack("<II", 4, 30))
    + (text("tokens") + struct.pack("<IIQ", 9, 8, 2) + text("a") + text("b"))
    + (text("weight") + struct.pack("<IQQIQ", 2, 32, 4, 8, 0))
)
SEEDS = [b"GGUF" + struct.pack("<IQQ", 2, 0, 0), HEAD + bytes(-len(HEAD) % 32 + 136)]


def reader(content: bytes) -> bool:
    try:
        parse(io.BytesIO(content), len(content))
    except Unreadable as problem:
        if not str(problem):
            raise AssertionError("refused without a word") from problem
        return False
    return True


if __name__ == "__main__":
    sys.exit(main("gguf", reader, SEEDS))
