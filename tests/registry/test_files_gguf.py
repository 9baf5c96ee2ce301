"""The reader of GGUF heads."""

from __future__ import annotations

import io
import struct
from contextlib import suppress

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from registry.qa.files.gguf import Head, parse
from registry.qa.files.reading import Unreadable
from tests.registry.model_files import gguf, text

NAMES = struct.pack("<IQ", 8, 2) + text("a") + text("b")
FIELDS = {
    "general.architecture": (8, text("llama")),
    "llama.block_count": (4, struct.pack("<I", 30)),
    "tokenizer.ggml.tokens": (9, NAMES),
    "tokenizer.ggml.scores": (9, struct.pack("<IQ", 6, 3) + bytes(12)),
}
TENSORS = {"a": ((32, 4), 8, 0), "b": ((8,), 0, 160)}  # Q8_0: 128 numbers in 4 blocks of 34 bytes; F32: 32 bytes
GOOD = gguf(FIELDS, TENSORS, 192)


def parsed(content: bytes) -> Head:
    return parse(io.BytesIO(content), len(content))


def test_head_says_what_the_file_holds() -> None:
    found = parsed(GOOD)
    assert (found.version, found.architecture, found.tensors, found.elements) == (3, "llama", 2, 136)
    assert found.fields == {"general.architecture": "llama", "llama.block_count": 30}
    assert found.dtypes == {"Q8_0": 1, "F32": 1}


def test_alignment_of_the_file_is_kept() -> None:
    fields = {"general.alignment": (4, struct.pack("<I", 64))}
    assert parsed(gguf(fields, {"a": ((16,), 0, 0)}, 64, alignment=64)).tensors == 1
    with pytest.raises(Unreadable, match="begin at 160, which is no multiple of 64"):
        parsed(gguf(fields, TENSORS, 192, alignment=64))


@given(st.integers(0, len(GOOD) - 1))
def test_file_cut_off_anywhere_is_refused(kept: int) -> None:
    with pytest.raises(Unreadable, match="is cut off"):
        parsed(GOOD[:kept])


@given(place=st.integers(0, len(GOOD) - 1), bits=st.integers(1, 255))
def test_flipped_byte_is_read_or_refused_and_nothing_else_happens(place: int, bits: int) -> None:
    content = bytearray(GOOD)
    content[place] ^= bits
    with suppress(Unreadable):
        assert parsed(bytes(content)).version in (2, 3)


@given(st.binary(max_size=200))
@example(b"GGUF" + struct.pack("<IQQ", 3, 2**64 - 1, 2**64 - 1))
@example(b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + text("a") + struct.pack("<I", 9) * 30 + bytes(300))
def test_any_bytes_are_read_or_refused(content: bytes) -> None:
    with suppress(Unreadable):
        assert parsed(content).version in (2, 3)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"GGML" + bytes(40), "does not begin with GGUF"),
        (gguf({}, {}, 0, version=1), "is of GGUF version 1"),
        (b"GGUF\0\0\0\3" + bytes(40), "for big-endian machines"),
        (gguf(FIELDS, TENSORS, 191), "promises 192 bytes of tensors and 191 are there"),
        (gguf(FIELDS, {**TENSORS, "b": ((8,), 0, 128)}, 192), "lets 'a' and 'b' overlap"),
        (gguf(FIELDS, {"a": ((31, 4), 8, 0)}, 192), "rows of 31, which Q8_0 cannot divide into blocks of 32"),
        (gguf(FIELDS, {"a": ((1,) * 9, 0, 0)}, 192), "gives 'a' 9 dimensions"),
        (gguf({"a": (77, b"")}, {}, 0), "unknown kind 77"),
        (gguf({"general.alignment": (4, bytes(4))}, {}, 0), "an alignment of 0"),
        (gguf({"n" * 5000: (7, b"\1")}, {}, 0), "has a name of 5,000 bytes"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "is a Git LFS pointer"),
    ],
)
def test_file_that_is_wrong_is_told_so(content: bytes, words: str) -> None:
    with pytest.raises(Unreadable) as raised:
        parsed(content)
    assert words in str(raised.value)


def test_type_that_is_not_known_is_passed_over() -> None:
    found = parsed(gguf(FIELDS, {"a": ((32,), 99, 0), "b": ((8,), 0, 160)}, 192))
    assert found.dtypes == {"type 99": 1, "F32": 1}
