"""The chance that `exact.p_value` calls harm that is there: to plan by, before there is any data."""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
from scipy import special, stats

from deploypipe.stats import exact

ENOUGH = 20.0
"""With as many failures expected in each arm the normal law of the score is as good to plan by, and costs nothing."""
_PARTS = 5
"""Stable's failures are not known either: so many of their quantiles are averaged over."""


@lru_cache(maxsize=1024)
def power(n_a: int, q_a: float, n_b: int, q_b: float, margin: float, *, above: bool, alpha: float) -> float:
    """`n` units of stable (a) and candidate (b), of which each fails with chance `q`; otherwise as `exact.p_value`."""
    if not (0 <= q_a <= 1 and 0 <= q_b <= 1):
        raise ValueError(f"rates must lie between 0 and 1: stable {q_a}, candidate {q_b}")
    if not 0 < alpha < 1:
        raise ValueError(f"alpha must lie between 0 and 1, not {alpha}")
    if n_a < 1 or n_b < 1:
        return 0.0
    if not above:  # the same of successes
        return power(n_a, 1 - q_a, n_b, 1 - q_b, -margin, above=True, alpha=alpha)
    if min(n_a * q_a, n_b * q_b) >= ENOUGH:
        return _normal(n_a, q_a, n_b, q_b, margin, alpha)
    parts = (np.arange(_PARTS) + 0.5) / _PARTS
    least = [_least_called(n_a, int(s_a), n_b, margin, alpha) for s_a in stats.binom.ppf(parts, n_a, q_a)]
    return math.fsum(float(stats.binom.sf(failures - 1, n_b, q_b)) for failures in least) / _PARTS


def _least_called(n_a: int, s_a: int, n_b: int, margin: float, alpha: float) -> int:
    """From how many of the candidate's failures on harm is called: p falls as they rise."""

    def called(failures: int) -> bool:
        return failures > n_b or (failures >= 0 and exact.p_value(n_a, s_a, n_b, failures, margin, above=True) <= alpha)

    scores = exact.score(np.array(n_a), np.array(s_a), np.array(n_b), np.arange(n_b + 1), margin)
    high = int(np.searchsorted(scores, -special.ndtri(alpha)))  # where the normal law says that it begins
    step = 1
    while not called(high):
        high, step = min(high + step, n_b + 1), 2 * step
    low, step = high - 1, 1
    while called(low):
        high, low, step = low, low - step, 2 * step
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if called(middle) else (middle, high)
    return high


def _normal(n_a: int, q_a: float, n_b: int, q_b: float, margin: float, alpha: float) -> float:
    beyond = q_b - q_a - margin
    spread = math.sqrt(q_a * (1 - q_a) / n_a + q_b * (1 - q_b) / n_b)
    if not spread:
        return float(beyond > 0)
    # On the null's edge the rates are as like those that are there as the margin lets them be.
    null_a = min(max((n_a * q_a + n_b * (q_b - margin)) / (n_a + n_b), 0.0), 1.0)
    null_b = min(max(null_a + margin, 0.0), 1.0)
    null_spread = math.sqrt(null_a * (1 - null_a) / n_a + null_b * (1 - null_b) / n_b)
    return float(special.ndtr((beyond + float(special.ndtri(alpha)) * null_spread) / spread))
