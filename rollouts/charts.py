"""The four figures of a rollout's page, as plain dicts. Live points carry the same keys and continue these traces."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

Figure = dict[str, Any]
Points = Mapping[str, Mapping[str, Sequence[Any]]]

NAMES = ("requests", "errors", "latency", "share")
ROLES = {"candidate": "candidate", "stable": "baseline"}
SET_KEY = "set.candidate"


def figures(
    measured: Points, wanted: Sequence[tuple[datetime, float]], limit: float | None, names: Mapping[str, str]
) -> dict[str, Figure]:
    """`wanted`: the share that was asked for, in percent, at each change. `names`: role → the version's name."""
    return {
        "requests": _figure(_pair(measured, "requests", names), "requests per reading"),
        "errors": _figure(_pair(measured, "errors", names, unit="%"), "% of requests", limit=limit),
        "latency": _figure(
            [
                *_pair(measured, "p95", names, unit="ms", suffix=" P95"),
                *_pair(measured, "p50", names, unit="ms", suffix=" P50", line={"dash": "dot", "width": 1.5}),
            ],
            "ms",
        ),
        "share": _figure(
            [
                _trace(measured, "share.candidate", f"{names['candidate']} measured", "candidate", unit="%"),
                _wanted(wanted),
            ],
            "% of requests",
            most=100,
        ),
    }


def _pair(measured: Points, quantity: str, names: Mapping[str, str], *, suffix: str = "", **more: Any) -> list[Figure]:
    return [
        _trace(measured, f"{quantity}.{role}", f"{names[role]}{suffix}", drawn, **more)
        for role, drawn in ROLES.items()
        if role in names
    ]


def _trace(
    measured: Points, key: str, name: str, role: str, *, unit: str = "", line: Mapping[str, Any] | None = None
) -> Figure:
    found = measured.get(key, {"x": [], "y": []})
    trace: Figure = {
        "x": list(found["x"]),
        "y": [None if value is None else round(value, 3) for value in found["y"]],
        "name": name,
        "meta": {"role": role, "key": key, "unit": unit},
    }
    return trace | ({"line": dict(line)} if line else {})


def _wanted(changes: Sequence[tuple[datetime, float]]) -> Figure:
    return {
        "x": [at.isoformat() for at, _ in changes],
        "y": [percent for _, percent in changes],
        "name": "Set",
        "line": {"shape": "hv"},
        "meta": {"role": "set", "key": SET_KEY, "unit": "%"},
    }


def _figure(traces: list[Figure], unit: str, *, limit: float | None = None, most: float | None = None) -> Figure:
    layout: Figure = {
        "xaxis": {"type": "date", "title": {"text": "Time (UTC)"}},
        "yaxis": {"title": {"text": unit}, **({"range": [0, most + 4]} if most else {})},
    }
    if limit is not None:
        layout["shapes"] = [
            {
                "type": "line",
                "xref": "paper",
                "x0": 0,
                "x1": 1,
                "y0": limit,
                "y1": limit,
                "label": {"text": f"Limit {limit:g} %"},
            }
        ]
    return {"data": traces, "layout": layout}
