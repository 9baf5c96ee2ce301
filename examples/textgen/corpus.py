"""The text: CPython's own language reference, as every interpreter carries it in `pydoc_data.topics`."""

import hashlib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pydoc_data.topics import topics

HELD_OUT_EVERY = 10

_TOKEN = re.compile(r"\w+|(?:([^\w\s])\1*)")  # a run of one sign, such as the line under a heading, is one token
_BLANK_LINES = re.compile(r"\n\s*\n")
_CLOSES = frozenset(".,;:!?)]}%")
_OPENS = frozenset("([{")

Tokens = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Corpus:
    """Paragraphs as tokens. The topics repeat each other, so twins are dropped first: none is in both parts."""

    training: tuple[Tokens, ...]
    held_out: tuple[Tokens, ...]
    sha256: str


def tokenize(text: str) -> Tokens:
    return tuple(match.group() for match in _TOKEN.finditer(text))


def spans(text: str) -> list[tuple[str, str]]:
    """Each token with the piece of text that it is written as; the pieces together are the text."""
    ends = [match.end() for match in _TOKEN.finditer(text)]
    if not ends:
        return []
    ends[-1] = len(text)
    return [(token, text[start:end]) for token, start, end in zip(tokenize(text), [0, *ends[:-1]], ends, strict=True)]


def count_tokens(text: str) -> int:
    return sum(1 for _ in _TOKEN.finditer(text))


def needs_space(previous: str | None, token: str) -> bool:
    """Whether a space is written between two tokens. Never joins two words, so text made with it tokenizes back."""
    return not (previous is None or token in _CLOSES or previous in _OPENS)


def join(tokens: Iterable[str]) -> str:
    pieces: list[str] = []
    previous: str | None = None
    for token in tokens:
        pieces.append(f" {token}" if needs_space(previous, token) else token)
        previous = token
    return "".join(pieces)


def paragraphs() -> tuple[Tokens, ...]:
    """All different paragraphs, in the order of the sorted topics."""
    found: dict[Tokens, None] = {}
    for name in sorted(topics):
        for paragraph in _BLANK_LINES.split(topics[name]):
            tokens = tokenize(paragraph)
            if len(tokens) > 1:
                found.setdefault(tokens)
    return tuple(found)


def load() -> Corpus:
    everything = paragraphs()
    return Corpus(
        training=tuple(p for number, p in enumerate(everything, 1) if number % HELD_OUT_EVERY),
        held_out=everything[HELD_OUT_EVERY - 1 :: HELD_OUT_EVERY],
        sha256=_digest(everything),
    )


def _digest(texts: Sequence[Tokens]) -> str:
    digest = hashlib.sha256()
    for tokens in texts:
        digest.update(" ".join(tokens).encode() + b"\n")
    return digest.hexdigest()
