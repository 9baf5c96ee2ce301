"""Tests that are made for one look, looked at with every window; and the one look that they are made for.

- `z_test`: two proportions, unpooled variance, against the margin, one-sided each way: promotes and aborts. It waits
  for the candidate's hundredth request, without which its first look would promote nearly everything.
- `fisher`: "is the candidate worse at all?" Aborts; whoever gets to the end is promoted.
- `slow_share`: the z-test for a latency quantile: the candidate's share of requests slower than 1.2 times stable's P95
  of so far, against stable's own share slower than that P95.
- `exact_at_end`: the yardstick. It looks once, at the end that it knew in advance, at the same margin as we do.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import NormalDist
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import special

from benchmarks.judges import exact, series, verdicts
from benchmarks.judges.scenarios import BINS, FIRST_BIN, LEVEL, MARGIN, RATIO, Stream
from benchmarks.judges.verdicts import Verdicts
from deploypipe.stats.histogram import BINS_PER_DOUBLING

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[Any]

LEAST_REQUESTS = 100


def z_test(stream: Stream, alpha: float) -> Verdicts:
    n_a, s_a, n_b, s_b = _totals(stream)
    return _by_z(_z(n_a, s_a, n_b, s_b, MARGIN), n_b, alpha)


def slow_share(stream: Stream, alpha: float) -> Verdicts:
    a, b = series.so_far(stream.stable), series.so_far(stream.candidate)
    limit = series.latency_so_far(stream.stable, LEVEL)
    n_a, n_b = a.sum(axis=-1), b.sum(axis=-1)
    z = _z(n_a, _slower(a, limit), n_b, _slower(b, RATIO * limit), 0.0)
    return _by_z(z, n_b, alpha)


def fisher(stream: Stream, alpha: float) -> Verdicts:
    n_a, s_a, n_b, s_b = _totals(stream)
    fresh = stream.scenario.measured & (s_b * n_a > s_a * n_b)
    abort = np.zeros(n_a.shape, dtype=bool)
    where = np.nonzero(fresh)
    abort[where] = fisher_p(n_a[where], s_a[where], n_b[where], s_b[where]) <= alpha
    return verdicts.first(verdicts.at_end(stream.scenario.windows, stream.runs), abort)


def fisher_at_end(stream: Stream, alpha: float) -> Verdicts:
    n_a, s_a, n_b, s_b = (counts[:, -1] for counts in _totals(stream))
    abort = verdicts.at_end(stream.scenario.windows, stream.runs)
    abort[:, -1] = fisher_p(n_a, s_a, n_b, s_b) <= alpha
    return verdicts.first(verdicts.at_end(stream.scenario.windows, stream.runs), abort)


def exact_at_end(stream: Stream, alphas: Sequence[float]) -> dict[float, Verdicts]:
    n_a, s_a, n_b, s_b = (counts[:, -1] for counts in _totals(stream))
    above = exact.p_values(n_a, s_a, n_b, s_b, MARGIN, above=True)
    below = exact.p_values(n_a, s_a, n_b, s_b, MARGIN, above=False)
    result = {}
    for alpha in alphas:
        abort, promote = np.zeros((2, stream.runs, stream.scenario.windows), dtype=bool)
        abort[:, -1], promote[:, -1] = above <= alpha, below <= alpha
        result[alpha] = verdicts.first(promote, abort)
    return result


def fisher_p(n_a: Ints, s_a: Ints, n_b: Ints, s_b: Ints) -> Floats:
    """P(the candidate has at least so many of all errors | all errors): the upper tail of a hypergeometric law."""
    errors = s_a + s_b
    top = np.minimum(errors, n_b)
    k = s_b.astype(np.float64)

    def log_choose(n: Any, chosen: Any) -> Floats:
        value: Floats = special.gammaln(n + 1.0) - special.gammaln(chosen + 1.0) - special.gammaln(n - chosen + 1.0)
        return value

    log_first = log_choose(n_a, s_a) + log_choose(n_b, s_b) - log_choose(n_a + n_b, errors)
    term = np.exp(log_first)
    tail = term.copy()
    while True:
        going = (k < top) & (term > 1e-12 * tail)
        if not going.any():
            return np.minimum(tail, 1.0)
        with np.errstate(divide="ignore", invalid="ignore"):
            grow = (errors - k) * (n_b - k) / ((k + 1) * (n_a - errors + k + 1))
        term = np.where(going, term * grow, 0.0)
        tail += term
        k += 1


def _totals(stream: Stream) -> tuple[Ints, Ints, Ints, Ints]:
    arms = (stream.stable.requests, stream.stable.errors, stream.candidate.requests, stream.candidate.errors)
    n_a, s_a, n_b, s_b = (np.cumsum(counts, axis=1) for counts in arms)
    return n_a, s_a, n_b, s_b


def _z(n_a: Ints, s_a: Any, n_b: Ints, s_b: Any, margin: float) -> Floats:
    with np.errstate(divide="ignore", invalid="ignore"):
        p_a, p_b = s_a / n_a, s_b / n_b
        return np.asarray((p_b - p_a - margin) / np.sqrt(p_a * (1 - p_a) / n_a + p_b * (1 - p_b) / n_b))


def _by_z(z: Floats, n_b: Ints, alpha: float) -> Verdicts:
    critical = NormalDist().inv_cdf(1 - alpha)
    enough = (n_b >= LEAST_REQUESTS) & np.isfinite(z)
    return verdicts.first(enough & (z < -critical), enough & (z > critical))


def _slower(counts: Ints, limit: Floats) -> Floats:
    """Requests above the limit, which parts a bin geometrically."""
    with np.errstate(invalid="ignore"):
        at = np.log2(limit) * BINS_PER_DOUBLING - FIRST_BIN
    at = np.clip(np.nan_to_num(at), 0, BINS - 1)
    place = np.floor(at).astype(np.int64)
    sums = np.cumsum(counts, axis=-1, dtype=counts.dtype)
    total = sums[..., -1]
    up_to = np.take_along_axis(sums, place[..., None], axis=-1)[..., 0]
    inside = np.take_along_axis(counts, place[..., None], axis=-1)[..., 0]
    return np.asarray(total - up_to + inside * (1 - (at - place)))
