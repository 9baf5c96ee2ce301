"""From counts to probabilities: how the two models are estimated."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence

from examples.textgen import corpus
from examples.textgen.model import END, END_ID, UNKNOWN, UNKNOWN_ID, Context, Followers, NgramModel

MINIMUM_COUNT = 2

Counts = Mapping[Context, Mapping[int, int]]


def vocabulary(paragraphs: Iterable[corpus.Tokens]) -> list[str]:
    """Words seen at least twice, by name; all others are one unknown word. Both models share it, or their
    perplexities could not be compared."""
    seen = Counter(token for tokens in paragraphs for token in tokens)
    return [UNKNOWN, END, *sorted(word for word, count in seen.items() if count >= MINIMUM_COUNT)]


def witten_bell_bigram(paragraphs: Sequence[corpus.Tokens]) -> NgramModel:
    """Witten and Bell 1991, method C, as in Chen and Goodman 1999: a context that was followed by many different
    words leaves more to the shorter one."""
    words = vocabulary(paragraphs)
    counts = _counts(paragraphs, words, order=2)
    totals: Counter[int] = Counter()
    for followers in counts.values():
        totals.update(followers)
    kinds, total = len(totals), totals.total()
    uniform = kinds / (total + kinds) / len(words)
    unigram = [totals[word] / (total + kinds) + uniform for word in range(len(words))]
    level = {}
    for context, followers in counts.items():
        size = sum(followers.values()) + len(followers)
        level[context] = Followers({word: n / size for word, n in followers.items()}, len(followers) / size)
    return NgramModel(words, unigram, [level])


def kneser_ney_trigram(paragraphs: Sequence[corpus.Tokens]) -> NgramModel:
    """Interpolated modified Kneser–Ney (Chen and Goodman 1999, section 3): three discounts per order, and below the
    highest order a word counts by how many different words it follows, not by how often it is seen."""
    words = vocabulary(paragraphs)
    trigrams = _counts(paragraphs, words, order=3)
    start = len(words)
    # N1+(. v w): in how many different contexts u the pair was seen. What follows the start of a paragraph has only
    # one word before it, so there the plain count is kept.
    pairs: defaultdict[Context, Counter[int]] = defaultdict(Counter)
    for (_, middle), followers in trigrams.items():
        for word, count in followers.items():
            pairs[middle,][word] += count if middle == start else 1
    singles: Counter[int] = Counter()
    for followers in pairs.values():
        singles.update(dict.fromkeys(followers, 1))
    nothing: Followers = _discounted(singles, _discounts([singles]))
    unigram = [nothing.own.get(word, 0.0) + nothing.backoff / len(words) for word in range(len(words))]
    levels = []
    for counts in (pairs, trigrams):
        discounts = _discounts(counts.values())
        levels.append({context: _discounted(followers, discounts) for context, followers in counts.items()})
    return NgramModel(words, unigram, levels)


def _counts(paragraphs: Iterable[corpus.Tokens], words: Sequence[str], *, order: int) -> Counts:
    number = {word: place for place, word in enumerate(words)}
    start = len(words)
    counts: defaultdict[Context, Counter[int]] = defaultdict(Counter)
    for tokens in paragraphs:
        ids = [start] * (order - 1) + [number.get(token, UNKNOWN_ID) for token in tokens] + [END_ID]
        for place in range(order - 1, len(ids)):
            counts[tuple(ids[place - order + 1 : place])][ids[place]] += 1
    return counts


def _discounts(counts: Iterable[Mapping[int, int]]) -> tuple[float, float, float]:
    """Chen and Goodman's equation 17: the discounts of words counted once, twice, and more often."""
    seen = Counter(count for followers in counts for count in followers.values() if count <= 4)
    n1, n2, n3, n4 = (max(seen[count], 1) for count in (1, 2, 3, 4))
    y = n1 / (n1 + 2 * n2)
    discounts = (1 - 2 * y * n2 / n1, 2 - 3 * y * n3 / n2, 3 - 4 * y * n4 / n3)
    first, second, more = (min(max(d, 0.0), limit) for d, limit in zip(discounts, (1.0, 2.0, 3.0), strict=True))
    return first, second, more


def _discounted(followers: Mapping[int, int], discounts: tuple[float, float, float]) -> Followers:
    total = sum(followers.values())
    own, freed = {}, 0.0
    for word, count in followers.items():
        discount = discounts[min(count, 3) - 1]
        own[word] = (count - discount) / total
        freed += discount
    return Followers(own, freed / total)
