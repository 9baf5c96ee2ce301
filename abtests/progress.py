"""What an experiment keeps between two looks: the evidence so far, and no window."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from abtests.evidence import chain
from abtests.settings import ExperimentSettings, parse_settings
from deploypipe.metrics import criteria
from deploypipe.metrics.criteria import Evaluation
from deploypipe.metrics.windows import CANDIDATE, STABLE, Measured
from deploypipe.stats import srm
from deploypipe.stats.srm import SrmProcess

CODE_VERSION = "experiment-4"
"""Changes whenever the same windows could give another decision."""

NO_MISMATCH = SrmProcess()


@dataclass(frozen=True, slots=True)
class Totals:
    """Of one arm, for people to read."""

    requests: int = 0
    errors: int = 0
    sessions: int = 0
    """Assigned: seen for the first time."""


@dataclass(frozen=True, slots=True)
class Progress:
    """All that must be kept between two looks."""

    settings: ExperimentSettings
    evaluations: tuple[tuple[str, Evaluation], ...]
    """Of each candidate."""
    mismatch: SrmProcess = NO_MISMATCH
    totals: tuple[tuple[str, Totals], ...] = ()
    looks: int = 0
    last_window: int = -1
    measured_seconds: float = 0.0
    """Length of all windows together."""
    digest: str = ""
    """Of all windows, see `evidence.chain`."""
    closed_after: int | None = None
    """Number of the last window that the closing look has seen; None before it. Not every look is stored, so that those
    which are do not tell it."""

    @property
    def arms(self) -> tuple[str, ...]:
        return tuple(arm for arm, _ in self.evaluations)

    def of(self, arm: str) -> Totals:
        return dict(self.totals).get(arm, Totals())

    def to_json(self) -> dict[str, Any]:
        return {
            "settings": self.settings.to_json(),
            "evaluations": {arm: evaluation.to_json() for arm, evaluation in self.evaluations},
            "mismatch": self.mismatch.to_json(),
            "totals": {arm: asdict(totals) for arm, totals in self.totals},
            "looks": self.looks,
            "last_window": self.last_window,
            "measured_seconds": self.measured_seconds,
            "digest": self.digest,
            "closed_after": self.closed_after,
            "code_version": CODE_VERSION,
        }

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> Progress:
        return cls(
            parse_settings(stored["settings"]),
            tuple((arm, Evaluation.from_json(evaluation)) for arm, evaluation in stored["evaluations"].items()),
            SrmProcess.from_json(stored["mismatch"]),
            tuple((arm, Totals(**totals)) for arm, totals in stored["totals"].items()),
            int(stored["looks"]),
            int(stored["last_window"]),
            float(stored["measured_seconds"]),
            str(stored["digest"]),
            stored["closed_after"],
        )


def start(settings: ExperimentSettings, arms: Sequence[str] = (CANDIDATE,), *, intervals: bool = True) -> Progress:
    """`arms` are the candidates, settled before the first window: alpha is divided by their number. Intervals are for
    people to read and cost more than all the rest; without them every verdict is the same."""
    if not arms or STABLE in arms or len(set(arms)) < len(arms):
        raise ValueError(f"arms must name each candidate once, and not {STABLE}: {list(arms)}")
    plan = settings.plan(len(arms))
    return Progress(settings, tuple((arm, criteria.start(plan, intervals=intervals)) for arm in arms))


def close(progress: Progress) -> Progress:
    """Take the closing look, once; see `criteria.close`."""
    closed = tuple((arm, criteria.close(evaluation)) for arm, evaluation in progress.evaluations)
    if closed == progress.evaluations:
        return progress
    return replace(progress, evaluations=closed, closed_after=progress.last_window)


def advance(progress: Progress, windows: Iterable[Measured]) -> Progress:
    """Windows in any order, none that it has seen (ValueError)."""
    return advance_many((progress,), (windows,))[0]


def advance_many(progresses: Sequence[Progress], windows_of_each: Sequence[Iterable[Measured]]) -> list[Progress]:
    """Many experiments at once: cheaper, and the same bits."""
    ordered = [sorted(windows, key=lambda window: window.number) for windows in windows_of_each]
    evaluations: list[Evaluation] = []
    windows: list[list[Measured]] = []
    arms: list[str] = []
    for progress, new in zip(progresses, ordered, strict=True):
        for arm, evaluation in progress.evaluations:
            evaluations.append(evaluation)
            windows.append(new)
            arms.append(arm)
    advanced = iter(criteria.advance_many(evaluations, windows, arms))
    return [
        _after(progress, tuple((arm, next(advanced)) for arm in progress.arms), new)
        for progress, new in zip(progresses, ordered, strict=True)
    ]


def _after(
    progress: Progress, evaluations: tuple[tuple[str, Evaluation], ...], windows: Sequence[Measured]
) -> Progress:
    if not windows:
        return progress
    mismatch, seconds = progress.mismatch, progress.measured_seconds
    totals = dict(progress.totals) or {arm: Totals() for arm in (STABLE, *progress.arms)}
    for window in windows:
        mismatch = srm.update(mismatch, _assignment(window, tuple(totals)))
        seconds += window.seconds
        for arm, before in totals.items():
            now = window.arm(arm)
            totals[arm] = Totals(
                before.requests + now.requests, before.errors + now.failed, before.sessions + now.assigned
            )
    return Progress(
        progress.settings,
        evaluations,
        mismatch,
        tuple(totals.items()),
        progress.looks + len(windows),
        windows[-1].number,
        seconds,
        chain(progress.digest, windows),
        progress.closed_after,
    )


def _assignment(window: Measured, arms: Sequence[str]) -> srm.Assignment:
    """Where the split changed within the window nothing was promised; an arm that was dropped has no share."""
    shares = {arm: window.shares[arm] for arm in arms if window.shares.get(arm, 0.0) > 0}
    return srm.Assignment(shares, {arm: window.arm(arm).assigned for arm in shares})
