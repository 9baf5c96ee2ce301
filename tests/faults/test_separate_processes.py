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
        self.processes = [
            self._spawn(str(binaries / "uvicorn"), "deploypipe.asgi:application", "--port", port),
            self._spawn(*celery, "worker", "--pool", "threads", "--concurrency", "8"),
            self._spawn(*celery, "beat", "--schedule", str(self.stage.folder / "beat")),
            self._spawn(sys.executable, "manage.py", "gateway"),
        ]
        until(self.stage.is_ready, seconds=60, what="the product's start")

    def _spawn(self, *words: str) -> subprocess.Popen[bytes]:
        with self.stage.log.open("ab") as log:
            return subprocess.Popen(words, env=self.stage.environment, stdout=log, stderr=log, start_new_session=True)

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
