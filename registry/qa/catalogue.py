"""All checks that are installed. Another application adds its own with `@check` in its `qa_checks.py`."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable
from importlib import import_module
from typing import TypeVar

from deploypipe import plugins
from registry.qa.base import Check
from registry.qa.parameters import Parameter
from registry.scoring import CATEGORY_WEIGHTS

BUILTIN = "registry.qa.builtin"
_MODULES = (
    "compatibility",
    "sampling",
    "samplers",
    "files",
    "weights",
    "installed",
    "performance",
    "performance_limits",
    "performance_baseline",
    "security",
    "security_exposure",
    "security_splitting",
    "security_transport",
    "security_hostile",
    "security_openapi",
    "security_rate",
    "integration",
    "integration_imports",
    "quality",
)
_NAME = re.compile(r"[a-z][a-z0-9_]*\.[a-z][a-z0-9_]*")

LONGEST = 3600.0
LONGEST_TEXTS = {"name": 80, "label": 120, "category": 40}
"""What a stored result has room for."""
_FACTS: dict[str, tuple[type, ...]] = {
    "name": (str,),
    "label": (str,),
    "category": (str,),
    "weight": (int, float),
    "required": (bool,),
    "timeout": (int, float),
    "parameters": (tuple,),
    "needs_artifact": (bool,),
    "needs_server": (bool,),
    "alone": (bool,),
    "needs_live": (bool,),
    "last": (bool,),
}

_checks: dict[str, type[Check]] = {}

C = TypeVar("C", bound=type[Check])


class CheckFileError(Exception):
    """An app's `qa_checks.py` cannot be used; the text says where and what to do."""


def check(cls: C) -> C:
    """Register a check. Its name is "category.word" and stands for one class only. ValueError says what it lacks."""
    if problem := _problem(cls):
        raise ValueError(f"{cls.__qualname__} is no check that can be used: {problem}")
    if not _NAME.fullmatch(cls.name) or cls.name.partition(".")[0] != cls.category:
        raise ValueError(f'{cls.__qualname__}.name is {cls.name!r}: give "{cls.category}.word"')
    known = _checks.get(cls.name)
    if known and (known.__module__, known.__qualname__) != (cls.__module__, cls.__qualname__):
        raise ValueError(f"{cls.name!r} is already the check {known.__module__}.{known.__qualname__}")
    _checks[cls.name] = cls
    return cls


def _problem(cls: type[Check]) -> str:
    """What of the contract it does not keep; empty where it does."""
    for name, kinds in _FACTS.items():
        value = getattr(cls, name, None)
        if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
            wanted = " or ".join(kind.__name__ for kind in kinds)
            return f"{name} is {value!r}, give {wanted}" if hasattr(cls, name) else f"it has no {name} ({wanted})"
    for name, most in LONGEST_TEXTS.items():
        if not 0 < len(getattr(cls, name)) <= most:
            return f"{name} has {len(getattr(cls, name))} characters, give 1 to {most}"
    if not (math.isfinite(cls.weight) and cls.weight >= 0):
        return f"weight is {cls.weight!r}, give 0 or more"
    if not 0 < cls.timeout <= LONGEST:
        return f"timeout is {cls.timeout!r}, give seconds up to {LONGEST:g}"
    if not callable(getattr(cls, "run", None)) or cls.run is Check.run:
        return "it has no run(self, context)"
    names = [parameter.name for parameter in cls.parameters if isinstance(parameter, Parameter)]
    if len(names) != len(cls.parameters) or len(set(names)) != len(names):
        return "parameters must be Parameter objects, each with a name of its own"
    return ""


def discover(apps: Iterable[str]) -> None:
    """Import `qa_checks.py` of each app that has one. Raises CheckFileError: a gate that silently lacks a check that
    somebody demanded would approve what it should not.
    """
    plugins.discover(apps, "qa_checks", named="checks", keep=_keep, error=CheckFileError)


def _keep() -> Callable[[], None]:
    _import_ours()  # first, so that it is the app's check that meets a name which is taken, and not ours
    before = dict(_checks)

    def undo() -> None:
        _checks.clear()
        _checks.update(before)

    return undo


def _import_ours() -> None:
    for module in _MODULES:
        import_module(f"{BUILTIN}.{module}")  # here and not above: they import `check` from this module


def all_checks() -> list[type[Check]]:
    """Every check, by category, ours first; the order does not depend on who imported what first."""
    _import_ours()
    return sorted(_checks.values(), key=_place)  # stable: inside a module, the order in which it is written


def find(name: str) -> type[Check] | None:
    """None for a stored result whose check is no longer installed."""
    return next((known for known in all_checks() if known.name == name), None)


def _place(cls: type[Check]) -> tuple[int, str, int, str]:
    """By category, ours first and in the order of `_MODULES`, which is also the order in which the last ones run."""
    categories = list(CATEGORY_WEIGHTS)
    place = categories.index(cls.category) if cls.category in CATEGORY_WEIGHTS else len(categories)
    package, _, module = cls.__module__.rpartition(".")
    rank = _MODULES.index(module) if package == BUILTIN and module in _MODULES else len(_MODULES)
    return place, cls.category, rank, cls.__module__
