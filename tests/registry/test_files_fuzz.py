"""The fuzz targets work, and what they damage breaks nothing. `make fuzz` lets them run for longer."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest


@pytest.mark.parametrize("name", ["safetensors", "gguf", "pickles"])
def test_fuzz_target_runs_and_finds_no_fault(name: str) -> None:
    command = [sys.executable, "-m", f"fuzz.{name}", "--seconds", "0.5", "--seed", "1"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    said = re.search(r"([\d,]+) damaged files, ([\d,]+) of them taken, no fault", done.stdout)
    assert said, done.stdout
    assert int(said[1].replace(",", "")) > 10
