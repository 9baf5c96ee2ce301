import asyncio
import json
import random
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from examples.textgen import corpus
from examples.textgen.ratings import RatingPost
from examples.textgen.tally import Report
from examples.textgen.traffic import LONG_TOKENS, SHORT_TOKENS, run, snippets
from tests.examples.conftest import KEY, MODEL, TextgenServer, module, serving, wait_until

EVENT = b'data: {"choices":[]}\n\n'
DONE = b"data: [DONE]\n\n"


async def send(url: str, *, requests: int = 60, rate: float = 300.0, key: str = KEY, **more: Any) -> Report:
    return await run(base_url=url, model=MODEL, rate=rate, requests=requests, api_key=key, **more)


def http(*chunks: bytes, status: str = "200 OK", is_whole: bool = True) -> bytes:
    head = f"HTTP/1.1 {status}\r\nconnection: close\r\ntransfer-encoding: chunked\r\n\r\n".encode()
    return head + b"".join(b"%x\r\n%s\r\n" % (len(chunk), chunk) for chunk in chunks) + b"0\r\n\r\n" * is_whole


@asynccontextmanager
async def answering(raw: bytes, *, refuse_first: int = 0) -> AsyncIterator[str]:
    """A server that gives every request these bytes and hangs up; the first ones it drops without a byte."""
    left = refuse_first

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal left
        head = await reader.readuntil(b"\r\n\r\n")
        assert b"x-session-id: session-" in head
        await reader.readexactly(int(head.lower().partition(b"content-length:")[2].split(b"\r\n")[0]))
        if left:
            left -= 1
            writer.transport.abort()
            return
        writer.write(raw)
        await writer.drain()
        writer.close()
        await writer.wait_closed()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/production/{MODEL}"


@pytest.mark.parametrize("limits", [SHORT_TOKENS, LONG_TOKENS])
def test_prompts_have_the_length_they_should(limits: tuple[int, int]) -> None:
    texts = snippets(corpus.paragraphs(), limits, 200, random.Random(1))
    assert all(limits[0] <= corpus.count_tokens(text) <= limits[1] for text in texts)
    assert len(set(texts)) > 100


@pytest.mark.asyncio
async def test_counts_agree_with_the_servers_own(server: TextgenServer) -> None:
    before = server.metric("vllm:request_success_total"), server.metric("vllm:time_to_first_token_seconds_count")
    report = await send(server.url, requests=120)
    assert (report.sent, report.answered_ok, report.failed, report.in_flight) == (120, 120, 0, 0)
    assert report.long_prompts == 10
    assert server.metric("vllm:request_success_total") - before[0] == 120
    assert server.metric("vllm:time_to_first_token_seconds_count") - before[1] == 120
    assert report.first_event_p95_ms is not None


@pytest.mark.asyncio
async def test_errors_inside_streams_are_counted_and_are_one_in_twelve(models: dict[str, Path]) -> None:
    with serving(models["trigram"], "--fault", "long-prompt-error") as server:
        report = await send(server.url, requests=240)
    assert (report.stream_errors, report.long_prompts, report.answered_ok) == (20, 20, 220)
    assert report.failed == report.stream_errors


@pytest.mark.asyncio
async def test_refused_requests_are_counted_by_status(server: TextgenServer) -> None:
    report = await send(server.url, requests=12, key="wrong")
    assert (report.http_errors, report.answered_ok, report.failed) == ({"401": 12}, 0, 12)


@pytest.mark.parametrize(
    ("raw", "counted"),
    [
        (http(EVENT, EVENT, DONE), {"answered_ok": 3, "events": 6}),
        (http(EVENT[:9], EVENT[9:] + DONE[:3], DONE[3:]), {"answered_ok": 3, "events": 3}),
        (http(EVENT, b'data: {"error":{"code":500}}\n\n', DONE), {"stream_errors": 3, "events": 3}),
        (http(b'data: { "error": "x"}\n\n'), {"stream_errors": 3, "events": 0}),
        (http(DONE), {"empty": 3}),
        (http(), {"empty": 3}),
        (http(b"no upstream", status="503 Service Unavailable"), {"http_errors": {"503": 3}}),
        (http(EVENT), {"transport_errors": {"incomplete": 3}}),
        (http(EVENT, is_whole=False), {"transport_errors": {"cut": 3}}),
        (b"", {"transport_errors": {"reset": 3}}),
        (b"what is this", {"transport_errors": {"malformed": 3}}),
    ],
)
@pytest.mark.asyncio
async def test_each_kind_of_answer_has_its_count(raw: bytes, counted: dict[str, Any]) -> None:
    async with answering(raw) as url:
        report = await send(url, requests=3)
    assert {name: getattr(report, name) for name in counted} == counted
    assert report.answered_ok + report.failed == report.sent == 3


@pytest.mark.asyncio
async def test_retrying_loses_nothing_and_counts_the_retries() -> None:
    async with answering(http(EVENT, DONE), refuse_first=7) as url:
        report = await send(url, requests=20, retry_transport=True)
    assert (report.answered_ok, report.failed, report.retries) == (20, 0, 7)


@pytest.mark.asyncio
async def test_a_stream_cut_in_the_middle_is_not_asked_for_again() -> None:
    async with answering(http(EVENT, is_whole=False)) as url:
        report = await send(url, requests=3, retry_transport=True)
    assert (report.transport_errors, report.retries) == ({"cut": 3}, 0)


@pytest.mark.asyncio
async def test_an_answer_that_never_comes_is_a_timeout(models: dict[str, Path]) -> None:
    with serving(models["bigram"], "--fault", "hang") as server:
        report = await send(server.url, requests=5, timeout=0.3)
    assert report.transport_errors == {"timeout": 5}


