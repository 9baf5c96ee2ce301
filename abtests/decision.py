"""Decide an experiment: promote, abort, continue, inconclusive, or invalid.

Promote needs every goal, and every guardrail that asks for proof, to be proven, each at alpha: a version that misses
one of them is promoted with probability at most alpha, without a correction (intersection-union). Abort needs one of
them broken, and shares alpha among them: a version that keeps them all is aborted with probability at most alpha. Both
hold at every look; a part of an abort's alpha may be kept for one exact test at the end. With several candidates each
has an equal part of alpha; one that breaks something is dropped, and when every one is decided the best of those that
met all wins. A mismatch between the promised and the measured split makes everything invalid, whatever the rates say.

A decision is a pure function of the settings, the windows and the time that has passed: `advance` keeps what must be
kept between two looks, and any batching of the windows gives the same bits.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

from abtests import sentences, sight
from abtests.progress import CODE_VERSION, Progress, Totals, advance, advance_many, close, start
from abtests.settings import ExperimentSettings
from deploypipe.metrics import criteria
from deploypipe.metrics.criteria import Evaluation, Row, State
from deploypipe.metrics.definitions import metric_named
from deploypipe.metrics.windows import CANDIDATE, Measured
from rollouts.analysis import Verdict

__all__ = [
    "CODE_VERSION", "SRM_ALPHA", "Arm", "Decision", "Outcome", "Progress", "Standing", "State", "Totals", "advance",
    "advance_many", "at_end", "close", "decide", "gate_verdict", "replay", "start",
]  # fmt: skip

SRM_ALPHA = 0.001


class Outcome(StrEnum):
    PROMOTE = "promote"
    ABORT = "abort"
    CONTINUE = "continue"
    INCONCLUSIVE = "inconclusive"
    INVALID = "invalid"


class Standing(StrEnum):
    """Of one candidate."""

    MET = "met"
    BROKEN = "broken"
    GONE = "gone"
    """Taken off for another reason, such as a server that died."""
    OPEN = "open"


@dataclass(frozen=True, slots=True)
class Arm:
    """What is known of one candidate."""

    name: str
    standing: Standing
    decided_by: str
    """The criterion that it broke."""
    sentence: str
    rows: tuple[Row, ...]

    def to_json(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "standing": self.standing.value,
            "decided_by": self.decided_by,
            "sentence": self.sentence,
            "rows": [row.to_json() for row in self.rows],
        }


@dataclass(frozen=True, slots=True)
class Decision:
    verdict: Outcome
    sentence: str
    gate: Verdict
    """What a rollout step that waits for this experiment is told."""
    automatic: bool
    """The settings let the product act on this verdict; otherwise a person is asked."""
    decided_by: str
    """Name of the criterion that decided, "all_goals", "sample_ratio", or nothing."""
    winner: str | None
    """The candidate to promote."""
    drop: tuple[str, ...]
    """Candidates that broke something while others go on."""
    timed_out: bool
    arms: tuple[Arm, ...]
    totals: tuple[tuple[str, Totals], ...]
    log_srm_evidence: float
    further_units: int | None
    """Of all arms together, about, until a decision if things go on as they are; None when none is in sight."""
    further_seconds: float | None
    looks: int
    last_window: int
    digest: str
    closed_after: int | None
    """Window after which the closing look was taken."""
    seconds: float
    provider_problem: str | None
    gone: tuple[tuple[str, str], ...]
    """Candidates that were taken off for another reason, and why."""
    settings: ExperimentSettings
    code_version: str = CODE_VERSION

    @property
    def rows(self) -> tuple[Row, ...]:
        """Of the first candidate: with one, of all."""
        return self.arms[0].rows

    def to_json(self) -> dict[str, Any]:
        return {
            "verdict": self.verdict.value,
            "sentence": self.sentence,
            "gate": self.gate.value,
            "automatic": self.automatic,
            "decided_by": self.decided_by,
            "winner": self.winner,
            "drop": list(self.drop),
            "timed_out": self.timed_out,
            "rows": [{"arm": arm.name, **row.to_json()} for arm in self.arms for row in arm.rows],
            "arms": {arm.name: {**arm.to_json(), "rows": len(arm.rows)} for arm in self.arms},
            "totals": {arm: asdict(totals) for arm, totals in self.totals},
            "log_srm_evidence": self.log_srm_evidence,
            "further_units": self.further_units,
            "further_seconds": self.further_seconds,
            "unit": self.settings.unit.value,
            "looks": self.looks,
            "last_window": self.last_window,
            "digest": self.digest,
            "closed_after": self.closed_after,
            "seconds": self.seconds,
            "provider_problem": self.provider_problem,
            "gone": dict(self.gone),
            "settings": self.settings.to_json(),
            "code_version": self.code_version,
        }


def gate_verdict(outcome: Outcome, *, provider_problem: bool = False) -> Verdict:
    """A spoilt measurement is no failure of the model, and an end without a decision is no success."""
    if provider_problem or outcome is Outcome.INVALID:
        return Verdict.PROVIDER_ERROR
    return {Outcome.PROMOTE: Verdict.PASS, Outcome.ABORT: Verdict.FAIL}.get(outcome, Verdict.INSUFFICIENT_DATA)


def replay(
    windows: Iterable[Measured],
    settings: ExperimentSettings,
    *,
    seconds: float,
    provider_problem: str | None = None,
    arms: Sequence[str] = (CANDIDATE,),
) -> Decision:
    return decide(advance(start(settings, arms), windows), seconds=seconds, provider_problem=provider_problem)


def at_end(progress: Progress, *, seconds: float, provider_problem: str | None = None) -> Progress:
    """With the closing look taken, if its time has come. Whoever looks again later must go on from what this gives."""
    over = seconds >= progress.settings.max_seconds and provider_problem is None
    return close(progress) if over and progress.looks else progress


def decide(
    progress: Progress,
    *,
    seconds: float,
    provider_problem: str | None = None,
    gone: Mapping[str, str] | None = None,
    ahead: bool = True,
) -> Decision:
    """`seconds` since the experiment began; `gone`: candidates that were taken off for another reason than this
    experiment's, and why. `ahead`: say how much longer it takes, which is most of the work here."""
    progress = at_end(progress, seconds=seconds, provider_problem=provider_problem)
    settings, seconds = progress.settings, float(seconds)
    absent = dict(sorted((gone or {}).items()))
    arms = tuple(_arm(progress, arm, evaluation, seconds, absent.get(arm)) for arm, evaluation in progress.evaluations)
    further = sight.further(progress, arms, seconds) if ahead else None
    verdict, decided_by, winner = Outcome.CONTINUE, "", None
    timed_out = seconds >= settings.max_seconds
    broken = [arm for arm in arms if arm.standing is Standing.BROKEN]
    lost = [arm for arm in arms if arm.standing in (Standing.BROKEN, Standing.GONE)]
    drop = tuple(arm.name for arm in broken) if len(lost) < len(arms) else ()

    if provider_problem is not None:
        sentence, drop = sentences.on_hold(provider_problem), ()
    elif progress.mismatch.reached(SRM_ALPHA):
        verdict, decided_by, drop = Outcome.INVALID, "sample_ratio", ()
        sentence = sentences.mismatched(progress.mismatch, SRM_ALPHA)
    elif len(lost) == len(arms):
        verdict, decided_by = Outcome.ABORT, next((arm.decided_by for arm in broken), "")
        sentence = sentences.aborted(arms)
    elif (best := _best(arms)) and (timed_out or all(arm.standing is not Standing.OPEN for arm in arms)):
        verdict, decided_by, winner = Outcome.PROMOTE, "all_goals", best.name
        sentence = sentences.promoted(best, arms)
    else:
        verdict = Outcome.INCONCLUSIVE if timed_out else Outcome.CONTINUE
        sentence = sentences.still_open(progress, arms, seconds if timed_out else None, further)
    decided = verdict not in (Outcome.CONTINUE, Outcome.INCONCLUSIVE)
    return Decision(
        verdict=verdict,
        sentence=sentence,
        gate=gate_verdict(verdict, provider_problem=provider_problem is not None),
        automatic={Outcome.PROMOTE: settings.auto_promote, Outcome.ABORT: settings.auto_rollback}.get(verdict, False),
        decided_by=decided_by,
        winner=winner,
        drop=drop,
        timed_out=timed_out and not decided,
        arms=arms,
        totals=progress.totals,
        log_srm_evidence=progress.mismatch.max_log_evidence,
        further_units=None if decided or further is None else further.units,
        further_seconds=None if decided or further is None else further.seconds,
        looks=progress.looks,
        last_window=progress.last_window,
        digest=progress.digest,
        closed_after=progress.closed_after,
        seconds=seconds,
        provider_problem=provider_problem,
        gone=tuple(absent.items()),
        settings=settings,
    )


