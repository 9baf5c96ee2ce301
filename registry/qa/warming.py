"""Asks a server once before it is examined: what it does at its first request only is no check's to measure."""

from __future__ import annotations

from contextlib import suppress

from deploypipe.core.errors import EngineError
from registry.engines import EngineClient
from registry.qa.base import RunningServer


def warm_up(server: RunningServer, seconds: float) -> None:
    with suppress(EngineError), EngineClient(server.base_url, server.api_key) as client:
        client.warm_up(server.model, seconds=seconds)
