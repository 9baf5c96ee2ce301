"""What the server is asked: by the seed, in the mix that the policy sets, or from the team's own file."""

from __future__ import annotations

import json
from collections import Counter
from itertools import islice
from pathlib import Path

import pytest

from registry.qa import own_files
from registry.qa.own_files import OwnFileError
from registry.qa.policy import Load
from registry.qa.probe import prompts
from registry.qa.probe.measured import Question
from registry.qa.probe.prompts import PROMPTS, Asked, asked, read_questions


def first(count: int, load: Load, *, seed: int = 1, own: tuple[Question, ...] = ()) -> list[Asked]:
    return list(islice(asked(load, own, seed=seed, purpose="load"), count))


def test_prompts_are_short_and_differ() -> None:
    assert len(set(PROMPTS)) == len(PROMPTS) >= 24
    assert all(0 < len(prompt.split()) <= 24 for prompt in PROMPTS)


def test_seed_makes_the_requests() -> None:
    load = Load(prompt_words=((5, 1.0), (50, 1.0)), output_tokens=((8, 1.0), (64, 1.0)))
    assert first(50, load) == first(50, load) != first(50, load, seed=2)


def test_lengths_come_in_the_shares_that_the_policy_sets() -> None:
    load = Load(prompt_words=((5, 1.0), (50, 3.0)), output_tokens=((8, 0.2), (64, 0.8)))
    found = first(4000, load)
    words = Counter(len(one.question.prompt.split()) for one in found)
    tokens = Counter(one.max_tokens for one in found)
    assert {*words} == {5, 50}
    assert words[50] / 4000 == pytest.approx(0.75, abs=0.03)
    assert {*tokens} == {8, 64}
    assert tokens[64] / 4000 == pytest.approx(0.8, abs=0.03)


def test_another_mix_of_answers_leaves_the_prompts_as_they_were() -> None:
    plain, mixed = first(50, Load()), first(50, Load(output_tokens=((8, 1.0), (64, 1.0))))
    assert [one.question for one in plain] == [one.question for one in mixed]
    assert {one.max_tokens for one in plain} == {Load().max_tokens}


def test_own_prompts_are_asked_as_they_are() -> None:
    own = (Question("How do I cancel?"), Question(messages=({"role": "user", "content": "Hi"},)))
    found = first(40, Load(prompt_words=((99, 1.0),)), own=own)
    assert {one.question.prompt for one in found} == {"How do I cancel?", ""}


def test_file_of_prompts_and_messages_is_read(tmp_path: Path) -> None:
    lines = [{"prompt": "Wie geht’s?"}, {"messages": [{"role": "user", "content": "Hi"}], "note": "kept by the team"}]
    text = "\n\n".join(json.dumps(line, ensure_ascii=False) for line in lines)
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "prompts.jsonl").write_text(f"{text}\r\n", encoding="utf-8")
    found = read_questions(tmp_path, "own/prompts.jsonl")
    assert found == (Question("Wie geht’s?"), Question(messages=({"role": "user", "content": "Hi"},)))


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (b"{", "Line 2 of p.jsonl is no JSON: Expecting property name"),
        (b"[]", 'Line 2 of p.jsonl must be an object with either "prompt" or "messages"'),
        (b'{"text": "a"}', 'Line 2 of p.jsonl must be an object with either "prompt" or "messages"'),
        (b'{"prompt": "a", "messages": []}', 'with either "prompt" or "messages"'),
        (b'{"prompt": ""}', 'Line 2 of p.jsonl has a "prompt" that is no text, or an empty one'),
        (b'{"prompt": 7}', 'has a "prompt" that is no text'),
        (b'{"messages": []}', 'has "messages" that are no list, or an empty one'),
        (b'{"messages": [{"role": "user"}]}', 'has a message without "role" or "content"'),
        (b'{"prompt": "\xff"}', "Line 2 of p.jsonl is no UTF-8 text"),
        (b'{"prompt": "\\ud83d"}', "Line 2 of p.jsonl is no UTF-8 text"),
        (b'{"messages": [{"role": "user", "content": NaN}]}', "Line 2 of p.jsonl holds NaN, which is no JSON"),
        (b"[" * 100_000, "Line 2 of p.jsonl is nested too deeply"),
    ],
)
def test_wrong_line_is_named(tmp_path: Path, line: bytes, words: str) -> None:
    (tmp_path / "p.jsonl").write_bytes(b'{"prompt": "fine"}\n' + line + b"\n")
    with pytest.raises(OwnFileError) as error:
        read_questions(tmp_path, "p.jsonl")
    assert words in str(error.value)


@pytest.mark.parametrize("name", ["../secret.jsonl", "/etc/hostname", "own/../../secret.jsonl"])
def test_file_outside_the_folder_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "secret.jsonl").write_text('{"prompt": "secret"}')
    (tmp_path / "files").mkdir()
    with pytest.raises(OwnFileError, match="is not a file inside the folder for such files"):
        read_questions(tmp_path / "files", name)


def test_link_out_of_the_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "secret.jsonl").write_text('{"prompt": "secret"}')
    files = tmp_path / "files"
    files.mkdir()
    (files / "p.jsonl").symlink_to(tmp_path / "secret.jsonl")
    (files / "inside.jsonl").write_text('{"prompt": "ours"}')
    (files / "alias.jsonl").symlink_to(files / "inside.jsonl")
    with pytest.raises(OwnFileError, match="is a link to outside of the folder"):
        read_questions(files, "p.jsonl")
    assert read_questions(files, "alias.jsonl") == (Question("ours"),)


def test_file_that_is_not_there_empty_or_too_large_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty.jsonl").write_text("\n \n")
    (tmp_path / "many.jsonl").write_text('{"prompt": "a"}\n' * (prompts.MOST_QUESTIONS + 1))
    (tmp_path / "big.jsonl").write_bytes(b" " * (own_files.LARGEST + 1))
    for name, words in (
        ("none.jsonl", "There is no file 'none.jsonl' in the folder for such files."),
        ("a\0b", "is not a file inside the folder"),
        (".", "is not a file"),
        ("empty.jsonl", "empty.jsonl holds no prompt"),
        ("many.jsonl", "has more than 10,000 prompts"),
        ("big.jsonl", "'big.jsonl' has more than 16,000,000 bytes"),
    ):
        with pytest.raises(OwnFileError) as error:
            read_questions(tmp_path, name)
        assert words in str(error.value)


def test_without_a_folder_no_file_is_looked_for() -> None:
    with pytest.raises(OwnFileError, match="There is no folder for such files here"):
        read_questions(None, "prompts.jsonl")
