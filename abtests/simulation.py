"""Many experiments that could be, through the real engine: how often a policy is wrong, and how long it takes."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from abtests import decision
from abtests.decision import SRM_ALPHA, Outcome, Progress
from abtests.scenario import Scenario, Streams
from abtests.settings import ExperimentSettings
from abtests.thresholds import kept
from deploypipe.metrics.criteria import Unit
from deploypipe.metrics.probes import compiled
from deploypipe.metrics.windows import CANDIDATE, STABLE, ArmWindow
from deploypipe.metrics.wording import wanted
from deploypipe.stats.histogram import edge
from deploypipe.stats.intervals import Interval, wilson

CONFIDENCE = 0.95
_EXACTLY = 1e-9


@dataclass(frozen=True, slots=True)
class Simulated:
    """What is simulated, apart from the settings and the scenario."""

    share: float
    runs: int = 1000
    look_seconds: float = 30.0
    seed: int = 1


@dataclass(frozen=True, slots=True)
class Run:
    verdict: Outcome
    seconds: float
    """Since it began, at the verdict."""
    requests: int
    """Of both arms until then."""
    decided_by: str


@dataclass(frozen=True, slots=True)
class Share:
    """Of all runs."""

    runs: int
    of: int
    interval: Interval

    @property
    def value(self) -> float:
        return self.runs / self.of

    def to_json(self) -> dict[str, Any]:
        return {"runs": self.runs, "share": self.value, "low": self.interval.low, "high": self.interval.high}


@dataclass(frozen=True, slots=True)
class Seen:
    """One arm, all runs together, until each one's verdict."""

    requests: int
    errors: int
    mean_latency_ms: float | None

    @property
    def error_rate_percent(self) -> float | None:
        return 100 * self.errors / self.requests if self.requests else None


@dataclass(frozen=True, slots=True)
class Result:
    settings: ExperimentSettings
    scenario: Scenario
    asked: Simulated
    runs: tuple[Run, ...]
    arms: tuple[tuple[str, Seen], ...]
    broken: tuple[str, ...]
    """Names of the criteria that the candidate does not keep in truth, as the scenario has it."""
    deserves: bool
    """It keeps, and where more is asked exceeds, every criterion: it should be promoted."""

    def share(self, verdict: Outcome) -> Share:
        count = sum(run.verdict is verdict for run in self.runs)
        return Share(count, len(self.runs), wilson(count, len(self.runs), confidence=CONFIDENCE))

    def median_minutes(self, verdict: Outcome) -> float | None:
        found = [run.seconds / 60 for run in self.runs if run.verdict is verdict]
        return statistics.median(found) if found else None

    def median_requests(self, verdict: Outcome) -> int | None:
        found = [run.requests for run in self.runs if run.verdict is verdict]
        return round(statistics.median(found)) if found else None

    def by_minute(self, verdict: Outcome, minutes: Sequence[float]) -> list[float]:
        """Share of all runs that had this verdict by then."""
        at = np.sort([run.seconds / 60 for run in self.runs if run.verdict is verdict])
        return [float(np.searchsorted(at, minute + _EXACTLY)) / len(self.runs) for minute in minutes]

    @property
    def usual(self) -> Outcome:
        """The verdict that most runs come to."""
        return max(Outcome, key=lambda verdict: self.share(verdict).runs)

    def to_json(self) -> dict[str, Any]:
        return {
            "settings": self.settings.to_json(),
            "scenario": self.scenario.to_json(),
            "traffic_split_percent": 100 * self.asked.share,
            "runs": self.asked.runs,
            "look_seconds": self.asked.look_seconds,
            "seed": self.asked.seed,
            "candidate_deserves_promotion": self.deserves,
            "candidate_breaks": list(self.broken),
            "verdicts": {
                verdict.value: {
                    **self.share(verdict).to_json(),
                    "median_minutes": self.median_minutes(verdict),
                    "median_requests": self.median_requests(verdict),
                }
                for verdict in Outcome
                if verdict is not Outcome.CONTINUE
            },
            "arms": {arm: asdict(seen) for arm, seen in self.arms},
            "code_version": decision.CODE_VERSION,
        }


