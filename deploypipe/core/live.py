"""Live updates to browsers: a doorbell for panels (they fetch their own fragment again), a stream for chart points."""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections.abc import Coroutine
from typing import Any, cast

from asgiref.sync import async_to_sync
from channels.db import database_sync_to_async
from channels.generic.websocket import AsyncJsonWebsocketConsumer
from channels.layers import get_channel_layer
from django.contrib.auth.models import User

from deploypipe.core import roles

logger = logging.getLogger(__name__)

_TOPIC = re.compile(r"(?=.{1,80}\Z)[a-z]+(-[a-z0-9]+)*\Z")
"""Short enough for a group's name, which has at most 99 characters."""
TOPICS_PER_PAGE = 50
_web_loop: asyncio.AbstractEventLoop | None = None


def serve_from(loop: asyncio.AbstractEventLoop | None) -> None:
    """The embedded default: the in-memory layer lives in the web loop, so other threads hand their messages to it."""
    global _web_loop
    _web_loop = loop


def ring(topic: str) -> None:
    """Say that what this topic shows has changed."""
    _send(topic, {"kind": "changed"})


def points(topic: str, values: dict[str, dict[str, list[Any]]]) -> None:
    """New chart points: trace key → {"x": […], "y": […]}."""
    _send(topic, {"kind": "points", "points": values})


def _send(topic: str, body: dict[str, Any]) -> None:
    message = {"type": "live.message", "body": {"topic": topic, "seq": time.time_ns() // 1000, **body}}
    layer = get_channel_layer()
    if layer is None:
        return
    telling = _told(layer, topic, message)
    try:
        if _web_loop is not None:
            asyncio.run_coroutine_threadsafe(telling, _web_loop)
        else:
            async_to_sync(_awaited)(telling)
    except Exception:  # the loop has ended, or we are in one
        telling.close()
        logger.warning("live update for %s was not sent", topic, exc_info=True)


async def _awaited(telling: Coroutine[Any, Any, None]) -> None:
    await telling


async def _told(layer: Any, topic: str, message: dict[str, Any]) -> None:
    try:
        await layer.group_send(_group(topic), message)
    except Exception:
        # A browser that misses a message heals itself by asking again; the decision that was being told must go on.
        logger.warning("live update for %s was not sent", topic, exc_info=True)


def _group(topic: str) -> str:
    return f"live.{topic}"


class LiveConsumer(AsyncJsonWebsocketConsumer):
    """Takes {"subscribe": [topic, …]}; sends {"topic", "seq", "kind": "changed" | "points", …}."""

    async def connect(self) -> None:
        self.topics: set[str] = set()
        user = cast(User, self.scope["user"])
        if await database_sync_to_async(roles.refusal)(user, "view"):
            await self.close(code=4403)
            return
        await self.accept()

    async def receive(self, text_data: str | None = None, bytes_data: bytes | None = None, **kwargs: Any) -> None:
        await self.receive_json(await self.decode_json(text_data or ""))

    async def receive_json(self, content: Any, **kwargs: Any) -> None:
        wanted = content.get("subscribe") if isinstance(content, dict) else None
        if not isinstance(wanted, list) or not all(isinstance(t, str) and _TOPIC.match(t) for t in wanted):
            await self.send_json({"kind": "error", "message": 'Send {"subscribe": ["rollout-1", …]}.'})
            return
        for topic in wanted[:TOPICS_PER_PAGE]:
            if topic not in self.topics and len(self.topics) < TOPICS_PER_PAGE:
                self.topics.add(topic)
                await self.channel_layer.group_add(_group(topic), self.channel_name)
        await self.send_json({"kind": "subscribed", "topics": sorted(self.topics)})

    @classmethod
    async def decode_json(cls, text_data: str) -> Any:
        try:
            return await super().decode_json(text_data)
        except (ValueError, RecursionError):
            return None

    async def disconnect(self, code: int) -> None:
        for topic in self.topics:
            await self.channel_layer.group_discard(_group(topic), self.channel_name)

    async def live_message(self, event: dict[str, Any]) -> None:
        await self.send_json(event["body"])
