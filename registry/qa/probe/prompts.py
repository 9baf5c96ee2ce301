"""What the server is asked: the probe's own short prompts, or the team's, drawn by the seed."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from registry.qa import own_files
from registry.qa.own_files import OwnFileError
from registry.qa.policy import Load
from registry.qa.probe.measured import Question

MOST_QUESTIONS = 10_000


@dataclass(frozen=True)
class Asked:
    question: Question
    max_tokens: int


def asked(load: Load, own: tuple[Question, ...], *, seed: int, purpose: str) -> Iterator[Asked]:
    """Without end. Lengths come from a stream of their own: another mix of answers leaves the prompts as they were."""
    questions = random.Random(f"{purpose} prompts {seed}")  # noqa: S311
    lengths = random.Random(f"{purpose} lengths {seed}")  # noqa: S311
    while True:
        question = questions.choice(own) if own else _ours(load, questions)
        yield Asked(question, _drawn(load.output_tokens, lengths) if load.output_tokens else load.max_tokens)


def _ours(load: Load, rng: random.Random) -> Question:
    if not load.prompt_words:
        return Question(rng.choice(PROMPTS))
    words: list[str] = []
    wanted = _drawn(load.prompt_words, rng)
    while len(words) < wanted:
        words += rng.choice(PROMPTS).split()
    return Question(" ".join(words[-wanted:]))  # the end, which is unfinished


def _drawn(mix: tuple[tuple[int, float], ...], rng: random.Random) -> int:
    return rng.choices([length for length, _ in mix], [share for _, share in mix])[0]


# -- the team's own ----------------------------------------------------------------------------------------------------


def read_questions(folder: Path | None, name: str) -> tuple[Question, ...]:
    """Raises OwnFileError, with the line where there is one."""
    content = own_files.read(folder, name)
    found: list[Question] = []
    for number, line in enumerate(content.split(b"\n"), start=1):
        if line.strip():
            try:
                found.append(_question(line))
            except (ValueError, RecursionError) as error:
                raise OwnFileError(f"Line {number} of {name} {_said(error)}.") from error
        if len(found) > MOST_QUESTIONS:
            raise OwnFileError(f"{name} has more than {MOST_QUESTIONS:,} prompts.")
    if not found:
        raise OwnFileError(f"{name} holds no prompt.")
    return tuple(found)


def _question(line: bytes) -> Question:
    """Raises ValueError with what is wrong, to stand after "line 3"."""
    try:
        value = json.loads(line, parse_constant=_refused)
        json.dumps(value, ensure_ascii=False).encode()  # half a surrogate pair can be read, and never be sent
    except UnicodeError as error:
        raise ValueError("is no UTF-8 text") from error
    except json.JSONDecodeError as error:
        raise ValueError(f"is no JSON: {error.msg} at character {error.pos + 1}") from error
    if not isinstance(value, dict) or ("prompt" in value) == ("messages" in value):
        raise ValueError('must be an object with either "prompt" or "messages"')
    if "prompt" in value:
        if not isinstance(value["prompt"], str) or not value["prompt"]:
            raise ValueError('has a "prompt" that is no text, or an empty one')
        return Question(value["prompt"])
    return Question(messages=tuple(_messages(value["messages"])))


def _refused(constant: str) -> None:
    raise ValueError(f"holds {constant}, which is no JSON")


def _messages(value: Any) -> Iterator[Mapping[str, Any]]:
    if not isinstance(value, list) or not value:
        raise ValueError('has "messages" that are no list, or an empty one')
    for message in value:
        if not isinstance(message, dict) or not isinstance(message.get("role"), str) or not message.get("content"):
            raise ValueError('has a message without "role" or "content"')
        yield message


def _said(error: ValueError | RecursionError) -> str:
    return "is nested too deeply" if isinstance(error, RecursionError) else str(error)


# -- ours --------------------------------------------------------------------------------------------------------------

# Short ones, as people write them, 24 words at most. All are unfinished: after a full stop a model may rightly end at
# once, and an empty answer counts as a failure.
PROMPTS: tuple[str, ...] = (
    "The statement is used to",
    "When a function is called, the arguments are",
    "In one sentence, a class is",
    "If the object has no such attribute, then",
    "A good summary of the meeting would be that",
    "Dear customer, we are sorry that your parcel is late, because",
    "The difference between a list and a tuple is that",
    "The value of the expression is",
    "Once upon a time, in a town by the sea,",
    "An exception is raised when",
    "To open a file and read its lines, one can",
    "The following example shows how",
    "The French word for morning is",
    "In the first step of the recipe, the flour is",
    "A module can define a function that",
    "Three things to check before a long journey are",
    "The default is to return",
    "The sky looks blue at noon and red in the evening because the",
    "The name is bound to the object in",
    "Give the engine a rest and then",
    "This method is called to implement",
    "From the sun outwards, the first planets are",
    "The loop ends as soon as",
    "It is an error if the same name is used twice in",
    "The story about the old lighthouse begins with",
    "The result of the comparison is",
    "My train was cancelled, so I would like to ask for",
    "Each item of the sequence is",
    "A generator is resumed where the",
    "The weather tomorrow will be",
    "To someone who has never seen a bicycle, one could say that it is",
    "For simple cases it is enough to",
)
