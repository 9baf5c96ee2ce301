"""Whether an experiment's traffic can be trusted: who was promised what, and who got it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from abtests.decision import SRM_ALPHA
from abtests.results import Evidence, evidence, named
from abtests.sentences import log_inverse
from deploypipe.core.status import Tone
from deploypipe.metrics.windows import STABLE

FEW_UNITS = 30
"""Of an arm; with fewer every estimate swings."""


@dataclass(frozen=True)
class Assigned:
    arm: str
    version: str
    requests: int
    errors: int
    sessions: int
    rate: float | None
    expected: float | None
    """Share of new sessions that it was promised at this split, 0 to 1."""
    seen: float | None
    """That it had."""


@dataclass(frozen=True)
class Health:
    arms: list[Assigned]
    ratio: Evidence | None
    """That the split is not what was promised."""
    tone: Tone
    sentence: str
    notes: list[str]


def health(detail: Mapping[str, Any], mismatch: Mapping[str, Any] | None, versions: Mapping[str, str]) -> Health:
    promised, counted = _promised(mismatch)
    total = sum(counted.values())
    totals: Mapping[str, Mapping[str, int]] = detail.get("totals", {})
    arms = [
        Assigned(
            arm=arm,
            version=versions.get(arm, arm),
            requests=seen["requests"],
            errors=seen["errors"],
            sessions=seen.get("sessions", 0),
            rate=seen["errors"] / seen["requests"] if seen["requests"] else None,
            expected=promised.get(arm),
            seen=counted[arm] / total if arm in counted and total else None,
        )
        for arm, seen in totals.items()
    ]
    ratio = evidence(max(detail.get("log_srm_evidence", 0.0), 0.0), log_inverse(SRM_ALPHA)) if total else None
    tone, sentence = _said(ratio, detail.get("provider_problem"))
    return Health(arms, ratio, tone, sentence, list(_notes(arms, detail, versions)))


def _said(ratio: Evidence | None, problem: str | None) -> tuple[Tone, str]:
    if ratio and ratio.reached:
        return "bad", "The split is not what was promised: no comparison can be trusted."
    if problem:
        return "warn", f"The measurements cannot be read at the moment: {problem}"
    if ratio is None:
        return "idle", "No session has been counted yet."
    return "ok", "Each arm gets the share of sessions that it was promised, as far as can be told."


def _promised(mismatch: Mapping[str, Any] | None) -> tuple[dict[str, float], dict[str, int]]:
    """Shares and units of the stage that is under way."""
    if not mismatch:
        return {}, {}
    shares = {arm: float(share) for arm, share in mismatch.get("shares", ())}
    return shares, dict(zip(shares, mismatch.get("units", ()), strict=False))


def _notes(arms: Iterable[Assigned], detail: Mapping[str, Any], versions: Mapping[str, str]) -> Iterable[str]:
    by_session = detail.get("unit", "session") == "session"
    for one in arms:
        if by_session and one.requests and one.sessions < FEW_UNITS:
            share = "1 session" if one.sessions == 1 else f"{one.sessions:,} sessions"
            yield f"{one.version}: {one.requests:,} requests come from only {share}, and each session counts once."
        if one.arm != STABLE and not one.requests:
            yield f"{one.version} has not had a request yet."
    for arm, why in detail.get("gone", {}).items():
        yield f"{versions.get(arm, arm)} was taken off: {named(why, versions)}"
