"""What clients of the gateway see, through a real Envoy and real servers behind it."""

import asyncio
import contextlib
import http.client
import json
import socket
import subprocess
import sys
import threading
import time
import uuid
from pathlib import Path

import httpx
import pytest

from deploypipe.core.errors import RouterError
from deploypipe.metrics.records import read_new, rotate
from rollouts.bucketing import bucket
from rollouts.traffic.base import TOTAL_WEIGHT, Backend, RouteTable
from rollouts.traffic.envoy import EnvoyRouter
from rollouts.traffic.gateway_process import GatewayProcess

ROOT = Path(__file__).resolve().parents[2]


class Upstream:
    """A model server that says who it is, in JSON; a path taught with `stream` answers with those chunks."""

    def __init__(self, name):
        self.name = name
        self.streams = {}
        self.heads = []
        self.connections = 0
        self.released = threading.Event()
        self._loop = asyncio.new_event_loop()

    def __enter__(self):
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._server = asyncio.run_coroutine_threadsafe(self._listen(), self._loop).result(5)
        self.address = f"127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    def __exit__(self, *_):
        self.released.set()
        asyncio.run_coroutine_threadsafe(self._close(), self._loop).result(5)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5)
        self._loop.close()

    def stream(self, path, *chunks, cut_off=False, content_type="text/event-stream"):
        self.streams[path] = (chunks, cut_off, content_type)

    async def _listen(self):
        return await asyncio.start_server(self._serve, "127.0.0.1", 0)

    async def _close(self):
        self._server.close()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    async def _serve(self, reader, writer):
        self.connections += 1
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
                self.heads.append(head)
                path = head.split()[1].partition("?")[0]
                if not await self._answer(path, writer):
                    return
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            pass  # the client or the test is done
        finally:
            writer.close()

    async def _answer(self, path, writer):
        if path in self.streams:
            return await self._answer_stream(writer, *self.streams[path])
        status = "500 Oops" if path == "/fail" else "400 Bad" if path == "/bad" else "200 OK"
        body = json.dumps({"name": self.name, "path": path}).encode()
        writer.write(b"HTTP/1.1 %s\r\ncontent-type: application/json\r\n" % status.encode())
        writer.write(b"content-length: %d\r\n\r\n%s" % (len(body), body))
        await writer.drain()
        return True

    async def _answer_stream(self, writer, chunks, cut_off, content_type):
        writer.write(
            b"HTTP/1.1 200 OK\r\ncontent-type: %s\r\ntransfer-encoding: chunked\r\n\r\n" % content_type.encode()
        )
        for chunk in chunks:
            if chunk is HOLD:
                while not self.released.is_set():
                    await asyncio.sleep(0.005)
                continue
            writer.write(b"%x\r\n%s\r\n" % (len(chunk), chunk))
            await writer.drain()
            await asyncio.sleep(0.01)  # so that each arrives by itself
        if cut_off:
            return False
        writer.write(b"0\r\n\r\n")
        await writer.drain()
        return True


HOLD = object()
"""In a stream: nothing more until the test releases it."""


class Gateway:
    def __init__(self, directory):
        self.listen = f"127.0.0.1:{free_port()}"
        self.router = EnvoyRouter(directory=directory, admin=f"127.0.0.1:{free_port()}")
        self.process = GatewayProcess(self.router, listen=self.listen)
        self.url = f"http://{self.listen}"

    def route(self, *backends, model="m", salt="salt"):
        table = RouteTable("prod", model, tuple(backends), salt)
        revision = self.router.write([table])
        eventually(lambda: self.router.installed().revision == revision)
        return table

    def get(self, path, **headers):
        """Status, headers, body; `session="a"` is sent as a header."""
        with self.client() as client:
            return client.get(path, headers=named(headers))

    def client(self):
        return httpx.Client(base_url=self.url, trust_env=False, timeout=10)

    def record_of(self, request_id):
        return eventually(lambda: next((r for r in self.records() if r["request_id"] == request_id), None))

    def records(self):
        lines = self.router.access_log.read_bytes().split(b"\n")[:-1] if self.router.access_log.exists() else []
        return [json.loads(line) for line in lines]


@contextlib.contextmanager
def running_gateway(directory):
    gateway = Gateway(directory)
    gateway.process.start()
    try:
        gateway.process.wait_ready()
        yield gateway
    finally:
        gateway.process.stop(grace=0)


