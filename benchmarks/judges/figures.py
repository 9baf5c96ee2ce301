"""What is counted of a judge in a cell."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy import special

from benchmarks.judges.grid import Cell
from benchmarks.judges.run import Done, Outcome
from benchmarks.judges.scenarios import LEVEL, MARGIN, slow_share
from benchmarks.judges.verdicts import ABORT, OPEN, PROMOTE
from deploypipe.stats import planning


@dataclass(frozen=True, slots=True)
class Share:
    """Of runs, with its 95 % interval (Clopper and Pearson)."""

    count: int
    runs: int

    @property
    def value(self) -> float:
        return self.count / self.runs

    @property
    def low(self) -> float:
        return float(special.betaincinv(self.count, self.runs - self.count + 1, 0.025)) if self.count else 0.0

    @property
    def high(self) -> float:
        failed = self.runs - self.count
        return float(special.betaincinv(self.count + 1, failed, 0.975)) if failed else 1.0


@dataclass(frozen=True, slots=True)
class Figures:
    cell: Cell
    judge: str
    alpha: float
    falsely_aborted: Share | None
    """None where the candidate is worse than allowed."""
    badly_promoted: Share | None
    """None where the candidate is within the margin."""
    missed: Share | None
    """Not aborted by the end, or, of a version within the margin, not promoted; None exactly at the margin."""
    requests: float
    """Median until the right verdict, inf where less than half of the runs came to it; NaN exactly at the margin."""
    minutes: float
    during_outage: Share | None
    """Verdicts that fell while nothing was measured; None of a cell that was measured all the time."""
    to_wald: float
    """Requests over log(1/alpha) / g, g nats per request (`deploypipe.stats.planning`); NaN where there is no g."""


def figures(done: Done) -> list[Figures]:
    return [_of(done.cell, judge, alpha, outcome) for (judge, alpha), outcome in done.outcomes.items()]


def _of(cell: Cell, judge: str, alpha: float, outcome: Outcome) -> Figures:
    beyond, allowed = cell.scenario.beyond, not cell.scenario.at_or_beyond
    runs = len(outcome.kind)
    aborted, promoted = int((outcome.kind == ABORT).sum()), int((outcome.kind == PROMOTE).sum())
    requests = minutes = math.nan
    missed = None
    if beyond or allowed:
        right = outcome.kind == (ABORT if beyond else PROMOTE)
        missed = Share(runs - int(right.sum()), runs)
        requests = float(np.median(np.where(right, outcome.requests, np.inf)))
        minutes = float(np.median(np.where(right, outcome.minutes, np.inf)))
    return Figures(
        cell,
        judge,
        alpha,
        None if beyond else Share(aborted, runs),
        None if allowed else Share(promoted, runs),
        missed,
        requests,
        minutes,
        _during_outage(cell, outcome),
        requests / wald(cell, alpha),
    )


def _during_outage(cell: Cell, outcome: Outcome) -> Share | None:
    if cell.scenario.outage is None:
        return None
    first, last = cell.scenario.outage
    decided = (outcome.kind != OPEN) & (outcome.minutes > first) & (outcome.minutes <= last)
    return Share(int(decided.sum()), len(outcome.kind))


def wald(cell: Cell, alpha: float) -> float:
    """Requests of both arms; NaN where the split or the rates change, or where units are not requests."""
    scenario = cell.scenario
    if scenario.ramp or scenario.drift != 1 or scenario.sessions or scenario.outage:
        return math.nan
    if scenario.latency is not None:
        rates, margin = (1 - LEVEL, slow_share(scenario.latency)), 0.0
    else:
        rates, margin = (scenario.base, scenario.base + scenario.effect), MARGIN
    bound = planning.wald_bound(*rates, share=scenario.share, alpha=alpha, difference=margin)
    return bound if math.isfinite(bound) else math.nan


def percent(share: Share | None) -> str:
    if share is None:
        return ""
    return f"{_short(share.value)} ({_short(share.low)}–{_short(share.high)}) %"


def _short(value: float) -> str:
    text = f"{100 * value:.2f}" if value < 0.1 else f"{100 * value:.1f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def ratio(value: float) -> str:
    if math.isnan(value):
        return ""
    return "more than half undecided" if math.isinf(value) else f"{value:.2f}"


def minutes(value: float) -> str:
    if math.isnan(value):
        return ""
    return "—" if math.isinf(value) else f"{value:.4g} min"
