"""A language of two dozen words whose probabilities follow from the two words before: small, and a real one.

It has no end of text, so every answer has as many words as were asked for.
"""

from __future__ import annotations

import math
import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

VOCABULARY = (
    " The", " names", " are", " bound", " to", " the", " objects", " in", " their", " order", " of", " use",
    " when", " a", " class", " is", " made", " from", " another", " one", " and", " so", " on", " again",
)  # fmt: skip
UNKNOWN = math.log(1e-4)  # of a word outside the vocabulary
_WORD = re.compile(r"\s*\S+")

Weights = dict[str, float]


@dataclass(frozen=True)
class Drawing:
    """How words are drawn. The names are those of the interface."""

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = -1
    min_p: float = 0.0
    nsigma: float = 0.0
    top_a: float = 0.0
    xtc_probability: float = 0.0
    xtc_threshold: float = 0.1
    no_repeat_ngram_size: int = 0
    dry_multiplier: float = 0.0

    @classmethod
    def of(cls, body: Mapping[str, object], without: Sequence[str] = ()) -> Drawing:
        known = {name: body[name] for name in cls.__dataclass_fields__ if body.get(name) is not None}
        return cls(**{name: value for name, value in known.items() if name not in without})  # type: ignore[arg-type]


def words_of(text: str) -> list[str]:
    return _WORD.findall(text)


@lru_cache(100_000)
def probabilities(before: tuple[str, ...]) -> Mapping[str, float]:
    rng = random.Random("|".join(before))
    weights = {word: rng.expovariate(1.0) ** 3 for word in VOCABULARY}
    total = math.fsum(weights.values())
    return {word: weight / total for word, weight in weights.items()}


def log_probabilities(words: Sequence[str], knows: float = 1.0) -> list[float | None]:
    """Of each word after those before it; the first has none, as engines have it. Below 1 it `knows` less: so much of
    the probability is spread over all words alike."""
    found: list[float | None] = [None]
    for place in range(1, len(words)):
        p = probabilities(_before(words[:place])).get(words[place])
        found.append(UNKNOWN if p is None else math.log(knows * p + (1 - knows) / len(VOCABULARY)))
    return found[: len(words)]


def write(prompt: Sequence[str], count: int, drawing: Drawing, rng: random.Random) -> list[str]:
    words = list(prompt)
    for _ in range(count):
        words.append(_next(words, drawing, rng))
    return words[len(prompt) :]


def _before(words: Sequence[str]) -> tuple[str, ...]:
    return tuple(words[-2:])


def _next(words: Sequence[str], drawing: Drawing, rng: random.Random) -> str:
    if drawing == Drawing(0.0):  # what the load asks for
        return _most_likely(_before(words))
    weights = dict(probabilities(_before(words)))
    _discourage(weights, words, drawing)
    if drawing.temperature < 1e-5:
        return max(weights, key=lambda word: weights[word])
    kept = _kept({word: p ** (1 / drawing.temperature) for word, p in weights.items()}, drawing, rng)
    return rng.choices(list(kept), list(kept.values()))[0]


@lru_cache(100_000)
def _most_likely(before: tuple[str, ...]) -> str:
    chances = probabilities(before)
    return max(chances, key=lambda word: chances[word])


def _discourage(weights: Weights, words: Sequence[str], drawing: Drawing) -> None:
    if size := drawing.no_repeat_ngram_size:
        tail = tuple(words[len(words) - size + 1 :])
        for word in weights:
            if any(tuple(words[i : i + size]) == (*tail, word) for i in range(len(words) - size + 1)):
                weights[word] *= 1e-12
    if drawing.dry_multiplier:
        for word in set(words[-12:]) & weights.keys():
            weights[word] *= math.exp(-drawing.dry_multiplier)


def _kept(weights: Weights, drawing: Drawing, rng: random.Random) -> Weights:
    total = math.fsum(weights.values())
    ranked = sorted(((weight / total, word) for word, weight in weights.items()), reverse=True)
    if drawing.top_k > 0:
        ranked = ranked[: drawing.top_k]
    best = ranked[0][0]
    ranked = [(p, word) for p, word in ranked if p >= drawing.min_p * best and p >= min(best, drawing.top_a * best**2)]
    if drawing.nsigma > 0:
        logits = [math.log(weight) for weight in weights.values()]
        mean = math.fsum(logits) / len(logits)
        sigma = math.sqrt(math.fsum((logit - mean) ** 2 for logit in logits) / len(logits))
        ranked = [(p, word) for p, word in ranked if math.log(p) >= math.log(best) - drawing.nsigma * sigma]
    if drawing.xtc_probability > rng.random():
        above = [pair for pair in ranked if pair[0] >= drawing.xtc_threshold]
        ranked = ranked[max(0, len(above) - 1) :]
    return {word: p for p, word in _nucleus(ranked, drawing.top_p)}


def _nucleus(ranked: list[tuple[float, str]], top_p: float) -> list[tuple[float, str]]:
    enough, held = top_p * math.fsum(p for p, _ in ranked), 0.0
    for place, (p, _) in enumerate(ranked):
        held += p
        if held >= enough:
            return ranked[: place + 1]
    return ranked
