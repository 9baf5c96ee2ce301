"""A decision as the page shows it: what was asked, what was seen, and how strong the evidence is."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from abtests.decision import State
from abtests.interval_bar import Bar, Row, amount, bar, interval
from deploypipe.core.status import Tone, readable
from deploypipe.metrics.criteria import Kind
from deploypipe.metrics.windows import CANDIDATE
from deploypipe.stats import words

STATES: dict[str, tuple[Tone, str, str]] = {
    State.MET: ("ok", "Met", "check-circle"),
    State.BROKEN: ("bad", "Broken", "x-circle"),
    State.OPEN: ("idle", "Open", "clock"),
    State.MISSING: ("warn", "Nothing measured", "minus"),
}
READINGS = {
    "first": "sessions by their first request",
    "whole": "whole sessions",
    "word": "sessions that said something",
    "request": "requests",
}
NBSP = "\N{NO-BREAK SPACE}"
_ARM = re.compile(r"\b(?:[Tt]he )?([Cc]andidate(?:-\d+)?)\b")
_TORN = re.compile(r"(?<=\d) (?=: \d|%|ms\b|points?\b|stars?\b)|(?<=\d[ \N{NO-BREAK SPACE}]:) (?=\d)")


@dataclass(frozen=True)
class Evidence:
    seen: str
    """ "34 : 1"."""
    needed: str
    part: int
    """Percent of the way to what is needed, on the scale of logarithms."""
    reached: bool


def evidence(seen: float, needed: float) -> Evidence:
    part, reached = round(way(seen, needed)), seen >= needed
    return Evidence(_odds(seen), _odds(needed), part if reached else min(part, 99), reached)


def way(seen: float, needed: float) -> float:
    """Percent."""
    return 0.0 if needed <= 0 else 100 * min(max(seen / needed, 0.0), 1.0)


def _odds(log_evidence: float) -> str:
    return unbroken(words.odds(log_evidence))


def unbroken(sentence: str) -> str:
    """With numbers that a line's end does not tear from what they are numbers of."""
    return _TORN.sub(NBSP, sentence)


@dataclass(frozen=True)
class Line:
    """A row of the results."""

    name: str
    role: str
    tone: Tone
    state: str
    icon: str
    estimate: str
    interval: str
    bar: Bar | None
    proof: Evidence | None
    """None: it need not be proven."""
    harm: Evidence | None
    """None: it cannot abort."""
    closing: str
    """What the exact test at the end says; empty where there is none."""
    units: str
    """ "candidate 240, stable 2,160 sessions by their first request"."""
    asymptotic: bool
    mark: str = ""
    """Why this is the row to look at; empty for the others."""


@dataclass(frozen=True)
class ArmResults:
    arm: str
    version: str
    sentence: str
    standing: str
    tone: Tone
    icon: str
    lines: list[Line]
    waits_for: Line | None
    """What is farthest from its proof; None once all is proven."""
    threatened_by: Line | None
    """What has the most evidence of harm; None where there is none yet."""

    @property
    def goes_on(self) -> bool:
        return self.standing in ("Open", "Has met everything")


STANDINGS: dict[str, tuple[Tone, str, str]] = {
    "met": ("ok", "Has met everything", "check-circle"),
    "broken": ("bad", "Broken", "x-circle"),
    "gone": ("warn", "Taken off", "minus"),
    "open": ("info", "Open", "clock"),
    "winner": ("ok", "Winner", "promote"),
}


def by_arm(detail: Mapping[str, Any], versions: Mapping[str, str]) -> list[ArmResults]:
    rows: dict[str, list[Row]] = {}
    for row in detail.get("rows", ()):
        rows.setdefault(row.get("arm", CANDIDATE), []).append(row)
    return [_arm(arm, found, detail, versions) for arm, found in rows.items()]


