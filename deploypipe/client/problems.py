"""How a command ends."""

from __future__ import annotations

from enum import IntEnum


class Exit(IntEnum):
    APPROVED = 0
    NOT_APPROVED = 1
    COULD_NOT_EXAMINE = 2
    INTERRUPTED = 130


class CannotExamine(Exception):
    """Nothing can be said of the server; the text says why, and what would be right."""
