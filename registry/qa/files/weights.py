"""The weights of a model folder as a whole: every header read, the shards held against their index."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from registry.qa.files import gguf, safetensors
from registry.qa.files.pickles import SUFFIXES
from registry.qa.files.reading import Unreadable, json_object, shown

INDEX = "model.safetensors.index.json"
_SHARD = re.compile(r"(?P<stem>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})\.(safetensors|gguf)")
_MISTRAL = "consolidated"
NO_WEIGHTS = ("training_args.bin", "optimizer.bin", "optimizer.pt", "scheduler.pt", "scaler.pt")
"""What trainers leave behind; engines pass it over."""


def files_of(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


@dataclass
class Survey:
    headers: dict[str, safetensors.Header] = field(default_factory=dict)
    """Of those that could be read, by name."""
    heads: dict[str, gguf.Head] = field(default_factory=dict)
    looked_at: int = 0
    problems: list[str] = field(default_factory=list)
    """What keeps an engine from loading them, each a sentence without its full stop."""
    notes: list[str] = field(default_factory=list)
    """What does not, and is worth knowing."""

    def told_of(self, name: str) -> list[str]:
        """Where what is wrong with a file belongs: engines read the top folder only."""
        return self.notes if "/" in name else self.problems

    @property
    def elements(self) -> int:
        return sum(head.elements for head in self._all)

    @property
    def dtypes(self) -> dict[str, int]:
        found: dict[str, int] = {}
        for head in self._all:
            for dtype, count in head.dtypes.items():
                found[dtype] = found.get(dtype, 0) + count
        return found

    @property
    def _all(self) -> list[safetensors.Header | gguf.Head]:
        return [*self.headers.values(), *self.heads.values()]


def survey(folder: Path) -> Survey:
    found = Survey()
    names = {path.relative_to(folder).as_posix(): path for path in files_of(folder)}
    indexed = {path.name for path in _of_index(folder, list(names.values()))}
    for name, path in names.items():
        try:
            if path.suffix == ".safetensors":
                found.looked_at += 1
                found.headers[name] = safetensors.read(path)
            elif path.suffix == ".gguf":
                found.looked_at += 1
                found.heads[name] = gguf.read(path)
        except Unreadable as problem:
            unread = bool(indexed) and path.suffix == ".safetensors" and path.name not in indexed
            (found.notes if unread else found.told_of(name)).append(f"{name} {problem}")
    if INDEX in names:
        _hold_against_index(folder, found, set(names))
    else:
        _find_missing_shards(found, set(names))
    top = [name for name in (*found.headers, *found.heads) if "/" not in name]
    if top and not found.elements:
        found.problems.append(f"{top[0]} holds no tensor{_more(top)}")
    return found


def _hold_against_index(folder: Path, found: Survey, there: set[str]) -> None:
    try:
        index = json_object(folder / INDEX)
    except Unreadable as problem:
        found.problems.append(f"{INDEX} {problem}")
        return
    placed = index.get("weight_map")
    if not isinstance(placed, dict) or not all(isinstance(name, str) for name in placed.values()):
        found.problems.append(f"{INDEX} has no weight_map from tensors to files")
        return
    found.looked_at += 1
    shards = set(placed.values())
    for shard in sorted(shards - there):
        tensors = sum(1 for name in placed.values() if name == shard)
        found.problems.append(f"{shard}, with {tensors:,} tensors by {INDEX}, is missing")
    read = {name: head for name, head in found.headers.items() if name in shards}
    _compare_tensors(placed, read, found)
    if shards <= set(read):
        _compare_size(index, read, found)
    beside = sorted(name for name in set(found.headers) - shards if "/" not in name and not _is_mistral(name))
    if beside:
        found.notes.append(f"{beside[0]} is in no index, so no engine reads it{_more(beside)}")


def _compare_tensors(placed: Mapping[str, str], read: Mapping[str, safetensors.Header], found: Survey) -> None:
    there = {(tensor.name, name) for name, head in read.items() for tensor in head.tensors}
    promised = {(tensor, name) for tensor, name in placed.items() if name in read}
    if missing := sorted(promised - there):
        tensor, name = missing[0]
        found.problems.append(f"{name} does not hold {shown(tensor)}, which {INDEX} places there{_more(missing)}")
    if surplus := sorted(there - promised):
        tensor, name = surplus[0]
        found.notes.append(f"{name} holds {shown(tensor)}, which {INDEX} does not place there{_more(surplus)}")


def _compare_size(index: Mapping[str, Any], read: Mapping[str, safetensors.Header], found: Survey) -> None:
    metadata = index.get("metadata")
    claimed = metadata.get("total_size") if isinstance(metadata, dict) else None
    total = sum(head.data_bytes for head in read.values())
    if isinstance(claimed, int | float) and claimed != total:
        found.notes.append(f"{INDEX} says total_size {claimed:,} and the tensors have {total:,} bytes")


def _find_missing_shards(found: Survey, there: set[str]) -> None:
    sets: dict[tuple[str, int, str], set[int]] = {}
    for name in there:
        if match := _SHARD.fullmatch(name):
            key = (match["stem"], int(match["count"]), name.rpartition(".")[2])
            sets.setdefault(key, set()).add(int(match["number"]))
    for (stem, count, suffix), numbers in sorted(sets.items()):
        missing = count - len(numbers & set(range(1, count + 1)))
        if missing:
            found.told_of(stem).append(f"{missing} of the {count} shards {stem}-*-of-{count:05d}.{suffix} are missing")


def _is_mistral(name: str) -> bool:
    return name.startswith(_MISTRAL)


def _more(items: list[Any]) -> str:
    return f", nor {len(items) - 1} more" if len(items) > 1 else ""


@dataclass(frozen=True)
class Loaded:
    """What an engine loads as weights."""

    size: int
    what: str
    """ "3 safetensors files" """


def loaded(folder: Path) -> Loaded | None:
    """By names and sizes only. None where there is no file of a kind that is known to hold weights."""
    top = [path for path in files_of(folder) if path.parent == folder]
    tensors = [path for path in top if path.suffix == ".safetensors"]
    chosen = _of_index(folder, tensors) or [p for p in tensors if not _is_mistral(p.name)] or tensors
    for kind, paths in (
        ("safetensors", chosen),
        ("GGUF", [path for path in top if path.suffix == ".gguf"]),
        ("pickle", [path for path in top if path.suffix in SUFFIXES and path.name not in NO_WEIGHTS]),
    ):
        if paths:
            files = "file" if len(paths) == 1 else "files"
            return Loaded(sum(path.stat().st_size for path in paths), f"{len(paths)} {kind} {files}")
    return None


def _of_index(folder: Path, paths: list[Path]) -> list[Path]:
    try:
        placed = json_object(folder / INDEX).get("weight_map")
    except (Unreadable, FileNotFoundError):
        return []
    names = set(map(str, placed.values())) if isinstance(placed, dict) else set()
    return [path for path in paths if path.name in names]
