"""What a peer's monitoring system would show of a stream: counts and quantiles per minute, or over the last minutes."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.judges.scenarios import FIRST_BIN, Arm, Scenario
from deploypipe.stats.histogram import BINS_PER_DOUBLING

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[Any]
Bools = npt.NDArray[np.bool_]


def per_minute(counts: Ints, scenario: Scenario) -> Ints:
    """(runs, windows, …) → (runs, minutes, …)."""
    shape = (counts.shape[0], scenario.minutes, scenario.per_minute_windows, *counts.shape[2:])
    return np.asarray(counts.reshape(shape).sum(axis=2, dtype=counts.dtype))


def last(counts: Ints, minutes: int) -> Ints:
    """Sums over the last `minutes`, at the end of each minute; shorter at the beginning."""
    sums = np.cumsum(counts, axis=1, dtype=counts.dtype)
    before = np.zeros_like(sums)
    before[:, minutes:] = sums[:, :-minutes]
    return np.asarray(sums - before)


def ratio(part: Ints, whole: Ints) -> Floats:
    """NaN where there is nothing to divide by."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(part / np.where(whole > 0, whole, np.nan))


def error_rates(arm: Arm, scenario: Scenario, minutes: int = 1) -> Floats:
    """Over the last minutes, at the end of each minute."""
    return ratio(last(per_minute(arm.errors, scenario), minutes), last(per_minute(arm.requests, scenario), minutes))


@lru_cache(maxsize=8)  # the same judge with other settings asks the same
def latencies(arm: Arm, scenario: Scenario, level: float, minutes: int = 1) -> Floats:
    """Quantile over the last minutes, milliseconds, at the end of each minute."""
    assert arm.latency is not None
    return quantile(last(per_minute(arm.latency, scenario), minutes), level)


@lru_cache(maxsize=2)
def so_far(arm: Arm) -> Ints:
    """Latencies up to and with each window: (runs, windows, BINS)."""
    assert arm.latency is not None
    return np.cumsum(arm.latency, axis=1, dtype=arm.latency.dtype)


@lru_cache(maxsize=2)
def latency_so_far(arm: Arm, level: float) -> Floats:
    """Quantile over all requests, milliseconds, at the end of each window."""
    return quantile(so_far(arm), level)


def quantile(counts: Ints, level: float) -> Floats:
    """Of histograms in the last axis, interpolated geometrically within a bin; NaN of an empty one."""
    sums = np.cumsum(counts, axis=-1, dtype=counts.dtype)
    total = sums[..., -1]
    rank = level * total
    place = (sums < rank[..., None]).sum(axis=-1)
    place = np.minimum(place, counts.shape[-1] - 1)
    inside = np.take_along_axis(counts, place[..., None], axis=-1)[..., 0]
    above = np.take_along_axis(sums, place[..., None], axis=-1)[..., 0]
    part = (rank - (above - inside)) / np.maximum(inside, 1)
    value = 2.0 ** ((FIRST_BIN + place + part) / BINS_PER_DOUBLING)
    return np.asarray(np.where(total > 0, value, np.nan))


def minute_ends(scenario: Scenario) -> Ints:
    """Number of the last window of each minute."""
    return np.asarray((np.arange(scenario.minutes) + 1) * scenario.per_minute_windows - 1)


def answered(scenario: Scenario) -> Bools:
    """Per minute: the monitoring system answers at its end."""
    return np.asarray(scenario.measured[minute_ends(scenario)])
