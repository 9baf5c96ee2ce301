"""Announce up: what happened, told after commit. `deploypipe/wiring.py` says who listens.

An announcement that is lost (a crash right after the commit) costs a second, never correctness: beat asks the database
what is due anyway.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from django.db import transaction

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Event:
    """Base of all events; subclasses are named in the past tense and carry ids only."""


E = TypeVar("E", bound=Event)
_subscribers: dict[type[Event], list[Callable[[Any], None]]] = defaultdict(list)


def subscribe(kind: type[E], listener: Callable[[E], None]) -> None:
    if listener not in _subscribers[kind]:
        _subscribers[kind].append(listener)


def unsubscribe(kind: type[E], listener: Callable[[E], None]) -> None:
    _subscribers[kind].remove(listener)


def announce(event: Event) -> None:
    transaction.on_commit(lambda: _tell(event))


def _tell(event: Event) -> None:
    for listener in list(_subscribers[type(event)]):
        try:
            listener(event)
        except Exception:
            # The change is committed; a listener's fault must not look like the verb's.
            logger.exception("%s failed on %s", listener, event)
