"""From measured values to figures with the interval in which the true one lies. Pure.

Every interval is a 95 % one. None stands for an end about which so few values say nothing.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import special

from deploypipe.stats.intervals import binomial_bounds

ALPHA = 0.05
MOST_BLOCKS = 10
LEAST_BLOCKS = 5
LEAST_ANSWERS = 10
"""Below that many answers nothing is said about how their pauses scatter."""

Bounds = tuple[float | None, float | None]


@dataclass(frozen=True)
class Estimate:
    value: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Figure:
    """A measured quantity in milliseconds; percentiles are measured values (nearest rank), never interpolated."""

    n: int
    mean: float
    p50: Estimate
    p90: Estimate
    p95: Estimate
    p99: Estimate
    highest: float


def figure(seconds: Sequence[float]) -> Figure | None:
    """Of values that do not hang together, one of each request."""
    if not seconds:
        return None
    ordered = sorted(1000.0 * value for value in seconds)

    def estimate(share: float) -> Estimate:
        low, high = percentile_ranks(len(ordered), share)
        return _estimate(ordered, share, ordered[low - 1] if low else None, ordered[high - 1] if high else None)

    return _figure(ordered, estimate(0.50), estimate(0.90), estimate(0.95), estimate(0.99))


def figure_of_groups(groups: Sequence[Sequence[float]]) -> Figure | None:
    """Of values that come in groups and resemble each other inside one: the pauses of an answer."""
    groups = [group for group in groups if group]
    if not groups:
        return None
    values = np.concatenate([np.asarray(group, dtype=np.float64) for group in groups]) * 1000.0
    owners = np.repeat(np.arange(len(groups)), [len(group) for group in groups])
    order = np.argsort(values, kind="stable")
    values, owners = values[order], owners[order]

    def estimate(share: float) -> Estimate:
        low, high = grouped_ranks(owners, len(groups), share)
        ordered = values.tolist()
        return _estimate(ordered, share, ordered[low - 1] if low else None, ordered[high - 1] if high else None)

    return _figure(values.tolist(), estimate(0.50), estimate(0.90), estimate(0.95), estimate(0.99))


def percentile(ordered: Sequence[float], share: float) -> float:
    return ordered[_rank(len(ordered), share) - 1]


def percentile_ranks(n: int, share: float, alpha: float = ALPHA) -> tuple[int | None, int | None]:
    """The ranks, from 1, between which the percentile lies with probability at least 1 - alpha, whatever the
    distribution: how many of n values lie below it is binomial (David and Nagaraja, Order Statistics, section 7.1).
    """
    low, high = binomial_bounds(n, share, alpha)
    return low or None, high + 1 if high < n else None


def grouped_ranks(
    owners: np.ndarray[tuple[int], np.dtype[np.int64]], groups: int, share: float
) -> tuple[int | None, int | None]:
    """The same for values in groups, `owners` in the order of the values (Woodruff, JASA 47, 1952, p. 635).

    The standard error of the share below the percentile is that of a ratio estimate over the groups; where it comes
    out smaller than for values that do not hang together, that of those is taken.
    """
    n = len(owners)
    if groups < LEAST_ANSWERS:
        return None, None
    sizes = np.bincount(owners, minlength=groups)
    below = np.bincount(owners[: _rank(n, share)], minlength=groups)
    scatter = float(np.square(below - share * sizes).sum()) * groups / (groups - 1)
    error = math.sqrt(max(scatter, n * share * (1 - share))) / n
    reach = float(special.stdtrit(groups - 1, 1 - ALPHA / 2)) * error
    low, high = math.floor(n * (share - reach)), math.ceil(n * (share + reach)) + 1
    return low if low >= 1 else None, high if high <= n else None


def share_bounds(events: int, trials: int) -> tuple[float, float]:
    """For a share, exact: at least 95 % whatever the share is (Clopper and Pearson, Biometrika 26, 1934, p. 404)."""
    low = 0.0 if events == 0 else float(special.betaincinv(events, trials - events + 1, ALPHA / 2))
    high = 1.0 if events == trials else float(special.betaincinv(events + 1, trials - events, 1 - ALPHA / 2))
    return low, high


def rate_bounds(
    times: Sequence[float], amounts: Sequence[float], seconds: float, lasts: float
) -> tuple[float | None, float | None]:
    """For an amount per second, by batch means (Law, Simulation Modeling and Analysis, section 9.5.3): the time is cut
    into blocks long enough that one block's sum says little of the next one's, and the sums are taken as independent.

    `lasts` is how long what happens at one time usually lasts: an answer. Under five blocks of twice that, nothing is
    said.
    """
    blocks = min(MOST_BLOCKS, int(seconds / (2 * lasts))) if lasts > 0 else MOST_BLOCKS
    if blocks < LEAST_BLOCKS or seconds <= 0:
        return None, None
    places = np.minimum((np.asarray(times, dtype=np.float64) * blocks / seconds).astype(np.int64), blocks - 1)
    rates = np.bincount(places, weights=np.asarray(amounts, dtype=np.float64), minlength=blocks) * blocks / seconds
    half = float(special.stdtrit(blocks - 1, 1 - ALPHA / 2)) * float(rates.std(ddof=1)) / math.sqrt(blocks)
    middle = float(rates.mean())
    return max(0.0, middle - half), middle + half


def _rank(n: int, share: float) -> int:
    return max(1, math.ceil(share * n - 1e-9))


def _estimate(ordered: Sequence[float], share: float, low: float | None, high: float | None) -> Estimate:
    return Estimate(
        round(percentile(ordered, share), 2),
        None if low is None else round(low, 2),
        None if high is None else round(high, 2),
    )


def _figure(ordered: Sequence[float], p50: Estimate, p90: Estimate, p95: Estimate, p99: Estimate) -> Figure:
    return Figure(
        n=len(ordered),
        mean=round(math.fsum(ordered) / len(ordered), 2),
        p50=p50,
        p90=p90,
        p95=p95,
        p99=p99,
        highest=round(ordered[-1], 2),
    )
