"""The two kinds of extension point.

`Registry`: code that is found by name (checks, strategies, gates): a decorator, discovered from the installed apps.
`Backends`: things with an alias, an address or a credential (targets, routers): settings with BACKEND and OPTIONS.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any, Generic, TypeVar

from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.utils.module_loading import autodiscover_modules, import_string

T = TypeVar("T")


class Registry(Generic[T]):
    """`module` is the file that each installed app may have, as `admin.py` is for the admin."""

    def __init__(self, noun: str, *, module: str) -> None:
        self._noun = noun
        self._module = module
        self._found: dict[str, T] = {}
        self._discovered = False

    def register(self, name: str) -> Callable[[T], T]:
        def add(item: T) -> T:
            if name in self._found and self._found[name] is not item:
                raise ImproperlyConfigured(f"Two {self._noun}s are called {name!r}.")
            self._found[name] = item
            return item

        return add

    def unregister(self, name: str) -> None:
        self._found.pop(name, None)

    def get(self, name: str) -> T | None:
        self._discover()
        return self._found.get(name)

    def names(self) -> list[str]:
        self._discover()
        return sorted(self._found)

    def __iter__(self) -> Iterator[tuple[str, T]]:
        self._discover()
        return iter(sorted(self._found.items()))

    def _discover(self) -> None:
        if not self._discovered:
            self._discovered = True
            autodiscover_modules(self._module)


class Backends(Generic[T]):
    """Instances by alias, made on first use from `settings.<name>[alias]`."""

    def __init__(self, setting: str) -> None:
        self._setting = setting
        self._made: dict[str, T] = {}
        self._lock = threading.RLock()

    def __getitem__(self, alias: str) -> T:
        with self._lock:  # of two threads that ask first, both get the same instance
            if alias not in self._made:
                self._made[alias] = self._make(alias)
            return self._made[alias]

    def aliases(self) -> list[str]:
        return sorted(getattr(settings, self._setting))

    def replace(self, alias: str, instance: T) -> None:
        """Put an instance in place: tests give a memory back end this way."""
        self._made[alias] = instance

    def forget(self) -> None:
        self._made.clear()

    def _make(self, alias: str) -> T:
        configured: dict[str, dict[str, Any]] = getattr(settings, self._setting)
        if alias not in configured:
            known = ", ".join(sorted(configured)) or "none"
            raise ImproperlyConfigured(f"{self._setting} has no {alias!r}; it has: {known}.")
        options = configured[alias].get("OPTIONS", {})
        instance: T = import_string(configured[alias]["BACKEND"])(**options)
        return instance
