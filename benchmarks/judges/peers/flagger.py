"""Flagger's canary analysis: `pkg/controller/scheduler.go` and `scheduler_metrics.go`, with the limits of its
documents.

Every 60 s the candidate's last minute is checked: success rate at least 99 %, and P99 at most 500 ms where there are
latencies. No values, a minute without a request included, is a failed check like any other. Failed checks add up and
are never forgotten; a tick that finds as many as `threshold` rolls back, before it checks anything: that is the tick
after. Whoever gets to the end is promoted (`iterations` as many as the cell has minutes).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from benchmarks.judges import series, verdicts
from benchmarks.judges.scenarios import Stream
from benchmarks.judges.verdicts import Verdicts

LEAST_SUCCESS, MOST_MS, LEVEL = 0.99, 500.0, 0.99


@dataclass(frozen=True, slots=True)
class Flagger:
    threshold: int

    def __call__(self, stream: Stream) -> Verdicts:
        scenario = stream.scenario
        success = 1 - series.error_rates(stream.candidate, scenario)
        passed = success >= LEAST_SUCCESS
        if stream.candidate.latency is not None:
            passed &= series.latencies(stream.candidate, scenario, LEVEL) <= MOST_MS
        failed = np.cumsum(~passed | ~series.answered(scenario), axis=1)
        rolled_back = np.zeros_like(failed, dtype=bool)
        rolled_back[:, 1:] = failed[:, :-1] >= self.threshold
        windows = scenario.windows
        return verdicts.first(
            verdicts.at_end(windows, stream.runs),
            verdicts.at_ticks(windows, series.minute_ends(scenario), rolled_back),
        )
