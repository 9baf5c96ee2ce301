"""Every error that deploypipe raises on purpose.

DeploypipeError
├── DomainError               a person or a program asked for something that cannot be done
│   ├── Forbidden             the role is missing                                   403
│   │   └── FourEyes          the same person may not do both                       403
│   ├── IllegalTransition     the state does not allow the verb                     409
│   │   └── ConcurrentChange  somebody else was first                               409
│   ├── Conflict              an at-most-one rule would be broken                   409
│   └── Invalid               a field's value is wrong                              422
└── BackendError              the outside world did not do as asked
    ├── TargetError           starting, observing or stopping model servers
    ├── RouterError           writing or reading the traffic split
    └── EngineError           talking to a model server
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


class DeploypipeError(Exception):
    """Base of all; `str(error)` is a sentence that a person may read."""


class DomainError(DeploypipeError):
    code = "domain_error"
    status = 400

    def __init__(self, message: str, *, fields: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.fields: dict[str, str] = dict(fields or {})

    def to_json(self) -> dict[str, Any]:
        return {"code": self.code, "message": self.message, "fields": self.fields}


class Forbidden(DomainError):
    code = "forbidden"
    status = 403


class FourEyes(Forbidden):
    code = "four_eyes"


class IllegalTransition(DomainError):
    code = "illegal_transition"
    status = 409


class ConcurrentChange(IllegalTransition):
    code = "concurrent_change"


class Conflict(DomainError):
    code = "conflict"
    status = 409


class Invalid(DomainError):
    """`fields` maps the name of each wrong field to what would be right."""

    code = "invalid"
    status = 422


class BackendError(DeploypipeError):
    """`permanent` says that trying again with the same input cannot help."""

    def __init__(self, message: str, *, permanent: bool = False) -> None:
        super().__init__(message)
        self.message = message
        self.permanent = permanent


class TargetError(BackendError):
    pass


class RouterError(BackendError):
    pass


class EngineError(BackendError):
    pass
