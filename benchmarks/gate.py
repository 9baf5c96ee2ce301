"""How long the quality gate takes at its default policy, as `deploypipe qa` runs it.

On the demo's model server, several times; then on a server that takes connections and never answers. Exit 0 only if the
median of the first is under 30 s and the second under 5 minutes.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from examples.textgen import train

KEY = "sk-benchmark"
MOST_SOUND, MOST_SILENT = 30.0, 300.0


@contextmanager
def textgen(model: Path) -> Iterator[str]:
    words = [sys.executable, "-m", "examples.textgen.server", "--model", str(model), "--served-model-name", "textgen"]
    environment = {**os.environ, "TEXTGEN_API_KEY": KEY}
    with subprocess.Popen([*words, "--port", "0"], stderr=subprocess.PIPE, text=True, env=environment) as server:
        assert server.stderr is not None
        line = server.stderr.readline()
        threading.Thread(target=server.stderr.read, daemon=True).start()
        try:
            yield line.split()[-1]
        finally:
            server.terminate()


@contextmanager
def silent() -> Iterator[str]:
    with socket.create_server(("127.0.0.1", 0), backlog=4096) as listener:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"


def examine(url: str, model: Path, out: Path) -> tuple[float, int]:
    """Seconds, and the exit code."""
    command = [sys.executable, "-m", "deploypipe", "qa", "--endpoint", url, "--model", "textgen"]
    command += ["--engine", "textgen", "--artifact", str(model), "--out", str(out)]
    began = time.monotonic()
    done = subprocess.run(
        command, env={**os.environ, "DEPLOYPIPE_API_KEY": KEY}, capture_output=True, timeout=600, check=False
    )
    return time.monotonic() - began, done.returncode


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--times", type=int, default=5)
    given = parser.parse_args()
    print(f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}")
    with tempfile.TemporaryDirectory() as folder:
        model, out = train.train("trigram", Path(folder) / "model").folder, Path(folder) / "report.json"
        with textgen(model) as url:
            runs = [examine(url, model, out) for _ in range(given.times)]
            score = json.loads(out.read_text())["qa_report"]["overall_quality_score"]
        with silent() as url:
            waited, code = examine(url, model, out)
    seconds = [run[0] for run in runs]
    median = statistics.median(seconds)
    print(
        f"demo server: median {median:.1f} s of {len(runs)} ({min(seconds):.1f} to {max(seconds):.1f}), score {score:g}"
    )
    print(f"server that never answers: {waited:.1f} s, exit code {code}")
    approved = all(code == 0 for _, code in runs)
    return 0 if approved and median < MOST_SOUND and waited < MOST_SILENT and code == 1 else 1


if __name__ == "__main__":
    sys.exit(main())
