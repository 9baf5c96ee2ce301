"""Traffic for the tests: many runs at once, as counts per look."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from deploypipe.stats.counts import ArmCounts, Window
from deploypipe.stats.two_arms import DifferenceTest, _log_mean, log_factors, start


def looks(rng, *, runs, requests, share, stable, candidate):
    """Counts (4, runs, looks); share and both rates are numbers or one value per look, requests is per look."""
    share, stable, candidate = (np.atleast_1d(np.asarray(value, float)) for value in (share, stable, candidate))
    n = max(len(share), len(stable), len(candidate))
    share, stable, candidate = (np.broadcast_to(value, (runs, n)) for value in (share, stable, candidate))
    candidate_n = rng.binomial(requests, share)
    stable_n = requests - candidate_n
    return np.array(
        [stable_n, rng.binomial(stable_n, stable), candidate_n, rng.binomial(candidate_n, candidate)], dtype=float
    )


def log_evidence(counts, test: DifferenceTest):
    """Of each run at each look."""
    prior = np.array(start(test).log_components)
    parts = [
        _log_mean(np.add.accumulate(log_factors(np.ascontiguousarray(some), test), axis=-2) + prior)
        for some in np.array_split(counts, max(1, counts.shape[1] // 100), axis=1)
    ]
    return np.concatenate(parts)


def share_reached(counts, test: DifferenceTest, alpha: float) -> float:
    return float((log_evidence(counts, test).max(axis=-1) >= -np.log(alpha)).mean())


def first_reached(counts, test: DifferenceTest, alpha: float):
    """Index of the look at which each run reaches 1/alpha, or the number of looks."""
    reached = log_evidence(counts, test) >= -np.log(alpha)
    return np.where(reached.any(axis=-1), reached.argmax(axis=-1), reached.shape[-1])


def windows(counts) -> list[Window]:
    """Of one run, counts (4, looks)."""
    return [Window(ArmCounts(int(a), int(b)), ArmCounts(int(c), int(d))) for a, b, c, d in np.asarray(counts).T]


def poisson_windows(rng, n, stable_mean, candidate_mean, stable, candidate) -> list[Window]:
    a, c = rng.poisson(stable_mean, n), rng.poisson(candidate_mean, n)
    return windows([a, rng.binomial(a, stable), c, rng.binomial(c, candidate)])


def at_most(rate: float, alpha: float, runs: int) -> bool:
    """Within three standard errors of Monte Carlo."""
    return bool(rate <= alpha + 3 * (alpha * (1 - alpha) / runs) ** 0.5)


def merged(given: Sequence[Window], sizes: Sequence[int]) -> list[Window]:
    """The same data in other batches."""
    result, first = [], 0
    for size in sizes:
        batch = given[first : first + size]
        first += size
        if batch:
            result.append(sum(batch[1:], start=batch[0]))
    return [*result, *given[first:]]