def simulate(
    settings: ExperimentSettings,
    scenario: Scenario,
    asked: Simulated,
    *,
    tell: Callable[[int, int, int], None] = lambda look, looks, running: None,
) -> Result:
    """`tell` is called after each look: its number, how many there are at most, and how many runs still go on."""
    settings = settings.settled(_candidate_units(settings, scenario, asked))
    looks = math.ceil(settings.max_seconds / asked.look_seconds)
    streams = Streams(
        scenario,
        np.random.default_rng(asked.seed),
        windows=looks,
        seconds=asked.look_seconds,
        share=asked.share,
        requests_too=settings.unit is Unit.REQUEST,
    )
    running = {run: decision.start(settings, intervals=False) for run in range(asked.runs)}
    ended: dict[int, Run] = {}
    seen = {STABLE: _Tally(), CANDIDATE: _Tally()}
    for look in range(1, looks + 1):
        places = list(running)
        windows = streams.next(places)
        for window in windows:
            for arm, tally in seen.items():
                tally.add(window.arm(arm))
        advanced = decision.advance_many([running[place] for place in places], [[window] for window in windows])
        seconds = look * asked.look_seconds
        for place, progress in zip(places, advanced, strict=True):
            running[place] = progress
            if look < looks and not _may_be_decided(progress):
                continue
            decided = decision.decide(progress, seconds=seconds, ahead=False)
            if decided.verdict is not Outcome.CONTINUE:
                requests = sum(totals.requests for _, totals in decided.totals)
                ended[place] = Run(decided.verdict, seconds, requests, decided.decided_by)
                del running[place]
        tell(look, looks, len(running))
        if not running:
            break
    broken, deserves = _truth(settings, scenario)
    return Result(
        settings,
        scenario,
        asked,
        tuple(ended[place] for place in range(asked.runs)),
        tuple((arm, tally.seen()) for arm, tally in seen.items()),
        broken,
        deserves,
    )


def _may_be_decided(progress: Progress) -> bool:
    """Whether any threshold is reached that a verdict before the end needs: cheaper than to ask for it at each look."""
    if progress.mismatch.reached(SRM_ALPHA):
        return True
    for _, evaluation in progress.evaluations:
        probes = zip(compiled(evaluation.plan).probes, evaluation.states, strict=True)
        reached = [(probe.against, state.max_log_evidence >= probe.log_threshold) for probe, state in probes]
        if any(so for against, so in reached if against) or all(so for against, so in reached if not against):
            return True
    return False


def _candidate_units(settings: ExperimentSettings, scenario: Scenario, asked: Simulated) -> float:
    """Expected until the end."""
    requests = scenario.requests_per_minute * settings.max_seconds / 60 * asked.share
    return requests / scenario.requests_per_session if settings.unit is Unit.SESSION else requests


@dataclass
class _Tally:
    requests: int = 0
    errors: int = 0
    milliseconds: float = 0.0
    answered: int = 0
    """First requests of sessions that went well: those of which the latency is summed."""

    def add(self, arm: ArmWindow) -> None:
        self.requests += arm.requests
        self.errors += arm.failed
        for bin_, count in arm.fresh.first_latency.items():
            self.milliseconds += count * edge(bin_ + 0.5)
            self.answered += count

    def seen(self) -> Seen:
        return Seen(self.requests, self.errors, self.milliseconds / self.answered if self.answered else None)


def _truth(settings: ExperimentSettings, scenario: Scenario) -> tuple[tuple[str, ...], bool]:
    """What the scenario makes true of each criterion; of a metric that it does not draw nothing is known."""
    broken: list[str] = []
    right: list[str] = []
    for criterion in settings.criteria:
        values = scenario.truth(criterion.metric, criterion.level)
        if values is not None:
            (right if kept(criterion, *values) else broken).append(wanted(criterion))
    return tuple(broken), not broken and len(right) == len(settings.criteria)
