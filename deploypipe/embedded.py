"""The embedded default: one process tree. Web, worker and scheduler in here; Envoy and model servers below.

Killed at any moment it loses nothing: what should be stands in the database, Envoy and the model servers outlive us and
are adopted by the next start, and what died with us is started again before the gateway lets anybody in.
"""

from __future__ import annotations

import asyncio
import fcntl
import logging
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

import uvicorn
from celery.beat import Scheduler, Service
from celery.worker import WorkController
from django.conf import settings
from django.utils import timezone

from deploypipe.asgi import application
from deploypipe.celery import app as celery_app
from deploypipe.core import live
from deploypipe.core.errors import BackendError, DeploypipeError, RouterError
from deploypipe.metrics.records import rotate
from rollouts import queries, routing, servers
from rollouts.backends import routers, targets
from rollouts.models import Deployment, Desired
from rollouts.targets.base import Phase
from rollouts.targets.local import LocalTarget
from rollouts.traffic.envoy import EnvoyRouter
from rollouts.traffic.gateway_process import GatewayProcess

logger = logging.getLogger(__name__)

RECOVERY_SECONDS = 60.0
SUPERVISION_SECONDS = 1.0
STOP_SECONDS = 10.0
_ENDING = (signal.SIGINT, signal.SIGTERM)


class CannotStart(DeploypipeError):
    """Why, in one sentence."""


@contextmanager
def only_one(folder: Path) -> Iterator[None]:
    """Two of us on one folder would fight over the same servers."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "run.lock").open("a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise CannotStart(
                f"deploypipe runs in {folder} already (process {_read(lock)}); stop that one first."
            ) from None
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        yield


def _read(file: IO[str]) -> str:
    file.seek(0)
    return file.read().strip() or "unknown"


def web_socket() -> socket.socket:
    """Bound before anything else starts: a taken port is said at once, and nobody can take it in between."""
    host, port = settings.WEB_HOST, settings.WEB_PORT
    listening = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((host, port))
    except OSError as error:
        listening.close()
        raise CannotStart(
            f"The web port {host}:{port} cannot be used ({error.strerror}): "
            "end the program that has it, or set DEPLOYPIPE_WEB_PORT to another one."
        ) from None
    listening.set_inheritable(False)
    return listening


def gateway_process() -> GatewayProcess | None:
    """The Envoy that this machine runs, where one is set up."""
    for alias in routers.aliases():
        router = routers[alias]
        if isinstance(router, EnvoyRouter):
            return GatewayProcess(router, listen=f"{settings.GATEWAY_HOST}:{settings.GATEWAY_PORT}")
    return None


@contextmanager
def ended_by_signals() -> Iterator[None]:
    """SIGINT and SIGTERM both end the body by KeyboardInterrupt, wherever it is, also while it is still starting."""

    def end(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    for number in _ENDING:
        signal.signal(number, end)
    with suppress(KeyboardInterrupt):
        yield


def hold_signals() -> None:
    """While everything is being stopped: an impatient second Ctrl-C must not leave half of it running."""
    for number in _ENDING:
        signal.signal(number, signal.SIG_IGN)


def look_after_gateway(gateway: GatewayProcess) -> None:
    """Start it again where it died; let it begin a new record file where the old one has grown."""
    if not gateway.alive():
        logger.warning("the gateway is not running; starting it again")
        gateway.start()
        gateway.wait_ready()
    limit = settings.GATEWAY_RECORDS_LIMIT_MIB * 1024 * 1024
    rotate(settings.GATEWAY_RECORDS, gateway.reopen_logs, limit_bytes=limit)


class Product:
    """Everything but the web, started in order and stopped in the reverse one."""

    def __init__(self) -> None:
        self.gateway = gateway_process()
        self._stopping = threading.Event()
        self._worker = WorkController(
            app=celery_app,
            pool_cls="threads",
            concurrency=settings.WORKER_THREADS,
            without_gossip=True,
            without_mingle=True,
            without_heartbeat=True,
            quiet=True,
        )
        self._beat = Service(celery_app, max_interval=1, schedule_filename=None, scheduler_cls=Scheduler)
        self._threads = [
            threading.Thread(target=self._worker.start, name="worker", daemon=True),
            threading.Thread(target=self._beat.start, kwargs={"embedded_process": False}, name="beat", daemon=True),
            threading.Thread(target=self._supervise, name="supervisor", daemon=True),
        ]

    def start(self) -> None:
        lost = servers.recover()
        if lost:
            logger.info("%d model servers ended with the last run; starting them again", lost)
        self._wait_for_servers()
        with suppress(RouterError):
            routing.write_all()
        if self.gateway is not None:
            self.gateway.start()
            self.gateway.wait_ready()
        for thread in self._threads:
            thread.start()

    def _wait_for_servers(self) -> None:
        """Nobody is let in before the servers that have traffic are ready, or until waiting longer would be worse."""
        deadline = time.monotonic() + RECOVERY_SECONDS
        while time.monotonic() < deadline:
            servers.converge_all(timezone.now())
            coming = Deployment.objects.filter(desired=Desired.RUNNING).exclude(phase__in=[Phase.READY, Phase.FAILED])
            if not any(queries.share_of(route, one) for one in coming for route in queries.routes_naming(one)):
                return
            time.sleep(0.1)

    def _supervise(self) -> None:
        while not self._stopping.wait(SUPERVISION_SECONDS):
            try:
                if self.gateway is not None:
                    look_after_gateway(self.gateway)
            except Exception:
                logger.exception("the gateway could not be looked after")

    def stop(self) -> None:
        """Nothing is left running: first what gives orders, then the gateway, then the model servers."""
        self._stopping.set()
        running = [thread for thread in self._threads if thread.is_alive()]
        if running:
            self._beat.stop()
            self._worker.stop()
        for thread in running:
            thread.join(timeout=STOP_SECONDS)
        if self.gateway is not None:
            self.gateway.stop()
        for alias in targets.aliases():
            target = targets[alias]
            if isinstance(target, LocalTarget):
                try:
                    target.stop_all(grace=STOP_SECONDS)
                except BackendError as error:
                    logger.error("%s", error.message)


def serve(listening: socket.socket, when_ready: threading.Event) -> None:
    """The web application, in this thread, until SIGINT or SIGTERM."""
    config = uvicorn.Config(
        application, log_level="warning", access_log=False, lifespan="off", timeout_graceful_shutdown=3
    )
    server = uvicorn.Server(config)

    async def main() -> None:
        live.serve_from(asyncio.get_running_loop())
        serving = asyncio.create_task(server.serve(sockets=[listening]))
        while not server.started and not serving.done():
            await asyncio.sleep(0.01)
        when_ready.set()
        await serving

    asyncio.run(main())
