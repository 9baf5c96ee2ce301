"""The head of a GGUF file, as servers of the llama.cpp kind load it: what it describes, and whether all of it is there.

Layout (versions 2 and 3, little-endian): "GGUF", version, number of tensors, number of fields, the fields, a line per
tensor (name, dimensions, type, offset), then the tensors' bytes, each aligned.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import BinaryIO

from registry.qa.files.reading import Unreadable, exactly, require_content, shown

MAGIC = b"GGUF"
VERSIONS = (2, 3)
MOST_ENTRIES = 4_000_000
"""Fields, tensors and items of arrays together; a vocabulary of 260,000 with its merges has some 800,000."""
MOST_NAME = 4096
MOST_DIMENSIONS = 8
MOST_NESTING = 4

_NUMBERS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_TEXT, _ARRAY = 8, 9
_TYPES: Mapping[int, tuple[str, int, int]] = {
    0: ("F32", 1, 4), 1: ("F16", 1, 2), 2: ("Q4_0", 32, 18), 3: ("Q4_1", 32, 20), 6: ("Q5_0", 32, 22),
    7: ("Q5_1", 32, 24), 8: ("Q8_0", 32, 34), 9: ("Q8_1", 32, 36), 10: ("Q2_K", 256, 84), 11: ("Q3_K", 256, 110),
    12: ("Q4_K", 256, 144), 13: ("Q5_K", 256, 176), 14: ("Q6_K", 256, 210), 15: ("Q8_K", 256, 292),
    16: ("IQ2_XXS", 256, 66), 17: ("IQ2_XS", 256, 74), 18: ("IQ3_XXS", 256, 98), 19: ("IQ1_S", 256, 50),
    20: ("IQ4_NL", 32, 18), 21: ("IQ3_S", 256, 110), 22: ("IQ2_S", 256, 82), 23: ("IQ4_XS", 256, 136),
    24: ("I8", 1, 1), 25: ("I16", 1, 2), 26: ("I32", 1, 4), 27: ("I64", 1, 8), 28: ("F64", 1, 8),
    29: ("IQ1_M", 256, 56), 30: ("BF16", 1, 2), 34: ("TQ1_0", 256, 54), 35: ("TQ2_0", 256, 66), 39: ("MXFP4", 32, 17),
}  # fmt: skip
"""By the type's number: its name, the elements of a block, the bytes of a block."""

Scalar = int | float | bool | str


@dataclass(frozen=True)
class Head:
    version: int
    fields: Mapping[str, Scalar]
    """Those that are no arrays."""
    tensors: int
    elements: int
    dtypes: Mapping[str, int]
    """Tensors of each type."""

    @property
    def architecture(self) -> str:
        return str(self.fields.get("general.architecture", ""))


def read(path: Path) -> Head:
    """Raises Unreadable."""
    try:
        with path.open("rb") as file:
            return parse(file, os.fstat(file.fileno()).st_size)
    except OSError as error:
        raise Unreadable(f"cannot be read: {error.strerror}") from None


def parse(stream: BinaryIO, size: int) -> Head:
    """Raises Unreadable. Reads no tensor, and of texts only as many bytes as are there."""
    source = _Source(stream, size)
    magic = source.bytes(4)
    if magic == b"vers":
        require_content(magic + exactly(stream, 40))
    if magic != MAGIC:
        raise Unreadable("is no GGUF file: it does not begin with GGUF")
    version = source.whole("I")
    if version not in VERSIONS:
        if int.from_bytes(version.to_bytes(4, "big"), "little") in VERSIONS:
            raise Unreadable("is a GGUF file for big-endian machines")
        raise Unreadable(f"is of GGUF version {version}; versions 2 and 3 are known")
    tensors, count = source.whole("Q"), source.whole("Q")
    fields: dict[str, Scalar] = {}
    for _ in range(count):
        source.entry()
        name = source.name()
        value = source.value(source.whole("I"))
        if value is not None:
            fields[name] = value
    return _with_tensors(source, version, fields, tensors)


@dataclass
class _Line:
    name: str
    offset: int
    size: int | None
    """None for a type that is not known here."""


