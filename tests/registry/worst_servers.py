"""Servers that waste the time of whoever asks them: what a hanging or hostile engine may do to an examination."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

OK = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}"

Behave = Callable[[socket.socket, threading.Event], None]


def silent(connection: socket.socket, over: threading.Event) -> None:
    """Takes the request and says nothing."""
    over.wait()


def healthy_then_silent(connection: socket.socket, over: threading.Event) -> None:
    if b" /health " in connection.recv(65_536):
        connection.sendall(OK)
    else:
        over.wait()


def drip(connection: socket.socket, over: threading.Event) -> None:
    """One byte a second, of an answer that would be fine: no time-out between two bytes ever ends it."""
    connection.recv(65_536)
    head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 100000\r\n\r\n"
    connection.sendall(head)
    while not over.wait(1.0):
        connection.sendall(b" ")


def drip_headers(connection: socket.socket, over: threading.Event) -> None:
    connection.recv(65_536)
    connection.sendall(b"HTTP/1.1 200 OK\r\n")
    number = 0
    while not over.wait(0.5):
        number += 1
        connection.sendall(f"X-{number}: a\r\n".encode())


def endless_headers(connection: socket.socket, over: threading.Event) -> None:
    connection.recv(65_536)
    connection.sendall(b"HTTP/1.1 200 OK\r\n")
    number = 0
    while not over.is_set():
        number += 1
        connection.sendall(f"X-{number}: a\r\n".encode() * 100)


def endless_body(connection: socket.socket, over: threading.Event) -> None:
    connection.recv(65_536)
    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n")
    while not over.wait(0.01):
        connection.sendall(b": nothing\n" * 100)


def answers_late(connection: socket.socket, over: threading.Event) -> None:
    """Just before who asks gives up, so that nobody ever notes a silence."""
    connection.recv(65_536)
    over.wait(2.8)
    connection.sendall(OK)


def refuses(connection: socket.socket, over: threading.Event) -> None:
    connection.recv(65_536)
    connection.sendall(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")


WORST: dict[str, Behave] = {
    "silent": silent,
    "healthy, then silent": healthy_then_silent,
    "drips a body": drip,
    "drips headers": drip_headers,
    "endless headers": endless_headers,
    "endless body": endless_body,
    "answers late": answers_late,
}


@contextmanager
def serving(behave: Behave) -> Iterator[str]:
    """On a port of its own; a thread for each connection."""
    over = threading.Event()

    def answer(connection: socket.socket) -> None:
        with connection, suppress(OSError):
            behave(connection, over)

    def accept(listener: socket.socket) -> None:
        while not over.is_set():
            with suppress(OSError):
                connection, _ = listener.accept()
                threading.Thread(target=answer, args=(connection,), daemon=True).start()

    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(1024)
        listener.settimeout(0.2)
        thread = threading.Thread(target=accept, args=(listener,), daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            over.set()
            thread.join(20)
