"""Reads the body of a request. In a file of its own: REST framework's settings name it before its views exist."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import IO, Any, NoReturn

from rest_framework.exceptions import APIException, ParseError
from rest_framework.parsers import BaseParser

LARGEST_BODY = 4 << 20
"""Bytes. The manifest of an artifact with ten thousand files fits."""
DEEPEST = 50


class TooLarge(APIException):
    status_code = 413
    default_code = "too_large"
    default_detail = f"The body is longer than {LARGEST_BODY >> 20} MiB."


class Json(BaseParser):
    """JSON by the letter: limited in size and depth, no NaN, no name twice in one object."""

    media_type = "application/json"

    def parse(
        self, stream: IO[Any], media_type: str | None = None, parser_context: Mapping[str, Any] | None = None
    ) -> Any:
        body = stream.read(LARGEST_BODY + 1)
        if len(body) > LARGEST_BODY:
            raise TooLarge
        try:
            value = json.loads(body.decode(), parse_constant=_no_constant, object_pairs_hook=_each_name_once)
            return _shallow(value)
        except RecursionError:
            raise ParseError("The JSON is nested too deeply.") from None
        except ValueError as error:  # also of the decoding, and of numbers with thousands of digits
            raise ParseError(f"The body is not JSON: {error}") from None


def _shallow(value: Any) -> Any:
    level = [value]
    for _ in range(DEEPEST):
        below = (item.values() if isinstance(item, dict) else item for item in level if isinstance(item, dict | list))
        level = [child for children in below for child in children]
        if not level:
            return value
    raise RecursionError


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a number of JSON")


def _each_name_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"{next(name for name in names if names.count(name) > 1)!r} is given twice")
    return found
