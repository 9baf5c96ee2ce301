"""A word n-gram model as a chain of interpolated levels, and how text is drawn from it.

Every smoothing that interpolates has the same shape: what a context says itself, plus a share handed down to the
shorter context, `p(w | u v) = own(w | u v) + backoff(u v) * p(w | v)`. So bigram and trigram are the same class with
other numbers, and the server needs to know neither counts nor discounts.
"""

import heapq
import json
import math
import random
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, islice, takewhile
from operator import itemgetter
from pathlib import Path

from examples.textgen import corpus

UNKNOWN, END, START = "<unk>", "</s>", "<s>"
UNKNOWN_ID, END_ID = 0, 1
FORMAT = "textgen-ngram-1"
MODEL_FILE, CONFIG_FILE = "model.json", "config.json"

# What the caches may hold: a server is asked for many contexts and, by bad luck or intent, for many temperatures.
_CACHED_WORDS = 100_000
_CACHED_CONTEXTS = 16_384
_CACHED_TEMPERATURES = 64
_REJECTIONS = 32

Context = tuple[int, ...]


class ArtifactError(Exception):
    """The folder is not a model this code can serve; the message says what is wrong with it."""


@dataclass(frozen=True, slots=True)
class Followers:
    """What one context says itself, and the share it leaves to the shorter context."""

    own: Mapping[int, float]
    backoff: float


@dataclass(frozen=True, slots=True)
class Sampling:
    """How a word is drawn. `allow_end=False` is the engines' `ignore_eos`."""

    temperature: float = 1.0
    top_p: float = 1.0
    allow_end: bool = True
    top_k: int = 0
    """0: all words."""
    min_p: float = 0.0
    """Words that are less likely than this share of the likeliest one are left out."""

    @property
    def truncates(self) -> bool:
        return self.top_p < 1.0 or self.top_k > 0 or self.min_p > 0.0


@dataclass(frozen=True, slots=True)
class _Draw:
    """A tempered distribution, ready to draw from: words written out, then one lot for all others together.

    The others all have the probability `constant * unigram(w)`, so tempering keeps them proportional to
    `unigram(w) ** (1 / temperature)`, which is the same list for every context and is made once.
    """

    words: Sequence[int]
    cumulative: Sequence[float]
    total: float
    named: Mapping[int, float]


@dataclass(frozen=True, slots=True)
class _Unigrams:
    words: Sequence[int]
    cumulative: Sequence[float]
    total: float
    weights: Sequence[float]


