"""`deploypipe.stats.exact` on many runs at once, with the normal law where that is enough."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import stats

from deploypipe.stats.exact import p_value, score

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[Any]

_SURELY_NOT, _SURELY = 1.2, 7.0
"""The score: beyond them the exact p-value is above 0.1, or below 0.001."""
_SOME, _SURELY_OF_SOME = 15, 4.0
"""With as many errors in each arm it already is from here on."""
MANY = 40
"""With as many errors in each arm the p-value is that of the normal law."""
EVERY = 10**9
"""As `many`: never by the normal law."""


def p_values(n_a: Ints, s_a: Ints, n_b: Ints, s_b: Ints, margin: float, *, above: bool, many: int = MANY) -> Floats:
    """`above`: the null is candidate - stable <= margin; otherwise >= margin. Of the normal law where that is enough to
    tell on which side of any level between 0.001 and 0.1 the p-value lies, or where there are `many` errors in each
    arm; 1 where an arm has no request."""
    sign = 1.0 if above else -1.0
    there = (n_a > 0) & (n_b > 0)
    z = sign * score(np.maximum(n_a, 1), s_a, np.maximum(n_b, 1), s_b, margin)
    result = np.where(there, stats.norm.sf(z), 1.0)
    least = np.minimum(s_a, s_b)
    unsure = (z > _SURELY_NOT) & (z < np.where(least < _SOME, _SURELY, _SURELY_OF_SOME))
    for i in np.nonzero(there & (least < many) & unsure)[0]:
        result[i] = p_value(int(n_a[i]), int(s_a[i]), int(n_b[i]), int(s_b[i]), margin, above=above)
    return result
