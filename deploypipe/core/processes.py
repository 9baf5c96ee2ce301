"""Processes that outlive us: started in a session of their own, recognised again by pid *and* start time.

A pid alone is a number that the kernel hands out again; together with the boot and the clock tick at which the process
started it is a name. Linux only: everything is read from /proc.
"""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple, Self

MARKER = "DEPLOYPIPE_PROCESS"
TAIL_BYTES = 64 * 1024
_REMEMBERED_EXITS = 1000


@dataclass(frozen=True)
class ProcessIdentity:
    pid: int
    started: str
    """The boot, and the clock tick after it, at which the process started."""

    def to_json(self) -> dict[str, int | str]:
        return {"pid": self.pid, "started": self.started}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        return cls(pid=int(data["pid"]), started=str(data["started"]))

    @property
    def of_this_boot(self) -> bool:
        return self.started.rpartition(":")[0] == _boot()


def spawn(argv: Sequence[str], *, env: Mapping[str, str], log: Path, marker: str) -> ProcessIdentity:
    """Start a process that survives our own death. `env` is its whole environment; raises OSError when it cannot start.

    The log is appended to. By `marker`, `find_by_marker` finds the process should we die before noting its identity.
    """
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    try:
        with _lock:
            process = subprocess.Popen(
                list(argv),
                env={**env, MARKER: marker},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                close_fds=True,
            )
            # Reaped by _reap: Popen would warn that the child is still running, which is what we want of it.
            process.returncode = 0
            identity = identify(process.pid) or ProcessIdentity(process.pid, "unknown")
            _children.add(identity)
    finally:
        os.close(output)
    return identity


def identify(pid: int) -> ProcessIdentity | None:
    """The identity of whatever has that pid now; None when nothing has."""
    stat = _stat(pid)
    return ProcessIdentity(pid, stat.started) if stat else None


def alive(identity: ProcessIdentity) -> bool:
    """Whether exactly this process still runs; one that has ended but was not yet reaped does not."""
    _reap(identity)
    return _runs(identity)


def group_alive(identity: ProcessIdentity) -> bool:
    """Whether the process or anything that it started in its own process group still runs."""
    return alive(identity) or any(_orphans(identity))


def exit_code(identity: ProcessIdentity) -> int | None:
    """How it ended, minus the signal number when a signal ended it; None while it runs or when that cannot be known."""
    _reap(identity)
    with _lock:
        if identity in _exits:
            return _exits[identity]
    stat = _stat(identity.pid)
    if stat and stat.started == identity.started and stat.ended:  # somebody else's child that nobody has reaped
        return os.waitstatus_to_exitcode(stat.wait_status)
    return None


def age(identity: ProcessIdentity) -> float:
    """Seconds since it started, by a clock that nobody sets."""
    ticks = identity.started.rpartition(":")[2]
    if not ticks.isdigit() or not identity.of_this_boot:
        return 0.0
    return max(0.0, time.clock_gettime(time.CLOCK_BOOTTIME) - int(ticks) / os.sysconf("SC_CLK_TCK"))


def terminate(identity: ProcessIdentity, grace: float) -> None:
    """SIGTERM now, and SIGKILL to what is left of its process group `grace` seconds later; does not wait.

    The second half is lost when we die in between: whoever must be sure notes the deadline and calls `kill_now`.
    """
    with _lock:
        if _runs(identity):
            _signal(identity.pid, signal.SIGTERM)
    kill_later(identity, grace)


def kill_later(identity: ProcessIdentity, delay: float) -> None:
    if delay <= 0:
        kill_now(identity)
        return
    timer = threading.Timer(delay, kill_now, [identity])
    timer.daemon = True
    timer.start()


def kill_now(identity: ProcessIdentity) -> None:
    """SIGKILL to the process and its process group; nothing happens to a stranger that got the same pid."""
    with _lock:  # no child is reaped meanwhile, so the pid stays what it is
        if _is(identity):
            _signal_group(identity.pid, signal.SIGKILL)
        for pid in _orphans(identity):
            _signal(pid, signal.SIGKILL)
    _reap(identity)