def named(headers):
    names = {"session": "x-session-id", "request_id": "x-request-id"}
    return {names.get(name, name.replace("_", "-")): value for name, value in headers.items()}


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def eventually(condition, within=5.0):
    deadline = time.monotonic() + within
    while not (value := condition()):
        assert time.monotonic() < deadline, "it never came true"
        time.sleep(0.002)
    return value


def new_id():
    return uuid.uuid4().hex


def session_in(low, high, salt="salt"):
    return next(s for i in range(100_000) if low <= bucket(s := f"s{i}", salt=salt) < high)


def event(text):
    return b"data: %s\n\n" % text.encode()


@pytest.fixture(scope="module")
def gateway(tmp_path_factory):
    with running_gateway(tmp_path_factory.mktemp("gateway")) as gateway:
        yield gateway


@pytest.fixture(scope="module")
def stable():
    with Upstream("stable") as upstream:
        yield upstream


@pytest.fixture(scope="module")
def candidate():
    with Upstream("candidate") as upstream:
        yield upstream


@pytest.fixture
def all_stable(gateway, stable, candidate):
    return gateway.route(Backend("candidate", candidate.address, 0), Backend("stable", stable.address, TOTAL_WEIGHT))


# Routes


def test_prefix_is_taken_off_and_the_answer_names_its_version(gateway, all_stable):
    answer = gateway.get("/prod/m/who?q=1", session="a")
    assert answer.json() == {"name": "stable", "path": "/who"}
    assert answer.headers["x-deploypipe-version"] == "stable"


def test_request_id_is_kept_and_said_in_the_answer(gateway, all_stable, stable):
    request_id = new_id()
    answer = gateway.get("/prod/m/who", request_id=request_id)
    assert answer.headers["x-request-id"] == request_id
    assert f"x-request-id: {request_id}" in stable.heads[-1]


def test_bucket_is_not_forwarded_to_the_model(gateway, all_stable, stable):
    gateway.get("/prod/m/who", x_dp_bucket="7")
    assert "x-dp-bucket" not in stable.heads[-1]


def test_model_without_a_live_version_answers_503_with_a_sentence(gateway):
    gateway.route(model="empty")
    answer = gateway.get("/prod/empty/v1/models")
    assert answer.status_code == 503
    assert answer.headers["content-type"] == "application/json"
    assert answer.json()["error"] == {
        "message": "no version of empty is live in prod",
        "type": "ServiceUnavailable",
        "code": 503,
    }


def test_unknown_path_answers_404_with_a_sentence(gateway, all_stable):
    answer = gateway.get("/prod/other/v1/models")
    assert answer.status_code == 404
    assert "a model is served at" in answer.json()["error"]["message"]


def test_dead_candidate_is_not_hidden_behind_the_stable_version(gateway, stable):
    dead = f"127.0.0.1:{free_port()}"
    gateway.route(Backend("dead", dead, 5_000), Backend("stable", stable.address, 5_000))
    request_id = new_id()
    assert gateway.get("/prod/m/who", session=session_in(0, 5_000), request_id=request_id).status_code == 503
    record = gateway.record_of(request_id)
    assert record["backend"] == "dead"
    assert "UF" in record["flags"]


def test_connection_is_used_once_for_a_server_that_does_not_keep_them(gateway, stable):
    for keeps_connections, connections in ((True, 1), (False, 5), (True, 1)):
        gateway.route(Backend("stable", stable.address, TOTAL_WEIGHT, keeps_connections))
        gateway.get("/prod/m/who")  # takes what is left of before
        before = stable.connections
        with gateway.client() as client:
            assert [client.get("/prod/m/who").status_code for _ in range(5)] == [200] * 5
        assert stable.connections - before <= connections
        assert keeps_connections or stable.connections - before == connections


def test_client_cannot_ask_for_retries_that_would_hide_errors(gateway, all_stable, stable):
    before = len(stable.heads)
    answer = gateway.get("/prod/m/fail", x_envoy_retry_on="5xx", x_envoy_max_retries="5")
    assert answer.status_code == 500
    assert len(stable.heads) == before + 1


def test_model_names_with_odd_characters_are_served_at_their_quoted_path(gateway, stable):
    gateway.route(Backend("stable", stable.address, TOTAL_WEIGHT), model="acme/text gen%")
    assert gateway.get("/prod/acme%2Ftext%20gen%25/who").json()["name"] == "stable"


