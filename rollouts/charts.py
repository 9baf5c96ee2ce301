"""The four figures of a rollout's page, as plain dicts. Live points carry the same keys and continue these traces."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

Figure = dict[str, Any]
Points = Mapping[str, Mapping[str, Sequence[Any]]]
Changes = Sequence[tuple[datetime, float]]

NAMES = ("requests", "errors", "latency", "share")
DRAWN = {
    "candidate": "candidate",
    "candidate-2": "third",
    "candidate-3": "fourth",
    "candidate-4": "fifth",
    "stable": "baseline",
}
"""Arm → how its line is drawn."""


def figures(
    measured: Points,
    wanted: Mapping[str, Changes],
    names: Mapping[str, str],
    *,
    limit: float | None = None,
    limit_ms: float | None = None,
) -> dict[str, Figure]:
    """`wanted`: candidate → the share that was asked for, in percent, at each change. `names`: arm → the version's
    name. `limit`: of the error rate, in percent."""
    candidates = [arm for arm in names if arm != "stable"]
    return {
        "requests": _figure(_each(measured, "requests", names), "requests per reading"),
        "errors": _figure(_each(measured, "errors", names, unit="%"), "% of requests", limit=limit, limit_unit="%"),
        "latency": _figure(_latency(measured, names), "ms", limit=limit_ms, limit_unit="ms"),
        "share": _figure(
            [
                *(
                    _trace(measured, f"share.{arm}", f"{names[arm]} measured", DRAWN[arm], unit="%")
                    for arm in candidates
                ),
                *_wanted(wanted),
            ],
            "% of requests",
            most=100,
        ),
    }


def _latency(measured: Points, names: Mapping[str, str]) -> list[Figure]:
    found = _each(measured, "p95", names, unit="ms", suffix=" P95")
    if len(names) > 2:  # of three versions or more, two lines each could not be told apart
        return found
    return [
        *found,
        *_each(measured, "p50", names, unit="ms", suffix=" P50", line={"dash": "dot", "width": 1.5}),
    ]


def _each(measured: Points, quantity: str, names: Mapping[str, str], *, suffix: str = "", **more: Any) -> list[Figure]:
    return [
        _trace(measured, f"{quantity}.{arm}", f"{names[arm]}{suffix}", drawn, **more)
        for arm, drawn in DRAWN.items()
        if arm in names
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


def _wanted(wanted: Mapping[str, Changes]) -> list[Figure]:
    """One line, where it is one for all candidates: several dotted ones could not be told apart."""
    if len({tuple(changes) for changes in wanted.values()}) != 1:
        return []
    arm, changes = next(iter(wanted.items()))
    return [_set(arm, changes, "Set" if len(wanted) == 1 else "Set, each")]


def _set(arm: str, changes: Changes, name: str) -> Figure:
    return {
        "x": [at.isoformat() for at, _ in changes],
        "y": [percent for _, percent in changes],
        "name": name,
        "line": {"shape": "hv"},
        "meta": {"role": "set", "key": f"set.{arm}", "unit": "%"},
    }


def _figure(
    traces: list[Figure], unit: str, *, limit: float | None = None, limit_unit: str = "", most: float | None = None
) -> Figure:
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
                "label": {"text": f"Limit {limit:g} {limit_unit}"},
            }
        ]
    return {"data": traces, "layout": layout}
