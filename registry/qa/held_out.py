"""A team's own held-out texts: a JSONL file of {"text": …} for perplexity, {"prompt": …, "completion": …} for exact
match. Pure reading; every problem names the line.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

LARGEST_FILE = 16 * 1024 * 1024
LONGEST_TEXT = 20_000


class HeldOutError(Exception):
    """The file cannot be used; the text is a sentence."""


@dataclass(frozen=True)
class Text:
    line: int
    text: str


@dataclass(frozen=True)
class Task:
    line: int
    prompt: str
    completion: str


@dataclass(frozen=True)
class HeldOut:
    texts: tuple[Text, ...] = ()
    tasks: tuple[Task, ...] = ()
    left_out: int = 0
    """Lines beyond those that were asked for."""


def inside(folder: Path | None, name: str) -> Path:
    """The file of that name in the folder, and never one outside of it, whatever the name or a link says."""
    if folder is None:
        raise HeldOutError(f"There is no folder for such files here, so {name!r} cannot be found.")
    parts = PurePosixPath(name).parts
    if not parts or PurePosixPath(name).is_absolute() or ".." in parts or "\\" in name or "\0" in name:
        raise HeldOutError(f"{name!r} is not a file inside the folder for such files: give its name relative to it.")
    try:
        path = (folder / name).resolve(strict=True)
    except (OSError, RuntimeError):  # RuntimeError: links that go round in a circle
        raise HeldOutError(f"There is no file {name!r} in the folder for such files.") from None
    if not path.is_relative_to(folder.resolve()):
        raise HeldOutError(f"{name!r} is a link to outside of the folder for such files.")
    if not path.is_file():
        raise HeldOutError(f"{name!r} is not a file.")
    return path


def load(path: Path, most_lines: int) -> HeldOut:
    """The first so many lines; blank ones do not count."""
    try:
        if path.stat().st_size > LARGEST_FILE:
            raise HeldOutError(f"{path.name} is larger than {LARGEST_FILE // 2**20} MiB.")
        lines = path.read_text(encoding="utf-8-sig").split("\n")  # not splitlines: JSON strings may hold U+2028
    except OSError as error:
        raise HeldOutError(f"{path.name} cannot be read: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise HeldOutError(f"{path.name} is not UTF-8 (byte {error.start}).") from error
    numbered = [(number, line) for number, line in enumerate(lines, start=1) if line.strip()]
    if not numbered:
        raise HeldOutError(f"{path.name} is empty.")
    found = [_parsed(path.name, number, line) for number, line in numbered[:most_lines]]
    return HeldOut(
        texts=tuple(one for one in found if isinstance(one, Text)),
        tasks=tuple(one for one in found if isinstance(one, Task)),
        left_out=max(0, len(numbered) - most_lines),
    )


def _parsed(name: str, number: int, line: str) -> Text | Task:
    where = f"{name}, line {number}"
    try:
        value = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise HeldOutError(f"{where}: this is not JSON ({error}).") from None
    fields = sorted(value) if isinstance(value, dict) else None
    if fields not in (["text"], ["completion", "prompt"]):
        raise HeldOutError(f'{where}: give {{"text": …}} or {{"prompt": …, "completion": …}} and nothing else.')
    for field in fields:
        text = value[field]
        if not isinstance(text, str) or not text.strip() or len(text) > LONGEST_TEXT:
            raise HeldOutError(f"{where}: {field} must be a text of 1 to {LONGEST_TEXT:,} characters.")
    return Text(number, value["text"]) if "text" in fields else Task(number, value["prompt"], value["completion"])
