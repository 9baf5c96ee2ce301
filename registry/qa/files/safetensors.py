"""The header of a safetensors file: which tensors it holds, of what type and shape, and where.

The format: eight bytes of little-endian length, that many bytes of JSON, then the tensors' bytes without a gap.
Only the header is read, so a file of many gigabytes costs no more than its list of tensors.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, BinaryIO

from registry.qa.files.reading import Unreadable, exactly, require_content, require_few_values, shown

LENGTH = 8
MOST_HEADER = 100_000_000
"""The format's own limit."""
MOST_ELEMENTS = 1 << 63
BITS: Mapping[str, int] = {
    "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6, "BOOL": 8, "U8": 8, "I8": 8, "F8_E5M2": 8, "F8_E4M3": 8, "F8_E8M0": 8,
    "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8, "U16": 16, "I16": 16, "F16": 16, "BF16": 16, "U32": 32, "I32": 32, "F32": 32,
    "U64": 64, "I64": 64, "F64": 64, "C64": 64,
}  # fmt: skip


@dataclass(frozen=True)
class Tensor:
    name: str
    dtype: str
    shape: tuple[int, ...]
    begin: int
    """From the first byte after the header."""
    end: int
    elements: int


@dataclass(frozen=True)
class Header:
    tensors: tuple[Tensor, ...]
    """In the order of their bytes."""
    metadata: Mapping[str, str]
    header_bytes: int
    data_bytes: int

    @property
    def elements(self) -> int:
        return sum(tensor.elements for tensor in self.tensors)

    @property
    def dtypes(self) -> dict[str, int]:
        """Tensors of each type."""
        return dict(Counter(tensor.dtype for tensor in self.tensors).most_common())


def read(path: Path) -> Header:
    """Raises Unreadable."""
    try:
        with path.open("rb", buffering=0) as file:  # unbuffered: the tensors' bytes are not touched
            return parse(file, os.fstat(file.fileno()).st_size)
    except OSError as error:
        raise Unreadable(f"cannot be read: {error.strerror}") from None


def parse(stream: BinaryIO, size: int) -> Header:
    """The header of a file of `size` bytes; nothing beyond it is read. Raises Unreadable."""
    start = exactly(stream, LENGTH)
    if len(start) < LENGTH:
        raise Unreadable(f"is cut off: it has {len(start)} bytes, and the header's length alone takes {LENGTH}")
    length = int.from_bytes(start, "little")
    if start == b"version ":
        require_content(start + exactly(stream, 40))
    if length > size - LENGTH:
        raise Unreadable(f"is cut off or no safetensors file: it claims {length:,} bytes of header and has {size:,}")
    if length > MOST_HEADER:
        raise Unreadable(f"claims {length:,} bytes of header; the format allows {MOST_HEADER:,}")
    text = exactly(stream, length)
    if len(text) < length:
        raise Unreadable(f"is cut off: {length:,} bytes of header are claimed and {len(text):,} are there")
    fields = _fields(text)
    metadata = _metadata(fields.pop("__metadata__", None))
    room = size - LENGTH - length
    tensors = [_tensor(name, item) for name, item in fields.items()]
    tensors.sort(key=lambda tensor: (tensor.begin, tensor.end))
    _require_fit(tensors, room)
    return Header(tuple(tensors), metadata, LENGTH + length, room)


def _fields(text: bytes) -> dict[str, Any]:
    if not text.startswith(b"{"):
        raise Unreadable("is no safetensors file: its header does not begin with {")
    require_few_values(text)
    try:
        fields = json.loads(text.decode(), object_pairs_hook=_unique, parse_constant=_no_number)
        if b"\\u" in text:
            json.dumps(fields, ensure_ascii=False).encode()  # half of a surrogate pair is no text
    except Unreadable:
        raise
    except RecursionError:
        raise Unreadable("has a header that is nested too deeply to be read") from None
    except ValueError as error:
        raise Unreadable(f"has a header that is no JSON: {error}") from None
    if not isinstance(fields, dict):  # it begins with {, so it is an object
        raise Unreadable("has a header that is no object")
    return fields


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        name = Counter(name for name, _ in pairs).most_common(1)[0][0]
        raise Unreadable(f"names {shown(name)} twice, so that readers may disagree on what it holds")
    return found


def _no_number(word: str) -> Any:
    raise Unreadable(f"has a header that is no JSON: {word} is no number there")


def _metadata(value: Any) -> dict[str, str]:
    if value is None:
        return {}
    if not isinstance(value, dict) or not all(isinstance(item, str) for item in value.values()):
        raise Unreadable("has a __metadata__ that is no object of texts")
    return value


def _tensor(name: str, item: Any) -> Tensor:
    if not isinstance(item, dict):
        raise Unreadable(f"says of {shown(name)} something that is no object")
    dtype, shape, offsets = item.get("dtype"), item.get("shape"), item.get("data_offsets")
    if not isinstance(dtype, str) or dtype not in BITS:
        raise Unreadable(f"gives {shown(name)} the type {shown(str(dtype))}, which the format does not know")
    if not isinstance(shape, list) or not all(_is_count(length) for length in shape):
        raise Unreadable(f"gives {shown(name)} a shape that is no list of lengths")
    if not isinstance(offsets, list) or len(offsets) != 2 or not all(_is_count(offset) for offset in offsets):
        raise Unreadable(f"gives {shown(name)} offsets that are no two positions")
    begin, end = offsets
    elements = _product(name, shape)
    bits = elements * BITS[dtype]
    if (end - begin) * 8 != bits:
        raise Unreadable(
            f"has {end - begin:,} bytes for {shown(name)}, but {dtype} of shape {_shape(shape)} takes {_bytes(bits)}"
        )
    return Tensor(name, dtype, tuple(shape), begin, end, elements)


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < MOST_ELEMENTS


def _product(name: str, shape: list[int]) -> int:
    elements = 1
    for length in shape:
        elements *= length
        if elements >= MOST_ELEMENTS:
            raise Unreadable(f"gives {shown(name)} a shape of more than 2^63 elements")
    return elements


def _bytes(bits: int) -> str:
    whole, rest = divmod(bits, 8)
    return f"{whole:,}" if not rest else f"{whole:,} and {rest} bits"


def _shape(shape: list[int]) -> str:
    return f"[{', '.join(map(str, shape[:8]))}{', …' if len(shape) > 8 else ''}]"


def _require_fit(tensors: list[Tensor], room: int) -> None:
    """The tensors, in the order of their bytes, must fill the room without a gap and without sharing a byte."""
    needed = max((tensor.end for tensor in tensors), default=0)
    if needed > room:
        raise Unreadable(f"is cut off: its header promises {needed:,} bytes of tensors and {room:,} are there")
    if tensors and tensors[0].begin > 0:
        raise Unreadable(f"has {tensors[0].begin:,} bytes before {shown(tensors[0].name)} that belong to no tensor")
    for before, after in pairwise(tensors):
        if after.begin < before.end:
            shared = before.end - after.begin
            raise Unreadable(f"lets {shown(before.name)} and {shown(after.name)} overlap by {shared:,} bytes")
        if after.begin > before.end:
            gap = after.begin - before.end
            raise Unreadable(
                f"has {gap:,} bytes between {shown(before.name)} and {shown(after.name)} that belong to no tensor"
            )
    if needed < room:
        raise Unreadable(f"has {room - needed:,} bytes after its last tensor that belong to none")
