"""Traffic for the tests: many runs at once, as arrays, or one run as the pairs that a look is made of."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from deploypipe.stats import two_arms
from deploypipe.stats.blocks import Blocks
from deploypipe.stats.samples import Pair, Sample
from deploypipe.stats.two_arms import TwoArmTest


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


def sessions(rng, *, runs, units, share, stable, candidate, most=10, spread=0.0) -> Blocks:
    """Session means: sessions of one to `most` requests, heavy-tailed in size and in each user's own propensity.

    `units` is per look; both rates have one value per look. `spread` is the correlation of one user's requests.
    """
    stable, candidate = (np.asarray(value, float) for value in (stable, candidate))
    n = len(stable)
    candidate_n = rng.binomial(units, share, (runs, n))
    table = np.round(np.array([[s / max(r, 1) for s in range(most + 1)] for r in range(most + 1)]), 9)
    values = np.unique(table[np.tril_indices(most + 1)])
    arms = []
    for count, rates in ((units - candidate_n, stable), (candidate_n, candidate)):
        owner = np.repeat(np.arange(runs * n), count.ravel())
        requests = np.minimum(1 + rng.pareto(1.2, len(owner)).astype(int), most)
        rate = rates[owner % n]
        if spread:
            precision = 1 / spread - 1
            rate = rng.beta(np.maximum(rate * precision, 1e-12), (1 - rate) * precision)
        mean = table[requests, rng.binomial(requests, rate)]
        frequencies = np.zeros((runs * n, len(values)))
        np.add.at(frequencies, (owner, np.searchsorted(values, mean)), 1.0)
        arms.append(frequencies.reshape(runs, n, len(values)))
    return Blocks(values, arms[0], arms[1])


def binary(counts) -> Blocks:
    return Blocks.binary(*counts)


def log_evidence(blocks: Blocks, test: TwoArmTest):
    """Of each run at each look."""
    parts = []
    for first in range(0, len(blocks.stable), 100):
        some = slice(first, first + 100)
        parts.append(two_arms.log_evidence(Blocks(blocks.values, blocks.stable[some], blocks.candidate[some]), test))
    return np.concatenate(parts)


def share_reached(blocks: Blocks, test: TwoArmTest, alpha: float) -> float:
    return float((log_evidence(blocks, test).max(axis=-1) >= -np.log(alpha)).mean())


def first_reached(blocks: Blocks, test: TwoArmTest, alpha: float):
    """Index of the look at which each run reaches 1/alpha, or the number of looks."""
    reached = log_evidence(blocks, test) >= -np.log(alpha)
    return np.where(reached.any(axis=-1), reached.argmax(axis=-1), reached.shape[-1])


def pairs(blocks: Blocks, periods: Sequence[int] | None = None) -> list[Pair]:
    """Of one run, shape (looks, values)."""
    count = len(blocks.stable)
    stable, candidate = (
        [Sample.of(dict(zip(blocks.values.tolist(), row, strict=True))) for row in arm.tolist()]
        for arm in (blocks.stable, blocks.candidate)
    )
    return [Pair(stable[i], candidate[i], 0 if periods is None else periods[i]) for i in range(count)]


def poisson_pairs(rng, n, stable_mean, candidate_mean, stable, candidate) -> list[Pair]:
    a, c = rng.poisson(stable_mean, n), rng.poisson(candidate_mean, n)
    return pairs(binary(np.array([a, rng.binomial(a, stable), c, rng.binomial(c, candidate)], dtype=float)))


def at_most(rate: float, alpha: float, runs: int) -> bool:
    """Within three standard errors of Monte Carlo."""
    return bool(rate <= alpha + 3 * (alpha * (1 - alpha) / runs) ** 0.5)


def merged(given: Sequence[Pair], sizes: Sequence[int]) -> list[Pair]:
    """The same data of one period in other batches."""
    result, first = [], 0
    for size in sizes:
        batch = given[first : first + size]
        first += size
        if batch:
            stable, candidate = batch[0].stable, batch[0].candidate
            for pair in batch[1:]:
                stable, candidate = stable + pair.stable, candidate + pair.candidate
            result.append(Pair(stable, candidate, batch[0].period))
    return [*result, *given[first:]]
