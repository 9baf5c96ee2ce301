"""What the process writes down while it looks, line by line: what it had seen is known even when it dies."""

from __future__ import annotations

import json
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence, Set
from contextlib import contextmanager
from pathlib import Path
from typing import Any

MOST_TEXT = 300
MOST_ITEMS = 40
MOST_DEPTH = 5


class Journal:
    def __init__(self, path: Path) -> None:
        self._file = path.open("a", encoding="utf-8")

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        self._write({"step": name})
        began = time.monotonic()
        yield
        self._write({"ended": name, "seconds": round(time.monotonic() - began, 6)})

    def fact(self, name: str, value: Any) -> None:
        self._write({"fact": name, "value": plain(value)})

    def failed(self, error: BaseException) -> None:
        self._write({"failed": type(error).__name__, "text": _text(error), "where": _where(error), **_missing(error)})

    def done(self) -> None:
        self._write({"done": True})

    def _write(self, line: Mapping[str, Any]) -> None:
        self._file.write(json.dumps(line) + "\n")
        self._file.flush()


def plain(value: Any, depth: int = 0) -> Any:
    """What JSON can hold, cut short: a component may answer with anything."""
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, float):
        return value if value - value == 0 else str(value)
    if isinstance(value, str) or depth >= MOST_DEPTH:
        return str(value)[:MOST_TEXT]
    if isinstance(value, Mapping):
        return {str(key)[:MOST_TEXT]: plain(item, depth + 1) for key, item in list(value.items())[:MOST_ITEMS]}
    if isinstance(value, Sequence | Set) and not isinstance(value, bytes | bytearray):
        return [plain(item, depth + 1) for item in list(value)[:MOST_ITEMS]]
    return str(value)[:MOST_TEXT]


def _text(error: BaseException) -> str:
    text = error.msg if isinstance(error, SyntaxError) else str(error)
    return (text.strip().splitlines() or [""])[0][:MOST_TEXT]


def _where(error: BaseException) -> str:
    """ "psystem_membranes.py, line 18", the innermost place that is a file."""
    if isinstance(error, SyntaxError) and error.filename:
        return f"{Path(error.filename).name}, line {error.lineno}"
    frames = traceback.extract_tb(error.__traceback__)
    return f"{Path(frames[-1].filename).name}, line {frames[-1].lineno}" if frames else ""


def _missing(error: BaseException) -> dict[str, str]:
    return {"missing": error.name} if isinstance(error, ModuleNotFoundError) and error.name else {}
