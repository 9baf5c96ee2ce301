from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from deploypipe.core import processes
from deploypipe.core.processes import ProcessIdentity

PYTHON = (sys.executable, "-S", "-c")
WAITING = "import time; print('up', flush=True); time.sleep(60)"
DEAF = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); " + WAITING


def eventually(condition: Callable[[], bool], seconds: float = 10) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


Run = Callable[..., ProcessIdentity]


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "process.log"


@pytest.fixture
def run(log: Path) -> Iterator[Run]:
    started: list[ProcessIdentity] = []

    def start(code: str, *, marker: str = "test/1") -> ProcessIdentity:
        started.append(processes.spawn([*PYTHON, code], env={}, log=log, marker=marker))
        return started[-1]

    yield start
    for identity in started:
        processes.kill_now(identity)
        eventually(lambda identity=identity: not processes.group_alive(identity))  # type: ignore[misc]


def up(log: Path) -> bool:
    return "up" in processes.tail(log, 5)


def test_started_process_is_alive_in_a_session_of_its_own(run: Run) -> None:
    identity = run(WAITING)
    assert processes.alive(identity)
    assert os.getsid(identity.pid) == identity.pid
    assert processes.exit_code(identity) is None
    assert 0 <= processes.age(identity) < 10


def test_identity_survives_json(run: Run) -> None:
    identity = run(WAITING)
    assert ProcessIdentity.from_json(json.loads(json.dumps(identity.to_json()))) == identity


@pytest.mark.parametrize(("code", "expected"), [("raise SystemExit(3)", 3), ("import os; os.kill(os.getpid(), 9)", -9)])
def test_exit_code_of_a_child_is_known(run: Run, code: str, expected: int) -> None:
    identity = run(code)
    eventually(lambda: not processes.alive(identity))
    assert processes.exit_code(identity) == expected


def test_ended_child_is_reaped(run: Run) -> None:
    identity = run("pass")
    eventually(lambda: not processes.alive(identity))
    assert processes.identify(identity.pid) != identity


def test_zombie_of_another_parent_is_not_alive_and_its_exit_code_is_read(log: Path) -> None:
    parent = "import os, time; pid = os.fork() or os._exit(7); print('up', pid, flush=True); time.sleep(60)"
    identity = processes.spawn([*PYTHON, parent], env={}, log=log, marker="parent")
    eventually(lambda: up(log))
    zombie = processes.identify(int(processes.tail(log, 1).split()[1]))
    assert zombie is not None
    eventually(lambda: not processes.alive(zombie))
    assert processes.exit_code(zombie) == 7
    processes.kill_now(identity)
    eventually(lambda: not processes.alive(identity))


def test_recycled_pid_is_another_process(run: Run) -> None:
    identity = run(WAITING)
    boot, _, ticks = identity.started.rpartition(":")
    for stranger in (
        ProcessIdentity(identity.pid, f"{boot}:{int(ticks) - 1}"),
        ProcessIdentity(identity.pid, f"another-boot:{ticks}"),
    ):
        assert not processes.alive(stranger)
        assert not processes.group_alive(stranger)
        assert processes.exit_code(stranger) is None
        processes.terminate(stranger, 0)
        processes.kill_now(stranger)
    assert processes.alive(identity)


def test_terminate_does_not_wait_and_kills_the_deaf(run: Run, log: Path) -> None:
    identity = run(DEAF)
    eventually(lambda: up(log))
    before = time.monotonic()
    processes.terminate(identity, 0.3)
    assert time.monotonic() - before < 0.2
    assert processes.alive(identity)
    eventually(lambda: not processes.alive(identity))
    assert processes.exit_code(identity) == -signal.SIGKILL


def test_terminate_lets_the_obedient_end_by_itself(run: Run, log: Path) -> None:
    identity = run(WAITING)
    eventually(lambda: up(log))
    processes.terminate(identity, 30)
    eventually(lambda: not processes.alive(identity))
    assert processes.exit_code(identity) == -signal.SIGTERM


def test_kill_ends_what_the_leader_left_behind(run: Run, log: Path) -> None:
    identity = run(f"import os\nif os.fork() == 0:\n    {WAITING}")
    eventually(lambda: up(log) and not processes.alive(identity))
    assert processes.group_alive(identity)
    processes.kill_now(identity)
    eventually(lambda: not processes.group_alive(identity))


def test_process_is_found_by_its_marker_and_its_helpers_are_not(run: Run, log: Path) -> None:
    identity = run(f"import os; os.fork(); {WAITING}", marker="servers/a b=c")
    eventually(lambda: processes.tail(log, 5).count("up") == 2)
    assert processes.find_by_marker("servers/a b=c") == identity
    assert processes.find_by_marker("servers/a") is None
    processes.kill_now(identity)
    eventually(lambda: processes.find_by_marker("servers/a b=c") is None)


def test_child_inherits_no_descriptor_and_only_the_environment_given(run: Run, log: Path) -> None:
    reader, writer = os.pipe()
    os.set_inheritable(writer, True)
    try:
        run("import os; print(sorted(map(int, os.listdir('/proc/self/fd')))[:-1], len(os.environ), 'up', flush=True)")
        eventually(lambda: up(log))
    finally:
        os.close(reader)
        os.close(writer)
    assert processes.tail(log, 1) in ("[0, 1, 2] 1 up", "[0, 1, 2] 2 up")  # LC_CTYPE: PEP 538
    assert log.stat().st_mode & 0o777 == 0o600


def test_log_is_appended_to(run: Run, log: Path) -> None:
    log.write_text("before\n")
    identity = run("print('up')")
    eventually(lambda: not processes.alive(identity))
    assert log.read_text() == "before\nup\n"


def test_program_that_is_not_there_raises(log: Path) -> None:
    with pytest.raises(FileNotFoundError):
        processes.spawn(["/no/such/program"], env={}, log=log, marker="x")


@pytest.mark.parametrize(
    ("content", "lines", "expected"),
    [
        (b"", 5, ""),
        (b"a\nb\nc\n", 2, "b\nc"),
        (b"a\nb\nc", 9, "a\nb\nc"),
        (b"a\nb\n", 0, ""),
        (b"\xff\n", 1, "\ufffd"),
        (b"x" * 200_000 + b"\nend\n", 5, "end"),
    ],
)
def test_tail_shows_the_last_lines(log: Path, content: bytes, lines: int, expected: str) -> None:
    log.write_bytes(content)
    assert processes.tail(log, lines) == expected


def test_tail_of_one_endless_line_is_bounded(log: Path) -> None:
    log.write_bytes(b"x" * 1_000_000)
    assert len(processes.tail(log, 5)) == processes.TAIL_BYTES


def test_tail_of_no_log_is_empty(log: Path) -> None:
    assert processes.tail(log, 5) == ""
