"""Web, worker, beat and gateway as processes of their own, with Redis between them: the same tasks and outcome."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from examples.story.demo import free_ports
from tests.product import Product, until

pytestmark = pytest.mark.faults


def start_redis(folder: Path) -> tuple[subprocess.Popen[bytes], str]:
    program = shutil.which("redis-server")
    if program is None:
        pytest.fail("This test runs a real Redis: apt-get install redis-server")
    (port,) = free_ports(1)
    words = [program, "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", str(folder)]
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL)
    with redis.Redis(port=port) as client:
        deadline = time.monotonic() + 10
        while True:
            try:
                client.ping()
                break
            except redis.ConnectionError:
                assert time.monotonic() < deadline, "Redis did not start"
                time.sleep(0.05)
    return process, f"redis://127.0.0.1:{port}"


class Separate(Product):
    """Started by four commands instead of one."""

    def __init__(self, folder: Path, redis_url: str) -> None:
        self.processes: list[subprocess.Popen[bytes]] = []
        super().__init__(folder, DEPLOYPIPE_BROKER_URL=f"{redis_url}/0", DEPLOYPIPE_REDIS_URL=f"{redis_url}/1")

    def start(self) -> None:
        port = self.stage.environment["DEPLOYPIPE_WEB_PORT"]
        binaries = Path(sys.executable).parent
        celery = [str(binaries / "celery"), "-A", "deploypipe"]
        self._worker = (*celery, "worker", "--pool", "threads", "--concurrency", "8")
        self.processes = [
            self._spawn(str(binaries / "uvicorn"), "deploypipe.asgi:application", "--port", port),
            self._spawn(*self._worker),
            self._spawn(*celery, "beat", "--schedule", str(self.stage.folder / "beat")),
            self._spawn(sys.executable, "manage.py", "gateway"),
        ]
        until(self.stage.is_ready, seconds=60, what="the product's start")

    def _spawn(self, *words: str) -> subprocess.Popen[bytes]:
        with self.stage.log.open("ab") as log:
            return subprocess.Popen(words, env=self.stage.environment, stdout=log, stderr=log, start_new_session=True)

    def kill_worker(self) -> None:
        """SIGKILL, in the midst of whatever it does."""
        self.processes[1].kill()
        self.processes[1].wait()

    def start_worker(self) -> None:
        self.processes[1] = self._spawn(*self._worker)

    def stop(self) -> None:
        for process in self.processes:
            process.send_signal(signal.SIGTERM)
        for process in self.processes:
            process.wait(30)
        for left in self.stage.tree():
            left.kill()


@pytest.fixture
def separate(tmp_path: Path) -> Iterator[Separate]:
    server, url = start_redis(tmp_path)
    product: Separate | None = None
    try:
        product = Separate(tmp_path, url)
        yield product
    finally:
        if product is not None:
            product.api.close()
            product.stop()
        server.terminate()
        server.wait(10)


def test_a_version_is_examined_rolled_out_and_judged_on_traffic(separate: Separate) -> None:
    assert separate.ended(separate.rollout(separate.approved()))["status"] == "succeeded"
    version = separate.approved(kind="trigram")
    with separate.traffic() as report:
        ended = separate.ended(separate.rollout(version))
    assert ended["status"] == "succeeded", ended["reason"]
    assert report["answered_ok"] == report["sent"]


def test_experiment_whose_worker_is_killed_holds_and_is_decided_by_all_that_was_recorded(separate: Separate) -> None:
    assert separate.ended(separate.rollout(separate.approved()))["status"] == "succeeded"
    settings = {
        "goals": [{"metric": "error_rate", "margin_points": 5}],
        "min_requests": 400,
        "max_seconds": 600,
        "auto_promote": True,
    }
    with separate.traffic() as report:
        experiment = separate.experiment(separate.approved(kind="trigram"), settings)
        separate.looks_at(experiment, more_than=1)
        separate.kill_worker()
        before = separate.experiment_seen(experiment)
        recorded = separate.recorded
        until(lambda: separate.recorded > recorded + 100, seconds=30, what="requests that nobody reads")
        assert separate.experiment_seen(experiment) == before, "nobody looks, so nothing is said"
        separate.start_worker()
        seen = separate.decided(experiment, seconds=180)
    assert seen["status"] == "promote", seen["sentence"]
    totals = seen["latest"]["totals"]
    assert (
        sum(arm["requests"] for arm in totals.values())
        > sum(arm["requests"] for arm in before["latest"]["totals"].values()) + 100
    )
    assert report["answered_ok"] == report["sent"]
    again = separate.replayed(experiment)
    assert again.returncode == 0, again.stdout + again.stderr
