"""What all readers share: the error that says what is wrong with a file, and JSON of bounded size."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, BinaryIO

MOST_JSON = 128 * 1024 * 1024
MOST_VALUES = 10_000_000
"""Values in a JSON text: each takes some 70 bytes of memory, its text only two or three.

A large tokenizer has some 35 MB with 2 million of them.
"""
CHUNK = 1 << 20
_LFS = b"version https://git-lfs.github.com/spec/"
_SHOWN = 80


class Unreadable(ValueError):
    """A file is not what it claims to be. The text stands after the file's name: "is cut off: …"."""


def json_object(path: Path) -> dict[str, Any]:
    """Raises Unreadable; FileNotFoundError is the caller's to meet."""
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            if size > MOST_JSON:
                raise Unreadable(f"has {size:,} bytes, more than the {MOST_JSON:,} that are looked at")
            content = file.read(MOST_JSON)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise Unreadable(f"cannot be read: {error.strerror}") from None
    require_content(content)
    require_few_values(content)
    try:
        value = json.loads(content)
    except RecursionError:
        raise Unreadable("is nested too deeply to be read") from None
    except ValueError as error:
        raise Unreadable(f"is no JSON: {error}") from None
    if not isinstance(value, dict):
        raise Unreadable("is JSON, but no object")
    return value


def require_few_values(content: bytes) -> None:
    """Raises Unreadable for JSON whose values would fill the memory."""
    if sum(content.count(mark) for mark in (b",", b"[", b"{")) > MOST_VALUES:
        raise Unreadable(f"holds more than {MOST_VALUES:,} values, which are not looked at")


def require_content(start: bytes) -> None:
    """Raises Unreadable for a file that only stands for another one, as a clone without its large files has them."""
    if start.startswith(_LFS):
        raise Unreadable("is a Git LFS pointer and not the file itself: fetch it with `git lfs pull`")


def exactly(stream: BinaryIO, count: int) -> bytes:
    """`count` bytes, or fewer at the end of the file; memory grows with what is there, not with what is claimed."""
    pieces: list[bytes] = []
    while count > 0 and (piece := stream.read(min(count, CHUNK))):
        pieces.append(piece)
        count -= len(piece)
    return b"".join(pieces)


def shown(name: str) -> str:
    """A name out of a file, short enough for a sentence."""
    return repr(name if len(name) <= _SHOWN else f"{name[:_SHOWN]}…")
