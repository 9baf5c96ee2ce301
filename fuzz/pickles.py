"""`python -m fuzz.pickles --seconds 60`: what looks into pickles without loading them.

Whatever Python's own unpickler would import must have been seen. It runs here with every import blocked.
"""

from __future__ import annotations

import io
import os
import pickle
import re
import resource
import sys
import tempfile
import zipfile
from collections import OrderedDict
from contextlib import suppress
from pathlib import Path

from fuzz.damage import main
from registry.qa.files.pickles import UNKNOWN_NAME, inspect

MOST_MEMORY = 4 << 30
VALUE = OrderedDict(a=[1, 2.5, None, True, 2**70], b={"text"}, c=b"bytes" * 9, d="x" * 300)


def archive(content: bytes) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as file:
        file.writestr("archive/data.pkl", content)
    return stream.getvalue()


SEEDS = [*(pickle.dumps(VALUE, protocol) for protocol in range(6)), archive(pickle.dumps(VALUE, 2))]


class Runs:
    def __reduce__(self) -> tuple[object, ...]:
        return os.system, ("exit 7",)


SEEDS += [pickle.dumps([Runs(), VALUE], protocol) for protocol in range(6)]


class Blocked(pickle.Unpickler):
    def __init__(self, content: bytes) -> None:
        super().__init__(io.BytesIO(content))
        self.asked: list[tuple[str, str]] = []

    def find_class(self, module: str, name: str) -> object:
        self.asked.append((module, name))
        raise pickle.UnpicklingError("not here")


def asked_for(content: bytes) -> list[str]:
    """What Python would import first; not what can be no name of a module."""
    unpickler = Blocked(content)
    with suppress(Exception):
        unpickler.load()
    return [
        f"{module}.{name}" for module, name in unpickler.asked if re.fullmatch(r"[\w.-]+\n[\w.-]+", f"{module}\n{name}")
    ]


def reader(content: bytes) -> bool:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.bin"
        path.write_bytes(content)
        found = inspect(path, path.name)
    if not content.startswith(b"PK") and (asked := asked_for(content)):
        seen = found and (found.problem or {UNKNOWN_NAME, *asked} & found.imports)
        if not seen:
            raise AssertionError(f"it did not see that {asked[0]} is imported")
    return found is not None and not found.problem


if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_AS, (MOST_MEMORY, MOST_MEMORY))  # a place in the memo may be any number
    sys.exit(main("pickles", reader, SEEDS))
