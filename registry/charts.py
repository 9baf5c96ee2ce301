"""Figures of the model page, as plain dicts; colours and fonts are the browser's."""

from __future__ import annotations

from typing import Any

from django.db.models import QuerySet

from deploypipe.core.status import status_of
from registry.lifecycle import Stage
from registry.models import ModelVersion

NEWEST = 30


def scores(versions: QuerySet[ModelVersion], least: float) -> dict[str, Any] | None:
    """Points of the newest examined versions, oldest first; None while fewer than two have any.

    `least` is what the newest examination asked for.
    """
    examined = versions.exclude(score=None).order_by("-number").values_list("number", "score", "band", "stage")[:NEWEST]
    found = list(reversed(examined))
    if len(found) < 2:
        return None
    return {
        "data": [
            {
                "type": "bar",
                "name": "Score",
                "x": [f"v{number}" for number, *_ in found],
                "y": [score for _, score, *_ in found],
                "meta": {"tones": [_tone(band, stage) for _, _, band, stage in found]},
            }
        ],
        "layout": {
            "xaxis": {"title": {"text": "Version"}, "type": "category"},
            "yaxis": {"title": {"text": "Points"}, "range": [0, 102]},
            "shapes": [_limit(least)],
            "bargap": 0.5,
        },
    }


def _tone(band: str, stage: str) -> str:
    return "bad" if stage == Stage.BLOCKED else status_of("qa_band", band).tone


def _limit(points: float) -> dict[str, Any]:
    return {
        "type": "line",
        "xref": "paper",
        "x0": 0,
        "x1": 1,
        "y0": points,
        "y1": points,
        "label": {"text": f"Least score {points:g}"},
    }
