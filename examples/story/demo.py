"""`make demo`: the whole product in a throw-away folder on free ports, the story to its end, a table, an exit code.

Exit 0 only if every version met the fate that it must, every user's request is accounted for, the audit chain is whole,
and nothing is left running.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

import httpx
import psutil

from deploypipe.metrics.records import read_new
from examples.story import play
from examples.story.cast import ENVIRONMENT, MODEL, STORY
from examples.story.client import Api, Json, Refused

START_SECONDS = 90.0
STOP_SECONDS = 60.0
RATE = 60.0
"""Requests a second."""
SESSION_SECONDS = 3
"""The demo's users are gone after two questions; nobody needs to be waited for any longer."""
SEEN = ("sent", "answered_ok", "stream_errors", "empty", "http_errors", "transport_errors", "retries", "users")


def free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


class Stage:
    """A product of its own in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        web, gateway, admin = free_ports(3)
        self.url, self.gateway = f"http://127.0.0.1:{web}", f"http://127.0.0.1:{gateway}"
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("DEPLOYPIPE_")},
            "DEPLOYPIPE_VAR": str(folder),
            "DEPLOYPIPE_WEB_PORT": str(web),
            "DEPLOYPIPE_GATEWAY_PORT": str(gateway),
            "DEPLOYPIPE_GATEWAY_ADMIN_PORT": str(admin),
            "DEPLOYPIPE_DEMO": "true",
            "DEPLOYPIPE_SESSION_SECONDS": str(SESSION_SECONDS),
            "PYTHONUNBUFFERED": "1",
        }
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def log(self) -> Path:
        return self.folder / "product.log"

    def manage(self, *words: str) -> None:
        subprocess.run([sys.executable, "manage.py", *words], env=self.environment, check=True, timeout=120)

    def start(self) -> None:
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "manage.py", "run"],
                env=self.environment,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        deadline = time.monotonic() + START_SECONDS
        while not self.is_ready():
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"the product did not start:\n{self.log.read_text()[-3000:]}")
            time.sleep(0.1)

    def is_ready(self) -> bool:
        try:
            return httpx.get(f"{self.url}/readyz", timeout=2).status_code == 200
        except httpx.TransportError:
            return False

    def tree(self) -> list[psutil.Process]:
        """Every process that belongs to it, wherever it was started from."""
        found = []
        for process in psutil.process_iter():
            try:
                if process.environ().get("DEPLOYPIPE_VAR") == str(self.folder) or any(
                    str(self.folder) in word for word in process.cmdline()
                ):
                    found.append(process)
            except psutil.Error:
                continue
        return [process for process in found if process.pid != os.getpid()]

    def stop(self) -> list[str]:
        """Ask it to end; the command lines of what is left running."""
        if self.process is None:
            return []
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(STOP_SECONDS)
        return [" ".join(process.cmdline()) for process in self.tree()]


def accounted(report: Json) -> list[str]:
    """What is wrong with what the users saw."""
    seen = (
        report["answered_ok"] + report["stream_errors"] + report["empty"]
        + sum(report["http_errors"].values()) + sum(report["transport_errors"].values())
    )  # fmt: skip
    faults = [] if seen == report["sent"] else [f"{report['sent']} requests were sent, {seen} are accounted for"]
    if report["ratings_lost"]:
        faults.append(f"{report['ratings_lost']} ratings were not taken: {report['ratings_problem']}")
    return faults


def rated(report: Json) -> str:
    """ "1480 of 5870 users rated: 4.41 stars on average"."""
    given = sum(report["ratings"].values())
    if not given:
        return "nobody rated"
    mean = sum(int(stars) * users for stars, users in report["ratings"].items()) / given
    return f"{given} of {report['users']} users rated: {mean:.2f} stars on average"


def errors_of_good_versions(folder: Path) -> list[str]:
    """By the gateway's own records: users meet errors on the share of a canary that deserves them, and nowhere else."""
    good = {f"{MODEL}-v{part.number}-{ENVIRONMENT}" for part in STORY if part.status == "succeeded"}
    batch = read_new(folder / "gateway" / "access.log", None, limit=1 << 30)
    if not good <= {arm[2] for arm in batch.counts}:
        return ["the gateway has no records of every good version"]
    found = [(arm[2], counts) for arm, counts in batch.counts.items() if counts.failed and arm[2] in good | {""}]
    return [f"{counts.failed} of {counts.judged} requests failed on {name or 'no version'}" for name, counts in found]


def perform(stage: Stage) -> tuple[list[play.Outcome], Json, list[str]]:
    """Start, play, stop: what happened to each version, what the users saw, and what was wrong besides."""
    stage.manage("migrate", "--verbosity", "0")
    stage.manage("demo_accounts")
    stage.start()
    os.environ["TEXTGEN_API_KEY"] = (stage.folder / "secrets" / "engine").read_text().strip()
    api = Api(stage.url, stage.folder / "secrets" / "demo-tokens.json")
    player = play.Player(api, stage.folder / "story", stage.folder / "qa", stage.gateway, RATE)
    outcomes: list[play.Outcome] = []
    faults: list[str] = []
    report: Json = {}
    try:
        outcomes = player.play()
    except (Refused, TimeoutError) as error:
        faults.append(str(error))
    finally:
        api.close()
        report = player.end_traffic()
        left = stage.stop()
    stage.manage("verify_audit")
    faults += [f"left running: {line}" for line in left]
    faults += accounted(report) if report else ["there was no traffic"]
    faults += errors_of_good_versions(stage.folder)
    return outcomes, report, faults


def main() -> int:
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="deploypipe-demo-") as folder:
        stage = Stage(Path(folder))
        outcomes, report, faults = perform(stage)
        ok = not faults and len(outcomes) == len(STORY) and all(o.as_expected for o in outcomes)
        print(f"\n{play.table(outcomes)}\n")
        if report:
            print("Users:", ", ".join(f"{name} {report[name]}" for name in SEEN))
            print(f"Feedback: {rated(report)}.")
        for fault in faults:
            print(f"✗ {fault}")
        if not ok:
            print(stage.log.read_text()[-4000:])
        print(f"{'Everything went as it must' if ok else 'NOT as it must'}; {time.monotonic() - began:.0f} s.")
        return 0 if ok else 1


if __name__ == "__main__":
    sys.exit(main())
