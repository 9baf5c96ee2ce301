"""What pickles import is seen without loading them."""

from __future__ import annotations

import collections
import io
import pickle
import pickletools
import struct
import zipfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry.qa.files.pickles import UNKNOWN_NAME, Pickle, inspect


class Runs:
    """Runs a command when it is loaded. No test loads it."""

    def __reduce__(self) -> tuple[object, ...]:
        import os

        return os.system, ("exit 7",)


def inspected(tmp_path: Path, content: bytes, name: str = "model.bin") -> Pickle | None:
    path = tmp_path / name
    path.write_bytes(content)
    return inspect(path, name)


def archive(**members: bytes) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as file:
        for name, content in members.items():
            file.writestr(f"archive/{name.replace('_', '.')}", content)
    return stream.getvalue()


def by_name(*words: str) -> bytes:
    """STACK_GLOBAL on two short texts."""
    texts = b"".join(b"\x8c" + bytes([len(word)]) + word.encode() for word in words)
    return b"\x80\x04" + texts + b"\x93."


ORDINARY = collections.OrderedDict(a=bytearray(b"1"), b={1, 2}, c=3 + 4j, d=2**70, e="x" * 5000, f=[1.5, None, True])


@pytest.mark.parametrize("protocol", range(6))
def test_what_python_itself_pickles_is_followed(tmp_path: Path, protocol: int) -> None:
    found = inspected(tmp_path, pickle.dumps(ORDINARY, protocol))
    assert found is not None
    assert (found.strange, found.problem) == ([], "")
    assert "collections.OrderedDict" in found.imports


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("name", ["model.bin", "model.pkl", "model.pt"])
def test_command_that_would_run_is_seen(tmp_path: Path, protocol: int, name: str) -> None:
    found = inspected(tmp_path, pickle.dumps({"weights": Runs()}, protocol), name)
    assert found is not None
    assert found.strange == ["posix.system"]


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_pickle_under_an_innocent_name_is_recognised_by_its_content(tmp_path: Path, protocol: int) -> None:
    found = inspected(tmp_path, pickle.dumps(Runs(), protocol), "weights.json")
    assert found is not None
    assert found.strange == ["posix.system"]


def test_archive_of_torch_is_looked_into(tmp_path: Path) -> None:
    tensor = (
        b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\nq\0(ctorch\nBFloat16Storage\nq\1ccollections\nOrderedDict\nq\2t."
    )
    found = inspected(tmp_path, archive(data_pkl=tensor, version=b"3\n"))
    assert found is not None
    assert found.strange == []
    assert found.imports == {"torch._utils._rebuild_tensor_v2", "torch.BFloat16Storage", "collections.OrderedDict"}
    found = inspected(tmp_path, archive(data_pkl=tensor, constants_pkl=pickle.dumps(Runs(), 2)))
    assert found is not None
    assert found.strange == ["posix.system"]


def test_old_files_of_torch_are_followed_through_their_five_pickles(tmp_path: Path) -> None:
    parts = [pickle.dumps(part, 2) for part in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True})]
    content = b"".join(
        [*parts, pickle.dumps(Runs(), 2), pickle.dumps(["0"], 2), struct.pack("<q", 4), b"cos\nsystem\n"]
    )
    found = inspected(tmp_path, content, "pytorch_model.bin")
    assert found is not None
    assert (found.strange, found.problem) == (["posix.system"], "")


@pytest.mark.parametrize(
    ("content", "strange"),
    [
        (by_name("os", "system"), ["os.system"]),
        (by_name("torch.hub", "load"), ["torch.hub.load"]),
        (by_name("torch.storage", "_load_from_bytes"), ["torch.storage._load_from_bytes"]),
        (by_name("builtins", "eval"), ["builtins.eval"]),
        (by_name("collections", "OrderedDict.__init__.__globals__"), ["collections.OrderedDict.__init__.__globals__"]),
        (by_name("collections", "OrderedDict"), []),
        (b"\x80\x04\x8c\x02os\x94\x8c\x06system\x94h\x00h\x01\x93.", ["os.system"]),
        (b"\x80\x04\x8c\x02os\x8c\x01x0\x8c\x06system\x93.", ["os.system"]),
        (b"\x80\x04\x8c\x06system\x8c\x02os\x85\x93.", [UNKNOWN_NAME]),
        (b"\x80\x04)\x93.", [UNKNOWN_NAME]),
        (b"(S'exit 7'\nios\nsystem\n.", ["os.system"]),
        (b"cos\nsystem\n(S'exit 7'\ntRand then what is no pickle", ["os.system"]),
    ],
)
def test_import_is_seen_however_it_is_written(tmp_path: Path, content: bytes, strange: list[str]) -> None:
    found = inspected(tmp_path, content)
    assert found is not None
    assert found.strange == strange


