"""Evidence over time as figures, in percent of what a verdict needs. Live points continue the same traces.

One candidate has a line for each criterion. Several have a line each: of what is farthest from its proof, and of what
is nearest to being called harm.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

from deploypipe.metrics.windows import CANDIDATE
from deploypipe.stats import words
from rollouts.charts import DRAWN

Figure = dict[str, Any]
Row = Mapping[str, Any]
Look = tuple[datetime, Sequence[Row]]
"""When, and the rows of its decision."""

PROOF, HARM = "proof", "harm"
NAMES = (PROOF, HARM)
_FIELDS = {
    PROOF: ("log_evidence", "log_threshold"),
    HARM: ("log_evidence_against", "log_threshold_against"),
}
_ROLES = ("candidate", "third", "fourth", "fifth", "sixth", "baseline")
_MOST = 200.0
"""Percent; evidence far beyond what is needed would press all else to the ground."""


def figures(looks: Iterable[Look], versions: Mapping[str, str]) -> dict[str, Figure]:
    """Oldest look first; `versions`: arm → the version's name."""
    found = list(looks)
    return {name: _figure(name, found, versions) for name in NAMES}


def points(at: datetime, rows: Sequence[Row]) -> dict[str, dict[str, list[Any]]]:
    """One look as points of both figures."""
    return {
        key: {"x": [at.isoformat()], "y": [value]} for name in NAMES for key, (_, value) in _values(name, rows).items()
    }


def _figure(name: str, looks: Sequence[Look], versions: Mapping[str, str]) -> Figure:
    traces: dict[str, Figure] = {}
    for at, rows in looks:
        for key, (label, value) in _values(name, rows).items():
            if key not in traces:
                role = DRAWN.get(label) or _ROLES[len(traces) % len(_ROLES)]
                meta = {"role": role, "key": key, "unit": "%"}
                # One point is no line.
                drawn = {} if len(looks) > 1 else {"mode": "lines+markers"}
                traces[key] = {"x": [], "y": [], "name": versions.get(label, label), "meta": meta, **drawn}
            traces[key]["x"].append(at.isoformat())
            traces[key]["y"].append(value)
    layout: Figure = {
        "xaxis": {"type": "date", "title": {"text": "Time (UTC)"}},
        "yaxis": {"title": {"text": "% of the evidence needed"}},
        "shapes": [_needed(name, looks[-1][1])] if traces else [],
    }
    return {"data": list(traces.values()), "layout": layout}


def _values(name: str, rows: Sequence[Row]) -> dict[str, tuple[str, float]]:
    """Key of a trace → its arm, or the words of its criterion, and how far it is."""
    _, threshold = _FIELDS[name]
    asked = [row for row in rows if row.get(threshold)]
    arms = list(dict.fromkeys(row.get("arm", CANDIDATE) for row in rows))
    if len(arms) < 2:
        return {f"{name}.{n}": (_capital(row["name"]), _part(name, row)) for n, row in enumerate(asked)}
    nearest = min if name == PROOF else max
    found = {}
    for arm in arms:
        of_arm = [_part(name, row) for row in asked if row.get("arm", CANDIDATE) == arm]
        if of_arm:
            found[f"{name}.{arm}"] = (arm, nearest(of_arm))
    return found


def _part(name: str, row: Row) -> float:
    evidence, threshold = _FIELDS[name]
    percent = 100 * float(row[evidence]) / float(row[threshold])
    return round(min(max(percent, 0.0), _MOST), 2)


def _needed(name: str, rows: Sequence[Row]) -> Figure:
    _, threshold = _FIELDS[name]
    odds = sorted({row[threshold] for row in rows if row.get(threshold)})
    least = words.odds(odds[0])
    said = least if len(odds) == 1 else f"{least} to {words.odds(odds[-1])}"
    return {
        "type": "line",
        "xref": "paper",
        "x0": 0,
        "x1": 1,
        "y0": 100,
        "y1": 100,
        # Evidence begins at nothing, so that there is room for words at the left.
        "label": {"text": f"{'Proven' if name == PROOF else 'Harm'}: {said}", "textposition": "start"},
    }


def _capital(text: str) -> str:
    short = text.removeprefix("the ")
    return short[:1].upper() + short[1:]
