"""The reader of safetensors headers: right about what is right, clear about what is not, and never surprised."""

from __future__ import annotations

import io
import json
import struct
import tracemalloc
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy
import pytest
import safetensors as library
from hypothesis import example, given
from hypothesis import strategies as st
from safetensors.numpy import save_file

from registry.qa.files.reading import MOST_VALUES, Unreadable
from registry.qa.files.safetensors import BITS, MOST_HEADER, Header, parse, read
from tests.registry.model_files import WIDTHS, Shapes, entries, safetensors

TWO: Shapes = {"a": ("F32", (2, 3)), "b": ("BF16", (4,))}

SHAPES = st.dictionaries(
    st.text(min_size=1, max_size=20).filter(lambda name: name != "__metadata__"),
    st.tuples(st.sampled_from(sorted(WIDTHS)), st.lists(st.integers(0, 5), max_size=4)),
    max_size=8,
)


class Watched(io.BytesIO):
    """Remembers how far it was read and how much was asked for at once."""

    most_asked = 0

    def read(self, size: int | None = -1, /) -> bytes:
        self.most_asked = max(self.most_asked, -1 if size is None else size)
        assert size is not None
        assert size >= 0, "all of the file was asked for"
        return super().read(size)


def parsed(content: bytes) -> Header:
    return parse(io.BytesIO(content), len(content))


@given(shapes=SHAPES, padding=st.integers(0, 9))
def test_header_that_was_written_is_read_again(shapes: Shapes, padding: int) -> None:
    fields: dict[str, Any] = {**entries(shapes), "__metadata__": {"format": "pt"}}
    size = max((entry["data_offsets"][1] for entry in entries(shapes).values()), default=0)
    content = safetensors(json.dumps(fields).encode() + b" " * padding, size)
    stream = Watched(content)
    found = parse(stream, len(content))
    assert {t.name: (t.dtype, list(t.shape)) for t in found.tensors} == {
        n: (d, list(s)) for n, (d, s) in shapes.items()
    }
    assert found.metadata == {"format": "pt"}
    assert found.header_bytes + found.data_bytes == len(content)
    assert stream.tell() == found.header_bytes  # not one byte of a tensor
    assert sum(found.dtypes.values()) == len(shapes)


@given(shapes=SHAPES, data=st.data())
def test_file_cut_off_anywhere_is_refused(shapes: Shapes, data: st.DataObject) -> None:
    content = safetensors(entries(shapes))
    kept = data.draw(st.integers(0, len(content) - 1))
    with pytest.raises(Unreadable, match="is cut off"):
        parsed(content[:kept])


@given(shapes=SHAPES, data=st.data())
def test_flipped_byte_is_read_or_refused_and_nothing_else_happens(shapes: Shapes, data: st.DataObject) -> None:
    content = bytearray(safetensors(entries(shapes)))
    place = data.draw(st.integers(0, len(content) - 1))
    content[place] ^= data.draw(st.integers(1, 255))
    stream = Watched(bytes(content))
    with suppress(Unreadable):
        found = parse(stream, len(content))
        assert found.header_bytes + found.data_bytes == len(content)
        assert stream.tell() == found.header_bytes


@given(content=st.binary(max_size=200))
@example(content=b"\x02\0\0\0\0\0\0\0{}")
@example(content=struct.pack("<Q", 5000) + b"[" * 5000)
@example(content=struct.pack("<Q", 9) + b'{"a":1e9}')
@example(content=struct.pack("<Q", 5006) + b'{"a":' + b"9" * 5000 + b"}")
def test_any_bytes_are_read_or_refused(content: bytes) -> None:
    with suppress(Unreadable):
        found = parsed(content)
        assert found.header_bytes + found.data_bytes == len(content)


def test_length_that_is_claimed_is_not_allocated(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    with path.open("wb") as file:
        file.write(struct.pack("<Q", MOST_HEADER) + b"{")
        file.truncate(1 << 30)  # sparse: the claim is within the file, and there is nothing but zeros
    stream = Watched(struct.pack("<Q", MOST_HEADER) + b'{"a": 1')
    tracemalloc.start()
    try:
        with pytest.raises(Unreadable, match="is cut off: 100,000,000 bytes of header are claimed and 7 are there"):
            parse(stream, 1 << 40)
        assert tracemalloc.get_traced_memory()[1] < 4 << 20
    finally:
        tracemalloc.stop()
    assert stream.most_asked <= 1 << 20
    with pytest.raises(Unreadable, match="has a header that is no JSON"):
        read(path)


def test_file_of_many_gigabytes_costs_its_header_only(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    size = 50 * 10**9
    header = json.dumps({"a": {"dtype": "U8", "shape": [size], "data_offsets": [0, size]}}).encode()
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(header)) + header)
        file.truncate(8 + len(header) + size)
    found = read(path)
    assert (found.elements, found.data_bytes) == (size, size)


