"""Is the newcomer worse on the very same tasks? Two tests of pairs, each with one side: small p says "worse"."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from scipy import special

MOST_LISTED = 14
"""Up to so many pairs every assignment of signs is listed; with more, signs are drawn."""
DRAWS = 9_999


def solved_more(
    only_first: int, only_second: int, tasks: int, *, allowed: float = 0.0, correction: float = 1.0
) -> float:
    """The chance that of so many tasks those which only the first solved outnumber those which only the second solved
    by as many as seen, if its true share is larger by `allowed` (Tango's score test, Statistics in Medicine 17, 1998,
    p. 891). With nothing allowed it is McNemar's test in Edwards' form, whose correction for continuity is kept
    throughout: without it the level is a quarter too high where few tasks tell the two apart.
    """
    beyond = only_first - only_second - tasks * allowed
    linear = -only_first - only_second + (2 * tasks - only_first + only_second) * allowed
    constant = -only_second * allowed * (1 - allowed)
    likeliest = (math.sqrt(max(0.0, linear**2 - 8 * tasks * constant)) - linear) / (4 * tasks) if tasks else 0.0
    variance = tasks * (2 * likeliest + allowed * (1 - allowed))
    return float(special.ndtr((correction - beyond) / math.sqrt(variance))) if variance > 0 and beyond > 0 else 1.0


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
