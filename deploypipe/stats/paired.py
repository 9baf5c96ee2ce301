"""Is the newcomer worse on the very same tasks? Two tests of pairs, each with one side: small p says "worse"."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

MOST_LISTED = 14
"""Up to so many pairs every assignment of signs is listed; with more, signs are drawn."""
DRAWS = 9_999


def mcnemar(only_first: int, only_second: int) -> float:
    """The chance that of the tasks which only one of the two solved so many or more are the first's, if both are as
    good: exact, from the binomial distribution (McNemar, Psychometrika 12, 1947; the exact form as in Agresti,
    Categorical Data Analysis, section 11.1). Tasks that both or none solved say nothing.
    """
    n = only_first + only_second
    reached: int = sum(math.comb(n, k) for k in range(only_first, n + 1))
    return float(reached / 2**n)


def sign_flip(differences: Sequence[float], *, seed: int = 1) -> float:
    """The chance of so large a mean difference, or a larger one, if each difference might as well have the other sign
    (Fisher, The Design of Experiments, section 21, 1935). Drawn signs never give 0: those seen count as a draw
    (Phipson and Smyth, Statistical Applications in Genetics and Molecular Biology 9, 2010).
    """
    values = np.asarray(differences, dtype=float)
    if not values.size:
        return 1.0
    seen = values.sum() - 1e-12 * np.abs(values).sum()  # ties are ties, whatever the order of summation
    if values.size <= MOST_LISTED:
        numbers = np.arange(2**values.size)[:, None]
        signs = 1 - 2 * (numbers >> np.arange(values.size) & 1)
        return float(np.mean(signs @ values >= seen))
    rng = np.random.default_rng(seed)
    reached = sum(
        int(np.sum(rng.choice((-1.0, 1.0), size=(min(1000, DRAWS - done), values.size)) @ values >= seen))
        for done in range(0, DRAWS, 1000)
    )
    return (1 + reached) / (1 + DRAWS)
