"""Files that a command is given."""

from __future__ import annotations

from pathlib import Path

from deploypipe.client.problems import CannotRead


def read_file(option: str, file: str, most: int) -> bytes:
    """`most` in bytes: nobody waits for a device that has no end. CannotRead names the option."""
    try:
        with Path(file).open("rb") as opened:
            found = opened.read(most + 1)
    except (OSError, ValueError) as error:
        raise CannotRead(f"{option} {file} cannot be read: {getattr(error, 'strerror', None) or error}.") from error
    if len(found) > most:
        raise CannotRead(f"{option} {file} is longer than {most:,} bytes: is it the right file?")
    return found
