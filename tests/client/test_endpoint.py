"""What is told of an address before it is examined."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

from deploypipe.client import endpoint
from tests.registry.faulty_engine import KEY, MODEL, running_engine

FORWARD = """
import asyncio, sys

async def pump(reader, writer):
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()
    writer.close()

async def serve(reader, writer):
    there, back = await asyncio.open_connection("127.0.0.1", int(sys.argv[2]))
    await asyncio.gather(pump(reader, back), pump(there, writer))

async def main():
    server = await asyncio.start_server(serve, "127.0.0.1", int(sys.argv[1]))
    print("ready", flush=True)
    await server.serve_forever()

asyncio.run(main())
"""


def test_process_that_listens_is_the_server_unless_it_only_passes_on(tmp_path: Path) -> None:
    program = tmp_path / "socat"
    program.symlink_to(Path(sys.executable).resolve())
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with running_engine() as engine:
        there = engine.base_url.rpartition(":")[2]
        words = [str(program), "-c", FORWARD, str(port), there]
        with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as forwarder:
            try:
                assert forwarder.stdout is not None
                assert forwarder.stdout.readline() == "ready\n"
                assert endpoint.found(engine.base_url, KEY, MODEL)[0].pid == os.getpid()
                assert endpoint.found(f"http://127.0.0.1:{port}", KEY, MODEL)[0].pid is None
            finally:
                forwarder.kill()