def test_host_names_serve_as_well_as_addresses(gateway, stable):
    gateway.route(Backend("by-name", stable.address.replace("127.0.0.1", "localhost"), TOTAL_WEIGHT))
    assert gateway.get("/prod/m/who").json()["name"] == "stable"


# Writing


def test_new_weights_are_on_the_wire_within_100_ms(gateway, stable, candidate):
    session, took = session_in(4_000, 5_000), []
    connection = http.client.HTTPConnection(gateway.listen, timeout=5)
    with contextlib.closing(connection):
        for weight, expected in [(5_000, "candidate"), (0, "stable")] * 5:
            gateway.router.write(
                [
                    RouteTable(
                        "prod",
                        "m",
                        (
                            Backend("candidate", candidate.address, weight),
                            Backend("stable", stable.address, TOTAL_WEIGHT - weight),
                        ),
                        "salt",
                    )
                ]
            )
            written = time.monotonic()
            eventually(lambda e=expected: who(connection, session) == e)
            took.append((time.monotonic() - written) * 1000)
    assert max(took) < 100, took


def who(connection, session):
    connection.request("GET", "/prod/m/who", headers={"x-session-id": session})
    return json.loads(connection.getresponse().read()).get("name")


def test_no_request_fails_while_weights_and_versions_change(gateway, stable, candidate):
    tables = [
        table_of(candidate, stable, weight, name=f"candidate-{n // 4}")  # each fourth write brings a new cluster
        for n, weight in enumerate([500, 1_000, 5_000, 9_900] * 5)
    ]
    gateway.router.write(tables[:1])
    stop = threading.Event()
    answers: list[int] = []
    clients = [threading.Thread(target=ask_until, args=(stop, gateway, answers, keep)) for keep in (True, False)]
    for client in clients:
        client.start()
    try:
        for table in tables:
            seen = len(answers)
            gateway.router.write([table])
            eventually(lambda seen=seen: len(answers) > seen + 10)
    finally:
        stop.set()
        for client in clients:
            client.join(5)
    assert len(answers) > 200
    assert set(answers) == {200}


def table_of(candidate, stable, weight, name="candidate"):
    backends = (Backend(name, candidate.address, weight), Backend("stable", stable.address, TOTAL_WEIGHT - weight))
    return RouteTable("prod", "m", backends, "salt")


def ask_until(stop, gateway, answers, keep_alive):
    connection = http.client.HTTPConnection(gateway.listen, timeout=5)
    while not stop.is_set():
        connection.request("GET", "/prod/m/who", headers={"x-session-id": new_id()})
        response = connection.getresponse()
        response.read()
        answers.append(response.status)
        if not keep_alive:
            connection.close()
    connection.close()


def test_running_stream_is_not_cut_when_its_version_leaves_the_table(gateway, stable, candidate):
    candidate.stream("/held", event("1"), HOLD, event("2"), event("[DONE]"))
    candidate.released.clear()
    gateway.route(*table_of(candidate, stable, TOTAL_WEIGHT).backends)
    with gateway.client() as client, client.stream("GET", "/prod/m/held") as answer:
        lines = answer.iter_lines()
        assert next(lines) == "data: 1"
        assert gateway.router.installed().active_requests["candidate"] == 1
        gateway.route(Backend("stable", stable.address, TOTAL_WEIGHT))
        candidate.released.set()
        assert [line for line in lines if line] == ["data: 2", "data: [DONE]"]


