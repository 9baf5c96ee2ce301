"""Damages a good file at random, time after time, and stops at the first fault that the reader did not expect."""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

MOST_CHANGES = 6
STRANGE = (b"\0", b"\xff", b"{", b"}", b"[", b'"', b"\\u", b"-", b"9" * 40, b"1e999", b"NaN", b"[" * 3000, b"\0" * 64)

Reader = Callable[[bytes], bool]
"""Whether it took the bytes; raises only what is a fault."""


def fuzz(reader: Reader, seeds: Sequence[bytes], seconds: float, seed: int) -> tuple[int, int]:
    """How many files were tried, and how many of them taken. What the reader raises goes up, its file kept."""
    source = random.Random(seed)  # noqa: S311 - the same seed must give the same files
    tried = taken = 0
    ends = time.monotonic() + seconds
    while time.monotonic() < ends:
        content = damaged(source, source.choice(seeds))
        tried += 1
        try:
            taken += reader(content)
        except BaseException:
            _keep(content)
            raise
    return tried, taken


def damaged(source: random.Random, content: bytes) -> bytes:
    found = bytearray(content)
    for _ in range(source.randint(1, MOST_CHANGES)):
        place = source.randint(0, len(found))
        match source.randrange(6):
            case 0 if place < len(found):
                found[place] ^= 1 << source.randrange(8)
            case 1 if place < len(found):
                found[place] = source.randrange(256)
            case 2:
                found[place:place] = source.choice(STRANGE)
            case 3:
                del found[place : place + source.randint(1, 16)]
            case 4:
                del found[place:]
            case _:  # a piece of it once more, elsewhere
                start = source.randint(0, len(found))
                found[place:place] = found[start : start + source.randint(1, 64)]
    return bytes(found)


def main(name: str, reader: Reader, seeds: Sequence[bytes]) -> int:
    parser = argparse.ArgumentParser(prog=f"python -m fuzz.{name}")
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=None, help="give the one of an earlier run to repeat it")
    options = parser.parse_args()
    seed = time.time_ns() if options.seed is None else options.seed
    sys.stdout.write(f"{name}: seed {seed}\n")
    sys.stdout.flush()
    tried, taken = fuzz(reader, seeds, options.seconds, seed)
    sys.stdout.write(f"{name}: {tried:,} damaged files, {taken:,} of them taken, no fault\n")
    return 0


def _keep(content: bytes) -> None:
    path = Path(tempfile.gettempdir()) / "fuzz-found.bin"
    path.write_bytes(content)
    sys.stderr.write(f"kept as {path}\n")