def _arm(progress: Progress, name: str, evaluation: Evaluation, seconds: float, gone: str | None) -> Arm:
    rows = criteria.rows(evaluation)
    broken = max(
        (row for row in rows if row.state is State.BROKEN),
        key=lambda row: row.log_evidence_against - (row.log_threshold_against or 0.0),
        default=None,
    )
    if broken is not None:
        return Arm(name, Standing.BROKEN, broken.name, sentences.broken(name, broken), rows)
    if gone is not None:
        return Arm(name, Standing.GONE, "", sentences.gone(name, gone), rows)
    waits = sentences.floors(progress, name, seconds)
    if all(row.state is State.MET for row in rows) and not waits:
        return Arm(name, Standing.MET, "", sentences.met(name, rows), rows)
    return Arm(name, Standing.OPEN, "", sentences.open_arm(name, rows, waits), rows)


def _best(arms: Sequence[Arm]) -> Arm | None:
    """Of those that met everything: the best by what was measured of the first goal; the first where they are equal."""
    met = [arm for arm in arms if arm.standing is Standing.MET]
    return min(met, key=_loss, default=None)


def _loss(arm: Arm) -> float:
    first = arm.rows[0]
    if first.estimate is None:
        return float("inf")
    return first.estimate if metric_named(first.metric).lower_is_better else -first.estimate
