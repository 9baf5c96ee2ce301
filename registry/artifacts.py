"""An artifact is a folder of files; its manifest lists each with size and SHA-256; its digest names the whole."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import unquote, urlsplit

CHUNK = 1 << 20


class ArtifactError(ValueError):
    """The artifact or its manifest cannot be used; the text says why."""


@dataclass(frozen=True, order=True)
class FileEntry:
    path: str
    """Relative, with forward slashes, inside the folder."""
    size: int
    sha256: str


@dataclass(frozen=True)
class Manifest:
    files: tuple[FileEntry, ...]

    @property
    def digest(self) -> str:
        """SHA-256 over the canonical JSON of the entries; what approvals are bound to."""
        canonical = json.dumps(self.to_json(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()

    @property
    def size(self) -> int:
        return sum(entry.size for entry in self.files)

    def to_json(self) -> dict[str, Any]:
        return {"files": [{"path": e.path, "size": e.size, "sha256": e.sha256} for e in self.files]}


@dataclass(frozen=True)
class Mismatch:
    path: str
    sentence: str


def local_path(uri: str) -> Path:
    """The folder that a `file:` address or an absolute path names. Raises ArtifactError for any other."""
    parts = urlsplit(uri)
    if parts.scheme == "file" and parts.netloc in ("", "localhost"):
        path = Path(unquote(parts.path))
    elif not parts.scheme:
        path = Path(uri)
    else:
        raise ArtifactError(f"{uri!r} is not reachable from here: give file:///… or an absolute path")
    if not path.is_absolute():
        raise ArtifactError(f"{uri!r} is not an absolute path: give file:///… or a path from the root")
    return path


def build(folder: Path) -> Manifest:
    """Read every file below the folder. Raises ArtifactError when there is none."""
    if not folder.is_dir():
        raise ArtifactError(f"{folder} is not a folder")
    if links := _linked_folders(folder):
        raise ArtifactError(f"{links[0]} is a link to a folder, whose files no manifest would list: put a copy there")
    paths = sorted(p for p in folder.rglob("*") if p.is_file())
    if not paths:
        raise ArtifactError(f"{folder} holds no file")
    return Manifest(tuple(_read(folder, path) for path in paths))


def _read(folder: Path, path: Path) -> FileEntry:
    name = path.relative_to(folder).as_posix()
    if not _inside(name):
        raise ArtifactError(f"{name!r} is a name that not every machine can keep: rename the file")
    try:
        return FileEntry(name, path.stat().st_size, sha256(path))
    except OSError as error:
        raise ArtifactError(f"{name} cannot be read: {error.strerror}") from None


def parse(value: Mapping[str, Any]) -> Manifest:
    """A manifest from JSON. Raises ArtifactError that names the entry and what would be right."""
    files = value.get("files") if isinstance(value, Mapping) else None
    if not isinstance(files, list) or not files:
        raise ArtifactError('a manifest is {"files": [{"path": …, "size": …, "sha256": …}, …]} with at least one file')
    entries = tuple(sorted(_entry(item, i) for i, item in enumerate(files)))
    repeated = {a.path for a, b in pairwise(entries) if a.path == b.path}
    if repeated:
        raise ArtifactError(f"{min(repeated)!r} is listed twice")
    return Manifest(entries)


def _entry(item: Any, index: int) -> FileEntry:
    where = f"files[{index}]"
    if not isinstance(item, dict) or set(item) != {"path", "size", "sha256"}:
        raise ArtifactError(f"{where} must have exactly path, size and sha256")
    path, size, digest = item["path"], item["size"], item["sha256"]
    if not isinstance(path, str) or not _inside(path):
        raise ArtifactError(f"{where}.path is {path!r}: give a relative path inside the folder, without '..'")
    if not isinstance(size, int) or isinstance(size, bool) or size < 0:
        raise ArtifactError(f"{where}.size is {size!r}: give the number of bytes")
    if not isinstance(digest, str) or len(digest) != 64 or set(digest) - set("0123456789abcdef"):
        raise ArtifactError(f"{where}.sha256 is {digest!r}: give 64 lower-case hexadecimal digits")
    return FileEntry(path, size, digest)


def _inside(path: str) -> bool:
    """One spelling for each file: no "./a", no "a//b". And text that can be kept: no half of a surrogate pair."""
    pure = PurePosixPath(path)
    spelt_right = bool(pure.parts) and pure.as_posix() == path and ".." not in pure.parts and not pure.is_absolute()
    return spelt_right and "\\" not in path and "\0" not in path and path.encode(errors="replace").decode() == path


def verify(folder: Path, manifest: Manifest) -> list[Mismatch]:
    """Every way in which the bytes on disk are not the registered ones; empty when all match. Reads in chunks."""
    if not folder.is_dir():
        return [Mismatch(".", f"the folder {folder} is not there")]
    listed = {entry.path for entry in manifest.files}
    found = {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}
    extra = [Mismatch(path, f"{path} is there but was not registered") for path in sorted(found - listed)]
    # The engine would follow such a link, to bytes that nobody registered.
    links = [Mismatch(path, f"{path} is a link to a folder") for path in _linked_folders(folder)]
    return list(_differences(folder, manifest.files)) + extra + links


def _linked_folders(folder: Path) -> list[str]:
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_symlink() and p.is_dir())


def _differences(folder: Path, entries: Iterable[FileEntry]) -> Iterable[Mismatch]:
    for entry in entries:
        path = folder / entry.path
        try:
            if not path.is_file():
                yield Mismatch(entry.path, f"{entry.path} is missing")
            elif (size := path.stat().st_size) != entry.size:
                yield Mismatch(entry.path, f"{entry.path} has {size:,} bytes, {entry.size:,} were registered")
            elif (is_now := sha256(path)) != entry.sha256:
                was = entry.sha256[:12]
                yield Mismatch(entry.path, f"{entry.path} has SHA-256 {is_now[:12]}…, registered was {was}…")
        except OSError as error:
            yield Mismatch(entry.path, f"{entry.path} cannot be read: {error.strerror}")


def sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
    return digest.hexdigest()
