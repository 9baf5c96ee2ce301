"""The files that a policy names: a team's own prompts and texts, in the folder for such files and never outside it."""

from __future__ import annotations

from pathlib import Path, PurePosixPath

LARGEST = 16_000_000


class OwnFileError(Exception):
    """The file cannot be used; the text is a sentence."""


def read(folder: Path | None, name: str) -> bytes:
    path = inside(folder, name)
    try:
        with path.open("rb") as file:
            content = file.read(LARGEST + 1)
    except OSError as error:
        raise OwnFileError(f"{name!r} cannot be read: {error.strerror}.") from error
    if len(content) > LARGEST:
        raise OwnFileError(f"{name!r} has more than {LARGEST:,} bytes: give fewer or shorter lines.")
    return content


def inside(folder: Path | None, name: str) -> Path:
    """The file of that name in the folder, whatever the name or a link says."""
    if folder is None:
        raise OwnFileError(f"There is no folder for such files here, so {name!r} cannot be found.")
    parts = PurePosixPath(name).parts
    if not parts or PurePosixPath(name).is_absolute() or ".." in parts or "\\" in name or "\0" in name:
        raise OwnFileError(f"{name!r} is not a file inside the folder for such files: give its name relative to it.")
    try:
        path = (folder / name).resolve(strict=True)
    except (OSError, RuntimeError, ValueError):  # RuntimeError: links that go round in a circle
        raise OwnFileError(f"There is no file {name!r} in the folder for such files.") from None
    if not path.is_relative_to(folder.resolve()):
        raise OwnFileError(f"{name!r} is a link to outside of the folder for such files.")
    if not path.is_file():
        raise OwnFileError(f"{name!r} is not a file.")
    return path