def _arm(arm: str, rows: Sequence[Row], detail: Mapping[str, Any], versions: Mapping[str, str]) -> ArmResults:
    said = detail.get("arms", {}).get(arm, {})
    standing = "winner" if detail.get("winner") == arm else said.get("standing", "")
    tone, label, icon = STANDINGS.get(standing, ("idle", "", ""))
    is_over = detail.get("verdict", "continue") != "continue"
    lines = [_line(row, is_over=is_over) for row in rows]
    place, mark = _decisive(rows, said.get("standing", ""), said.get("decided_by", ""))
    if place is not None:
        lines[place] = replace(lines[place], mark=mark)
    still = _least(rows, [n for n, row in enumerate(rows) if row.get("log_threshold") and row["state"] != State.MET])
    harmful = [n for n, row in enumerate(rows) if row.get("log_threshold_against") and row["log_evidence_against"] > 0]
    worst = max(harmful, key=lambda n: _against(rows[n]), default=None)
    return ArmResults(
        arm, versions.get(arm, arm), named(_sentence(said.get("sentence", "")), versions), label, tone, icon, lines,
        waits_for=None if still is None else lines[still],
        threatened_by=None if worst is None else lines[worst],
    )  # fmt: skip


def _sentence(said: str) -> str:
    text = unbroken(capital(said))
    return text if not text or text.endswith(".") else f"{text}."


def _decisive(rows: Sequence[Row], standing: str, decided_by: str) -> tuple[int | None, str]:
    if standing == "broken":
        place = next((n for n, row in enumerate(rows) if row["name"] == decided_by), None)
        return place, "This decided"
    proving = [n for n, row in enumerate(rows) if row.get("log_threshold")]
    if standing == "met":
        return _least(rows, proving), "Least evidence"
    open_ones = [n for n in proving if rows[n]["state"] != State.MET]
    return (_least(rows, open_ones), "Farthest from proof") if len(proving) > 1 else (None, "")


def _least(rows: Sequence[Row], among: Sequence[int]) -> int | None:
    return min(among, key=lambda n: rows[n]["log_evidence"] / rows[n]["log_threshold"], default=None)


def _against(row: Row) -> float:
    return float(row["log_evidence_against"] / row["log_threshold_against"])


def _line(row: Row, *, is_over: bool) -> Line:
    tone, state, icon = STATES.get(row["state"], ("idle", readable(row["state"]), "circle"))
    against, proof = row.get("log_threshold_against"), row.get("log_threshold")
    return Line(
        name=unbroken(capital(row["name"])),
        role=readable(row["role"]),
        tone=tone,
        state=state,
        icon=icon,
        estimate="–" if row["estimate"] is None else unbroken(amount(row, row["estimate"])),
        interval=unbroken(interval(row)),
        bar=bar(row),
        proof=evidence(row["log_evidence"], proof) if proof else None,
        harm=evidence(row["log_evidence_against"], against) if against is not None else None,
        closing=_closing(row, is_over=is_over),
        units=_units(row),
        asymptotic=bool(row.get("asymptotic")),
    )


def _closing(row: Row, *, is_over: bool) -> str:
    p, alpha = row.get("closing_p"), row.get("closing_alpha")
    if alpha is None:
        return ""
    if p is None:
        return "" if is_over else "One exact test more at the end"
    return f"Exact test at the end: p = {p:.2g}, harm at {alpha:.2g} or less"


def _units(row: Row) -> str:
    if "reading" not in row:
        return f"{row.get('candidate_requests', 0):,} requests"
    candidate = f"candidate {row['candidate_units']:,.0f}"
    both = candidate if row["kind"] == Kind.LIMIT else f"{candidate}, stable {row['stable_units']:,.0f}"
    return f"{both} {READINGS.get(row['reading'], '')}".rstrip()


def named(sentence: str, versions: Mapping[str, str]) -> str:
    """With the versions' names in the place of "candidate-2", where there are several."""
    if len(versions) <= 2:
        return sentence
    return _ARM.sub(lambda found: versions.get(found[1].lower(), found[0]), sentence)


def capital(text: str) -> str:
    return text[:1].upper() + text[1:]
