"""A server that may take only so long to start, whatever starting it does."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack, suppress
from queue import Empty, SimpleQueue
from types import TracebackType

from registry.qa.base import RunningServer


class Opening:
    """Enters `start()` in a thread of its own. One that comes too late is left at once, by that thread."""

    def __init__(self, start: Callable[[], AbstractContextManager[RunningServer]], seconds: float) -> None:
        self._start = start
        self._seconds = seconds
        self._opened = ExitStack()
        self._answers: SimpleQueue[RunningServer | BaseException] = SimpleQueue()
        self._lock = threading.Lock()
        self._waits = True

    def __enter__(self) -> RunningServer:
        threading.Thread(target=self._open, name="start of the live version", daemon=True).start()
        try:
            answer = self._wait()
        except BaseException:  # also Ctrl-C in the thread that waits
            with self._lock:
                self._waits = False
            if not self._answers.empty():  # it came just then
                self._close()
            raise
        if isinstance(answer, BaseException):
            raise answer if isinstance(answer, Exception) else RuntimeError(f"{type(answer).__name__}: {answer}")
        return answer

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._close()

    def _wait(self) -> RunningServer | BaseException:
        try:
            return self._answers.get(timeout=self._seconds)
        except Empty:
            raise TimeoutError(f"It was not ready within {self._seconds:g} s.") from None

    def _open(self) -> None:
        try:
            answer: RunningServer | BaseException = self._opened.enter_context(self._start())
        except BaseException as error:
            answer = error
        with self._lock:
            if self._waits:
                return self._answers.put(answer)
        return self._close()

    def _close(self) -> None:
        with suppress(Exception):  # stopping is the starter's to see to; what was found stands
            self._opened.close()
