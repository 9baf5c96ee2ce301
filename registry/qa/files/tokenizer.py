"""The tokenizer and the chat template of a model folder."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from registry.qa.files.reading import Unreadable, json_object

CONFIG = "tokenizer_config.json"
FAST = "tokenizer.json"
_VOCABULARIES = (
    (FAST,), ("tokenizer.model",), ("tekken.json",), ("vocab.json", "merges.txt"), ("spiece.model",),
    ("sentencepiece.bpe.model",), ("vocab.txt",),
)  # fmt: skip
_TEMPLATES = ("chat_template.jinja", "chat_template.json")
MISTRAL = "tekken.json"
"""It brings its own way of writing a chat."""


@dataclass
class Tokenizer:
    vocabulary: str = ""
    """The file, or files, that hold it; empty where there are none."""
    template: str = ""
    """Where the chat template is."""
    tokens: int | None = None
    """One more than the highest number of a token, where the file can be read for it."""
    problems: list[str] = field(default_factory=list)


def of_folder(folder: Path) -> Tokenizer:
    found = Tokenizer()
    for names in _VOCABULARIES:
        if all((folder / name).is_file() for name in names):
            found.vocabulary = " and ".join(names)
            break
    else:
        found.vocabulary = next((path.name for path in sorted(folder.glob("*.tiktoken"))), "")
    config = _read(folder, CONFIG, found)
    found.template = _template(folder, config, found)
    found.tokens = _tokens(_read(folder, FAST, found))
    _read(folder, "vocab.json", found)
    _read(folder, "special_tokens_map.json", found)
    return found


def _read(folder: Path, name: str, found: Tokenizer) -> dict[str, Any]:
    try:
        return json_object(folder / name)
    except FileNotFoundError:
        return {}
    except Unreadable as problem:
        found.problems.append(f"{name} {problem}")
        return {}


def _template(folder: Path, config: dict[str, Any], found: Tokenizer) -> str:
    inside = config.get("chat_template")
    if isinstance(inside, str | list) and inside:
        return CONFIG
    if (folder / _TEMPLATES[0]).is_file():
        return _TEMPLATES[0]
    if _read(folder, _TEMPLATES[1], found).get("chat_template"):
        return _TEMPLATES[1]
    return found.vocabulary if found.vocabulary == MISTRAL else ""


def _tokens(fast: dict[str, Any]) -> int | None:
    model, added = fast.get("model"), fast.get("added_tokens")
    vocabulary = model.get("vocab") if isinstance(model, dict) else None
    numbers: list[int] = []
    if isinstance(vocabulary, dict):
        numbers = [number for number in vocabulary.values() if isinstance(number, int)]
    elif isinstance(vocabulary, list):  # of a unigram model: the place is the number
        numbers = [len(vocabulary) - 1]
    if isinstance(added, list):
        numbers += [one["id"] for one in added if isinstance(one, dict) and isinstance(one.get("id"), int)]
    return max(numbers) + 1 if numbers else None
