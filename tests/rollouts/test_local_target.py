"""What only the target of local processes has to promise: it is found again, and it survives everybody's death."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from deploypipe.core import processes
from deploypipe.core.errors import TargetError
from deploypipe.core.processes import ProcessIdentity
from rollouts.targets.base import Observation, Phase, ServerSpec
from rollouts.targets.local import LocalTarget

ROOT = Path(__file__).parents[2]
SERVER = Path(__file__).parent / "model_server.py"
NAME = "textgen-1"
COMMAND = (sys.executable, "-S", str(SERVER), "--host", "{host}", "--port", "{port}")
SLEEPER = (sys.executable, "-S", "-c", "import time; time.sleep(60)")
SECRET = "sk-do-not-write-me"


def server(*options: str, **fields: Any) -> ServerSpec:
    return ServerSpec(NAME, (*COMMAND, *options), **{"ready_timeout": 20, **fields})


def eventually(condition: Callable[[], bool], seconds: float = 10) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def until(target: LocalTarget, phase: Phase) -> Observation:
    seen: list[Observation] = []

    def reached() -> bool:
        seen.append(target.observe(NAME))
        return seen[-1].phase is phase

    eventually(reached)
    return seen[-1]


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "servers"


@pytest.fixture
def target(directory: Path) -> Iterator[LocalTarget]:
    yield LocalTarget(directory)
    LocalTarget(directory).stop_all(grace=0)


def record(directory: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((directory / f"{NAME}.json").read_bytes())
    return found


def rewrite(directory: Path, **fields: Any) -> None:
    (directory / f"{NAME}.json").write_text(json.dumps({**record(directory), **fields}))


def identity(directory: Path) -> ProcessIdentity:
    return ProcessIdentity.from_json(record(directory)["identity"])


def elsewhere(directory: Path, code: str) -> subprocess.Popen[str]:
    """Another process of ours: `target` and `spec` are there for it."""
    prelude = (
        "import os, resource, sys, time\n"
        "from deploypipe.core.errors import TargetError\n"
        "from rollouts.targets.base import Phase, ServerSpec\n"
        "from rollouts.targets.local import LocalTarget\n"
        f"target = LocalTarget({str(directory)!r})\n"
        f"spec = ServerSpec({NAME!r}, {COMMAND!r}, ready_timeout=20)\n"
    )
    return subprocess.Popen([sys.executable, "-c", prelude + code], stdout=subprocess.PIPE, text=True, cwd=ROOT)


def said(process: subprocess.Popen[str]) -> str:
    with process:
        output, _ = process.communicate(timeout=20)
    assert process.returncode == 0
    return output.strip()


# -- becoming ready ----------------------------------------------------------------------------------------------------


def test_starting_server_has_an_address_and_says_what_it_waits_for(target: LocalTarget) -> None:
    target.apply(ServerSpec(NAME, SLEEPER))
    seen = target.observe(NAME)
    assert seen.phase is Phase.STARTING
    assert seen.message == "textgen-1 is starting: /health does not listen yet."
    assert seen.address


def test_server_that_exits_at_once_shows_the_end_of_its_log(target: LocalTarget) -> None:
    target.apply(server("--exit", "3"))
    seen = until(target, Phase.FAILED)
    assert "exited with code 3" in seen.message
    assert "after it was started. Its log ends:\nloading the weights\nthere is no such file" in seen.message


def test_server_that_never_becomes_ready_is_ended(target: LocalTarget, directory: Path) -> None:
    target.apply(server("--status", "503", ready_timeout=0.6))
    process = identity(directory)
    seen = until(target, Phase.FAILED)
    assert "did not become ready within 0.6 s: /health answered 503" in seen.message
    eventually(lambda: not processes.alive(process))
    assert "did not become ready" in target.observe(NAME).message


def test_server_that_takes_connections_and_never_answers_is_not_ready(target: LocalTarget) -> None:
    target.apply(server("--silent", ready_timeout=0.5))
    before = time.monotonic()
    seen = until(target, Phase.FAILED)
    assert "/health did not answer within 1 s" in seen.message
    assert time.monotonic() - before < 5


def test_port_that_somebody_has_taken_ends_in_failed_with_the_reason(target: LocalTarget) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        command = tuple(word.replace("{port}", port) for word in COMMAND)
        target.apply(ServerSpec(NAME, command))
        assert "Address already in use" in until(target, Phase.FAILED).message


def test_stranger_that_answers_on_the_port_does_not_make_the_server_ready(target: LocalTarget) -> None:
    class Fine(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()

        def log_message(self, format: str, *arguments: object) -> None:
            pass

    target.apply(ServerSpec(NAME, SLEEPER))
    host, _, port = (target.observe(NAME).address or "").partition(":")
    with ThreadingHTTPServer((host, int(port)), Fine) as stranger:
        thread = threading.Thread(target=stranger.serve_forever)
        thread.start()
        seen = target.observe(NAME)
        stranger.shutdown()
        thread.join()
    assert seen.phase is Phase.STARTING
    assert f"is answered by process {os.getpid()}" in seen.message


# -- dying -------------------------------------------------------------------------------------------------------------


def test_ready_server_that_dies_says_by_which_signal_and_when(target: LocalTarget, directory: Path) -> None:
    target.apply(server())
    until(target, Phase.READY)
    os.kill(identity(directory).pid, signal.SIGSEGV)
    seen = until(target, Phase.FAILED)
    assert "textgen-1 exited by signal SEGV 0." in seen.message
    assert "after it became ready" in seen.message
    assert seen.exit_code == -signal.SIGSEGV


def test_what_a_dead_server_leaves_behind_is_ended(target: LocalTarget, directory: Path) -> None:
    target.apply(server("--helper"))
    until(target, Phase.READY)
    helper = next(line.split()[1] for line in target.log_tail(NAME).splitlines() if line.startswith("helper"))
    left = processes.identify(int(helper))
    assert left is not None
    os.kill(identity(directory).pid, signal.SIGKILL)
    until(target, Phase.FAILED)
    eventually(lambda: not processes.alive(left))


def test_server_is_lost_when_the_machine_was_restarted(target: LocalTarget, directory: Path) -> None:
    target.apply(server())
    until(target, Phase.READY)
    real = identity(directory)
    rewrite(directory, identity={"pid": real.pid, "started": "an-earlier-boot:77"})
    seen = target.observe(NAME)
    rewrite(directory, identity=real.to_json(), failed_at=None)
    assert seen.phase is Phase.FAILED
    assert "ended when the machine was restarted" in seen.message


# -- being found again -------------------------------------------------------------------------------------------------


def test_server_survives_the_kill_of_who_started_it_and_is_adopted(target: LocalTarget, directory: Path) -> None:
    starter = elsewhere(directory, "target.apply(spec)\nprint('applied', flush=True)\ntime.sleep(60)")
    with starter:
        assert starter.stdout is not None
        assert starter.stdout.readline() == "applied\n"
        starter.kill()
    process = identity(directory)
    until(target, Phase.READY)
    target.apply(server())
    assert target.observe(NAME).phase is Phase.READY
    assert identity(directory) == process
    assert processes.alive(process)
    target.stop(NAME)
    until(target, Phase.ABSENT)


def test_server_that_died_as_somebody_elses_child_has_failed(target: LocalTarget, directory: Path) -> None:
    said(elsewhere(directory, "target.apply(spec)"))
    until(target, Phase.READY)
    os.kill(identity(directory).pid, signal.SIGKILL)
    assert "after it became ready" in until(target, Phase.FAILED).message


def test_server_started_but_not_yet_noted_is_found_by_its_marker(target: LocalTarget, directory: Path) -> None:
    target.apply(server())
    process = identity(directory)
    rewrite(directory, identity=None)  # as it is on disk when we die right after the start
    target.apply(server())
    assert identity(directory) == process
    until(target, Phase.READY)


def test_server_intended_and_never_started_is_absent_and_can_be_applied(target: LocalTarget, directory: Path) -> None:
    target.apply(server())
    target.stop(NAME, grace=0)
    until(target, Phase.ABSENT)
    target.apply(server())
    processes.kill_now(identity(directory))
    rewrite(directory, identity=None, created_at=time.time() - 60, marker="nobody has this")
    assert target.observe(NAME).phase is Phase.ABSENT
    assert target.names() == set()
    target.apply(server())
    until(target, Phase.READY)


def test_stranger_with_the_pid_of_the_server_is_neither_adopted_nor_ended(
    target: LocalTarget, directory: Path, tmp_path: Path
) -> None:
    stranger = processes.spawn(SLEEPER, env={}, log=tmp_path / "stranger.log", marker="stranger")
    try:
        target.apply(server())
        processes.kill_now(identity(directory))
        boot, _, ticks = stranger.started.rpartition(":")
        rewrite(directory, identity={"pid": stranger.pid, "started": f"{boot}:{int(ticks) - 1}"})
        assert target.observe(NAME).phase is Phase.FAILED
        target.stop(NAME, grace=0)
        assert processes.alive(stranger)
    finally:
        processes.kill_now(stranger)
        eventually(lambda: not processes.alive(stranger))


# -- several at once ---------------------------------------------------------------------------------------------------


def test_threads_that_apply_at_once_start_one_server(target: LocalTarget, directory: Path) -> None:
    barrier = threading.Barrier(8)

    def apply(_: int) -> None:
        barrier.wait()
        LocalTarget(directory).apply(server())

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(apply, range(8)))
    until(target, Phase.READY)
    assert target.log_tail(NAME).count("descriptors") == 1


def test_processes_that_apply_at_once_start_one_server(target: LocalTarget, directory: Path) -> None:
    code = "target.apply(spec)\nprint(target.observe(spec.name).address)"
    workers = [elsewhere(directory, code) for _ in range(3)]
    assert len({said(worker) for worker in workers}) == 1
    until(target, Phase.READY)
    assert target.log_tail(NAME).count("descriptors") == 1


def test_restarts_at_once_start_one_server(target: LocalTarget, directory: Path) -> None:
    target.apply(server("--exit", "3"))
    until(target, Phase.FAILED)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: LocalTarget(directory).restart(server()), range(4)))
    until(target, Phase.READY)
    assert target.log_tail(NAME).count("descriptors") == 1


# -- stopping ----------------------------------------------------------------------------------------------------------


def test_deaf_server_is_killed_after_the_grace_and_nobody_waits_for_it(target: LocalTarget, directory: Path) -> None:
    target.apply(server("--stubborn"))
    until(target, Phase.READY)
    process = identity(directory)
    before = time.monotonic()
    target.stop(NAME, grace=0.5)
    assert time.monotonic() - before < 0.4
    seen = target.observe(NAME)
    assert seen.phase is Phase.STOPPING
    assert "is ended by force in" in seen.message
    eventually(lambda: not processes.alive(process))
    until(target, Phase.ABSENT)


def test_stopping_server_cannot_be_started_yet(target: LocalTarget) -> None:
    target.apply(server("--stubborn"))
    until(target, Phase.READY)
    target.stop(NAME, grace=20)
    for start in (target.apply, target.restart):
        with pytest.raises(TargetError, match="still stopping") as refused:
            start(server("--stubborn"))
        assert not refused.value.permanent
    target.stop(NAME, grace=30)
    assert target.observe(NAME).phase is Phase.STOPPING
    target.stop(NAME, grace=0)
    until(target, Phase.ABSENT)


def test_grace_is_kept_by_whoever_comes_after_the_one_who_asked(target: LocalTarget, directory: Path) -> None:
    target.apply(server("--stubborn"))
    until(target, Phase.READY)
    process = identity(directory)
    said(elsewhere(directory, "target.stop(spec.name, grace=0.3)"))
    assert processes.alive(process)
    until(target, Phase.ABSENT)
    assert not processes.alive(process)


def test_helper_of_a_stopped_server_ends_with_it(target: LocalTarget) -> None:
    target.apply(server("--helper"))
    until(target, Phase.READY)
    helper = next(line.split()[1] for line in target.log_tail(NAME).splitlines() if line.startswith("helper"))
    left = processes.identify(int(helper))
    assert left is not None
    target.stop(NAME, grace=0.2)
    until(target, Phase.ABSENT)
    assert not processes.alive(left)


def test_stop_all_ends_every_server(target: LocalTarget, directory: Path) -> None:
    for name in ("textgen-1", "textgen-2"):
        target.apply(ServerSpec(name, COMMAND))
    started = [
        ProcessIdentity.from_json(json.loads(path.read_bytes())["identity"]) for path in directory.glob("*.json")
    ]
    target.stop_all(grace=5)
    assert len(started) == 2
    assert not any(processes.alive(process) for process in started)
    assert target.names() == set()


# -- what can go wrong around it ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("program", ["no-such-program", "/no/such/program", str(SERVER), ""])
def test_program_that_cannot_be_run_is_refused_for_good(target: LocalTarget, program: str) -> None:
    with pytest.raises(TargetError, match=f"there is no program '{program}'") as refused:
        target.apply(ServerSpec(NAME, (program, "--port", "{port}")))
    assert refused.value.permanent
    assert target.names() == set()


def test_file_that_is_no_program_is_refused_for_good(target: LocalTarget, tmp_path: Path) -> None:
    program = tmp_path / "program"
    program.write_bytes(b"\0not a program")
    program.chmod(0o700)
    with pytest.raises(TargetError, match="Exec format error") as refused:
        target.apply(ServerSpec(NAME, (str(program),)))
    assert refused.value.permanent
    assert target.names() == set()


def test_program_is_looked_for_in_the_path_of_the_spec(target: LocalTarget, tmp_path: Path) -> None:
    (tmp_path / "serve").symlink_to(sys.executable)
    spec = ServerSpec(NAME, ("serve", *COMMAND[1:]), environment={"PATH": str(tmp_path)})
    target.apply(spec)
    until(target, Phase.READY)


def test_directory_that_cannot_be_written_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    target = LocalTarget(tmp_path / "file" / "servers")
    for call in (lambda: target.apply(server()), lambda: target.observe(NAME), lambda: target.stop(NAME)):
        with pytest.raises(TargetError, match="cannot be used: Not a directory") as refused:
            call()
        assert not refused.value.permanent


def test_full_disk_is_a_sentence_and_starts_nothing(target: LocalTarget, directory: Path) -> None:
    code = (
        "resource.setrlimit(resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))\n"
        "try:\n    target.apply(spec)\nexcept TargetError as error:\n    print(error)"
    )
    assert "cannot be used: File too large" in said(elsewhere(directory, code))
    assert target.names() == set()
    assert not list(directory.glob("*.new"))


def test_disk_that_fills_while_a_server_runs_hides_nothing(target: LocalTarget, directory: Path) -> None:
    target.apply(server())
    code = (
        "resource.setrlimit(resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))\n"
        "while target.observe(spec.name).phase is not Phase.READY:\n    time.sleep(0.01)\n"
        "try:\n    target.stop(spec.name)\nexcept TargetError as error:\n    print(error)"
    )
    process = identity(directory)
    assert "cannot be used: File too large" in said(elsewhere(directory, code))
    eventually(lambda: not processes.alive(process))


def test_damaged_record_is_a_sentence_and_hides_no_other_server(target: LocalTarget, directory: Path) -> None:
    target.apply(server())
    damaged = directory / "textgen-0.json"
    damaged.write_text('{"name": "text')
    with pytest.raises(TargetError, match="is damaged"):
        target.observe("textgen-0")
    assert target.names() == {"textgen-0", NAME}
    with pytest.raises(TargetError, match="could not be ended: textgen-0"):
        target.stop_all(grace=0)
    damaged.unlink()
    assert target.names() == set()


def test_secrets_reach_the_server_and_no_file(
    target: LocalTarget, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DJANGO_SECRET", "ours")
    target.apply(server(environment={"MODEL_KEY": SECRET}))
    until(target, Phase.READY)
    log = target.log_tail(NAME)
    assert "secret known: True" in log
    assert "ours leaked: False" in log
    assert "descriptors [0, 1, 2, 3]" in log  # 3 is the listing itself
    for path in directory.iterdir():
        assert SECRET.encode() not in path.read_bytes()
        assert path.stat().st_mode & 0o077 == 0
    with pytest.raises(TargetError) as refused:
        target.apply(server(environment={"MODEL_KEY": "another"}))
    assert SECRET not in str(refused.value)
