"""Argo Rollouts' AnalysisRun: `analysis/analysis.go` and `utils/evaluate/evaluate.go`.

A query over the candidate's last five minutes, every `interval` minutes from the fifth minute on, for as long as the
cell lasts. With an interval under five minutes the windows overlap, and one bad minute fails several measurements. More
failed measurements than `failureLimit` abort; whoever gets to the end is promoted. A window without a request of the
candidate counts as a success (the condition is written with `isNaN(result) ||`, as its documentation advises). When the
monitoring system does not answer, each measurement is an Error, repeated after 10 s, and the fifth in a row aborts:
that is 40 s, so it falls before the next minute's end.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from benchmarks.judges import series, verdicts
from benchmarks.judges.scenarios import Stream
from benchmarks.judges.verdicts import Verdicts

MINUTES = 5
LEVEL = 0.95


@dataclass(frozen=True, slots=True)
class Argo:
    failure_limit: int
    least_success: float | None = None
    """`result >= 0.95`."""
    most_increase: float | None = None
    """`canary - stable <= 0.005`, error rates."""
    most_slower: float | None = None
    """`canary / stable <= 1.2`, P95."""
    interval: int = 1
    """Minutes."""

    def __call__(self, stream: Stream) -> Verdicts:
        scenario = stream.scenario
        ends = series.minute_ends(scenario)
        ended = np.arange(scenario.minutes) + 1
        measuring = (ended >= MINUTES) & ((ended - MINUTES) % self.interval == 0)
        answered = series.answered(scenario)
        failed = np.cumsum(self._failed(stream) & measuring & answered, axis=1)
        unanswered = np.zeros_like(answered)
        unanswered[1:] = (measuring & ~answered)[:-1]
        abort = (failed > self.failure_limit) | unanswered
        windows = scenario.windows
        return verdicts.first(verdicts.at_end(windows, stream.runs), verdicts.at_ticks(windows, ends, abort))

    def _failed(self, stream: Stream) -> npt.NDArray[np.bool_]:
        scenario = stream.scenario
        failed = np.zeros((stream.runs, scenario.minutes), dtype=bool)
        if self.least_success is not None or self.most_increase is not None:
            candidate = series.error_rates(stream.candidate, scenario, MINUTES)
            if self.least_success is not None:
                failed |= 1 - candidate < self.least_success
            if self.most_increase is not None:
                failed |= candidate - series.error_rates(stream.stable, scenario, MINUTES) > self.most_increase
        if self.most_slower is not None:
            stable = series.latencies(stream.stable, scenario, LEVEL, MINUTES)
            failed |= series.latencies(stream.candidate, scenario, LEVEL, MINUTES) > self.most_slower * stable
        return failed
