"""A router that keeps its table in memory: for tests, and for whoever wants the product without a gateway."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from deploypipe.core.errors import RouterError
from rollouts.traffic.base import Installed, RouteTable
from rollouts.traffic.revision import revision_of, validate

Operation = Literal["write", "installed"]


class MemoryRouter:
    def __init__(self) -> None:
        self.tables: tuple[RouteTable, ...] = ()
        """What is in force."""
        self.changes = 0
        """How often a write made a difference."""
        self._revision = ""
        self._active: dict[str, int] = {}
        self._failures: list[tuple[Operation, RouterError]] = []

    def write(self, routes: Sequence[RouteTable]) -> str:
        self._fail_if_told("write")
        validate(routes)
        revision = revision_of(routes)
        if revision != self._revision:
            self.changes += 1
        self._put_in_force(routes)
        return revision

    def installed(self) -> Installed:
        self._fail_if_told("installed")
        names = {backend.name for table in self.tables for backend in table.backends}
        return Installed(
            revision=self._revision,
            weights={table.key: {b.name: b.weight for b in table.backends} for table in self.tables},
            active_requests={name: self._active.get(name, 0) for name in sorted(names)},
        )

    # What a test may say

    def fail_next(self, error: RouterError, *, operation: Operation = "write") -> None:
        """The next call of that operation raises `error`. Said twice, the next two do."""
        self._failures.append((operation, error))

    def set_active(self, backend: str, requests: int) -> None:
        self._active[backend] = requests

    def tamper(self, routes: Sequence[RouteTable]) -> None:
        """Somebody changes the data plane behind our back."""
        self._put_in_force(routes)

    def _put_in_force(self, routes: Sequence[RouteTable]) -> None:
        self.tables = tuple(routes)
        self._revision = revision_of(routes)

    def _fail_if_told(self, operation: Operation) -> None:
        for failure in self._failures:
            if failure[0] == operation:
                self._failures.remove(failure)
                raise failure[1]
