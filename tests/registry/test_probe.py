"""The load probe against a server whose delays and failures are known: an open loop."""

from __future__ import annotations

import json
import re
import socket
import subprocess
import sys
import threading
from dataclasses import replace
from itertools import pairwise
from typing import Any

import psutil
import pytest
from scipy import stats

from registry.qa.base import RunningServer
from registry.qa.policy import Load
from registry.qa.probe.measured import Spec
from registry.qa.probe.press import arrivals, first_arrivals
from registry.qa.probe.run import ROOT, ProbeError, longest, run_probe
from tests.registry.faulty_engine import KEY, Engine, running_engine
from tests.registry.worst_servers import serving

LOAD = Load(requests_per_second=40, seconds=1.0, warm_up_requests=3, max_tokens=20)


def test_first_token_gap_and_whole_are_those_of_the_server(engine: Engine) -> None:
    engine.first_delay, engine.gap_delay = 0.1, 0.01
    found = run_probe(engine.running, LOAD)
    assert found.streamed
    assert found.failures == {}
    first, gap, whole = found.first_token_ms, found.gap_ms, found.whole_ms
    assert first is not None
    assert gap is not None
    assert whole is not None
    assert 100 <= first.p50.value < 180
    assert 9 <= gap.p50.value < 25
    assert whole.p50.value >= first.p50.value + 19 * 9
    assert gap.n == 19 * first.n == 19 * found.requests
    assert found.tokens == 20 * found.requests
    assert found.tokens_from == "usage"
    assert found.tokens_per_second.value == pytest.approx(found.tokens / found.seconds, rel=0.01)


def test_warm_up_is_not_measured(engine: Engine) -> None:
    engine.cycle = ("http", "http", "http", "http") + ("fine",) * 1000  # one to see how to ask, three to warm up
    found = run_probe(engine.running, LOAD)
    assert found.failures == {}
    assert found.requests == engine.met["fine"] == len(arrivals(40, 1.0, seed=1))


def test_every_failure_is_counted_in_its_class(engine: Engine) -> None:
    engine.cycle = ("fine", "stream_error", "http", "empty", "incomplete", "transport")
    found = run_probe(engine.running, replace(LOAD, warm_up_requests=0))
    engine.met["fine"] -= 1  # the first request only looks how to ask
    assert found.failures == {name: count for name, count in engine.met.items() if name != "fine"}
    assert found.failed + engine.met["fine"] == found.requests
    assert found.error_rate_percent == pytest.approx(100 * found.failed / found.requests)
    assert "the engine failed" in found.examples["stream_error"]
    every = found.error_percent["all"]
    assert every.low is not None
    assert every.high is not None
    assert every.low < every.value < every.high
    assert {*found.error_percent} == {"all", *found.failures}


def test_standstill_is_seen_by_all_requests_that_arrived_meanwhile(engine: Engine) -> None:
    """A closed loop would have sent one request in that second and reported one slow answer."""
    engine.stall_at = 20
    found = run_probe(engine.running, replace(LOAD, requests_per_second=50, seconds=1.5))
    whole = found.whole_ms
    assert whole is not None
    assert found.failures == {}
    assert whole.p99.value >= 900
    assert whole.p95.value >= 700
    assert whole.mean >= 200


def test_server_that_cannot_stream_is_measured_plain(engine: Engine) -> None:
    engine.faults = {"no streams"}
    engine.first_delay = 0.05
    found = run_probe(engine.running, replace(LOAD, seconds=0.5))
    assert not found.streamed
    assert found.failures == {}
    assert found.gap_ms is None
    assert found.first_token_ms is not None
    assert found.first_token_ms.p50.value >= 50


def test_tokens_are_counted_by_events_where_the_server_does_not_count(engine: Engine) -> None:
    engine.faults = {"no stream options"}
    found = run_probe(engine.running, replace(LOAD, seconds=0.5))
    assert found.streamed
    assert found.tokens_from == "events"
    assert found.tokens == 20 * found.requests


def test_probe_that_hangs_is_ended_and_never_shows_the_key(engine: Engine) -> None:
    engine.faults = {"hangs"}
    failed: list[ProbeError] = []

    def probe() -> None:
        try:
            run_probe(engine.running, LOAD, 3.0)
        except ProbeError as error:
            failed.append(error)

    thread = threading.Thread(target=probe)
    thread.start()
    assert engine.asked.wait(30)
    probes = [p for p in psutil.Process().children() if "registry.qa.probe" in p.cmdline()]
    assert len(probes) == 1
    assert KEY not in " ".join([*probes[0].cmdline(), *probes[0].environ().values()])
    thread.join(30)
    assert str(failed[0]) == "The load probe did not end within 3 s."
    assert not probes[0].is_running()


