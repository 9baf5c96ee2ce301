"""A team's own held-out texts: a JSONL file of {"text": …} for perplexity, {"prompt": …, "completion": …} for exact
match. Pure reading; every problem names the line.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from registry.qa import own_files
from registry.qa.own_files import OwnFileError

LONGEST_TEXT = 20_000
LONGEST_COMPLETION = 1_000
"""It has to be generated, word for word."""


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


def load(folder: Path | None, name: str, most_lines: int) -> HeldOut:
    """The first so many lines; blank ones do not count."""
    content = own_files.read(folder, name)
    try:
        lines = content.decode("utf-8-sig").split("\n")  # not splitlines: JSON strings may hold U+2028
    except UnicodeDecodeError as error:
        raise OwnFileError(f"{name} is not UTF-8 (byte {error.start}).") from error
    numbered = [(number, line) for number, line in enumerate(lines, start=1) if line.strip()]
    if not numbered:
        raise OwnFileError(f"{name} is empty.")
    found = [_parsed(name, number, line) for number, line in numbered[:most_lines]]
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
        raise OwnFileError(f"{where}: this is not JSON ({error}).") from None
    fields = sorted(value) if isinstance(value, dict) else None
    if fields not in (["text"], ["completion", "prompt"]):
        raise OwnFileError(f'{where}: give {{"text": …}} or {{"prompt": …, "completion": …}} and nothing else.')
    for field in fields:
        text = value[field]
        most = LONGEST_COMPLETION if field == "completion" else LONGEST_TEXT
        if not isinstance(text, str) or not text.strip() or len(text) > most:
            raise OwnFileError(f"{where}: {field} must be a text of 1 to {most:,} characters.")
        if not text.isascii() and any("\ud800" <= character <= "\udfff" for character in text):
            raise OwnFileError(f"{where}: {field} holds half of a surrogate pair, which no request can carry.")
    return Text(number, value["text"]) if "text" in fields else Task(number, value["prompt"], value["completion"])
