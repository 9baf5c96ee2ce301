"""All checks that are installed. Another application adds its own with `@check` in its `qa_checks.py`.

Django's side calls `discover` with the installed apps; the command line with those that the environment names.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from importlib import import_module
from importlib.util import find_spec
from typing import TypeVar

from registry.qa.base import Check
from registry.scoring import CATEGORY_WEIGHTS

BUILTIN = "registry.qa.builtin"
_MODULES = ("compatibility", "performance", "security", "integration", "quality")
_NAME = re.compile(r"[a-z][a-z0-9_]*\.[a-z][a-z0-9_]*")

_checks: dict[str, type[Check]] = {}

C = TypeVar("C", bound=type[Check])


def check(cls: C) -> C:
    """Register a check. Its name is "category.word" and stands for one class only."""
    if not _NAME.fullmatch(cls.name) or cls.name.partition(".")[0] != cls.category:
        raise ValueError(f'{cls.__qualname__}.name is {cls.name!r}: give "{cls.category}.word"')
    known = _checks.get(cls.name)
    if known and (known.__module__, known.__qualname__) != (cls.__module__, cls.__qualname__):
        raise ValueError(f"{cls.name!r} is already the check {known.__module__}.{known.__qualname__}")
    _checks[cls.name] = cls
    return cls


def discover(apps: Iterable[str]) -> None:
    """Import `qa_checks.py` of each app that has one. An error inside such a file is the caller's to see."""
    for app in apps:
        if find_spec(app) is not None and find_spec(f"{app}.qa_checks") is not None:
            import_module(f"{app}.qa_checks")


def all_checks() -> list[type[Check]]:
    """Every check, by category, ours first; the order does not depend on who imported what first."""
    for module in _MODULES:
        import_module(f"{BUILTIN}.{module}")  # here and not above: they import `check` from this module
    return sorted(_checks.values(), key=_place)  # stable: inside a module, the order in which it is written


def find(name: str) -> type[Check] | None:
    """None for a stored result whose check is no longer installed."""
    return next((known for known in all_checks() if known.name == name), None)


def _place(cls: type[Check]) -> tuple[int, str, bool, str]:
    categories = list(CATEGORY_WEIGHTS)
    known = cls.category in CATEGORY_WEIGHTS
    place = categories.index(cls.category) if known else len(categories)
    return place, cls.category, not cls.__module__.startswith(f"{BUILTIN}."), cls.__module__
