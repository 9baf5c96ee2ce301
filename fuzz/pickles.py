"""`python -m fuzz.pickles --seconds 60`: what looks into pickles without loading them."""

from __future__ import annotations

import io
import pickle
import sys
import tempfile
import zipfile
from collections import OrderedDict
from pathlib import Path

from fuzz.damage import main
from registry.qa.files.pickles import inspect

VALUE = OrderedDict(a=[1, 2.5, None, True, 2**70], b={"text"}, c=b"bytes" * 9, d="x" * 300)


def archive(content: bytes) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as file:
        file.writestr("archive/data.pkl", content)
    return stream.getvalue()


SEEDS = [*(pickle.dumps(VALUE, protocol) for protocol in range(6)), archive(pickle.dumps(VALUE, 2))]


def reader(content: bytes) -> bool:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.bin"
        path.write_bytes(content)
        found = inspect(path, path.name)
    return found is not None and not found.problem


if __name__ == "__main__":
    sys.exit(main("pickles", reader, SEEDS))
