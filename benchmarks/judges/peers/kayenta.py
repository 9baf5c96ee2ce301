"""Kayenta's judge "NetflixACAJudge-v1.0" and its standalone analysis, after `NetflixACAJudge.scala`,
`MannWhitneyClassifier.scala`, `MannWhitney.scala` and `SetupAndExecuteCanariesStage.java`.

`classify` is one metric of one judgement, as Kayenta does it; `is_high` gives the same labels for many runs at
once. The root of the shift has an absolute tolerance of 1e-4 in the metric's own unit, so that a metric of small
numbers loses its interval: error rates are given in percent here and latencies in milliseconds, and are far above it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import optimize, stats

from benchmarks.judges import series, verdicts
from benchmarks.judges.scenarios import Stream
from benchmarks.judges.verdicts import Verdicts

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]

TOLERANCE = 0.25
Z = float(stats.norm.isf((1 - 0.98) / 2))
ROOT_TOLERANCE = 1e-4


class Label(StrEnum):
    PASS = "Pass"  # noqa: S105
    HIGH = "High"
    LOW = "Low"
    NODATA = "Nodata"
    ERROR = "Error"


@dataclass(frozen=True, slots=True)
class Classified:
    label: Label
    low: float = math.nan
    high: float = math.nan
    estimate: float = math.nan
    effect: float = math.nan
    critical: bool = False


def classify(
    canary: Floats, baseline: Floats, *, direction: str = "either", critical: bool = False, seed: int = 0
) -> Classified:
    x, y = canary[~np.isnan(canary)], baseline[~np.isnan(baseline)]
    if not len(x) or not len(y):
        return Classified(Label.NODATA, critical=critical)
    if np.array_equal(np.sort(x), np.sort(y)) or len(np.unique(np.concatenate([x, y]))) == 1:
        return Classified(Label.PASS)
    effect = float(x.mean() / y.mean()) if x.mean() != 0 and y.mean() != 0 else math.nan
    if len(np.unique(x)) == 1 and len(np.unique(y)) == 1:
        noise = np.random.default_rng(seed)
        x = x + noise.normal(0, abs(x[0]) * 1e-5, len(x))
        y = y + noise.normal(0, abs(y[0]) * 1e-5, len(y))
    try:
        low, high, estimate = (_root(x, y, z) for z in (Z, -Z, 0.0))
    except ZeroDivisionError:
        return Classified(Label.ERROR)
    bound = TOLERANCE * abs(estimate)
    label = Label.PASS
    if direction in ("increase", "either") and low > bound and not effect < 1:
        label = Label.HIGH
    elif direction in ("decrease", "either") and high < -bound and not effect > 1:
        label = Label.LOW
    return Classified(label, low, high, estimate, effect, critical and label is not Label.PASS)


def _root(x: Floats, y: Floats, quantile: float) -> float:
    def w(shift: float) -> float:
        return float(_w(x[None] - shift, y[None])[0]) - quantile

    low, high = float(x.min() - y.max()), float(x.max() - y.min())
    if w(low) <= 0:
        return low
    if w(high) >= 0:
        return high
    return float(optimize.brentq(w, low, high, xtol=ROOT_TOLERANCE, maxiter=1000, disp=False))


def _w(x: Floats, y: Floats) -> Floats:
    """Mann and Whitney's statistic of each row, standardised, corrected for ties and continuity; NaN is no value."""
    joined = np.concatenate([x, y], axis=1)
    order = np.argsort(joined, axis=1)
    ordered = np.take_along_axis(joined, order, axis=1)
    place = np.arange(joined.shape[1])
    begins = np.ones(joined.shape, dtype=bool)
    begins[:, 1:] = ordered[:, 1:] != ordered[:, :-1]
    ends = np.ones(joined.shape, dtype=bool)
    ends[:, :-1] = begins[:, 1:]
    first = np.maximum.accumulate(np.where(begins, place, 0), axis=1)
    last = np.minimum.accumulate(np.where(ends, place, joined.shape[1])[:, ::-1], axis=1)[:, ::-1]
    of_x = (order < x.shape[1]) & ~np.isnan(ordered)
    n_x, n_y = (~np.isnan(x)).sum(axis=1), (~np.isnan(y)).sum(axis=1)
    ranks = ((first + last) / 2 + 1) * of_x
    dz = ranks.sum(axis=1) - n_x * (n_x + 1) / 2 - n_x * n_y / 2
    tied = np.where(ends, last - first + 1.0, 0.0)
    ties = (tied**3 - tied).sum(axis=1)
    n = n_x + n_y
    sigma = np.sqrt(np.maximum(n_x * n_y / 12 * ((n + 1) - ties / (n * (n - 1.0))), 0.0))
    if (sigma == 0).any():
        raise ZeroDivisionError("all values are equal")
    return np.asarray((dz - 0.5 * np.sign(dz)) / sigma)


