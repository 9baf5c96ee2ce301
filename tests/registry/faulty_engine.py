"""An engine that is faultless until a test tells it to be wrong in one way.

Its parts: `faulty_doors` (keys, routes), `faulty_completions` (text), `faulty_echo` (Deep Tree Echo).
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import uvicorn
from starlette.applications import Starlette

from tests.registry.faulty_completions import Completions
from tests.registry.faulty_doors import Doors
from tests.registry.faulty_echo import Echo
from tests.registry.faulty_state import KEY, MODEL, Engine

__all__ = ["KEY", "MODEL", "Engine", "application", "running_engine"]


def application(engine: Engine) -> Starlette:
    doors = Doors(engine, Completions(engine))
    return Starlette(routes=[*doors.routes(), *Echo(engine).routes()])


@contextmanager
def running_engine() -> Iterator[Engine]:
    """In a thread of this process, on a port of its own."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(1024)  # whoever connects before the server is up waits in this queue
        engine = Engine(f"http://127.0.0.1:{listener.getsockname()[1]}")
        config = uvicorn.Config(application(engine), log_config=None, ws="none", lifespan="off", access_log=False)
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        try:
            yield engine
        finally:
            engine.release.set()
            server.should_exit = True
            thread.join(20)
