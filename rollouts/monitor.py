"""From the stored windows to the judge's word: which of them belong to a rollout and to a step of it.

What was answered so far is kept, so that a look reads only the windows that are new, however long a rollout has lasted.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from deploypipe.metrics.criteria import Plan
from deploypipe.metrics.measured import measured
from deploypipe.metrics.models import RecordCursor
from deploypipe.metrics.windows import CANDIDATE, STABLE
from rollouts import analysis
from rollouts.analysis import AnalysisSettings, Inquiry, Judgement, Verdict, capitalised
from rollouts.backends import gates
from rollouts.lifecycle import MOVES_TRAFFIC
from rollouts.models import Analysis, Deployment, JudgeProgress, Rollout, RolloutArm
from rollouts.plan import Finding
from rollouts.strategy import ANALYSIS, SET_WEIGHT, Step
from rollouts.traffic.base import TOTAL_WEIGHT

STALE_AFTER = timedelta(seconds=15)
"""Records that nobody has read for so long say nothing about now."""

WHOLE_ROLLOUT = "rollout"


@dataclass(frozen=True)
class Look:
    guard: Finding | None = None
    step: Finding | None = None


@dataclass(frozen=True)
class Answered:
    """One question, over all windows that there are."""

    known: Inquiry
    last: int
    """Number of the newest window in it; 0 while there is none."""


def look(rollout: Rollout, now: datetime, *, gate_judges: bool = False) -> Look:
    """Judge what was measured so far, and keep the judge's word where there is something new in it.

    `gate_judges`: another app's judge looks at this step's traffic. Where the strategy has no judge of its own, that is
    the same question: asked twice, at alpha each time, it would be answered wrongly twice as often.
    """
    if rollout.state not in MOVES_TRAFFIC or rollout.traffic_from is None:
        return Look()
    steps = rollout.plan
    current = steps[rollout.step_index] if rollout.step_index < len(steps) else None
    if gate_judges and not any(step.kind == ANALYSIS for step in steps):
        return Look()
    settings, problem = settings_of(steps, current), provider_problem(now)
    if arms := list(rollout.arms.all()):
        return Look(guard=_guard_of_several(rollout, arms, settings, rollout.traffic_from, problem))
    whole = answered(rollout, WHOLE_ROLLOUT, rollout.traffic_from, analysis.rollout_plan(settings))
    guard = analysis.guard(whole.known, settings, provider_problem=problem)
    if current is None or current.kind != ANALYSIS:
        return Look(guard=_finding(guard))
    step = _judge_step(rollout, settings, whole.known, now, problem)
    if whole.last:
        _keep(rollout, whole.last, step, now)
    return Look(guard=_finding(guard), step=_finding(step))


def _judge_step(
    rollout: Rollout, settings: AnalysisSettings, whole: Inquiry, now: datetime, problem: str | None
) -> Judgement:
    compare = _compares(rollout)
    plan = analysis.step_plan(settings, compare=compare)
    return analysis.judge(
        answered(rollout, f"step {rollout.step_index}", rollout.step_at, plan).known,
        whole,
        settings,
        provider_problem=problem,
        seconds_in_step=rollout.seconds_since(rollout.step_at, now),
        compare=compare,
    )


def _guard_of_several(
    rollout: Rollout, arms: Sequence[RolloutArm], settings: AnalysisSettings, since: datetime, problem: str | None
) -> Finding:
    """Each candidate has its part of alpha; one that does harm leaves, and the others go on."""
    plan = analysis.rollout_plan(settings, arms=len(arms))
    said = {
        arm.name: analysis.guard(
            answered(rollout, f"{WHOLE_ROLLOUT} {arm.name}", since, plan, arm.deployment).known,
            settings,
            provider_problem=problem,
        )
        for arm in arms
        if arm.is_on and arm.deployment is not None
    }
    sentences = {name: f"{capitalised(name)}: {judgement.sentence}" for name, judgement in said.items()}
    if problem is not None:
        return Finding(Verdict.PROVIDER_ERROR, f"No judgement, because the measurements could not be read: {problem}")
    bad = tuple((name, sentences[name]) for name, judgement in said.items() if judgement.verdict is Verdict.FAIL)
    return Finding(Verdict.INSUFFICIENT_DATA, " ".join(sentences.values()), drop=bad)


def answered(
    rollout: Rollout, question: str, since: datetime, plan: Plan | None, candidate: Deployment | None = None
) -> Answered:
    """The windows since then, those that were answered at an earlier look from what was kept of them. `candidate` is
    the rollout's own unless another is given."""
    kept = JudgeProgress.objects.filter(rollout=rollout, question=question).first()
    known = _resumed(kept, since, plan)
    last = kept.last_window if kept is not None and known is not None else 0
    known = known or analysis.inquiry(plan)
    arms = _arms(rollout, candidate or rollout.candidate)
    environment, model = rollout.environment.name, rollout.model.name
    new = measured(environment, model, arms, since, after=last or None) if CANDIDATE in arms.values() else []
    if not new:
        return Answered(known, last)
    known, last = analysis.advance(known, new), new[-1].number
    JudgeProgress.objects.update_or_create(
        rollout=rollout,
        question=question,
        defaults={"since": since, "last_window": last, "state": known.to_json()},
    )
    return Answered(known, last)


