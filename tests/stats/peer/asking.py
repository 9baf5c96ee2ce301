"""Other packages' answers. They are in an environment of their own, which `make test-oracles` makes."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

PYTHON = Path(__file__).parents[3] / ".engines/statistics/bin/python"
ORACLE = Path(__file__).with_name("oracle.py")
installed = [
    pytest.mark.peer,
    pytest.mark.skipif(not PYTHON.exists(), reason="`make test-oracles` installs ville and savvi and runs this"),
]


def ask(*questions: tuple[str, dict[str, Any]]) -> list[Any]:
    """One answer for each (function of oracle.py, its arguments)."""
    done = subprocess.run(
        [PYTHON, "-I", ORACLE], input=json.dumps(questions), capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    answers: list[Any] = json.loads(done.stdout)
    return answers