def test_full_disk_leaves_the_old_table_in_force_and_says_so(gateway, all_stable):
    """The kernel really refuses to write: a child may not make a file longer than 64 bytes."""
    before = {file: file.read_bytes() for file in gateway.router.routes_file.parent.iterdir()}
    revision = gateway.router.installed().revision
    child = subprocess.run(
        [sys.executable, "-c", WRITE_ON_A_FULL_DISK, str(gateway.router.directory), gateway.router.admin],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert "could not be written: File too large. The old routes stay in force." in child.stdout, child.stderr
    assert {file: file.read_bytes() for file in gateway.router.routes_file.parent.iterdir()} == before
    assert gateway.router.installed().revision == revision
    assert gateway.get("/prod/m/who").json()["name"] == "stable"


WRITE_ON_A_FULL_DISK = """
import resource, sys
from pathlib import Path
from deploypipe.core.errors import RouterError
from rollouts.traffic.base import Backend, RouteTable
from rollouts.traffic.envoy import EnvoyRouter
resource.setrlimit(resource.RLIMIT_FSIZE, (64, 64))
try:
    table = RouteTable("prod", "m", (Backend("new", "127.0.0.1:9", 10_000),), "salt")
    EnvoyRouter(directory=Path(sys.argv[1]), admin=sys.argv[2]).write([table])
except RouterError as error:
    print(error)
"""


def test_table_can_be_written_before_any_gateway_runs(tmp_path, stable):
    router = EnvoyRouter(directory=tmp_path, admin=f"127.0.0.1:{free_port()}")
    table = RouteTable("prod", "m", (Backend("stable", stable.address, TOTAL_WEIGHT),), "salt")
    assert router.write([table]) == router.write([table])
    assert json.loads(router.routes_file.read_text())["resources"]


def test_file_spoilt_behind_our_back_is_written_anew(gateway, all_stable):
    gateway.router.clusters_file.write_text("not json")
    gateway.router.routes_file.unlink()
    gateway.router.write([all_stable])
    assert json.loads(gateway.router.clusters_file.read_text())["resources"]
    assert json.loads(gateway.router.routes_file.read_text())["resources"]
    assert gateway.get("/prod/m/who").json()["name"] == "stable"


def test_table_is_shown_again_to_a_gateway_that_missed_it(gateway, all_stable, stable):
    other = gateway.route(Backend("stable", stable.address, TOTAL_WEIGHT), salt="other")
    missed = gateway.router.routes_file.read_bytes()
    gateway.route(Backend("stable", stable.address, TOTAL_WEIGHT), salt="last seen")
    gateway.router.routes_file.write_bytes(missed)  # not renamed into place: Envoy does not see it
    revision = gateway.router.write([other])
    eventually(lambda: gateway.router.installed().revision == revision)


def test_routes_are_not_written_when_their_servers_do_not_come_into_force(tmp_path, stable):
    """What answers at the admin address is not the gateway."""
    router = EnvoyRouter(directory=tmp_path, admin=stable.address)
    for _ in range(2):  # nor at the second attempt, though the file of clusters then has them
        with pytest.raises(RouterError, match=r"did not take over the new model servers within 2 s; see .*envoy\.log"):
            router.write([RouteTable("prod", "m", (Backend("stable", stable.address, TOTAL_WEIGHT),), "salt")])
    assert not router.routes_file.exists()


# Records


def test_record_says_where_the_request_went_and_holds_no_query_nor_session(gateway, all_stable):
    request_id = new_id()
    gateway.get("/prod/m/who?key=secret", session="very-private", request_id=request_id)
    record = gateway.record_of(request_id)
    expected = {
        "environment": "prod",
        "model": "m",
        "backend": "stable",
        "bucket": bucket("very-private", salt="salt"),
        "method": "GET",
        "path": "/who",
        "status": 200,
        "flags": "-",
        "events": None,
    }
    assert {name: record[name] for name in expected} == expected
    assert "secret" not in json.dumps(record)
    assert "very-private" not in json.dumps(record)


STREAMS = {
    "whole": ([event('{"n": 1}'), event('{"n": 2}'), event("[DONE]")], 2, False, True),
    "cut across chunks": ([b"da", b"ta: 1", b"\n", b"\nda", b"ta: 2\n\ndata: [DO", b"NE]\n\n"], 2, False, True),
    "many in one chunk": ([event("1") * 500 + event("[DONE]")], 500, False, True),
    "comments and other fields": ([b": ping\n\n", b"event: x\nid: 3\n", event("1")], 1, False, False),
    "carriage returns": ([b"data: 1\r\n\r\ndata: 2\r\n", b"\r\ndata:[DONE]\r\n\r\n"], 2, False, True),
    "error": ([event("1"), event('{"error": {"message": "out of memory"}}')], 2, True, False),
    "error without blanks": ([event("1"), b'data:{"error":"x"}\r\n\r\n'], 2, True, False),
    "error cut across chunks": ([b'data: {"er', b'ror"', b': {"code": 500}}\n\n'], 1, True, False),
    "error as older engines say it": ([event('{"object": "error", "message": "x"}')], 1, True, False),
    "no error": (
        [event('{"error": null, "n": 1}'), event('{"text": "{\\"error\\": 1}"}'), event("[DONE]")],
        2,
        False,
        True,
    ),
    "long line": ([b"data: " + b"x" * 100_000, b"y" * 100_000, b"\n\n", event("[DONE]")], 1, False, True),
    "no end of the last line": ([event("1"), b"data: 2"], 2, False, False),
    "nothing": ([b": ping\n\n"], 0, False, False),
}


@pytest.mark.parametrize(("chunks", "events", "error", "complete"), STREAMS.values(), ids=STREAMS.keys())
def test_record_says_what_happened_inside_the_stream(gateway, all_stable, stable, chunks, events, error, complete):
    stable.stream("/stream", *chunks)
    request_id = new_id()
    assert gateway.get("/prod/m/stream", request_id=request_id).content == b"".join(chunks)
    record = gateway.record_of(request_id)
    assert (record["events"], record["stream_error"], record["complete"]) == (events, error, complete)
    assert record["bytes"] > 0


def test_first_ms_is_the_time_of_the_first_event(gateway, all_stable, stable):
    stable.stream("/late", b": wait\n\n", HOLD, event("1"), event("[DONE]"))
    stable.released.clear()
    request_id = new_id()
    began = time.monotonic()
    with gateway.client() as client, client.stream("GET", "/prod/m/late", headers={"x-request-id": request_id}) as a:
        threading.Timer(0.1, stable.released.set).start()
        assert event("1") in a.read()
    took = (time.monotonic() - began) * 1000
    record = gateway.record_of(request_id)
    assert 100 <= record["first_ms"] < took
    assert record["headers_us"] / 1000 < record["first_ms"] - 99


def test_stream_that_cannot_be_read_is_not_called_empty(gateway, all_stable, stable):
    stable.stream("/zipped", b"\x1f\x8b", content_type="text/event-stream\r\ncontent-encoding: br")
    request_id = new_id()
    with gateway.client() as client, client.stream("GET", "/prod/m/zipped", headers={"x-request-id": request_id}) as a:
        assert b"".join(a.iter_raw()) == b"\x1f\x8b"
    assert gateway.record_of(request_id)["events"] is None


def test_client_that_leaves_in_the_middle_is_recorded_with_what_it_got(gateway, all_stable, stable):
    stable.stream("/left", event("1"), event("2"), HOLD)
    stable.released.clear()
    request_id = new_id()
    with gateway.client() as client, client.stream("GET", "/prod/m/left", headers={"x-request-id": request_id}) as a:
        lines = a.iter_lines()
        assert [next(lines) for _ in range(3)] == ["data: 1", "", "data: 2"]
    record = gateway.record_of(request_id)
    assert record["flags"] == "DC"
    assert (record["status"], record["events"], record["complete"]) == (200, 2, False)
    assert record["first_ms"] is not None
    stable.released.set()


def test_engine_that_dies_in_the_middle_is_recorded_as_cut_off(gateway, all_stable, stable):
    stable.stream("/dies", event("1"), cut_off=True)
    request_id = new_id()
    with pytest.raises(httpx.RemoteProtocolError):
        gateway.get("/prod/m/dies", request_id=request_id)
    record = gateway.record_of(request_id)
    assert set(record["flags"].split(",")) & {"UC", "UPE"}
    assert (record["status"], record["events"], record["complete"]) == (200, 1, False)


def test_each_request_is_counted_once_while_the_log_is_rotated(gateway, all_stable):
    log = gateway.router.access_log
    seen = Seen(log)
    last = new_id()
    gateway.get("/prod/m/who", request_id=last)
    gateway.record_of(last)  # whatever other tests did is in the file
    before = seen.read()
    with gateway.client() as client:
        for number in range(120):
            assert client.get("/prod/m/who").status_code == 200
            if number % 40 == 39:
                eventually(log.exists)
                rotate(log, gateway.process.reopen_logs, limit_bytes=1)
            seen.read()
    eventually(lambda: seen.read() == before + 120)
    assert seen.garbage == 0


class Seen:
    def __init__(self, log):
        self.log, self.cursor, self.requests, self.garbage = log, None, 0, 0

    def read(self):
        batch = read_new(self.log, self.cursor)
        self.cursor = batch.cursor
        self.requests += sum(counts.requests for counts in batch.counts.values())
        self.garbage += batch.garbage + batch.lost
        return self.requests
