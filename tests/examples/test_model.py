import math
import random
from collections import Counter
from itertools import islice
from pathlib import Path

import pytest

from examples.textgen.model import END_ID, UNKNOWN_ID, ArtifactError, NgramModel, Sampling, load

CONTEXTS = [(), ("the",), ("of", "the"), ("never-seen", "the"), ("nor", "this-one"), ("class", "body")]


@pytest.fixture(scope="module", params=["bigram", "trigram"])
def model(request: pytest.FixtureRequest, models: dict[str, Path]) -> NgramModel:
    return load(models[request.param])[0]


def distribution(model: NgramModel, words: tuple[str, ...], sampling: Sampling) -> dict[int, float]:
    """Word by word from the plain probabilities, as the fast way of drawing must have it."""
    context = model.context(model.ids(words))
    banned = {UNKNOWN_ID} if sampling.allow_end else {UNKNOWN_ID, END_ID}
    plain = [0.0 if w in banned else model.probability(w, context) for w in range(len(model.vocabulary))]
    powers = {word: p ** (1.0 / sampling.temperature) for word, p in enumerate(plain)}
    likely = sorted(powers, key=lambda word: -powers[word])[: sampling.top_k or None]
    least = sampling.min_p * powers[likely[0]]
    powers = {word: powers[word] for word in likely if powers[word] >= least}
    total = math.fsum(powers.values())
    kept, mass = {}, 0.0
    for word in sorted(powers, key=lambda word: -powers[word]):
        if mass >= sampling.top_p * (1 - 1e-12) or powers[word] == 0.0:
            break
        kept[word] = powers[word] / total
        mass += kept[word]
    return {word: p / mass for word, p in kept.items()}


def drawn(model: NgramModel, words: tuple[str, ...], sampling: Sampling, times: int) -> Counter[int]:
    rng = random.Random(1)
    first = (next(model.generate(words, sampling, rng)) for _ in range(times))
    return Counter(END_ID if word is None else model.ids([word])[0] for word in first)


@pytest.mark.parametrize("words", CONTEXTS)
def test_probabilities_over_the_vocabulary_sum_to_one(model: NgramModel, words: tuple[str, ...]) -> None:
    context = model.context(model.ids(words))
    probabilities = [model.probability(word, context) for word in range(len(model.vocabulary))]
    assert min(probabilities) > 0.0
    assert math.fsum(probabilities) == pytest.approx(1.0, abs=1e-9)


@pytest.mark.parametrize("words", CONTEXTS[1:3])
@pytest.mark.parametrize(
    "sampling",
    [
        Sampling(),
        Sampling(0.7),
        Sampling(1.5),
        Sampling(0.9, top_p=0.6),
        Sampling(allow_end=False),
        Sampling(1.5, top_k=5),
        Sampling(1.5, min_p=0.1),
        Sampling(1.5, top_p=0.7, top_k=20, min_p=0.01),
    ],
)
def test_words_are_drawn_as_often_as_their_probability_says(
    model: NgramModel, words: tuple[str, ...], sampling: Sampling
) -> None:
    times = 6_000
    expected, seen = distribution(model, words, sampling), drawn(model, words, sampling, times)
    assert set(seen) <= set(expected)
    for word in sorted(expected, key=lambda word: -expected[word])[:12]:
        deviation = math.sqrt(expected[word] * (1 - expected[word]) / times)
        assert seen[word] / times == pytest.approx(expected[word], abs=5 * deviation + 1e-9)


@pytest.mark.parametrize("words", CONTEXTS)
def test_temperature_zero_takes_the_most_likely_word(model: NgramModel, words: tuple[str, ...]) -> None:
    context = model.context(model.ids(words))
    best = max(range(1, len(model.vocabulary)), key=lambda word: model.probability(word, context))
    assert set(drawn(model, words, Sampling(0.0), 5)) == {best}


@pytest.mark.parametrize("words", CONTEXTS)
@pytest.mark.parametrize("temperature", [1e-320, 1e-4])
@pytest.mark.parametrize("allow_end", [True, False])
@pytest.mark.parametrize("top_p", [1.0, 0.5])
def test_low_temperatures_take_one_of_the_most_likely_words(
    model: NgramModel, words: tuple[str, ...], temperature: float, allow_end: bool, top_p: float
) -> None:
    context = model.context(model.ids(words))
    allowed = range(1 if allow_end else 2, len(model.vocabulary))
    best = max(model.probability(word, context) for word in allowed)
    for word in drawn(model, words, Sampling(temperature, top_p, allow_end), 20):
        assert model.probability(word, context) == pytest.approx(best, rel=1e-12)


@pytest.mark.parametrize("words", CONTEXTS)
@pytest.mark.parametrize("sampling", [Sampling(2.0, top_k=1), Sampling(2.0, min_p=1.0), Sampling(2.0, top_p=1e-6)])
def test_one_word_is_left_of_the_tightest_truncation(
    model: NgramModel, words: tuple[str, ...], sampling: Sampling
) -> None:
    (word,) = set(drawn(model, words, sampling, 20))
    context = model.context(model.ids(words))
    best = max(range(1, len(model.vocabulary)), key=lambda word: model.probability(word, context))
    assert model.probability(word, context) == pytest.approx(model.probability(best, context), rel=1e-12)


def test_log_probabilities_are_those_of_the_words_after_their_context(model: NgramModel) -> None:
    words = ["The", "class", "never-seen", "body"]
    ids = model.ids(words)
    expected = [math.log(model.probability(word, model.context(ids[:place]))) for place, word in enumerate(ids)]
    assert model.log_probabilities(words) == pytest.approx(expected)
    assert ids[2] == UNKNOWN_ID


def test_likeliest_words_are_listed_with_their_log_probabilities(model: NgramModel) -> None:
    context = model.context(model.ids(["of", "the"]))
    ranked = sorted((model.probability(w, context) for w in range(len(model.vocabulary))), reverse=True)
    found = model.likeliest(["of", "the"], 5)
    assert list(found.values()) == pytest.approx([math.log(p) for p in ranked[:5]])
    assert math.exp(found[next(iter(found))]) == pytest.approx(ranked[0])


def test_a_huge_temperature_makes_all_words_alike(model: NgramModel) -> None:
    assert len(drawn(model, ("of", "the"), Sampling(1e300), 1000)) > 700


def test_same_seed_gives_the_same_words(model: NgramModel) -> None:
    first, second, other = (
        list(islice(model.generate(["The"], Sampling(allow_end=False), random.Random(seed)), 30)) for seed in (7, 7, 8)
    )
    assert first == second != other


def test_unknown_word_is_never_generated(model: NgramModel) -> None:
    words = islice(model.generate(["The"], Sampling(3.0, allow_end=False), random.Random(0)), 3000)
    assert "<unk>" not in set(words)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "cannot be read"),
        ('{"format":"other"}', "expected 'textgen-ngram-1'"),
        ('{"format":"textgen-ngram-1","vocabulary":["<unk>"],"unigram":[],"levels":[]}', "inconsistent"),
        ('{"format":"textgen-ngram-1","vocabulary":["<unk>","</s>"],"unigram":[1,1],"levels":[[3]]}', "cannot be read"),
    ],
)
def test_broken_artifact_is_refused_with_a_sentence(tmp_path: Path, text: str, sentence: str) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.json").write_text(text)
    with pytest.raises(ArtifactError, match=sentence):
        load(tmp_path)


def test_folder_without_a_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="not a model folder"):
        load(tmp_path)
