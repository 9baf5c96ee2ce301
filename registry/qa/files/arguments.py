"""What of an engine's command line decides whether it can serve: read as Aphrodite and vLLM read it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from registry.qa.files.reading import Unreadable

_SHORT = {
    "-q": "--quantization",
    "-tp": "--tensor-parallel-size",
    "-pp": "--pipeline-parallel-size",
    "-dp": "--data-parallel-size",
}
# Small letters count in thousands, capital ones in 1024.
_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "K": 2**10, "M": 2**20, "G": 2**30}
_WHOLE = re.compile(r"(\d{1,18}(?:\.\d{1,9})?)([kmgKMG]?)")


@dataclass(frozen=True)
class EngineArguments:
    words: Sequence[str]

    def text(self, name: str) -> str | None:
        """The value of "--name"; the last one where it is given twice, None where it is not given."""
        found: str | None = None
        for place, word in enumerate(self.words):
            spelt, equals, value = word.partition("=")
            if _long(spelt) != name:
                continue
            if equals:
                found = value
            elif place + 1 < len(self.words):
                found = self.words[place + 1]
            else:
                raise Unreadable(f"{name} has no value")
        return found

    def on(self, name: str) -> bool:
        """Whether the switch "--name" is given, and not taken back by "--no-name" after it."""
        found = False
        for word in self.words:
            spelt, _, value = word.partition("=")
            if _long(spelt) == name:
                found = value.lower() not in ("false", "0")
            elif _long(spelt) == f"--no-{name.removeprefix('--')}":
                found = False
        return found

    def whole(self, name: str) -> int | None:
        """Also "32k"; None where it is not given or the engine shall find out ("auto", -1)."""
        text = self.text(name)
        if text is None or text in ("auto", "-1"):
            return None
        match = _WHOLE.fullmatch(text)
        number = float(match[1]) * _UNITS[match[2]] if match else 0.5
        if number != int(number):
            raise Unreadable(f"{name} is {text!r}, which is no whole number")
        return int(number)

    def size(self, name: str) -> int:
        """A degree of parallelism: 1 where it is not given."""
        found = self.whole(name)
        if found == 0:
            raise Unreadable(f"{name} is 0; the least is 1")
        return found or 1

    def amount(self, name: str, default: float) -> float:
        text = self.text(name)
        try:
            found = default if text is None else float(text)
        except ValueError:
            found = -1.0
        if not 0 <= found < 1e6:
            raise Unreadable(f"{name} is {text!r}; give a number, 0 or more")
        return found

    def share(self, name: str, default: float) -> float:
        found = self.amount(name, default)
        if not 0 < found <= 1:
            raise Unreadable(f"{name} is {found:g}; give a share above 0, up to 1")
        return found

    @property
    def from_file(self) -> bool:
        """More may stand in a file that is not seen here."""
        return any(_long(word.partition("=")[0]) == "--config" for word in self.words)


def _long(word: str) -> str:
    if word.startswith("--"):
        return word.replace("_", "-")
    return _SHORT.get(word, word)
