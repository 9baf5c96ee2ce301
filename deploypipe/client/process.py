"""A command as a process: how it is interrupted, and where its words go."""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from types import FrameType
from typing import Never, TextIO


def interrupted(number: int, frame: FrameType | None) -> Never:
    """For `signal.signal`."""
    raise KeyboardInterrupt


def silenced(stream: TextIO) -> None:
    """Nobody reads it any more: what is left in it must not become a second error when Python ends."""
    with suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def readable_streams() -> None:
    """A terminal that knows no ✓ gets a question mark, not an error."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(AttributeError, ValueError):
            stream.reconfigure(errors="replace")  # type: ignore[union-attr]
