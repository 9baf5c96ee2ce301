"""GrowthBook's sequential test, `gbstats` 0.8.0: `SequentialTwoSidedTTest` on two proportions, difference absolute.

The asymptotic confidence sequence of Waudby-Smith, Arbour, Sinha, Kennedy, Ramdas, arXiv 2103.06476, equations 9 and
161, with GrowthBook's default tuning (5,000) and no burn-in, as it ships; it says nothing as long as one arm has no
error. Written anew, because gbstats cannot be installed beside a numpy of today; `tests/benchmarks` holds numbers that
gbstats itself gave. Promoted when the whole interval lies under the margin, aborted when it lies above.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.judges import verdicts
from benchmarks.judges.scenarios import MARGIN, Stream
from benchmarks.judges.verdicts import Verdicts

Floats = npt.NDArray[np.float64]
TUNING = 5000.0


def interval(stable_n: Any, stable_s: Any, candidate_n: Any, candidate_s: Any, alpha: float) -> tuple[Floats, Floats]:
    """Of the difference; NaN where gbstats gives no result."""
    with np.errstate(invalid="ignore", divide="ignore"):
        p_a, p_b = np.asarray(stable_s / stable_n), np.asarray(candidate_s / candidate_n)
        variance_a, variance_b = p_a * (1 - p_a), p_b * (1 - p_b)
        n = np.asarray(stable_n + candidate_n, dtype=np.float64)
        variance = variance_a / stable_n + variance_b / candidate_n
        log_alpha = math.log(alpha)
        rho2 = (-2 * log_alpha + math.log(-2 * log_alpha + 1)) / TUNING
        inner = n * rho2 + 1
        width = np.sqrt(variance * n) * np.sqrt(2 * inner * (0.5 * np.log(inner) - log_alpha) / (n * n * rho2))
        width = np.where((variance_a > 0) & (variance_b > 0), width, np.nan)
    return p_b - p_a - width, p_b - p_a + width


def judge(stream: Stream, alpha: float) -> Verdicts:
    arms = (stream.stable.requests, stream.stable.errors, stream.candidate.requests, stream.candidate.errors)
    n_a, s_a, n_b, s_b = (np.cumsum(counts, axis=1) for counts in arms)
    low, high = interval(n_a, s_a, n_b, s_b, alpha)
    return verdicts.first(high < MARGIN, low > MARGIN)
