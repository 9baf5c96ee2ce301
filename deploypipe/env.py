"""Values from the environment, typed. A wrong value is an error that names the variable and what would be right.

Only `settings.py` reads these; the rest of the code uses `django.conf.settings`.
"""

from __future__ import annotations

import os
from pathlib import Path

PREFIX = "DEPLOYPIPE_"
_TRUE = {"1", "true", "yes", "on"}
_FALSE = {"0", "false", "no", "off"}


class WrongValue(ValueError):
    def __init__(self, name: str, value: str, right: str) -> None:
        super().__init__(f"{PREFIX}{name}={value!r} is not usable: {right}")


def text(name: str, default: str) -> str:
    return os.environ.get(PREFIX + name, default)


def words(name: str, default: str) -> list[str]:
    """A comma-separated list; blanks around the commas are dropped."""
    return [word.strip() for word in text(name, default).split(",") if word.strip()]


def flag(name: str, default: bool) -> bool:
    value = os.environ.get(PREFIX + name)
    if value is None or value == "":
        return default
    if value.lower() in _TRUE:
        return True
    if value.lower() in _FALSE:
        return False
    raise WrongValue(name, value, "say true or false")


def number(name: str, default: int, *, least: int = 0, most: int = 2**31) -> int:
    value = os.environ.get(PREFIX + name)
    if value is None or value == "":
        return default
    right = f"a whole number from {least} to {most}"
    try:
        parsed = int(value)
    except ValueError:
        raise WrongValue(name, value, right) from None
    if not least <= parsed <= most:
        raise WrongValue(name, value, right)
    return parsed


def seconds(name: str, default: float, *, least: float = 0.0, most: float = 30 * 86400.0) -> float:
    value = os.environ.get(PREFIX + name)
    if value is None or value == "":
        return default
    right = f"seconds from {least:g} to {most:g}"
    try:
        parsed = float(value)
    except ValueError:
        raise WrongValue(name, value, right) from None
    if not least <= parsed <= most:
        raise WrongValue(name, value, right)
    return parsed


def port(name: str, default: int) -> int:
    return number(name, default, least=1, most=65535)


def path(name: str, default: Path) -> Path:
    return Path(text(name, str(default))).expanduser().resolve()


def secret(name: str, default: str = "") -> str:
    """From NAME, or from the file that NAME_FILE names (as container secrets are mounted)."""
    file = os.environ.get(f"{PREFIX}{name}_FILE")
    if file:
        try:
            return Path(file).read_text().strip()
        except OSError as error:
            raise WrongValue(f"{name}_FILE", file, f"the file cannot be read ({error.strerror})") from None
    return os.environ.get(PREFIX + name, default)


def kept_secret(name: str, file: Path, make: str) -> str:
    """Like `secret`; where none is given, one that is made once and kept in `file` (mode 0600)."""
    if given := secret(name):
        return given
    try:
        return file.read_text().strip()
    except FileNotFoundError:
        pass
    file.parent.mkdir(parents=True, exist_ok=True)
    # O_EXCL: of two processes that start at once, one writes and the other reads what was written.
    temporary = file.with_name(f"{file.name}.{os.getpid()}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as out:
        out.write(make)
    try:
        os.link(temporary, file)
    except FileExistsError:
        pass
    finally:
        temporary.unlink()
    return file.read_text().strip()
