"""A browser's end of a WebSocket, without a network. `channels.testing` would need Daphne, and nothing else does."""

from __future__ import annotations

import json
from typing import Any

from asgiref.testing import ApplicationCommunicator

SOON = 5.0
"""Seconds that are never waited for when all is well."""


class WebSocket:
    def __init__(self, application: Any, path: str, headers: list[tuple[bytes, bytes]]) -> None:
        scope = {"type": "websocket", "path": path, "query_string": b"", "headers": headers, "subprotocols": []}
        self._end = ApplicationCommunicator(application, scope)

    async def connect(self) -> bool:
        """Whether it was let in."""
        await self._end.send_input({"type": "websocket.connect"})
        answer = await self._end.receive_output(timeout=SOON)
        return bool(answer["type"] == "websocket.accept")

    async def send(self, text: str | None = None, data: bytes | None = None) -> None:
        await self._end.send_input({"type": "websocket.receive", "text": text, "bytes": data})

    async def receive(self) -> Any:
        message = await self._end.receive_output(timeout=SOON)
        assert message["type"] == "websocket.send", message
        return json.loads(message["text"])

    async def hears_nothing(self) -> bool:
        return bool(await self._end.receive_nothing())

    async def leave(self) -> None:
        await self._end.send_input({"type": "websocket.disconnect", "code": 1000})
        await self._end.wait(timeout=SOON)
