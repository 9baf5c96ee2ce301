"""Which Python objects a pickle imports when it is loaded, read from its opcodes. Nothing is ever unpickled.

A pickle is a programme: it may import and call anything. Files of torch are pickles, plain or inside a ZIP archive.
"""

from __future__ import annotations

import os
import pickletools
import re
import struct
import zipfile
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Final

from registry.qa.files.reading import Unreadable, require_content

SUFFIXES: Final = frozenset({".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".joblib", ".dill", ".mar", ".pyt"})
"""Files that are tried also where their first bytes do not give them away: old pickles have no signature."""
MOST_OPCODES = 2_000_000
MOST_BYTES = 1 << 30
"""Of one pickle inside an archive, unpacked: the tensors lie beside it, so it is small."""
MOST_IMPORTS = 10_000
MOST_LINE = 64 * 1024
MOST_TEXT = 1024
"""Of a text in a pickle as many bytes are kept; names of modules are shorter."""
MOST_PICKLES = 8
"""Pickles that are looked at in one file, one after the other, as torch wrote them before it took to archives."""
UNKNOWN_NAME = "a name that is computed while it loads"
_TORCH_MAGIC = 0x1950A86A20F9469CFC6C
_TORCH_PICKLES = 5
_MODULE = rf"[\w.-]{{1,{MOST_TEXT}}}"
_ZIP = b"PK\x03\x04"
_PROTOCOL = 0x80

_STORAGES = (
    "Double Float Half Long Int Short Char Byte Bool BFloat16 ComplexDouble ComplexFloat QUInt8 QInt8 QInt32 QUInt4x2 "
    "QUInt2x4 Untyped"
)
_ORDINARY: Final = re.compile(
    "|".join(
        (
            r"torch(\.cuda)?\.(" + "|".join(_STORAGES.split()) + r")Storage",
            r"torch\.storage\.(Typed|Untyped)Storage",
            r"torch\.(Size|Tensor|device|dtype|layout|strided|per_tensor_affine|per_channel_affine)",
            r"torch\.(b?float|complex|u?int|quint|qint)\d+(x\d)?(_e\d+m\d+(fn|fnuz|fnu)?)?|torch\.bool",
            r"torch\._utils\._rebuild_(tensor(_v[23])?|parameter(_with_state)?|qtensor|sparse_tensor|nested_tensor"
            r"|meta_tensor_no_storage|device_tensor_from_(numpy|cpu_tensor))",
            r"torch\._tensor\._rebuild_from_type_v2",
            r"torch\.nn\.parameter\.Parameter|torch\.nn\.Parameter",
            r"torch\.serialization\._get_layout",
            r"collections\.(OrderedDict|defaultdict|Counter|deque)",
            r"numpy\.(_core|core)\.multiarray\.(_reconstruct|scalar)|numpy\.(_core|core)\.numeric\._frombuffer",
            r"numpy\.(ndarray|dtype|bool_?|generic|(u?int|float|complex)\d+)|numpy\.dtypes\.\w+DType",
            r"(builtins|__builtin__)\.(set|frozenset|list|dict|tuple|int|long|float|str|unicode|bytes|bytearray|complex"
            r"|bool|slice|range|xrange|object)",
            r"(copyreg|copy_reg)\._reconstructor",
            r"_codecs\.encode",
            r"datetime\.(datetime|date|timedelta|timezone)",
            r"argparse\.Namespace",
        )
    )
)
"""What weights are made of. Each makes data of data, unlike much else in `torch`, which can compile and download."""


@dataclass
class Pickle:
    """What was found in one file."""

    name: str
    imports: set[str] = field(default_factory=set)
    problem: str = ""
    """Why not all of it could be looked at; stands after the file's name."""

    @property
    def strange(self) -> list[str]:
        """The imports that no weights need."""
        return sorted(name for name in self.imports if not _ORDINARY.fullmatch(name))


def inspect(path: Path, name: str) -> Pickle | None:
    """None for a file that is no pickle and holds none."""
    found = Pickle(name)
    try:
        with path.open("rb") as file:
            start = file.read(64)
            file.seek(0)
            require_content(start)
            if start.startswith(_ZIP):
                return found if _archive(file, found, path.suffix.lower() in SUFFIXES) else None
            signed = len(start) > 1 and start[0] == _PROTOCOL and 2 <= start[1] <= 5
            if signed or path.suffix.lower() in SUFFIXES:
                return found if _bare(file, found, signed) else None
    except Unreadable:
        return None  # a pointer to a file; the reader of weights says so
    except OSError as error:
        found.problem = f"cannot be read: {error.strerror}"
        return found
    return None


def _archive(file: IO[bytes], found: Pickle, expected: bool) -> bool:
    try:
        with zipfile.ZipFile(file) as archive:
            members = [item for item in archive.infolist() if item.filename.endswith(".pkl")]
            for member in members:
                if member.file_size > MOST_BYTES:  # no more than it says is unpacked
                    raise ValueError(f"{member.filename} unpacks to {member.file_size:,} bytes")
                with archive.open(member) as stream:
                    _scan(stream, found)
            return bool(members)
    except (zipfile.BadZipFile, zlib.error, OSError, EOFError, ValueError, RuntimeError, struct.error) as error:
        # RuntimeError is a password, NotImplementedError (one of those) a compression that is not known.
        found.problem = f"is an archive that cannot be looked into ({error or type(error).__name__})"
        return expected or bool(found.imports)


def _bare(file: IO[bytes], found: Pickle, signed: bool) -> bool:
    try:
        first = _scan(file, found)
    except _NoPickle:
        # A loader would have carried out all that stood before the broken place.
        if found.imports or signed:
            found.problem = "is a pickle that breaks off or is damaged"
        return signed or bool(found.imports)
    if first.opcodes < 2:  # a full stop alone, in a file that is something else
        return False
    most = _TORCH_PICKLES if first.whole == _TORCH_MAGIC else MOST_PICKLES
    for _ in range(most - 1):
        following = file.read(1)
        if not following or (first.whole != _TORCH_MAGIC and following[0] != _PROTOCOL):
            break
        file.seek(-1, os.SEEK_CUR)
        try:
            _scan(file, found)
        except _NoPickle:
            found.problem = "goes on after its first pickle with something that breaks off or is damaged"
            break
    return True


class _NoPickle(ValueError):
    pass


class _Mark:
    pass


_MARK: Final = _Mark()
_PUT = frozenset({"PUT", "BINPUT", "LONG_BINPUT"})
_GET = frozenset({"GET", "BINGET", "LONG_BINGET"})
_OPCODES = {code.code.encode("latin-1"): code for code in pickletools.opcodes}
_TEXTS = frozenset(
    name for name in (code.name for code in pickletools.opcodes) if "UNICODE" in name or "STRING" in name
)
_WHOLE = frozenset({"INT", "LONG", "LONG1", "LONG4", "BININT", "BININT1", "BININT2"})


@dataclass
class _Machine:
    """The stack of the unpickler as far as texts go: the operands of an import by name lie on it."""

    found: Pickle
    stack: list[Any] = field(default_factory=list)
    memo: dict[int, Any] = field(default_factory=dict)
    opcodes: int = 0
    whole: int | None = None
    """The last whole number, in a pickle of one number."""

    def do(self, code: pickletools.OpcodeInfo, argument: Any) -> None:
        self.opcodes += 1
        if code.name in ("GLOBAL", "INST"):
            self._import(str(argument))
        elif code.name == "STACK_GLOBAL":
            names = self.stack[-2:]
            known = len(names) == 2 and all(isinstance(name, str) for name in names)
            self._import(".".join(names) if known else UNKNOWN_NAME)
        elif code.name in _WHOLE:
            self.whole = argument
        if code.name in _PUT:
            self.memo[argument] = self._top()
        elif code.name == "MEMOIZE":
            self.memo[len(self.memo)] = self._top()
        elif code.name in _GET:
            self.stack.append(self.memo.get(argument))
        elif code.name == "DUP":
            self.stack.append(self._top())
        else:
            self._move(code, argument)

    def _import(self, name: str) -> None:
        if len(self.found.imports) < MOST_IMPORTS:
            self.found.imports.add(name)
        else:
            self.found.problem = f"imports more than {MOST_IMPORTS:,} things"

    def _top(self) -> Any:
        return self.stack[-1] if self.stack else None

    def _move(self, code: pickletools.OpcodeInfo, argument: Any) -> None:
        before, after = code.stack_before, code.stack_after
        if pickletools.markobject in before or (code.name == "POP" and self._top() is _MARK):
            while self.stack and self.stack.pop() is not _MARK:
                pass
            below = before.index(pickletools.markobject) if pickletools.markobject in before else 0
            del self.stack[len(self.stack) - min(below, len(self.stack)) :]
        elif before:
            del self.stack[max(0, len(self.stack) - len(before)) :]
        for kind in after:
            if kind is pickletools.markobject:
                self.stack.append(_MARK)
            else:
                self.stack.append(argument if code.name in _TEXTS else None)


def _scan(stream: IO[bytes], found: Pickle) -> _Machine:
    """One pickle, up to its end. Raises _NoPickle at the first byte that is not of one."""
    machine = _Machine(found)
    while machine.opcodes < MOST_OPCODES:
        letter = stream.read(1)
        code = _OPCODES.get(letter)
        if code is None:
            raise _NoPickle
        machine.do(code, _argument(stream, code))
        if code.name == "STOP":
            return machine
    found.problem = f"is a pickle of which only the first {MOST_OPCODES:,} instructions were looked at"
    return machine


_LENGTHS = {
    pickletools.TAKEN_FROM_ARGUMENT1: "<B",
    pickletools.TAKEN_FROM_ARGUMENT4: "<i",
    pickletools.TAKEN_FROM_ARGUMENT4U: "<I",
    pickletools.TAKEN_FROM_ARGUMENT8U: "<Q",
}


def _argument(stream: IO[bytes], code: pickletools.OpcodeInfo) -> Any:
    """Of long texts and bytes only the start: a pickle may hold gigabytes."""
    kind = code.arg
    if kind is None:
        return None
    if kind.n == pickletools.UP_TO_NEWLINE:
        lines = [_line(stream) for _ in range(2 if code.name in ("GLOBAL", "INST") else 1)]
        return _of_lines(code, lines)
    if kind.n >= 0:
        return _number(code, _bytes(stream, kind.n))
    width = _LENGTHS[kind.n]
    length = struct.unpack(width, _bytes(stream, struct.calcsize(width)))[0]
    if length < 0:
        raise _NoPickle
    start = _bytes(stream, min(length, MOST_TEXT))
    _pass_over(stream, length - len(start))
    if code.name in _TEXTS:
        return start.decode("utf-8", errors="replace")
    return int.from_bytes(start, "little", signed=True) if code.name in ("LONG1", "LONG4") else None


def _of_lines(code: pickletools.OpcodeInfo, lines: list[bytes]) -> Any:
    texts = [line[:-1].decode("utf-8", errors="replace").strip() for line in lines]
    if code.name in ("GLOBAL", "INST"):
        module, name = texts
        if not re.fullmatch(_MODULE, module) or (name and not re.fullmatch(_MODULE, name)):  # nothing is called so
            raise _NoPickle
        return f"{module}.{name}"  # without a name the module is imported all the same
    if code.name in ("PUT", "GET", "INT", "LONG"):
        # As the unpickler, which takes what comes after the digits for nothing, or breaks off: then no more is done.
        digits = re.match(r"\s*[+-]?[0-9]{1,40}", texts[0])
        return int(digits[0]) if digits else None
    if code.name == "STRING":
        if len(texts[0]) < 2 or texts[0][0] not in "'\"":
            raise _NoPickle
        return texts[0][1:-1].encode("latin-1", "replace").decode("unicode_escape", errors="replace")
    if code.name == "UNICODE":
        return lines[0][:-1].decode("raw_unicode_escape", errors="replace")
    return None


def _number(code: pickletools.OpcodeInfo, content: bytes) -> int | None:
    if code.name == "PROTO":
        if not 0 <= content[0] <= 5:
            raise _NoPickle
        return None
    return int.from_bytes(content, "little", signed=code.name == "BININT")


def _line(stream: IO[bytes]) -> bytes:
    """With its end; at the end of the file the unpickler written in Python takes any character for one."""
    line = stream.readline(MOST_LINE)
    if len(line) == MOST_LINE and not line.endswith(b"\n"):
        raise _NoPickle
    return line


def _bytes(stream: IO[bytes], count: int) -> bytes:
    found = stream.read(count)
    if len(found) < count:
        raise _NoPickle
    return found


def _pass_over(stream: IO[bytes], count: int) -> None:
    """Read and not sought: a seek beyond the end would go unseen."""
    while count > 0:
        piece = stream.read(min(count, 1 << 20))
        if not piece:
            raise _NoPickle
        count -= len(piece)