def test_nobody_listening_ends_the_probe_after_the_warm_up() -> None:
    with running_engine() as engine:
        gone = engine.running
    found = run_probe(gone, replace(LOAD, seconds=60))
    assert found.gave_up
    assert found.failures == {"transport": LOAD.warm_up_requests}
    assert found.first_token_ms is None
    assert found.tokens_per_second.value == 0


def test_server_that_answers_nothing_is_asked_no_more_than_the_warm_up(engine: Engine) -> None:
    engine.faults, engine.cycle = {"hangs"}, ("silence",)
    found = run_probe(engine.running, replace(LOAD, seconds=60), request_timeout=1.0)
    assert found.gave_up
    assert found.failures == {"timeout": LOAD.warm_up_requests}
    assert found.first_token_ms is not None
    assert found.first_token_ms.p50.value >= 1000
    assert engine.met["silence"] == 1 + LOAD.warm_up_requests  # the first looks how to ask


def test_server_that_answers_with_errors_is_measured_all_the_same(engine: Engine) -> None:
    engine.cycle = ("http",)
    found = run_probe(engine.running, replace(LOAD, seconds=0.5))
    assert not found.gave_up
    assert found.failures == {"http": found.requests}
    assert found.requests == len(arrivals(40, 0.5, seed=1))


def test_the_longest_a_probe_may_take_counts_every_time_out() -> None:
    """Start 10, form 10, warm-up 0.5 + 10, two looks at the engine's figures 4, load 5 + 10."""
    assert longest(Spec("http://127.0.0.1:1", "words", KEY, Load())) == pytest.approx(49.5)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"requests_per_second": 0}, "requests_per_second is 0: give more than 0"),
        ({"seconds": 0}, "seconds is 0: give more than 0"),
        ({"max_tokens": 0}, "max_tokens 1 or more"),
        ({"concurrency": 1001}, "concurrency is 1001: give 0 to 1,000"),
        ({"prompt_words": ((0, 1.0),)}, "each length in prompt_words must be 1 or more"),
        ({"output_tokens": ((5, 0.0),)}, "each length in output_tokens must be 1 or more, and its share more than 0"),
    ],
)
def test_load_that_makes_no_sense_is_refused(engine: Engine, wrong: dict[str, Any], words: str) -> None:
    with pytest.raises(ProbeError, match=words):
        run_probe(engine.running, replace(LOAD, **wrong))


def test_arrivals_are_the_same_for_a_seed_and_poisson() -> None:
    times = arrivals(50, 100, seed=3)
    assert times == arrivals(50, 100, seed=3) != arrivals(50, 100, seed=4)
    gaps = [b - a for a, b in pairwise(times)]
    assert stats.kstest(gaps, stats.expon(scale=1 / 50).cdf).pvalue > 0.001
    assert abs(len(times) - 5000) < 5 * 5000**0.5


def test_a_counted_process_begins_at_once_and_keeps_the_rate() -> None:
    times = first_arrivals(20, 4000, seed=5)
    assert times[0] == 0.0
    assert len(times) == 4000
    assert times == sorted(times)
    assert times[-1] == pytest.approx(4000 / 20, rel=0.1)


def test_spec_survives_json_and_hides_its_key() -> None:
    spec = Spec("http://127.0.0.1:1", "words", KEY, LOAD)
    assert Spec.from_json(json.loads(json.dumps(spec.to_json()))) == spec
    assert KEY not in repr(spec)


def test_a_long_answer_may_take_long() -> None:
    """A quarter of a second for each token, if that is more than the ten seconds that any answer has."""
    spec = Spec("http://127.0.0.1:1", "words", KEY, Load(output_tokens=((8, 1.0), (400, 1.0))))
    assert [spec.whole_timeout(tokens) for tokens in (8, 40, 400)] == [10, 10, 100]
    assert longest(spec) == pytest.approx(10 + 10 + 0.5 + 100 + 4 + 5 + 100)


def test_answer_that_goes_on_past_the_time_for_its_first_text_is_no_failure(engine: Engine) -> None:
    engine.gap_delay = 0.06
    found = run_probe(engine.running, LOAD, request_timeout=0.5)
    assert found.failures == {}
    assert found.whole_ms is not None
    assert found.whole_ms.p50.value > 1000


# -- servers that treat a connection in their own way ------------------------------------------------------------------

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
PIECE = b'data: {"choices": [{"text": "a"}]}\n\n'
USAGE = b'data: {"choices": [], "usage": {"completion_tokens": 1000000}}\n\n'
DONE = b"data: [DONE]\n\n"


def chunks(*pieces: bytes) -> bytes:
    return b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces)