class NgramModel:
    def __init__(
        self, vocabulary: Sequence[str], unigram: Sequence[float], levels: Sequence[Mapping[Context, Followers]]
    ) -> None:
        """`levels[0]` has contexts of one word, `levels[1]` of two; `START` is numbered after the vocabulary."""
        self.vocabulary = tuple(vocabulary)
        self.unigram = tuple(unigram)
        self.levels = tuple(levels)
        self.order = len(levels) + 1
        self.start_id = len(self.vocabulary)
        self._ids = {word: number for number, word in enumerate(self.vocabulary)}
        self._by_unigram = sorted(range(len(self.unigram)), key=lambda word: -self.unigram[word])
        self._cached_words = 0
        self._draws: dict[tuple[Context, Sampling], _Draw] = {}
        self._greedy: dict[tuple[Context, bool], int] = {}
        self._tempered: dict[tuple[float, bool], _Unigrams] = {}

    def ids(self, tokens: Iterable[str]) -> list[int]:
        return [self._ids.get(token, UNKNOWN_ID) for token in tokens]

    def context(self, ids: Sequence[int]) -> Context:
        """The last words that count, padded with the start of a paragraph."""
        wanted = self.order - 1
        recent = tuple(ids[-wanted:])
        return (self.start_id,) * (wanted - len(recent)) + recent

    def probability(self, word: int, context: Context) -> float:
        result = self.unigram[word]
        for length, level in enumerate(self.levels, 1):
            followers = level.get(context[-length:])
            if followers is not None:
                result = followers.own.get(word, 0.0) + followers.backoff * result
        return result

    def perplexity(self, paragraphs: Iterable[corpus.Tokens]) -> float:
        """Per token, the end of each paragraph included: exp of the mean negative log likelihood."""
        log_likelihood, count = 0.0, 0
        for tokens in paragraphs:
            ids = [*self.ids(tokens), END_ID]
            for position, word in enumerate(ids):
                log_likelihood += math.log(self.probability(word, self.context(ids[:position][-self.order :])))
            count += len(ids)
        return math.exp(-log_likelihood / count)

    def log_probabilities(self, tokens: Sequence[str]) -> list[float]:
        """Of each token after those before it, at temperature 1 and with nothing left out."""
        ids = self.ids(tokens)
        return [
            math.log(self.probability(word, self.context(ids[max(0, place - self.order) : place])))
            for place, word in enumerate(ids)
        ]

    def likeliest(self, tokens: Sequence[str], count: int) -> dict[str, float]:
        """The words that are likeliest after the tokens, with their log probabilities."""
        context = self.context(self.ids(tokens[-self.order :]))
        named, _ = self._written_out(context, allow_end=True)
        others = islice((word for word in self._by_unigram if word not in named), count)
        found = ((self.probability(word, context), word) for word in {*named, *others})
        return {self.vocabulary[word]: math.log(p) for p, word in heapq.nlargest(count, found)}

    def generate(self, prompt: Sequence[str], sampling: Sampling, rng: random.Random) -> Iterator[str | None]:
        """The words after the prompt, without end except for one `None` where the model ends its paragraph."""
        context = self.context(self.ids(prompt))
        vocabulary = self.vocabulary
        while True:
            word = self._next(context, sampling, rng)
            if word == END_ID:
                yield None
                return
            yield vocabulary[word]
            context = (*context[1:], word)

    def _next(self, context: Context, sampling: Sampling, rng: random.Random) -> int:
        if sampling.temperature == 0.0:
            return self._most_likely(context, sampling)
        draw = self._draws.get((context, sampling)) or self._remember(context, sampling)
        point = rng.random() * draw.total
        if draw.cumulative and point < draw.cumulative[-1]:
            return draw.words[bisect_right(draw.cumulative, point)]
        return self._other_word(context, sampling, draw, rng)

    def _other_word(self, context: Context, sampling: Sampling, draw: _Draw, rng: random.Random) -> int:
        others = self._tempered_unigrams(sampling.temperature, sampling.allow_end)
        last = len(others.words) - 1
        for _ in range(_REJECTIONS):
            word = others.words[min(bisect_right(others.cumulative, rng.random() * others.total), last)]
            if word not in draw.named:
                return word
        # At a low temperature nearly all the weight may be on words that are written out: list what is left.
        left = [word for word in others.words if word not in draw.named and others.weights[word] > 0.0]
        if not left:
            return self._most_likely(context, sampling)
        return rng.choices(left, [others.weights[word] for word in left])[0]

    def _remember(self, context: Context, sampling: Sampling) -> _Draw:
        draw = self._draw(context, sampling)
        while self._draws and self._cached_words + len(draw.words) > _CACHED_WORDS:
            self._cached_words -= len(self._draws.pop(next(iter(self._draws))).words)
        self._draws[context, sampling] = draw
        self._cached_words += len(draw.words)
        return draw

    def _written_out(self, context: Context, allow_end: bool) -> tuple[dict[int, float], float]:
        """The words that some level of the context names, and the factor on the unigram of all others.

        Words that must not be drawn are named with the probability 0.
        """
        named: dict[int, float] = {}
        constant = 1.0
        for length, level in enumerate(self.levels, 1):
            followers = level.get(context[-length:])
            if followers is None:
                continue
            constant *= followers.backoff
            for word in named:
                named[word] *= followers.backoff
            for word, own in followers.own.items():
                # A word new at this level brings what the shorter contexts give it: its unigram times their factors.
                named[word] = own + (named[word] if word in named else constant * self.unigram[word])
        named[UNKNOWN_ID] = 0.0
        if not allow_end:
            named[END_ID] = 0.0
        return named, constant

    def _draw(self, context: Context, sampling: Sampling) -> _Draw:
        named, constant = self._written_out(context, sampling.allow_end)
        others = self._tempered_unigrams(sampling.temperature, sampling.allow_end)
        power = 1.0 / sampling.temperature
        commonest = constant * self.unigram[others.words[0]]
        # Scaled by the largest that may be drawn, or a low temperature would make everything zero.
        peak = max(commonest, *named.values())
        weights = {word: (probability / peak) ** power for word, probability in named.items()}
        factor = (commonest / peak) ** power
        left = others.total - math.fsum(others.weights[word] for word in named)
        rest = factor * left if left > 0.0 and len(named) < len(self.vocabulary) else 0.0
        if sampling.truncates:
            return self._truncated(weights, factor, rest, others, sampling)
        cumulative = list(accumulate(weights.values()))
        return _Draw(list(weights), cumulative, cumulative[-1] + rest, weights)

    def _truncated(
        self, weights: Mapping[int, float], factor: float, rest: float, others: _Unigrams, sampling: Sampling
    ) -> _Draw:
        """The likeliest words only: `min_p`, then `top_k`, then the fewest that hold `top_p` of what is left."""
        named = sorted(((weight, word) for word, weight in weights.items()), reverse=True)
        unnamed = ((factor * others.weights[word], word) for word in others.words if word not in weights)
        ranked: Iterator[tuple[float, int]] = heapq.merge(named, unnamed, key=itemgetter(0), reverse=True)
        if sampling.min_p > 0.0 or sampling.top_k > 0:
            best = max(named[0][0], factor if others.words[0] not in weights else 0.0)
            likely = takewhile(lambda pair: pair[0] > 0.0 and pair[0] >= sampling.min_p * best, ranked)
            kept = list(islice(likely, sampling.top_k or None))
            mass, ranked = math.fsum(weight for weight, _ in kept), iter(kept)
        else:
            mass = math.fsum(weights.values()) + rest
        enough = sampling.top_p * mass
        words: list[int] = []
        cumulative: list[float] = []
        total = 0.0
        for weight, word in ranked:
            total += weight
            words.append(word)
            cumulative.append(total)
            if total >= enough and sampling.top_p < 1.0:
                break
        return _Draw(words, cumulative, total, {})

    def _tempered_unigrams(self, temperature: float, allow_end: bool) -> _Unigrams:
        cached = self._tempered.get((temperature, allow_end))
        if cached is not None:
            return cached
        words = [word for word in self._by_unigram if word != UNKNOWN_ID and (allow_end or word != END_ID)]
        peak = self.unigram[words[0]]
        weights = [0.0] * len(self.unigram)
        for word in words:
            weights[word] = (self.unigram[word] / peak) ** (1.0 / temperature)
        cumulative = list(accumulate(weights[word] for word in words))
        if len(self._tempered) >= _CACHED_TEMPERATURES:
            self._tempered.pop(next(iter(self._tempered)))
        made = self._tempered[temperature, allow_end] = _Unigrams(words, cumulative, cumulative[-1], weights)
        return made

    def _most_likely(self, context: Context, sampling: Sampling) -> int:
        cached = self._greedy.get((context, sampling.allow_end))
        if cached is not None:
            return cached
        named, constant = self._written_out(context, sampling.allow_end)
        other = next((word for word in self._by_unigram if word not in named), None)
        if other is not None:
            named[other] = constant * self.unigram[other]
        best = min(named, key=lambda word: (-named[word], word))
        if len(self._greedy) >= _CACHED_CONTEXTS:
            self._greedy.pop(next(iter(self._greedy)))
        self._greedy[context, sampling.allow_end] = best
        return best

    def dumps(self) -> str:
        """The same model gives the same text, byte for byte: ordered, no time, and not compressed, as zlibs differ."""
        levels = [
            [[list(context), level[context].backoff, _flat(level[context].own)] for context in sorted(level)]
            for level in self.levels
        ]
        document = {"format": FORMAT, "vocabulary": self.vocabulary, "unigram": self.unigram, "levels": levels}
        return json.dumps(document, separators=(",", ":")) + "\n"

    @classmethod
    def loads(cls, text: str | bytes) -> "NgramModel":
        try:
            document = json.loads(text)
            if document["format"] != FORMAT:
                raise ArtifactError(f"{MODEL_FILE} has the format {document['format']!r}, expected {FORMAT!r}.")
            levels = [
                {
                    tuple(context): Followers(dict(zip(own[::2], own[1::2], strict=True)), backoff)
                    for context, backoff, own in level
                }
                for level in document["levels"]
            ]
            vocabulary, unigram = document["vocabulary"], document["unigram"]
            if len(vocabulary) != len(unigram) or vocabulary[:2] != [UNKNOWN, END] or not levels:
                raise ArtifactError(f"{MODEL_FILE} is inconsistent: vocabulary, unigram and levels do not fit.")
        except (ValueError, KeyError, TypeError) as error:
            raise ArtifactError(f"{MODEL_FILE} cannot be read: {error!r}.") from error
        return cls(vocabulary, unigram, levels)


def load(folder: Path) -> tuple[NgramModel, dict[str, object]]:
    """The model and its `config.json`."""
    try:
        config = json.loads((folder / CONFIG_FILE).read_bytes())
        text = (folder / MODEL_FILE).read_bytes()
    except OSError as error:
        raise ArtifactError(f"{folder} is not a model folder: {error.strerror} ({error.filename}).") from error
    except ValueError as error:
        raise ArtifactError(f"{CONFIG_FILE} cannot be read: {error}.") from error
    if not isinstance(config, dict):
        raise ArtifactError(f"{CONFIG_FILE} must hold an object.")
    return NgramModel.loads(text), config


def _flat(own: Mapping[int, float]) -> list[float]:
    return [number for word in sorted(own) for number in (word, own[word])]