def find_by_marker(marker: str) -> ProcessIdentity | None:
    """The process of this user that `spawn` started with that marker, also when a predecessor of ours did."""
    wanted = f"{MARKER}={marker}".encode()
    for pid in _pids():
        try:
            if os.stat(f"/proc/{pid}").st_uid != os.geteuid():
                continue
            environment = Path(f"/proc/{pid}/environ").read_bytes()
        except OSError:
            continue
        stat = _stat(pid)
        # What the server started has the same environment; only the leader of the session is the server.
        if stat and stat.session == pid and not stat.ended and wanted in environment.split(b"\0"):
            return ProcessIdentity(pid, stat.started)
    return None


def tail(path: Path, lines: int) -> str:
    """The last lines of a log, at most 64 KiB of them; empty when there is no log."""
    try:
        with path.open("rb") as log:
            start = max(0, log.seek(0, os.SEEK_END) - TAIL_BYTES)
            log.seek(start)
            content = log.read(TAIL_BYTES)
    except FileNotFoundError:
        return ""
    found = content.decode(errors="replace").splitlines()
    if start and len(found) > 1:
        found = found[1:]  # the first is the end of a line
    return "\n".join(found[-lines:]) if lines > 0 else ""


_lock = threading.RLock()
_children: set[ProcessIdentity] = set()
_exits: dict[ProcessIdentity, int] = {}


def _start_afresh() -> None:
    """After a fork: the children are our parent's, and the lock may be held by a thread that is not here."""
    global _lock
    _lock = threading.RLock()
    _children.clear()


os.register_at_fork(after_in_child=_start_afresh)


def _reap(identity: ProcessIdentity) -> None:
    """Collect the child if it has ended. Only the one asked for: how the others ended, other processes may yet read."""
    with _lock:
        if identity not in _children:
            return
        try:
            done, status = os.waitpid(identity.pid, os.WNOHANG)
        except ChildProcessError:  # somebody else reaped it
            _children.remove(identity)
            return
        if done:
            _children.remove(identity)
            _exits[identity] = os.waitstatus_to_exitcode(status)
        while len(_exits) > _REMEMBERED_EXITS:
            del _exits[next(iter(_exits))]


class _Stat(NamedTuple):
    ended: bool
    group: int
    session: int
    started: str
    wait_status: int


def _stat(pid: int) -> _Stat | None:
    try:
        content = Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        return None
    words = content.rpartition(b")")[2].split()  # the name before it may hold spaces and brackets; proc_pid_stat(5)
    return _Stat(
        ended=words[0] in (b"Z", b"X", b"x"),
        group=int(words[2]),
        session=int(words[3]),
        started=f"{_boot()}:{int(words[19])}",
        wait_status=int(words[49]),
    )


@cache
def _boot() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return "this-boot"


def _pids() -> Iterator[int]:
    return (int(entry) for entry in os.listdir("/proc") if entry.isdigit())


def _is(identity: ProcessIdentity) -> bool:
    stat = _stat(identity.pid)
    return stat is not None and stat.started == identity.started


def _runs(identity: ProcessIdentity) -> bool:
    stat = _stat(identity.pid)
    return stat is not None and stat.started == identity.started and not stat.ended


def _orphans(identity: ProcessIdentity) -> Iterator[int]:
    """What still runs in the process group of a leader that has ended.

    The kernel does not hand out a pid while a group bears its number: if a stranger has the pid, the group is gone.
    """
    if not identity.of_this_boot or (_stat(identity.pid) is not None and not _is(identity)):
        return
    for pid in _pids():
        stat = _stat(pid)
        if stat and pid != identity.pid and identity.pid in (stat.group, stat.session) and not stat.ended:
            yield pid


def _signal(pid: int, number: signal.Signals) -> None:
    try:
        os.kill(pid, number)
    except (ProcessLookupError, PermissionError):
        return


def _signal_group(pid: int, number: signal.Signals) -> None:
    try:
        os.killpg(pid, number)
    except (ProcessLookupError, PermissionError):
        return