def changed(name: str, **more: Any) -> bytes:
    fields = entries(TWO)
    fields[name] = {**fields[name], **more}
    return safetensors(fields, 32)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "is cut off: it has 0 bytes"),
        (b"\xff" * 8, "claims 18,446,744,073,709,551,615 bytes of header and has 8"),
        (safetensors(b"[]", 0), "does not begin with {"),
        (safetensors(b"{}}", 0), "has a header that is no JSON"),
        (safetensors(b'{"a": "\xff"}', 0), "has a header that is no JSON"),
        (safetensors(b'{"a":' * 100_000, 0), "nested too deeply"),
        (safetensors(b'{"a": 1, "a": 2}', 0), "names 'a' twice"),
        (safetensors(b'{"a": NaN}', 0), "NaN is no number there"),
        (safetensors(b'{"__metadata__": {"a": "\\ud800"}}', 0), "has a header that is no JSON"),
        (safetensors({"__metadata__": {"a": 1}}, 0), "__metadata__ that is no object of texts"),
        (safetensors({"a": 1}, 0), "says of 'a' something that is no object"),
        (changed("a", dtype="F31"), "gives 'a' the type 'F31'"),
        (changed("a", dtype=None), "gives 'a' the type 'None'"),
        (changed("a", shape=[2, -3]), "gives 'a' a shape that is no list of lengths"),
        (changed("a", shape=[2, True]), "gives 'a' a shape that is no list of lengths"),
        (changed("a", shape=[2**62, 2**62, 0]), "a shape of more than 2^63 elements"),
        (changed("a", shape=[2, 4]), "has 24 bytes for 'a', but F32 of shape [2, 4] takes 32"),
        (changed("a", data_offsets=[24, 0]), "has -24 bytes for 'a'"),
        (changed("a", data_offsets=[0]), "offsets that are no two positions"),
        (changed("a", dtype="F4", shape=[3]), "takes 1 and 4 bits"),
        (changed("b", data_offsets=[20, 28]), "lets 'a' and 'b' overlap by 4 bytes"),
        (changed("b", data_offsets=[23, 31]), "lets 'a' and 'b' overlap by 1 bytes"),
        (safetensors({"a": {"dtype": "U8", "shape": [1], "data_offsets": [3, 4]}}), "has 3 bytes before 'a'"),
        (
            safetensors(
                {
                    "a": {"dtype": "U8", "shape": [1], "data_offsets": [0, 1]},
                    "b": {"dtype": "U8", "shape": [1], "data_offsets": [3, 4]},
                }
            ),
            "has 2 bytes between 'a' and 'b' that belong to no tensor",
        ),
        (safetensors(entries(TWO), 33), "has 1 bytes after its last tensor"),
        (safetensors(entries(TWO), 31), "promises 32 bytes of tensors and 31 are there"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 5\n", "is a Git LFS pointer"),
    ],
)
def test_file_that_is_wrong_is_told_so(content: bytes, words: str) -> None:
    with pytest.raises(Unreadable) as raised:
        parsed(content)
    assert words in str(raised.value)


def test_packed_types_are_counted_in_bits() -> None:
    fields = {"a": {"dtype": "F4", "shape": [6], "data_offsets": [0, 3]}}
    assert parsed(safetensors(fields)).elements == 6
    assert set(BITS.values()) == {4, 6, 8, 16, 32, 64}


def test_what_the_library_of_the_format_writes_is_read(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    tensors = {"a": numpy.zeros((3, 5), "float32"), "b": numpy.ones(7, "int8"), "c": numpy.zeros((), "float16")}
    save_file(tensors, path, metadata={"format": "np"})
    found = read(path)
    assert {tensor.name: tensor.shape for tensor in found.tensors} == {"a": (3, 5), "b": (7,), "c": ()}
    assert (found.elements, found.metadata) == (23, {"format": "np"})


@given(shapes=SHAPES, data=st.data())
def test_reader_agrees_with_the_library_of_the_format(shapes: Shapes, data: st.DataObject) -> None:
    content = bytearray(safetensors(entries(shapes)))
    if data.draw(st.booleans()):
        content[data.draw(st.integers(0, len(content) - 1))] ^= data.draw(st.integers(1, 255))
    try:
        library.deserialize(bytes(content))
    except library.SafetensorError:
        with pytest.raises(Unreadable):
            parsed(bytes(content))
    else:
        parsed(bytes(content))


def test_header_of_values_that_would_fill_the_memory_is_not_parsed() -> None:
    header = b'{"a":[' + b"[]," * MOST_VALUES + b"[]]}"
    content = struct.pack("<Q", len(header)) + header
    tracemalloc.start()
    try:
        with pytest.raises(Unreadable, match="holds more than 10,000,000 values"):
            parsed(content)
        assert tracemalloc.get_traced_memory()[1] < 4 * len(content)  # parsed it would take 20 times as much
    finally:
        tracemalloc.stop()
