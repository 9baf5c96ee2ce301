"""The example of docs/extending.md, as the document has it, and servers to run it against."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from examples.textgen.train import train
from tests.examples.conftest import KEY, MODEL, serving

ROOT = Path(__file__).resolve().parents[2]
DOCUMENT = ROOT / "docs" / "extending.md"


def example() -> str:
    blocks = re.findall(r"^```python\n(# shopqa/qa_checks\.py\n.*?)^```", DOCUMENT.read_text(), re.S | re.M)
    assert len(blocks) == 1
    return str(blocks[0])


@pytest.fixture
def apps(tmp_path: Path) -> Path:
    """A folder to put on Python's path, with the app `shopqa` in it."""
    write(tmp_path, example())
    return tmp_path


def write(folder: Path, source: str, app: str = "shopqa") -> None:
    (folder / app).mkdir(exist_ok=True)
    (folder / app / "__init__.py").touch()
    (folder / app / "qa_checks.py").write_text(source)


@pytest.fixture(scope="session")
def textgen(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    folder = train("trigram", tmp_path_factory.mktemp("model") / "trigram").folder
    with serving(folder) as server:
        yield {"base_url": server.url, "model": MODEL, "api_key": KEY}


class Loops(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        body = json.dumps({"choices": [{"index": 0, "text": "of the " * 32, "finish_reason": "length"}]}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        return None


@contextmanager
def looping() -> Iterator[dict[str, str]]:
    """A server whose model says the same two words for ever."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Loops) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        url = f"http://127.0.0.1:{server.server_address[1]}"
        yield {"base_url": url, "model": "loop", "api_key": "loop-key-0123456789"}
        server.shutdown()
        thread.join(20)


EXAMINE = """
import json, sys
from registry.qa.base import Context, RunningServer
from registry.qa.catalogue import all_checks, discover
from registry.qa.policy import Policy
from registry.qa.runner import examine, to_scored
from registry.scoring import score

given = json.loads(sys.argv[1])
if "django" in given["with"]:
    import django
    django.setup()  # the app registry discovers
else:
    discover(["shopqa"])
policy = Policy.from_json(given["policy"])
checks = [c for c in all_checks() if c.category == "shop"]
results = examine(Context(None, None, "openai", policy, RunningServer(**given["server"])), checks)
total = score([to_scored(r) for r in results], policy.weights)
print(json.dumps({
    "names": [r.name for r in results],
    "outcomes": [{"status": r.outcome.status, "reason": r.outcome.reason, "value": r.outcome.value,
                  "limit": r.outcome.limit, "unit": r.outcome.unit, "evidence": r.outcome.evidence,
                  "findings": [f.to_json() for f in r.outcome.findings]} for r in results],
    "categories": total.categories, "lost": [[loss.name, loss.points] for loss in total.lost],
    "django": "django" in sys.modules,
}))
"""

Examined = Callable[..., dict[str, Any]]


def environment(apps: Path, var: Path, **more: str) -> dict[str, str]:
    return {
        "PATH": "/usr/bin:/bin",
        "PYTHONPATH": f"{apps}:{ROOT}",
        "DEPLOYPIPE_VAR": str(var),
        "DJANGO_SETTINGS_MODULE": "deploypipe.settings",
        **more,
    }


@pytest.fixture
def examined(apps: Path, tmp_path: Path) -> Examined:
    """In a process of its own, so that the example does not stay in this one's catalogue."""

    def run(server: dict[str, str], *, django: bool = False, policy: dict[str, Any] | None = None) -> dict[str, Any]:
        given = {"server": server, "policy": policy or {}, "with": ["django"] if django else []}
        more = {"DEPLOYPIPE_APPS": "shopqa"} if django else {}
        done = subprocess.run(
            [sys.executable, "-W", "error", "-c", EXAMINE, json.dumps(given)],
            capture_output=True,
            text=True,
            timeout=120,
            cwd=tmp_path,
            env=environment(apps, tmp_path / "var", **more),
        )
        assert done.returncode == 0, done.stderr
        found: dict[str, Any] = json.loads(done.stdout)
        return found

    return run
