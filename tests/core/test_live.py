"""Live updates by the product's own ASGI application, as a browser meets it."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from asgiref.sync import sync_to_async
from channels.layers import BaseChannelLayer, channel_layers, get_channel_layer
from django.contrib.auth.models import User
from django.test import Client

from deploypipe.asgi import application
from deploypipe.core import live
from tests.conftest import Cast
from tests.core.websocket import WebSocket

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.asyncio]


class BrokenLayer(BaseChannelLayer):
    async def group_send(self, group: str, message: dict[str, Any]) -> None:
        raise ConnectionError("the cache is away")


@pytest.fixture
def broken_layer() -> Any:
    before = channel_layers["default"]
    channel_layers.set("default", BrokenLayer())
    yield
    channel_layers.set("default", before)


def cookie(user: User | None) -> bytes:
    client = Client()
    if user is not None:
        client.force_login(user)
    return "; ".join(f"{name}={morsel.value}" for name, morsel in client.cookies.items()).encode()


@asynccontextmanager
async def connected(user: User | None, origin: bytes = b"http://localhost") -> AsyncIterator[tuple[WebSocket, bool]]:
    headers = [(b"cookie", await sync_to_async(cookie)(user)), (b"origin", origin), (b"host", b"localhost")]
    socket = WebSocket(application, "/ws/live/", headers)
    try:
        yield socket, await socket.connect()
    finally:
        await socket.leave()


async def subscribe(socket: WebSocket, *topics: str) -> Any:
    await socket.send(json.dumps({"subscribe": list(topics)}))
    return await socket.receive()


async def from_a_worker(tell: Callable[..., None], *values: Any) -> None:
    """As Celery does: in a thread without an event loop."""
    await asyncio.to_thread(tell, *values)


async def test_doorbell_rings_for_who_listens(cast: Cast) -> None:
    async with connected(cast.dee) as (socket, accepted):
        assert accepted
        assert await subscribe(socket, "rollout-1") == {"kind": "subscribed", "topics": ["rollout-1"]}
        await from_a_worker(live.ring, "rollout-2")
        await from_a_worker(live.ring, "rollout-1")
        said = await socket.receive()
        assert (said["topic"], said["kind"]) == ("rollout-1", "changed")
        assert await socket.hears_nothing()


async def test_points_arrive_in_order(cast: Cast) -> None:
    async with connected(cast.dee) as (socket, _):
        await subscribe(socket, "rollout-1")
        for value in (1, 2):
            await from_a_worker(live.points, "rollout-1", {"requests.candidate": {"x": ["t"], "y": [value]}})
        first, second = await socket.receive(), await socket.receive()
        assert [said["points"]["requests.candidate"]["y"] for said in (first, second)] == [[1], [2]]
        assert first["kind"] == "points"
        assert first["seq"] < second["seq"]


@pytest.mark.parametrize("name", ["eve", None])
async def test_outsider_is_refused(name: str | None, cast: Cast) -> None:
    async with connected(getattr(cast, name) if name else None) as (_, accepted):
        assert not accepted


async def test_page_of_another_site_is_refused(cast: Cast) -> None:
    async with connected(cast.dee, origin=b"https://evil.example") as (_, accepted):
        assert not accepted


@pytest.mark.parametrize(
    "sent",
    [
        "{",
        "[" * 100_000,
        "null",
        "[]",
        '{"subscribe": "rollout-1"}',
        '{"subscribe": [1]}',
        '{"subscribe": ["rollout 1"]}',
        '{"subscribe": ["../x"]}',
        '{"subscribe": ["rollout-1\\n"]}',
        json.dumps({"subscribe": ["x" * 200]}),
        b"\x00\xff",
    ],
)
async def test_bad_message_is_answered_and_the_connection_goes_on(sent: str | bytes, cast: Cast) -> None:
    async with connected(cast.dee) as (socket, _):
        if isinstance(sent, bytes):
            await socket.send(data=sent)
        else:
            await socket.send(sent)
        assert (await socket.receive())["kind"] == "error"
        assert (await subscribe(socket, "rollout-1"))["topics"] == ["rollout-1"]


async def test_one_page_listens_to_a_limited_number_of_topics(cast: Cast) -> None:
    async with connected(cast.dee) as (socket, _):
        said = await subscribe(socket, *(f"rollout-{n}" for n in range(live.TOPICS_PER_PAGE + 10)))
        assert len(said["topics"]) == live.TOPICS_PER_PAGE
        assert len((await subscribe(socket, "one-more"))["topics"]) == live.TOPICS_PER_PAGE


async def test_who_has_left_is_forgotten(cast: Cast) -> None:
    async with connected(cast.dee) as (socket, _):
        await subscribe(socket, "rollout-1")
    layer: Any = get_channel_layer()
    assert layer.groups == {}


async def test_layer_that_fails_stops_nobody(broken_layer: None, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, logger="deploypipe.core.live"):
        await from_a_worker(live.ring, "rollout-1")
    assert "live update for rollout-1 was not sent" in caplog.text


async def test_layer_that_fails_in_the_web_loop_stops_nobody(
    broken_layer: None, caplog: pytest.LogCaptureFixture
) -> None:
    live.serve_from(asyncio.get_running_loop())
    try:
        with caplog.at_level(logging.WARNING, logger="deploypipe.core.live"):
            await from_a_worker(live.ring, "rollout-1")
            async with asyncio.timeout(5):
                while "was not sent" not in caplog.text:
                    await asyncio.sleep(0)
    finally:
        live.serve_from(None)


async def test_web_loop_that_has_ended_stops_nobody(caplog: pytest.LogCaptureFixture) -> None:
    ended = asyncio.new_event_loop()
    ended.close()
    live.serve_from(ended)
    try:
        with caplog.at_level(logging.CRITICAL, logger="deploypipe.core.live"):
            await from_a_worker(live.ring, "rollout-1")
    finally:
        live.serve_from(None)


async def test_in_the_embedded_product_messages_go_through_the_web_loop(cast: Cast) -> None:
    live.serve_from(asyncio.get_running_loop())
    try:
        async with connected(cast.dee) as (socket, _):
            await subscribe(socket, "overview")
            await from_a_worker(live.ring, "overview")
            assert (await socket.receive())["topic"] == "overview"
    finally:
        live.serve_from(None)


async def test_ringing_from_inside_a_loop_stops_nobody(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.CRITICAL, logger="deploypipe.core.live"):
        live.ring("rollout-1")