def test_a_restart_of_the_server_loses_nothing_and_sigterm_writes_the_report(
    models: dict[str, Path], tmp_path: Path
) -> None:
    path = tmp_path / "report.json"

    def reported(name: str) -> Any:
        return json.loads(path.read_text())[name] if path.exists() else 0

    with serving(models["bigram"]) as server:
        port = server.url.rpartition(":")[2]
        traffic = module(
            "traffic", "--base-url", server.url, "--model", MODEL, "--rate", "100", "--retry-transport",
            "--report", str(path), keys=KEY,
        )  # fmt: skip
        wait_until(lambda: reported("answered_ok") > 0)
        server.process.terminate()
        server.process.wait(timeout=5.0)
        wait_until(lambda: reported("retries") > 0)
    with serving(models["bigram"], "--port", port), traffic:
        answered = reported("answered_ok")
        wait_until(lambda: reported("answered_ok") > answered)
        traffic.send_signal(signal.SIGTERM)
        output, errors = traffic.communicate(timeout=10.0)
    report = json.loads(path.read_text())
    assert (traffic.returncode, errors) == (0, "")
    assert output.startswith(f"{report['sent']} requests in ")
    assert output.count("\n") == 1
    assert report["is_finished"]
    assert report["in_flight"] == 0
    assert (report["answered_ok"], report["transport_errors"]) == (report["sent"], {})


@asynccontextmanager
async def feedback_endpoint(*statuses: int) -> AsyncIterator[tuple[str, list[dict[str, Any]]]]:
    """Answers with these statuses, then always with 202; what it took."""
    taken: list[dict[str, Any]] = []
    left = list(statuses)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).lower()
        body = await reader.readexactly(int(head.partition(b"content-length:")[2].split(b"\r\n")[0]))
        assert b"authorization: bearer told-apart" in head
        status = left.pop(0) if left else 202
        receipt: dict[str, Any] = {}
        if status == 202:
            taken.append(json.loads(body))
            receipt = {"accepted": len(taken[-1]["items"]), "duplicates": 0, "rejected": []}
        said = json.dumps(receipt).encode()
        writer.write(
            b"HTTP/1.1 %d Said\r\nconnection: close\r\ncontent-length: %d\r\n\r\n%s" % (status, len(said), said)
        )
        await writer.drain()
        writer.close()
        await writer.wait_closed()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/api/v1/feedback/", taken


def told(url: str) -> RatingPost:
    return RatingPost(url, "told-apart", "production", MODEL)


def stars_of(taken: list[dict[str, Any]]) -> dict[str, int]:
    return {item["session"]: item["rating"] for batch in taken for item in batch["items"]}


@pytest.mark.asyncio
async def test_users_whose_answers_came_well_rate_well() -> None:
    async with answering(http(EVENT, DONE)) as url, feedback_endpoint() as (feedback, taken):
        post = told(feedback)
        report = await send(url, requests=200, post=post, rating_share=1.0)
    stars = list(stars_of(taken).values())
    assert 0 < len(stars) == report.ratings_delivered == sum(report.ratings.values()) <= report.users
    assert min(stars) >= 3
    assert sum(stars) / len(stars) > 4
    assert "users rated" in report.sentence()
    assert {(batch["environment"], batch["model"]) for batch in taken} == {("production", MODEL)}


@pytest.mark.asyncio
async def test_users_whose_answers_failed_rate_badly_whoever_answered() -> None:
    async with answering(http(EVENT, b'data: {"error":{}}\n\n')) as url, feedback_endpoint() as (feedback, taken):
        await send(url, requests=60, post=told(feedback), rating_share=1.0)
    assert set(stars_of(taken).values()) == {1, 2}


@pytest.mark.asyncio
async def test_ratings_wait_for_an_endpoint_that_is_not_there_yet_and_come_once_each() -> None:
    async with answering(http(EVENT, DONE)) as url, feedback_endpoint(503, 429) as (feedback, taken):
        report = await send(url, requests=60, post=told(feedback), rating_share=1.0)
    assert (report.ratings_lost, report.ratings_delivered) == (0, len(stars_of(taken)))
    assert sum(len(batch["items"]) for batch in taken) == report.ratings_delivered > 0


@pytest.mark.asyncio
async def test_ratings_that_are_refused_are_lost_and_said() -> None:
    async with answering(http(EVENT, DONE)) as url, feedback_endpoint(*[403] * 9) as (feedback, _):
        report = await send(url, requests=30, post=told(feedback), rating_share=1.0)
    assert report.ratings_lost == sum(report.ratings.values()) > 0
    assert "not delivered (HTTP 403" in report.sentence()


@pytest.mark.asyncio
async def test_nobody_rates_where_nobody_asks() -> None:
    async with answering(http(EVENT, DONE)) as url:
        report = await send(url, requests=30)
    assert report.ratings == {}


def test_ratings_need_to_know_whose_users_rate() -> None:
    options = ("--base-url", "http://127.0.0.1:1", "--model", MODEL, "--feedback-url", "http://127.0.0.1:1/")
    with module("traffic", *options) as process:
        _, errors = process.communicate(timeout=10.0)
    assert process.returncode == 2
    assert "with --feedback-url the base URL must end in /ENVIRONMENT/MODEL, got 'http://127.0.0.1:1'" in errors


def test_wrong_base_url_is_one_clear_sentence() -> None:
    with module("traffic", "--base-url", "ftp://x", "--model", MODEL) as process:
        _, errors = process.communicate(timeout=10.0)
    assert process.returncode == 2
    assert errors == "traffic: base URL must be http://host[:port][/path], got 'ftp://x'\n"
