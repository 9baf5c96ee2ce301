"""What must never be shown: not in a page, an answer, a log or an entry."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from django.conf import settings

HIDDEN = "•••"


def hide(value: Any) -> Any:
    """The same text, or the same JSON-like value, without our own secrets."""
    if isinstance(value, str):
        for secret in (settings.ENGINE_API_KEY, settings.SECRET_KEY):
            value = value.replace(secret, HIDDEN) if secret else value
        return value
    if isinstance(value, Mapping):
        return {hide(key): hide(item) for key, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, bytes | bytearray):
        return [hide(item) for item in value]
    return value
