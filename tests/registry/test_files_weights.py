"""Shards, their index, and what an engine would load of a folder."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from registry.qa.files.weights import Loaded, loaded, survey
from tests.registry.model_files import Shapes, entries, gguf, safetensors, sharded

FIRST, SECOND = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"
SHARDS: dict[str, Shapes] = {FIRST: {"a": ("F32", (4,)), "b": ("F32", (2,))}, SECOND: {"c": ("BF16", (8,))}}


def test_shards_that_fit_their_index_are_whole(tmp_path: Path) -> None:
    sharded(tmp_path, SHARDS)
    found = survey(tmp_path)
    assert (found.problems, found.notes) == ([], [])
    assert (found.elements, found.dtypes, found.looked_at) == (14, {"F32": 2, "BF16": 1}, 3)


def test_shard_that_is_missing_is_named_with_its_tensors(tmp_path: Path) -> None:
    sharded(tmp_path, SHARDS)
    (tmp_path / FIRST).unlink()
    assert survey(tmp_path).problems == [f"{FIRST}, with 2 tensors by model.safetensors.index.json, is missing"]


def test_shard_that_is_missing_is_seen_without_an_index(tmp_path: Path) -> None:
    sharded(tmp_path, SHARDS)
    (tmp_path / FIRST).unlink()
    (tmp_path / "model.safetensors.index.json").unlink()
    assert survey(tmp_path).problems == ["1 of the 2 shards model-*-of-00002.safetensors are missing"]


def test_tensor_that_is_not_where_the_index_places_it_is_named(tmp_path: Path) -> None:
    sharded(tmp_path, SHARDS)
    (tmp_path / SECOND).write_bytes(safetensors(entries({"d": ("BF16", (8,))})))
    found = survey(tmp_path)
    assert found.problems == [f"{SECOND} does not hold 'c', which model.safetensors.index.json places there"]
    assert found.notes == [f"{SECOND} holds 'd', which model.safetensors.index.json does not place there"]


def test_total_size_that_is_wrong_is_a_note_since_no_engine_goes_by_it(tmp_path: Path) -> None:
    sharded(tmp_path, SHARDS, total=99)
    found = survey(tmp_path)
    assert found.problems == []
    assert found.notes == ["model.safetensors.index.json says total_size 99 and the tensors have 40 bytes"]


@pytest.mark.parametrize("index", ["[]", "{", "{}", '{"weight_map": {"a": 1}}'])
def test_index_that_is_none_is_a_problem(tmp_path: Path, index: str) -> None:
    sharded(tmp_path, SHARDS)
    (tmp_path / "model.safetensors.index.json").write_text(index)
    assert len(survey(tmp_path).problems) == 1
    assert survey(tmp_path).problems[0].startswith("model.safetensors.index.json ")


def test_file_beside_the_index_is_a_note(tmp_path: Path) -> None:
    sharded(tmp_path, SHARDS)
    (tmp_path / "old.safetensors").write_bytes(safetensors(entries({"z": ("F32", (1,))})))
    (tmp_path / "consolidated.safetensors").write_bytes(safetensors(entries({"z": ("F32", (1,))})))
    assert survey(tmp_path).notes == ["old.safetensors is in no index, so no engine reads it"]


def test_broken_file_in_a_folder_below_is_a_note_since_engines_read_the_top_only(tmp_path: Path) -> None:
    (tmp_path / "original").mkdir()
    (tmp_path / "original" / "x.safetensors").write_bytes(b"no")
    found = survey(tmp_path)
    assert found.problems == []
    assert found.notes[0].startswith("original/x.safetensors is cut off")


def test_what_an_engine_loads_is_chosen_as_engines_choose(tmp_path: Path) -> None:
    assert loaded(tmp_path) is None
    (tmp_path / "pytorch_model.bin").write_bytes(bytes(70))
    (tmp_path / "training_args.bin").write_bytes(bytes(5))
    assert loaded(tmp_path) == Loaded(70, "1 pickle file")
    (tmp_path / "model.gguf").write_bytes(gguf({}, {}, 0))
    assert loaded(tmp_path) == Loaded(32, "1 GGUF file")
    (tmp_path / "consolidated.safetensors").write_bytes(bytes(11))
    assert loaded(tmp_path) == Loaded(11, "1 safetensors file")
    (tmp_path / "model.safetensors").write_bytes(bytes(13))
    assert loaded(tmp_path) == Loaded(13, "1 safetensors file")
    (tmp_path / "old.safetensors").write_bytes(bytes(17))
    index = {"weight_map": {"a": "model.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    assert loaded(tmp_path) == Loaded(13, "1 safetensors file")


def test_file_that_is_damaged_and_in_no_index_is_a_note_since_no_engine_reads_it(tmp_path: Path) -> None:
    sharded(tmp_path, SHARDS)
    (tmp_path / "other.safetensors").write_bytes(b"no")
    found = survey(tmp_path)
    assert found.problems == []
    assert [note[:41] for note in found.notes] == ["other.safetensors is cut off: it has 2 by"]


def test_shard_that_is_missing_in_a_folder_below_is_a_note(tmp_path: Path) -> None:
    (tmp_path / "original").mkdir()
    (tmp_path / "original" / FIRST).write_bytes(safetensors(entries(SHARDS[FIRST])))
    (tmp_path / "model.safetensors").write_bytes(safetensors(entries(SHARDS[SECOND])))
    found = survey(tmp_path)
    assert found.problems == []
    assert found.notes == ["1 of the 2 shards original/model-*-of-00002.safetensors are missing"]


@pytest.mark.parametrize(
    ("name", "content"), [("model.safetensors", safetensors({})), ("model.gguf", gguf({}, {}, 0))], ids=["st", "gguf"]
)
def test_weights_without_a_tensor_are_a_problem(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    assert survey(tmp_path).problems == [f"{name} holds no tensor"]