def _resumed(kept: JudgeProgress | None, since: datetime, plan: Plan | None) -> Inquiry | None:
    """None where it was about something else, or was written by another version of the judge: all is read again."""
    if kept is None or kept.since != since:
        return None
    try:
        known = Inquiry.from_json(kept.state)
    except (KeyError, TypeError, ValueError):
        return None
    return known if known.plan == plan else None


def _arms(rollout: Rollout, candidate: Deployment | None) -> dict[str, str]:
    """Backend's name → arm."""
    named = ((rollout.previous, STABLE), (candidate, CANDIDATE))
    return {deployment.name: arm for deployment, arm in named if deployment is not None}


def provider_problem(now: datetime) -> str | None:
    """Why the records cannot be trusted to tell about now; None when they can."""
    cursor = RecordCursor.objects.filter(name="gateway").first()
    if cursor is None or cursor.read_at is None:
        return "the gateway's records have not been read yet."
    if now - cursor.read_at > STALE_AFTER:
        return f"the gateway's records were last read {(now - cursor.read_at).total_seconds():.0f} s ago."
    if cursor.clock is not None and now - cursor.clock > STALE_AFTER:
        behind = (now - cursor.clock).total_seconds()
        return f"the gateway's records have been read up to {behind:.0f} s ago; the rest is being read."
    return None


def stable_problem(rollout: Rollout) -> str | None:
    """Why nothing can be compared now; None where it can. While its server is away, whatever is measured of the stable
    version says nothing of it."""
    if rollout.previous is None or rollout.previous.view.well:
        return None
    stable = rollout.previous.view
    return f"the stable version, {stable.name}, is not ready and healthy: {stable.message}"


def _compares(rollout: Rollout) -> bool:
    """Whether the stable version has a share in this step: with all traffic on the candidate only limits can judge."""
    weights = [step.weight for step in rollout.plan[: rollout.step_index] if step.kind == SET_WEIGHT]
    return rollout.previous is not None and bool(weights) and weights[-1] < TOTAL_WEIGHT


def settings_of(steps: Sequence[Step], current: Step | None) -> AnalysisSettings:
    """Of the current analysis step, else of the first one that the strategy has, else what its first gate asks of the
    candidate, else the defaults."""
    if current is None or current.kind != ANALYSIS:
        current = next((step for step in steps if step.kind == ANALYSIS), None)
    given: Mapping[str, Any] = {} if current else _asked_by_gates(steps)
    if current:
        given = {name: value for name, value in current.settings.items() if name != "on_timeout"}
    return analysis.parse_settings(given)


def _asked_by_gates(steps: Sequence[Step]) -> Mapping[str, Any]:
    found = ((gates.get(step.kind), step.settings) for step in steps)
    return next((gate.watch(settings) for gate, settings in found if gate is not None), {})


def _finding(judgement: Judgement) -> Finding:
    return Finding(judgement.verdict.value, judgement.sentence, judgement.timed_out)


def _keep(rollout: Rollout, last: int, judgement: Judgement, now: datetime) -> None:
    Analysis.objects.get_or_create(
        rollout=rollout,
        step_index=rollout.step_index,
        last_window=last,
        defaults={
            "at": now,
            "verdict": judgement.verdict.value,
            "sentence": judgement.sentence,
            "detail": judgement.to_json(),
        },
    )
