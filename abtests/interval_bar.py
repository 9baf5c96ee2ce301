"""An estimate with its interval and its margin: as words, and as a picture of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from deploypipe.metrics.criteria import Kind
from deploypipe.metrics.definitions import Family, metric_named

Row = Mapping[str, Any]
"""`deploypipe.metrics.questions.Row` as a look has stored it."""


@dataclass(frozen=True)
class Bar:
    """100 wide."""

    low: float
    high: float
    estimate: float
    zero: float | None
    """Where the arms are equal; None where there is nothing to be equal to."""
    margins: tuple[float, ...]
    words: str

    @property
    def width(self) -> float:
        return max(self.high - self.low, 0.8)

    @property
    def dot(self) -> float:
        return min(max(self.estimate - 1, 0), 98)


def bar(row: Row) -> Bar | None:
    estimate = row["estimate"]
    if estimate is None or "kind" not in row:
        return None
    margins, (low, high) = margins_of(row), ends(row)
    is_limit = row["kind"] == Kind.LIMIT
    middle = row["margin"] if is_limit else 0.0
    away = (1.3 * abs(estimate - middle), 0.4 * abs(middle), *(2.2 * abs(margin - middle) for margin in margins))
    half = max(*away, 1e-9)

    def x(value: float | None, end: float) -> float:
        place = end if value is None else 50 + 50 * (value - middle) / half
        return round(min(max(place, 0.0), 100.0), 2)

    said = interval(row)
    return Bar(
        low=x(low, 0.0) if said else x(estimate, 0.0),
        high=x(high, 100.0) if said else x(estimate, 0.0),
        estimate=x(estimate, 50.0),
        zero=None if is_limit else 50.0,
        margins=tuple(x(margin, 50.0) for margin in margins),
        words=f"Seen {amount(row, estimate)}{f', {said}' if said else ''};"
        f" the line is at {' and '.join(amount(row, margin) for margin in margins)}",
    )


def margins_of(row: Row) -> tuple[float, ...]:
    """Where the criterion ends, on the scale of the estimate."""
    margin, worse = row["margin"], 1.0 if metric_named(row["metric"]).lower_is_better else -1.0
    match row["kind"]:
        case Kind.LIMIT:
            return (margin,)
        case Kind.IMPROVEMENT:
            return (-worse * margin,)
        case Kind.EQUIVALENCE:
            return (-margin, margin)
        case _:
            return (worse * margin,)


def ends(row: Row) -> tuple[float | None, float | None]:
    """Of the interval. None also where an end says nothing, because no value can lie beyond it anyway."""
    low, high = row.get("low"), row.get("high")
    least, most = _possible(row)
    return (
        None if low is None or (least is not None and low <= least) else low,
        None if high is None or (most is not None and high >= most) else high,
    )


def _possible(row: Row) -> tuple[float | None, float | None]:
    metric = metric_named(row["metric"])
    width = metric.scale[1] - metric.scale[0]
    if row.get("kind") == Kind.LIMIT:
        return metric.scale if metric.bounded else (0.0 if metric.family is Family.QUANTILE else None, None)
    if row.get("relative"):
        return -100.0, None
    return (-width, width) if metric.bounded else (None, None)


def interval(row: Row) -> str:
    """ "−0.31 to +0.42 points, 90 % sure"; empty where there is none yet."""
    low, high = ends(row)
    sure = f", {row['confidence']:.0%} sure".replace("%", " %")
    if low is not None and high is not None:
        return f"{_value(row, low)} to {amount(row, high)}{sure}"
    if low is not None:
        return f"at least {amount(row, low)}{sure}"
    return f"at most {amount(row, high)}{sure}" if high is not None else ""


def amount(row: Row, value: float) -> str:
    """A change has its sign, a value of its own has none."""
    return f"{_value(row, value)} {unit_of(row)}".rstrip()


def unit_of(row: Row) -> str:
    # What was stored before there was a kind compared error rates, in points.
    metric = metric_named(row["metric"])
    if row.get("kind") == Kind.LIMIT:
        return metric.unit
    return "%" if row.get("relative", False) else metric.points


def _value(row: Row, value: float) -> str:
    size = abs(value)
    digits = 0 if size >= 99.95 else 1 if size >= 9.995 else 2
    sign = "" if row.get("kind") == Kind.LIMIT or not round(value, digits) else "+"
    text = f"{value:{sign},.{digits}f}" if round(value, digits) else "0"
    return text.replace("-", "−")
