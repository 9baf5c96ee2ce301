"""What an experiment was decided from, as one file: settings, windows and every look. Plain Python.

`replay` reads it; anybody can compute each verdict again from it, without this product's database.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from deploypipe.metrics.windows import Measured, from_json, to_json

FORMAT = "deploypipe-experiment-evidence-1"


class EvidenceError(ValueError):
    """The text says which part of the file cannot be used, and why."""


@dataclass(frozen=True, slots=True)
class Look:
    """A snapshot as it was stored."""

    last_window: int
    """-1 before the first window."""
    at: str
    verdict: str
    sentence: str
    seconds: float
    provider_problem: str | None
    gone: Mapping[str, str]
    detail: Mapping[str, Any]
    code_version: str
    digest: str

    @property
    def closed_after(self) -> int | None:
        """Number of the last window that the closing look has seen, if that was taken by then."""
        after: int | None = self.detail.get("closed_after")
        return after

    def to_json(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.__dataclass_fields__}

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> Look:
        """TypeError names what is not of its kind."""
        look = cls(**stored)
        kinds: dict[str, tuple[type, ...]] = {
            "last_window": (int,), "seconds": (int, float), "provider_problem": (str, type(None)), "gone": (Mapping,),
            "detail": (Mapping,),
        }  # fmt: skip
        for name, kind in kinds.items():
            if not isinstance(getattr(look, name), kind):
                raise TypeError(f"{name} is {getattr(look, name)!r}")
        if not isinstance(look.closed_after, int | None):
            raise TypeError(f"detail.closed_after is {look.closed_after!r}")
        return look


@dataclass(frozen=True, slots=True)
class Evidence:
    experiment: Mapping[str, Any]
    """Id, name, versions: for people."""
    settings: Mapping[str, Any]
    arms: tuple[str, ...]
    """The candidates."""
    windows: tuple[Measured, ...]
    looks: tuple[Look, ...]
    """Oldest first."""


def chain(before: str, windows: Iterable[Measured]) -> str:
    """The digest of all windows so far, from that of those before: any batching gives the same. sha256, hexadecimal."""
    digest = before
    for window in windows:
        line = json.dumps(to_json(window), sort_keys=True, separators=(",", ":"))
        digest = hashlib.sha256(f"{digest}\n{line}".encode()).hexdigest()
    return digest


def head(experiment: Mapping[str, Any], settings: Mapping[str, Any], arms: Sequence[str]) -> dict[str, Any]:
    return {"format": FORMAT, "experiment": dict(experiment), "settings": dict(settings), "arms": list(arms)}


def to_file(evidence: Evidence) -> dict[str, Any]:
    return {
        **head(evidence.experiment, evidence.settings, evidence.arms),
        "windows": [to_json(window) for window in evidence.windows],
        "looks": [look.to_json() for look in evidence.looks],
    }


def from_file(stored: Any) -> Evidence:
    if not isinstance(stored, Mapping) or stored.get("format") != FORMAT:
        said = stored.get("format") if isinstance(stored, Mapping) else type(stored).__name__
        raise EvidenceError(f"This is no evidence of an experiment: its format is {said!r}, not {FORMAT!r}.")
    place = "experiment"
    try:
        experiment = dict(stored["experiment"])
        place = "settings"
        settings = dict(stored["settings"])
        place = "arms"
        arms = tuple(str(arm) for arm in stored["arms"])
        windows, looks = [], []
        for number, window in enumerate(stored["windows"]):
            place = f"windows[{number}]"
            windows.append(from_json(window))
        for number, look in enumerate(stored["looks"]):
            place = f"looks[{number}]"
            looks.append(Look.from_json(look))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise EvidenceError(f"The evidence cannot be read: {place}: {type(error).__name__}: {error}.") from error
    return Evidence(experiment, settings, arms, tuple(windows), tuple(looks))