def is_high(canary: Floats, baseline: Floats) -> Bools:
    """Of many runs, shape (runs, points): `classify` with direction "increase" says High."""
    n_x, n_y = (~np.isnan(canary)).sum(axis=1), (~np.isnan(baseline)).sum(axis=1)
    result = np.zeros(len(canary), dtype=bool)
    rows = np.nonzero((n_x > 0) & (n_y > 0))[0]
    x, y = canary[rows], baseline[rows]
    constant_x, constant_y = _constant(x), _constant(y)
    for i in np.nonzero(constant_x & constant_y)[0]:
        result[rows[i]] = classify(x[i], y[i], direction="increase").label is Label.HIGH
    proper = ~(constant_x & constant_y)
    rows, x, y = rows[proper], x[proper], y[proper]
    # High asks for a lower bound above 0, and that asks for W(0) above its quantile.
    with np.errstate(invalid="ignore", divide="ignore"):
        effect = np.nanmean(x, axis=1) / np.nanmean(y, axis=1)
    maybe = (_w(x, y) > Z) & ~(effect < 1) if len(x) else np.zeros(0, dtype=bool)
    rows, x, y = rows[maybe], x[maybe], y[maybe]
    if len(rows):
        result[rows] = _roots(x, y, Z) > TOLERANCE * np.abs(_roots(x, y, 0.0))
    return result


def has_data(canary: Floats, baseline: Floats) -> Bools:
    return np.asarray((~np.isnan(canary)).any(axis=1) & (~np.isnan(baseline)).any(axis=1))


def _constant(values: Floats) -> Bools:
    return np.asarray(np.nanmin(values, axis=1) == np.nanmax(values, axis=1))


def _roots(x: Floats, y: Floats, quantile: float) -> Floats:
    """By bisection, all rows at once; to the same tolerance as Kayenta's search."""
    low = np.nanmin(x, axis=1) - np.nanmax(y, axis=1)
    high = np.nanmax(x, axis=1) - np.nanmin(y, axis=1)

    def w(shift: Floats) -> Floats:
        return np.asarray(_w(x - shift[:, None], y) - quantile)

    at_low, at_high = w(low) <= 0, w(high) >= 0
    left, right = low.copy(), high.copy()
    for _ in range(max(1, math.ceil(math.log2(max(float((high - low).max()), 1e-3) / (ROOT_TOLERANCE / 4))))):
        middle = (left + right) / 2
        positive = w(middle) > 0
        left, right = np.where(positive, middle, left), np.where(positive, right, middle)
    return np.asarray(np.where(at_low, low, np.where(at_high, high, (left + right) / 2)))


@dataclass(frozen=True, slots=True)
class Kayenta:
    """One metric, direction "increase", marginal 75 and pass 95: its score is 0 or 100. Points are minutes, windows
    grow; `judgements` of them, evenly, over the whole time. Failing one ends the analysis; passing the last one
    promotes."""

    judgements: int
    metric: str
    """`errors`, in percent of a minute's requests, or `latency`, a minute's P95 in milliseconds."""

    def __call__(self, stream: Stream) -> Verdicts:
        scenario = stream.scenario
        if self.metric == "errors":
            canary = 100 * series.error_rates(stream.candidate, scenario)
            baseline = 100 * series.error_rates(stream.stable, scenario)
        else:
            canary = series.latencies(stream.candidate, scenario, 0.95)
            baseline = series.latencies(stream.stable, scenario, 0.95)
        ends = series.minute_ends(scenario)
        abort: Any = np.zeros((stream.runs, scenario.minutes), dtype=bool)
        going = np.ones(stream.runs, dtype=bool)
        for judgement in range(self.judgements):
            last = scenario.minutes * (judgement + 1) // self.judgements
            x, y = canary[going, :last], baseline[going, :last]
            # A metric without data is half of the metrics or more: score 0.
            failed = is_high(x, y) | ~has_data(x, y)
            abort[going, last - 1] = failed
            going[going] = ~failed
        return verdicts.first(
            verdicts.at_end(scenario.windows, stream.runs), verdicts.at_ticks(scenario.windows, ends, abort)
        )
