from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from deploypipe.client import main

COMMAND = str(Path(sys.executable).with_name("deploypipe"))


@dataclass(frozen=True)
class Said:
    code: int
    out: str
    err: str


def hears_interrupts() -> None:
    """Before a command begins: where the tests run in the background, its shell has told everybody to ignore them."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


Run = Callable[..., Said]


@pytest.fixture
def experiment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """`deploypipe experiment …`, in a folder of its own."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> Said:
        capsys.readouterr()
        try:
            code = main(["experiment", *arguments])
        except SystemExit as error:  # argparse
            code = int(error.code or 0)
        captured = capsys.readouterr()
        return Said(code, captured.out, captured.err)

    return run


def environment(**more: str) -> dict[str, str]:
    """What a person's shell has, as far as a command needs it."""
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
    return {**kept, **more}


def installed(folder: Path, *arguments: str, given: str | None = None, **more: str) -> subprocess.CompletedProcess[str]:
    """The installed script, as a process of its own."""
    return subprocess.run(
        [COMMAND, "experiment", *arguments],
        cwd=folder, env=environment(**more), input=given, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
