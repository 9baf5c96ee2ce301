"""The mission's rule to the letter: `README.md` of the Automated Model Deployment Pipeline, "Decision Criteria".

Point estimates over all requests so far, at every look. Promote when the error rate rises by at most 0.5 points, P95 by
at most 20 %, and the candidate has served 1,000 requests; abort when its error rate is above 5 % (the same as a success
rate under 95 %) or its P95 above 1,000 ms. Whether an abort waits for the thousandth request, too, it does not say:
`Mission(abort_waits)` is both readings.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from benchmarks.judges import series, verdicts
from benchmarks.judges.scenarios import Stream
from benchmarks.judges.verdicts import Verdicts

MOST_INCREASE, MOST_SLOWER, LEAST_REQUESTS = 0.005, 1.2, 1000
MOST_ERRORS, MOST_MS = 0.05, 1000.0
LEVEL = 0.95


@dataclass(frozen=True, slots=True)
class Mission:
    abort_waits: bool

    def __call__(self, stream: Stream) -> Verdicts:
        requests = np.cumsum(stream.candidate.requests, axis=1)
        stable = series.ratio(np.cumsum(stream.stable.errors, axis=1), np.cumsum(stream.stable.requests, axis=1))
        candidate = series.ratio(np.cumsum(stream.candidate.errors, axis=1), requests)
        enough = requests >= LEAST_REQUESTS
        promote = enough & (candidate - stable <= MOST_INCREASE)
        abort = candidate > MOST_ERRORS
        if stream.stable.latency is not None and stream.candidate.latency is not None:
            slow = series.latency_so_far(stream.stable, LEVEL)
            slower = series.latency_so_far(stream.candidate, LEVEL)
            promote &= slower <= MOST_SLOWER * slow
            abort |= slower > MOST_MS
        if self.abort_waits:
            abort &= enough
        seen = stream.scenario.measured
        return verdicts.first(promote & seen, abort & seen)
