"""What would another policy have said? Any judge over the recorded windows of a past experiment. Plain Python.

The windows do not change, and so neither does the traffic: a judge that would have ended earlier is asked no further,
and one that would have gone on longer than the experiment did has no answer at the end.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from abtests import decision
from abtests.decision import Outcome
from abtests.settings import ExperimentSettings
from deploypipe.metrics.criteria import Unit
from deploypipe.metrics.windows import CANDIDATE, Measured
from rollouts import analysis
from rollouts.analysis import AnalysisSettings, Verdict

ENDS = {Outcome.PROMOTE, Outcome.ABORT, Outcome.INCONCLUSIVE, Outcome.INVALID}

Judge = Callable[[Measured | None, float], tuple[str, str]]
"""The next window (None: nothing more was measured) and the seconds since the first began → verdict and sentence. The
verdicts are those of `Outcome`. A judge is asked about one experiment, window by window, and remembers what it saw."""


@dataclass(frozen=True, slots=True)
class Said:
    """A judge's word after one window."""

    window: int
    """Its number."""
    seconds: float
    """Since the first window began."""
    requests: int
    """Of all arms until then."""
    verdict: str
    sentence: str


@dataclass(frozen=True, slots=True)
class Retrospect:
    said: tuple[Said, ...]
    """At each window, up to the end."""
    end: Said | None
    """Where it would have ended; None: it would still run."""

    def to_json(self) -> dict[str, Any]:
        return {"end": None if self.end is None else asdict(self.end), "said": [asdict(one) for one in self.said]}


def look_back(windows: Iterable[Measured], judge: Judge, *, until: float = 0.0) -> Retrospect:
    """Asks after each window until it ends; and once more when the experiment ended, if that was later (`until`, in
    seconds)."""
    said: list[Said] = []
    seconds, requests, number = 0.0, 0, -1

    def ask(window: Measured | None) -> bool:
        said.append(Said(number, seconds, requests, *judge(window, seconds)))
        return said[-1].verdict in ENDS

    for window in sorted(windows, key=lambda window: window.number):
        seconds, number = seconds + window.seconds, window.number
        requests += sum(arm.requests for arm in window.arms.values())
        if ask(window):
            return Retrospect(tuple(said), said[-1])
    if said and until > seconds:
        seconds = until
        if ask(None):
            return Retrospect(tuple(said), said[-1])
    return Retrospect(tuple(said), None)


def ours(settings: ExperimentSettings, arms: Sequence[str] = (CANDIDATE,)) -> Judge:
    """The engine that decides, with any settings."""
    progress = decision.start(settings, arms, intervals=False)

    def judge(window: Measured | None, seconds: float) -> tuple[str, str]:
        nonlocal progress
        if window is not None:
            progress = decision.advance(progress, (window,))
        decided = decision.decide(progress, seconds=seconds, ahead=False)
        return decided.verdict.value, decided.sentence

    return judge


def of_analysis(settings: AnalysisSettings) -> Judge:
    """The judge of a rollout's analysis step, the windows taken for one step of one rollout."""
    step = analysis.inquiry(analysis.step_plan(settings, compare=True))
    rollout = analysis.inquiry(analysis.rollout_plan(settings))

    def judge(window: Measured | None, seconds: float) -> tuple[str, str]:
        nonlocal step, rollout
        if window is not None:
            step, rollout = analysis.advance(step, (window,)), analysis.advance(rollout, (window,))
        judged = analysis.judge(step, rollout, settings, provider_problem=None, seconds_in_step=seconds, compare=True)
        outcome = Outcome.INCONCLUSIVE if judged.timed_out else _OUTCOMES[judged.verdict]
        return outcome.value, judged.sentence

    return judge


_OUTCOMES = {
    Verdict.PASS: Outcome.PROMOTE,
    Verdict.FAIL: Outcome.ABORT,
    Verdict.INSUFFICIENT_DATA: Outcome.CONTINUE,
    Verdict.PROVIDER_ERROR: Outcome.CONTINUE,
}


def settled(
    settings: ExperimentSettings, windows: Sequence[Measured], arms: Sequence[str] = (CANDIDATE,)
) -> ExperimentSettings:
    """As they would have been frozen at the experiment's start, had its traffic been known: counts of units alone."""
    seconds = sum(window.seconds for window in windows)
    units = sum(_units(window, arm, settings.unit) for window in windows for arm in arms)
    return settings.settled(units / seconds * settings.max_seconds if seconds else 0.0)


def _units(window: Measured, arm: str, unit: Unit) -> int:
    measured = window.arm(arm)
    return measured.requests if unit is Unit.REQUEST else measured.fresh.first[0] + measured.returning.first[0]
