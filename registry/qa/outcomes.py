"""Makes what a check answered fit for JSON and the database, without a secret in it. A check is anybody's code."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence, Set
from dataclasses import replace
from numbers import Real
from typing import Any

from registry.qa.base import Finding, Outcome, Severity
from registry.scoring import Status

HIDDEN = "•••"
MOST_EVIDENCE = 256_000
MOST_TEXT = 4_000
MOST_UNIT = 40


def sound(answer: object, secrets: Sequence[str]) -> Outcome:
    """Never raises: what cannot be used becomes an error that says why."""
    try:
        return _sound(answer, [secret for secret in secrets if secret])
    except Exception as error:
        return Outcome.error(f"The check's answer cannot be used: {told(error, secrets)}")


def failed_with(error: BaseException, secrets: Sequence[str]) -> Outcome:
    return Outcome.error(f"The check failed with {told(error, secrets)}")


def told(error: BaseException, secrets: Sequence[str]) -> str:
    try:
        text = str(error) or "no text"
    except Exception:
        text = "no text"
    return f"{type(error).__name__}: {_text(text, [secret for secret in secrets if secret])}"


def _sound(answer: object, secrets: Sequence[str]) -> Outcome:
    if not isinstance(answer, Outcome):
        return Outcome.error(f"The check returned {type(answer).__name__} instead of an Outcome.")
    return replace(
        answer,
        status=Status(answer.status),
        reason=_text(answer.reason, secrets),
        value=_number(answer.value, "value"),
        limit=_number(answer.limit, "limit"),
        unit=_text(answer.unit, secrets)[:MOST_UNIT],
        evidence=_evidence(answer.evidence, secrets),
        findings=tuple(_finding(found, secrets) for found in answer.findings),
    )


def _finding(found: Finding, secrets: Sequence[str]) -> Finding:
    return Finding(Severity(found.severity), _text(found.sentence, secrets), _text(found.action, secrets))


def _number(value: object, name: str) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"its {name} is {value!r}, a number is expected")
    return float(value) if math.isfinite(value) else None


def _evidence(evidence: object, secrets: Sequence[str]) -> dict[str, Any]:
    if not isinstance(evidence, Mapping):
        raise TypeError(f"its evidence is {type(evidence).__name__}, a mapping is expected")
    cleaned: dict[str, Any] = plain(evidence, secrets)
    size = len(json.dumps(cleaned))
    return cleaned if size <= MOST_EVIDENCE else {"left_out": f"It had {size:,} bytes; {MOST_EVIDENCE:,} are kept."}


def _text(text: object, secrets: Sequence[str]) -> str:
    if not isinstance(text, str):
        raise TypeError(f"{text!r} stands where a text is expected")
    return str(plain(text, secrets))[:MOST_TEXT]


def plain(value: Any, secrets: Sequence[str] = ()) -> Any:
    """What JSON and a database can hold: no secret, no NaN, no zero character, no half of a surrogate pair."""
    if isinstance(value, str):
        for secret in secrets:
            value = value.replace(secret, HIDDEN)
        return value.replace("\0", "\N{REPLACEMENT CHARACTER}").encode(errors="replace").decode()
    if isinstance(value, Mapping):
        return {plain(str(key), secrets): plain(item, secrets) for key, item in value.items()}
    if isinstance(value, Sequence | Set) and not isinstance(value, bytes | bytearray):
        return [plain(item, secrets) for item in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, bool | int):
        return value
    return plain(str(value), secrets)
