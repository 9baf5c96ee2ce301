"""Values from the environment, typed. A wrong value is an error that names the variable and what would be right.

Only `settings.py` reads these; the rest of the code uses `django.conf.settings`. An empty value counts as not set, as
compose files and manifests leave it.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import parse_qsl, unquote, urlsplit

PREFIX = "DEPLOYPIPE_"
N = TypeVar("N", int, float)
_TRUE = {"1", "true", "yes", "on"}
_FALSE = {"0", "false", "no", "off"}


class WrongValue(ValueError):
    def __init__(self, name: str, value: str, right: str) -> None:
        super().__init__(f"{PREFIX}{name}={value!r} is not usable: {right}")


def text(name: str, default: str) -> str:
    return os.environ.get(PREFIX + name) or default


def one_of(name: str, default: str, choices: Collection[str]) -> str:
    """One of `choices`, which are upper-case, however it is written."""
    value = text(name, default)
    if value.upper() not in choices:
        raise WrongValue(name, value, f"say {', '.join(choices)}")
    return value.upper()


def words(name: str, default: str) -> list[str]:
    """A comma-separated list; blanks around the commas are dropped."""
    return [word.strip() for word in text(name, default).split(",") if word.strip()]


def flag(name: str, default: bool) -> bool:
    value = text(name, "")
    if not value:
        return default
    if value.lower() in _TRUE:
        return True
    if value.lower() in _FALSE:
        return False
    raise WrongValue(name, value, "say true or false")


def number(name: str, default: int, *, least: int = 0, most: int = 2**31) -> int:
    return _between(name, default, int, least, most, f"a whole number from {least} to {most}")


def seconds(name: str, default: float, *, least: float = 0.0, most: float = 30 * 86400.0) -> float:
    return _between(name, default, float, least, most, f"seconds from {least:g} to {most:g}")


def _between(name: str, default: N, parse: Callable[[str], N], least: N, most: N, right: str) -> N:
    value = text(name, "")
    if not value:
        return default
    try:
        parsed = parse(value)
    except ValueError:
        raise WrongValue(name, value, right) from None
    if not least <= parsed <= most:
        raise WrongValue(name, value, right)
    return parsed


def port(name: str, default: int) -> int:
    return number(name, default, least=1, most=65535)


def path(name: str, default: Path) -> Path:
    return Path(text(name, str(default))).expanduser().resolve()


def folder(name: str, default: Path) -> Path:
    """A path at which there is a folder, made where it is missing, that can be written to."""
    found = path(name, default)
    try:
        found.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=found).close()
    except OSError as error:
        raise WrongValue(name, str(found), f"it must be a folder that can be written to ({error.strerror})") from None
    return found


def secret(name: str, default: str = "") -> str:
    """From NAME, or from the file that NAME_FILE names (as container secrets are mounted). Never both."""
    given = text(name, "")
    file = text(f"{name}_FILE", "")
    if not file:
        return given or default
    if given:
        raise WrongValue(f"{name}_FILE", file, f"{PREFIX}{name} is set too; unset one of the two")
    try:
        read = Path(file).read_text().strip()
    except OSError as error:
        raise WrongValue(f"{name}_FILE", file, f"the file cannot be read ({error.strerror})") from None
    except UnicodeDecodeError:
        raise WrongValue(f"{name}_FILE", file, "the file holds something else than text") from None
    if not read:
        raise WrongValue(f"{name}_FILE", file, "the file is empty")
    return read


def kept_secret(name: str, file: Path, make: str) -> str:
    """Like `secret`; where none is given, one that is made once and kept in `file` (mode 0600)."""
    if given := secret(name):
        return given
    if not file.exists():
        _keep(file, make)
    kept = file.read_text().strip()
    if not kept:
        raise WrongValue(name, "", f"{file}, where it is kept, is empty: delete that file, and a new one is made")
    return kept


def _keep(file: Path, content: str) -> None:
    """Whole or not at all, also after a power cut; of two processes that start at once, one writes, both read that."""
    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(dir=file.parent, prefix=f".{file.name}.")
    with os.fdopen(descriptor, "w") as out:
        out.write(content)
        out.flush()
        os.fsync(out.fileno())
    try:
        os.link(temporary, file)
    except FileExistsError:
        pass
    finally:
        os.unlink(temporary)


def postgresql(name: str) -> dict[str, Any] | None:
    """A database from its address, as Django wants it; None where none is given. No error shows the address."""
    url = secret(name)
    if not url:
        return None
    right = "give postgresql://user:password@host:port/name, with %-escapes for other than letters and digits"
    parts = urlsplit(url)
    if parts.scheme not in {"postgres", "postgresql"}:
        raise WrongValue(name, f"{parts.scheme}…", right)
    try:
        port = parts.port
    except ValueError:  # its text shows what stands there, which may be a piece of the password
        raise WrongValue(name, "…", f"the port is no number from 0 to 65535; {right}") from None
    database, options = unquote(parts.path.lstrip("/")), dict(parse_qsl(parts.query))
    if not database or not parts.path.isascii() or "@" in parts.path or "/" in parts.path[1:] or parts.fragment:
        raise WrongValue(name, "…", f"it names no database; {right}")
    return {
        "ENGINE": "django.db.backends.postgresql",
        "NAME": database,
        "USER": unquote(parts.username or ""),
        "PASSWORD": unquote(parts.password or ""),
        "HOST": options.pop("host", parts.hostname or ""),
        "PORT": port or "",
        # What else libpq knows, such as ?sslmode=verify-full&sslrootcert=/etc/ca.pem: dropped, TLS would be.
        "OPTIONS": options,
    }
