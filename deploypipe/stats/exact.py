"""The exact unconditional test of two proportions, for one look at numbers that were settled beforehand.

Outcomes are ordered by the score statistic of Farrington, Manning, Stat. Med. 9 (1990) 1447; the p-value is the largest
over the unknown stable rate, searched over its 1 - GAMMA confidence interval, plus GAMMA (Berger, Boos, J. Am. Stat.
Assoc. 89 (1994) 1012).

It knows its end and looks once, so that it sees more with few requests than a test that may be looked at all the time;
looked at twice, it promises nothing. What it promises at one rate per arm it also keeps where the rates move together
while sessions are assigned by chance: each arm then draws from the same mixture of moments.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import special, stats

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[Any]

GAMMA = 1e-4
POINTS = 100
"""Stable rates that are tried, evenly on the square-root scale, on which a binomial's spread is the same everywhere."""
MANY = 1000.0
"""With as many failures in each arm the normal law of the score is as good, and the exact one costs seconds."""
_TAIL = 8.0
"""Standard deviations: outcomes farther off have no weight that counts."""


def p_value(n_a: int, s_a: int, n_b: int, s_b: int, margin: float, *, above: bool) -> float:
    """Of `s` failures among `n`, stable (a) and candidate (b). `above`: the null is candidate - stable <= margin;
    otherwise >= margin. 1 where an arm has no unit."""
    if not (0 <= s_a <= n_a and 0 <= s_b <= n_b):
        raise ValueError(f"failures must lie between 0 and the units: stable {s_a} of {n_a}, candidate {s_b} of {n_b}")
    if not -1 < margin < 1:
        raise ValueError(f"margin must lie between -1 and 1, not {margin}")
    if not n_a or not n_b:
        return 1.0
    sign = 1.0 if above else -1.0
    observed = sign * float(score(np.array(n_a), np.array(s_a), np.array(n_b), np.array(s_b), margin))
    if min(s_a, s_b) >= MANY:
        return float(stats.norm.sf(observed))
    rates = _rates(n_a, s_a, margin)
    a = np.arange(_least(n_a, rates[0]), _most(n_a, rates[-1]) + 1)
    b = np.arange(_least(n_b, max(0.0, rates[0] + margin)), _most(n_b, min(1.0, rates[-1] + margin)) + 1)
    extreme = sign * score(np.array(n_a), a[:, None], np.array(n_b), b[None, :], margin) >= observed - 1e-9
    tails = _chances(n_b, b, np.clip(rates + margin, 1e-12, 1 - 1e-12)) @ extreme.T.astype(np.float64)
    chance = (_chances(n_a, a, rates) * tails).sum(axis=1)
    return min(1.0, float(chance.max()) + GAMMA)


def _rates(n_a: int, s_a: int, margin: float) -> Floats:
    low = float(special.betaincinv(s_a, n_a - s_a + 1, GAMMA / 2)) if s_a else 0.0
    high = float(special.betaincinv(s_a + 1, n_a - s_a, 1 - GAMMA / 2)) if s_a < n_a else 1.0
    least, most = max(0.0, -margin) + 1e-9, min(1.0, 1 - margin) - 1e-9  # rates that have the margin's room
    return np.asarray(
        np.linspace(math.sqrt(min(max(low, least), most)), math.sqrt(max(min(high, most), least)), POINTS) ** 2
    )


def _chances(n: int, outcomes: Ints, rates: Floats) -> Floats:
    """Binomial, shape (rates, outcomes)."""
    choose = special.gammaln(n + 1) - special.gammaln(outcomes + 1) - special.gammaln(n - outcomes + 1)
    chosen = outcomes * np.log(rates)[:, None] + (n - outcomes) * np.log1p(-rates)[:, None]
    return np.asarray(np.exp(choose + chosen))


def _least(n: int, rate: float) -> int:
    return max(0, math.floor(n * rate - _TAIL * math.sqrt(n * rate)))


def _most(n: int, rate: float) -> int:
    return min(n, math.ceil(n * rate + _TAIL * math.sqrt(n * rate) + 20))


def score(n_a: Any, s_a: Any, n_b: Any, s_b: Any, margin: float) -> Floats:
    """(p_B - p_A - margin) over its standard error under the null, the rates the likeliest on its edge."""
    p_a, p_b = np.asarray(s_a / n_a), np.asarray(s_b / n_b)
    # Roots of the cubic in the candidate's rate (Farrington and Manning's appendix), theta = n_A / n_B.
    theta = n_a / n_b
    a = 1 + theta
    b = -(1 + theta + p_b + theta * p_a + margin * (theta + 2))
    c = margin * margin + margin * (2 * p_b + theta + 1) + p_b + theta * p_a
    d = -p_b * margin * (1 + margin)
    v = b**3 / (27 * a**3) - b * c / (6 * a * a) + d / (2 * a)
    u = np.sign(v) * np.sqrt(np.maximum(b * b / (9 * a * a) - c / (3 * a), 0.0))
    with np.errstate(invalid="ignore", divide="ignore"):
        w = (np.pi + np.arccos(np.clip(np.where(u == 0, 0.0, v / u**3), -1, 1))) / 3
    r_b = np.clip(2 * u * np.cos(w) - b / (3 * a), max(margin, 0.0), min(1.0, 1 + margin))
    r_a = np.clip(r_b - margin, 0.0, 1.0)
    spread = np.sqrt(np.maximum(r_a * (1 - r_a) / n_a + r_b * (1 - r_b) / n_b, 1e-300))
    return np.asarray((p_b - p_a - margin) / spread)
