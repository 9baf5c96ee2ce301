from hypothesis import given
from hypothesis import strategies as st

from examples.textgen import corpus


def test_no_held_out_paragraph_is_in_training() -> None:
    text = corpus.load()
    assert len(text.held_out) > 150
    assert len(text.training) > 8 * len(text.held_out)
    assert not set(text.training) & set(text.held_out)


def test_same_text_has_the_same_digest() -> None:
    assert corpus.load() == corpus.load()


@given(st.lists(st.sampled_from(["the", "__init__", "x", "(", ")", ".", ",", '"', "::", "="]), max_size=30))
def test_joined_words_are_never_run_together(words: list[str]) -> None:
    found = corpus.tokenize(corpus.join(words))
    assert [word for word in found if word[0].isalpha()] == [word for word in words if word[0].isalpha()]


def test_tokens_are_counted_as_they_are_cut() -> None:
    assert corpus.tokenize("if x >= 1: print(...)") == ("if", "x", ">", "=", "1", ":", "print", "(", "...", ")")
    assert corpus.count_tokens("if x >= 1: print(...)") == 10
