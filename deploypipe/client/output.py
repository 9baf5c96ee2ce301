"""Files that are written whole or not at all."""

from __future__ import annotations

import os
import stat
import sys
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from deploypipe.client.problems import CannotWrite

STDOUT = "-"


class Output:
    """Tried when it is made, so that nobody waits for an answer that cannot be kept.

    What stands at the place stays there until `write` has the whole text.
    """

    def __init__(self, place: str) -> None:
        self.place = place
        self._path: Path | None = None
        self._beside: Path | None = None
        if place == STDOUT:
            return
        try:
            self._path = Path(place).resolve()
            if self._path.is_dir():
                raise CannotWrite(f"{place} is a folder: name a file in it.")
            if self._path.exists() and not stat.S_ISREG(self._path.stat().st_mode):
                return  # a device or a pipe, which must not be replaced by a file
            if self._path.exists() and not os.access(self._path, os.W_OK):
                raise CannotWrite(f"{place} is there and may not be written.")
            beside = self._path.with_name(f".{self._path.name[:200]}.{os.getpid()}.part")
            os.close(os.open(beside, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
        except OSError as error:
            raise CannotWrite(f"{place} cannot be written: {error.strerror}.") from error
        except ValueError as error:
            raise CannotWrite(f"{place!r} is no name of a file: {error}.") from error
        self._beside = beside

    def write(self, text: str) -> None:
        try:
            if self._path is None:
                sys.stdout.write(text)
                sys.stdout.flush()
            elif self._beside is None:
                self._path.write_text(text, encoding="utf-8")
            else:
                with self._beside.open("w", encoding="utf-8") as file:
                    file.write(text)
                    file.flush()
                    os.fsync(file.fileno())
                self._beside.replace(self._path)
                self._beside = None
        except OSError as error:
            raise CannotWrite(f"{self.place} could not be written: {error.strerror}.") from error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._beside is not None:
            with suppress(OSError):
                self._beside.unlink()