def _with_tensors(source: _Source, version: int, fields: dict[str, Scalar], count: int) -> Head:
    alignment = fields.get("general.alignment", 32)
    if not isinstance(alignment, int) or not 1 <= alignment <= 1 << 20:
        raise Unreadable(f"has an alignment of {alignment!r}")
    lines: list[_Line] = []
    dtypes: dict[str, int] = {}
    elements = 0
    for _ in range(count):
        source.entry()
        line, dtype, size = _line(source, alignment)
        lines.append(line)
        dtypes[dtype] = dtypes.get(dtype, 0) + 1
        elements += size
    room = source.size - -(-source.position // alignment) * alignment
    _require_fit(lines, room)
    return Head(version, fields, count, elements, dtypes)


def _line(source: _Source, alignment: int) -> tuple[_Line, str, int]:
    name = source.name()
    dimensions = source.whole("I")
    if dimensions > MOST_DIMENSIONS:
        raise Unreadable(f"gives {shown(name)} {dimensions:,} dimensions")
    shape = [source.whole("Q") for _ in range(dimensions)]
    number, offset = source.whole("I"), source.whole("Q")
    if offset % alignment:
        raise Unreadable(f"lets {shown(name)} begin at {offset:,}, which is no multiple of {alignment}")
    elements = prod(shape)
    if number not in _TYPES:
        return _Line(name, offset, None), f"type {number}", elements
    dtype, block, width = _TYPES[number]
    if (shape[0] if shape else 1) % block:
        rows = shape[0] if shape else 1
        raise Unreadable(f"gives {shown(name)} rows of {rows:,}, which {dtype} cannot divide into blocks of {block}")
    return _Line(name, offset, elements // block * width), dtype, elements


def _require_fit(lines: list[_Line], room: int) -> None:
    needed = max((line.offset + (line.size or 0) for line in lines), default=0)
    if needed > max(room, 0):
        raise Unreadable(f"is cut off: its head promises {needed:,} bytes of tensors and {max(room, 0):,} are there")
    reached, last = 0, ""
    for line in sorted(lines, key=lambda line: (line.offset, line.size or 0)):
        if line.offset < reached:
            raise Unreadable(f"lets {shown(last)} and {shown(line.name)} overlap")
        reached, last = line.offset + (line.size or 0), line.name


@dataclass
class _Source:
    stream: BinaryIO
    size: int
    position: int = 0
    entries: int = 0

    def bytes(self, count: int) -> bytes:
        if count > self.size - self.position:
            self.cut_off()
        found = exactly(self.stream, count)
        self.position += count
        if len(found) < count:
            self.cut_off()
        return found

    def skip(self, count: int) -> None:
        if count > self.size - self.position:
            self.cut_off()
        self.stream.seek(count, os.SEEK_CUR)
        self.position += count

    def cut_off(self) -> None:
        raise Unreadable(f"is cut off: its head goes on after its {self.size:,} bytes")

    def entry(self, count: int = 1) -> None:
        self.entries += count
        if self.entries > MOST_ENTRIES:
            raise Unreadable(f"lists more than {MOST_ENTRIES:,} fields, tensors and words")

    def whole(self, kind: str) -> int:
        return int(self.number(kind))

    def number(self, kind: str) -> int | float | bool:
        found: int | float | bool = struct.unpack(f"<{kind}", self.bytes(struct.calcsize(f"<{kind}")))[0]
        return found

    def name(self) -> str:
        length = self.whole("Q")
        if length > MOST_NAME:
            raise Unreadable(f"has a name of {length:,} bytes at byte {self.position:,}")
        return self.bytes(length).decode(errors="replace")

    def value(self, kind: int, depth: int = 0) -> Scalar | None:
        """None for an array, which is passed over."""
        if kind in _NUMBERS:
            return self.number(_NUMBERS[kind])
        if kind == _TEXT:
            length = self.whole("Q")
            if length > MOST_NAME:
                self.skip(length)
                return None
            return self.bytes(length).decode(errors="replace")
        if kind != _ARRAY:
            raise Unreadable(f"has a field of the unknown kind {kind} before byte {self.position:,}")
        if depth >= MOST_NESTING:
            raise Unreadable("has arrays in arrays that are nested too deeply")
        inner, count = self.whole("I"), self.whole("Q")
        if inner in _NUMBERS:
            self.skip(count * struct.calcsize(f"<{_NUMBERS[inner]}"))
            return None
        self.entry(count)
        for _ in range(count):
            if inner == _TEXT:
                self.skip(self.whole("Q"))
            else:
                self.value(inner, depth + 1)
        return None
