"""Compute every stored verdict again from its evidence, and compare it to the last bit. Plain Python."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from abtests import decision
from abtests.decision import Progress
from abtests.evidence import Evidence, EvidenceError, Look
from abtests.settings import parse_settings
from deploypipe.metrics.windows import Measured
from rollouts.analysis_settings import SettingsError


@dataclass(frozen=True, slots=True)
class Replayed:
    look: Look
    verdict: str
    sentence: str
    """As computed again."""
    equal: bool
    """Verdict, sentence and every number of the detail."""
    differences: tuple[str, ...]
    """Paths in the detail that differ, at most MOST of them; "windows" where they are not those that were judged."""
    other_code: bool
    """The look was taken by another version of the decision's code, which may decide otherwise."""


MOST = 10


def replay(evidence: Evidence) -> list[Replayed]:
    """EvidenceError where the settings are not those of an experiment, or a window is there twice."""
    return list(replays(evidence))


def replays(evidence: Evidence) -> Iterator[Replayed]:
    try:
        progress = decision.start(parse_settings(evidence.settings), evidence.arms)
    except (SettingsError, ValueError) as error:
        raise EvidenceError(f"The evidence cannot be replayed: settings: {error}") from error
    waiting = deque(sorted(evidence.windows, key=lambda window: window.number))
    for look in evidence.looks:
        if look.closed_after is not None and progress.closed_after is None:  # at a look that was not kept
            progress = decision.at_end(_until(look.closed_after, progress, waiting), seconds=look.seconds)
        progress = _until(look.last_window, progress, waiting)
        progress = decision.at_end(progress, seconds=look.seconds, provider_problem=look.provider_problem)
        decided = decision.decide(
            progress, seconds=look.seconds, provider_problem=look.provider_problem, gone=look.gone
        )
        yield _compared(look, decided)


def _until(last: int, progress: Progress, waiting: deque[Measured]) -> Progress:
    new = []
    while waiting and waiting[0].number <= last:
        new.append(waiting.popleft())
    try:
        return decision.advance(progress, new)
    except ValueError as error:
        raise EvidenceError(f"The evidence cannot be replayed: windows: {error}") from error


def _compared(look: Look, decided: decision.Decision) -> Replayed:
    again = json.loads(json.dumps(decided.to_json()))
    differences = list(_differences(json.loads(json.dumps(look.detail)), again, ""))
    if look.digest != decided.digest:
        differences.insert(0, "windows")
    if look.verdict != decided.verdict.value:
        differences.insert(0, "verdict")
    return Replayed(
        look,
        decided.verdict.value,
        decided.sentence,
        not differences and look.sentence == decided.sentence,
        tuple(differences[:MOST]),
        look.code_version != decided.code_version,
    )


def _differences(stored: Any, again: Any, path: str) -> Iterator[str]:
    if isinstance(stored, Mapping) and isinstance(again, Mapping):
        for name in sorted({*stored, *again}):
            place = f"{path}.{name}" if path else name
            if name in stored and name in again:
                yield from _differences(stored[name], again[name], place)
            else:
                yield place
    elif isinstance(stored, list) and isinstance(again, list) and len(stored) == len(again):
        for index, (left, right) in enumerate(zip(stored, again, strict=True)):
            yield from _differences(left, right, f"{path}[{index}]")
    elif stored != again or type(stored) is not type(again):
        yield path
