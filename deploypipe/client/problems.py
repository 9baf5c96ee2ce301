"""How a command ends."""

from __future__ import annotations

from enum import IntEnum


class Exit(IntEnum):
    """Of `deploypipe qa`."""

    APPROVED = 0
    NOT_APPROVED = 1
    COULD_NOT_EXAMINE = 2
    INTERRUPTED = 130


class Ended(IntEnum):
    """Of `deploypipe experiment`."""

    WELL = 0
    DIFFERENT = 1
    """A verdict that is recomputed is not the one that was stored."""
    NOT_AT_ALL = 2
    INTERRUPTED = 130


class Problem(Exception):
    """A command cannot do what was asked; the text says why, and what would be right."""


class CannotExamine(Problem):
    """Nothing can be said of the server."""


class CannotRead(Problem):
    """A file, or something else that a command was given, is not usable."""


class CannotWrite(Problem):
    """An answer cannot be kept where it should be."""