@pytest.mark.parametrize(
    ("content", "name"),
    [
        (bytes(range(256)) * 40, "weights.bin"),
        (b"", "empty.bin"),
        (b".", "stop.bin"),
        (b"\x80\x3e" + bytes(100), "floats.bin"),
        (b"config of the model\nand more\n", "readme.bin"),
        (b"{}", "config.json"),
        (b"PK\x03\x04 and no more", "notes.txt"),
        (archive(data_txt=b"x"), "more.bin"),
    ],
)
def test_other_files_are_no_pickles(tmp_path: Path, content: bytes, name: str) -> None:
    assert inspected(tmp_path, content, name) is None


def test_pickle_that_breaks_off_is_told_so(tmp_path: Path) -> None:
    found = inspected(tmp_path, pickle.dumps(ORDINARY, 4)[:-20])
    assert found is not None
    assert "breaks off or is damaged" in found.problem


def test_archive_that_cannot_be_opened_is_told_so(tmp_path: Path) -> None:
    found = inspected(tmp_path, archive(data_pkl=b"N.")[:-10])
    assert found is not None
    assert "an archive that cannot be looked into" in found.problem


def test_bytes_that_are_claimed_are_not_allocated(tmp_path: Path) -> None:
    found = inspected(tmp_path, b"\x80\x05\x8e" + struct.pack("<Q", 1 << 60) + b"abc")
    assert found is not None
    assert "breaks off" in found.problem


@given(st.binary(max_size=300))
def test_any_bytes_are_looked_at_without_a_fault(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "any.bin"
    for start in (b"", b"\x80\x04", b"PK\x03\x04"):
        path.write_bytes(start + content)
        found = inspect(path, "any.bin")
        assert found is None or found.name == "any.bin"


VALUES = st.lists(st.none() | st.integers() | st.text() | st.binary() | st.floats() | st.booleans())


@given(value=VALUES, protocol=st.integers(0, 5))
def test_every_instruction_is_read_as_pickletools_reads_it(
    tmp_path_factory: pytest.TempPathFactory, value: object, protocol: int
) -> None:
    content = pickle.dumps({"a": value, "b": collections.deque([1])}, protocol)
    expected = {
        str(argument).replace(" ", ".") for code, argument, _ in pickletools.genops(content) if code.name == "GLOBAL"
    }
    path = tmp_path_factory.getbasetemp() / "value.pkl"
    path.write_bytes(content)
    found = inspect(path, "value.pkl")
    assert found is not None
    assert found.problem == ""
    assert expected <= found.imports
    assert "collections.deque" in found.imports


@pytest.mark.parametrize(
    ("unpickler", "content", "name"),
    [
        (
            pickle.Unpickler,
            b"(dp0\nVk\np1\0\0\ncos\nsystem\n(Vtrue\ntRs.",
            "os.system",
        ),  # C stops at the zero character
        (pickle._Unpickler, b"cos\nsystem.", "os.system"),  # takes any character for the end of the last line
        (pickle._Unpickler, b"cantigravity\n\n.", "antigravity."),  # what is imported runs, with a name in it or not
    ],
)
def test_what_only_one_of_both_unpicklers_takes_is_seen(
    tmp_path: Path, unpickler: Any, content: bytes, name: str
) -> None:
    asked: list[str] = []

    class Blocked(unpickler):  # type: ignore[misc]
        def find_class(self, module: str, name: str) -> object:
            asked.append(f"{module}.{name}")
            raise pickle.UnpicklingError("not here")

    with pytest.raises(pickle.UnpicklingError):
        Blocked(io.BytesIO(content)).load()
    found = inspected(tmp_path, content)
    assert found is not None
    assert found.strange == asked == [name]


def test_text_is_read_as_the_unpickler_reads_it(tmp_path: Path) -> None:
    found = inspected(tmp_path, b"Vcoll\\u0065ctions\nVOrdered\\x44ict\n\x93.")
    assert found is not None
    assert found.imports == {"collections.Ordered\\x44ict"}


def test_archive_that_unpacks_to_more_than_any_pickle_is_not_unpacked(tmp_path: Path) -> None:
    content = bytearray(archive(data_pkl=pickle.dumps(ORDINARY)))
    place = content.rindex(b"PK\x01\x02")
    content[place + 24 : place + 28] = struct.pack("<I", 4_000_000_000)  # its size, by the archive's directory
    found = inspected(tmp_path, bytes(content))
    assert found is not None
    assert found.problem == "is an archive that cannot be looked into (archive/data.pkl unpacks to 4,000,000,000 bytes)"


def test_file_that_imports_without_end_is_a_problem_and_not_kept_whole(tmp_path: Path) -> None:
    found = inspected(tmp_path, b"".join(b"cm%d\nf\n" % n for n in range(10_001)) + b".")
    assert found is not None
    assert (len(found.imports), found.problem) == (10_000, "imports more than 10,000 things")