def asked_on(connection: socket.socket) -> bytes:
    """The head of the next request; empty where the client has closed."""
    received = b""
    while b"\r\n\r\n" not in received:
        if not (piece := connection.recv(65_536)):
            return b""
        received += piece
    head, _, body = received.partition(b"\r\n\r\n")
    length = re.search(rb"(?i)content-length: (\d+)", head)
    while length and len(body) < int(length[1]):
        body += connection.recv(65_536)
    return head.lower()


@pytest.mark.parametrize("closes", [True, False])
def test_server_that_closes_after_each_stream_is_asked_on_a_new_connection_each_time(closes: bool) -> None:
    """llama.cpp does so, and who sends on the old connection just then gets no answer; others are not told to close."""
    heads: list[bytes] = []

    def behave(connection: socket.socket, over: threading.Event) -> None:
        while head := asked_on(connection):
            if head.startswith(b"post "):  # the probe looks at the metrics, too
                heads.append(head)
            connection.sendall(HEAD + chunks(PIECE, DONE) + b"0\r\n\r\n")
            if closes or b"connection: close" in head:
                return

    with serving(behave) as url:
        found = run_probe(RunningServer(url, "a", KEY), replace(LOAD, concurrency=2, seconds=0.3))
    assert found.failures == {}
    first, *others = heads
    assert b"connection: close" not in first
    assert {b"connection: close" in head for head in others} == {closes}


def test_stream_that_stops_in_the_middle_counts_with_the_pause_that_had_no_end() -> None:
    def behave(connection: socket.socket, over: threading.Event) -> None:
        if asked_on(connection):
            connection.sendall(HEAD + chunks(PIECE, PIECE))
            over.wait()

    with serving(behave) as url:
        load = replace(LOAD, requests_per_second=20, seconds=0.2, max_tokens=3)
        found = run_probe(RunningServer(url, "a", KEY), load, request_timeout=0.9)
    assert not found.gave_up  # it did answer, if not to the end
    assert found.failures == {"timeout": found.requests}
    assert set(found.examples.values()) == {"no end within 0.9 s"}
    assert found.tokens == 2 * found.requests
    assert found.gap_ms is not None
    assert found.gap_ms.n == 2 * found.requests
    assert found.gap_ms.highest > 500


def test_count_of_tokens_above_what_was_asked_for_is_not_believed() -> None:
    def behave(connection: socket.socket, over: threading.Event) -> None:
        while asked_on(connection):
            connection.sendall(HEAD + chunks(PIECE, PIECE, USAGE, DONE) + b"0\r\n\r\n")

    with serving(behave) as url:
        found = run_probe(RunningServer(url, "a", KEY), replace(LOAD, seconds=0.2))
    assert found.failures == {}
    assert found.tokens_from == "events"
    assert found.tokens == 2 * found.requests


# -- the process -------------------------------------------------------------------------------------------------------


def test_probe_that_nobody_waits_for_any_more_ends_at_once(engine: Engine) -> None:
    engine.faults = {"hangs"}
    given_up = threading.Event()
    failed: list[ProbeError] = []

    def probe() -> None:
        try:
            run_probe(engine.running, LOAD, 60, given_up=given_up)
        except ProbeError as error:
            failed.append(error)

    thread = threading.Thread(target=probe)
    thread.start()
    assert engine.asked.wait(30)
    [process] = [p for p in psutil.Process().children() if "registry.qa.probe" in p.cmdline()]
    given_up.set()
    thread.join(5)
    assert not process.is_running()
    assert str(failed[0]) == "The load probe was ended, since nobody waits for it any more."


def thinks_first(connection: socket.socket, over: threading.Event) -> None:
    while asked_on(connection):
        over.wait(0.5)
        connection.sendall(HEAD + chunks(PIECE, DONE) + b"0\r\n\r\n")


def pressed_with(limit: str, spec: Spec) -> subprocess.CompletedProcess[str]:
    command = f"ulimit {limit} && exec {sys.executable} -m registry.qa.probe press"
    return subprocess.run(
        ["/bin/sh", "-c", command],
        cwd=ROOT,
        input=json.dumps(spec.to_json()),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_probe_opens_more_connections_than_a_process_may_at_first() -> None:
    with serving(thinks_first) as url:
        done = pressed_with("-Sn 40", Spec(url, "a", KEY, replace(LOAD, concurrency=60, seconds=0.1)))
    assert (done.returncode, done.stderr) == (0, "")
    requests = json.loads(done.stdout)["requests"]
    assert len(requests) == 60
    assert {request["failure"] for request in requests} == {None}


def test_too_few_connections_are_never_the_server_s_failure() -> None:
    with serving(thinks_first) as url:
        done = pressed_with("-n 40", Spec(url, "a", KEY, replace(LOAD, concurrency=60, seconds=0.1)))
    assert done.returncode == 2
    assert done.stderr == "More connections were needed than the 40 files that a process may open here.\n"
    assert done.stdout == ""
