from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry.artifacts import ArtifactError, FileEntry, Manifest, build, local_path, parse, verify

SHA = "0" * 64


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "model" / "parts").mkdir(parents=True)
    (tmp_path / "model" / "weights.bin").write_bytes(b"abcdef")
    (tmp_path / "model" / "parts" / "more.bin").write_bytes(b"xyz")
    return tmp_path / "model"


def test_manifest_lists_every_file_with_size_and_digest(folder: Path) -> None:
    manifest = build(folder)
    assert [(e.path, e.size) for e in manifest.files] == [("parts/more.bin", 3), ("weights.bin", 6)]
    assert manifest.files[1].sha256 == "bef57ec7f53a6d40beb640a780a639c83bc29ac8a9816f1fc6c5c6dcd93c4721"  # FIPS 180-4
    assert manifest.size == 9
    assert verify(folder, manifest) == []


def test_tampered_byte_is_found(folder: Path) -> None:
    manifest = build(folder)
    (folder / "weights.bin").write_bytes(b"abcdeg")
    assert [m.path for m in verify(folder, manifest)] == ["weights.bin"]
    assert verify(folder, manifest)[0].sentence.startswith("weights.bin has SHA-256 ")
    assert build(folder).digest != manifest.digest


def test_missing_longer_and_extra_files_are_each_named(folder: Path) -> None:
    manifest = build(folder)
    (folder / "parts" / "more.bin").unlink()
    (folder / "weights.bin").write_bytes(b"abcdefg")
    (folder / "extra.bin").write_bytes(b"")
    assert [m.sentence for m in verify(folder, manifest)] == [
        "parts/more.bin is missing",
        "weights.bin has 7 bytes, 6 were registered",
        "extra.bin is there but was not registered",
    ]


def test_folder_that_is_gone_is_a_mismatch(folder: Path) -> None:
    assert verify(folder / "nowhere", build(folder))[0].sentence.endswith("is not there")


@pytest.mark.parametrize("path", ["../x", "a/../../x", "/etc/passwd", "", "a\\b", "a\0b", "..", 7, None])
def test_path_that_leads_out_of_the_folder_is_refused(path: object) -> None:
    with pytest.raises(ArtifactError, match=r"files\[0\]\.path"):
        parse({"files": [{"path": path, "size": 1, "sha256": SHA}]})


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ({}, "at least one file"),
        ({"files": []}, "at least one file"),
        ({"files": ["a"]}, "must have exactly path, size and sha256"),
        ({"files": [{"path": "a", "size": 1, "sha256": SHA, "mode": 1}]}, "must have exactly"),
        ({"files": [{"path": "a", "size": -1, "sha256": SHA}]}, "give the number of bytes"),
        ({"files": [{"path": "a", "size": True, "sha256": SHA}]}, "give the number of bytes"),
        ({"files": [{"path": "a", "size": 1, "sha256": SHA.replace("0", "G")}]}, "64 lower-case hexadecimal"),
        ({"files": [{"path": "a", "size": 1, "sha256": SHA[1:]}]}, "64 lower-case hexadecimal"),
        ({"files": [{"path": "a", "size": s, "sha256": SHA} for s in (1, 2)]}, "'a' is listed twice"),
    ],
)
def test_manifest_that_is_wrong_says_where(value: dict[str, object], words: str) -> None:
    with pytest.raises(ArtifactError, match=words):
        parse(value)


names = st.text(st.characters(categories=("Ll", "Nd")), min_size=1, max_size=8)
entries = st.builds(
    FileEntry,
    path=st.lists(names, min_size=1, max_size=3).map("/".join),
    size=st.integers(0, 2**50),
    sha256=st.text("0123456789abcdef", min_size=64, max_size=64),
)
manifests = st.lists(entries, min_size=1, max_size=8, unique_by=lambda e: e.path).map(sorted).map(tuple).map(Manifest)


@given(manifests, st.randoms())
def test_manifest_survives_json_in_any_order_with_the_same_digest(manifest: Manifest, random: object) -> None:
    value = json.loads(json.dumps(manifest.to_json()))
    random.shuffle(value["files"])  # type: ignore[attr-defined]
    assert parse(value) == manifest
    assert parse(value).digest == manifest.digest


@given(manifests, manifests)
def test_different_manifests_have_different_digests(one: Manifest, other: Manifest) -> None:
    assert (one.digest == other.digest) == (one == other)


@given(st.dictionaries(names, st.binary(max_size=50), min_size=1, max_size=5), st.data())
def test_any_changed_byte_of_any_file_is_found(files: dict[str, bytes], data: st.DataObject) -> None:
    with tempfile.TemporaryDirectory() as path:
        folder = Path(path)
        for name, content in files.items():
            (folder / name).write_bytes(content)
        manifest = parse(build(folder).to_json())
        assert verify(folder, manifest) == []
        name = data.draw(st.sampled_from(sorted(files)))
        changed = data.draw(st.binary(max_size=50).filter(lambda content: content != files[name]))
        (folder / name).write_bytes(changed)
        assert [m.path for m in verify(folder, manifest)] == [name]


@pytest.mark.parametrize("uri", ["file:///data/my%20model", "file://localhost/data/my%20model", "/data/my model"])
def test_address_on_this_machine_is_a_path(uri: str) -> None:
    assert local_path(uri) == Path("/data/my model")


@pytest.mark.parametrize("uri", ["s3://bucket/model", "file://elsewhere/model", "model", "file:model", ""])
def test_address_elsewhere_is_refused(uri: str) -> None:
    with pytest.raises(ArtifactError, match="give file:///"):
        local_path(uri)


def test_folder_without_files_is_no_artifact(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="holds no file"):
        build(tmp_path)


def test_link_to_a_file_outside_is_not_followed_unseen(folder: Path, tmp_path: Path) -> None:
    """Its bytes count like those of any file: when what it points to changes, so does the digest."""
    outside = tmp_path / "outside.bin"
    outside.write_bytes(b"one")
    os.symlink(outside, folder / "link.bin")
    manifest = build(folder)
    outside.write_bytes(b"two")
    assert [m.path for m in verify(folder, manifest)] == ["link.bin"]


def test_link_to_a_folder_would_hide_bytes_from_the_digest_and_is_refused(folder: Path, tmp_path: Path) -> None:
    manifest = build(folder)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "adapter.bin").write_bytes(b"unseen")
    os.symlink(tmp_path / "elsewhere", folder / "adapters")
    assert [m.sentence for m in verify(folder, manifest)] == ["adapters is a link to a folder"]
    with pytest.raises(ArtifactError, match="adapters is a link to a folder"):
        build(folder)
