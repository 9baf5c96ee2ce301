"""The experiment as a gate of a rollout's step: rollouts asks, the decision engine answers."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from django.db import transaction

from abtests import decision
from abtests.decision import Outcome
from abtests.events import ExperimentChanged
from abtests.lifecycle import Status
from abtests.models import Experiment, Snapshot
from deploypipe.core import audit, events
from rollouts import monitor
from rollouts.analysis import SettingsError, Verdict
from rollouts.backends import gates
from rollouts.lifecycle import Purpose
from rollouts.models import Rollout
from rollouts.plan import Finding

STEP = "experiment"
_ENDS = {Outcome.PROMOTE: "decide_promote", Outcome.ABORT: "decide_abort", Outcome.INCONCLUSIVE: "end_inconclusive"}


class ExperimentGate:
    def check(self, settings: Mapping[str, Any]) -> dict[str, str]:
        try:
            decision.parse_settings(settings)
        except SettingsError as error:
            return error.fields
        return {}

    def title(self, settings: Mapping[str, Any]) -> str:
        return "Experiment: candidate against stable"

    def judge(self, rollout: Rollout, step_index: int, *, now: datetime, seconds: float) -> Finding:
        experiment = _started(rollout, step_index, now)
        if experiment.state is not Status.RUNNING:
            return _finding_of_ended(experiment)
        seen = monitor.measurements(rollout, experiment.started_at)
        settings = decision.parse_settings(experiment.settings)
        decided = decision.decide(
            seen.windows, settings, seconds=seconds, provider_problem=monitor.provider_problem(now)
        )
        if seen.last:
            _keep(experiment, seen.last, decided, now)
        if decided.verdict in (Outcome.PROMOTE, Outcome.ABORT) and not decided.automatic:
            sentence = f"{decided.sentence} A person must act on it."
            _say(experiment, sentence)
            return Finding(Verdict.INSUFFICIENT_DATA, sentence)
        if verb := _ENDS.get(decided.verdict):
            _end(experiment, verb, decided.sentence, now)
            return _finding_of_ended(experiment)
        _say(experiment, decided.sentence)
        return Finding(decided.gate.value, decided.sentence)

    def end(self, rollout: Rollout, step_index: int, *, now: datetime) -> None:
        for experiment in Experiment.objects.filter(
            rollout=rollout, step_index__gte=step_index, status__in=[Status.DRAFT, Status.RUNNING]
        ):
            _end(experiment, "stop", rollout.reason or rollout.sentence, now)


@transaction.atomic
def _started(rollout: Rollout, step_index: int, now: datetime) -> Experiment:
    step = rollout.steps.get(index=step_index)
    experiment, _ = Experiment.objects.get_or_create(
        rollout=rollout,
        step_index=step_index,
        defaults={
            "name": f"{rollout.version} in {rollout.environment}",
            "environment": rollout.environment,
            "candidate": rollout.version,
            "settings": step.settings,
            "created_by": rollout.requested_by,
        },
    )
    if experiment.state is Status.DRAFT:
        stable = rollout.previous.version if rollout.previous else None
        experiment.advance("start", started_at=now, stable=stable)
        audit.record(None, "experiment.started", experiment, after={"settings": experiment.settings})
        events.announce(ExperimentChanged(experiment.pk))
    return experiment


def _finding_of_ended(experiment: Experiment) -> Finding:
    alone = experiment.rollout.purpose == Purpose.EXPERIMENT
    match experiment.state:
        case Status.PROMOTE:
            return Finding(Verdict.PASS, experiment.sentence)
        case Status.ABORT:
            return Finding(Verdict.FAIL, experiment.sentence)
        case Status.INCONCLUSIVE if alone:
            # On its own an experiment has no promotion to hold back: its end is its answer, whichever it is.
            return Finding(Verdict.PASS, experiment.sentence)
        case _:
            return Finding(Verdict.INSUFFICIENT_DATA, experiment.sentence, timed_out=True)


def _keep(experiment: Experiment, last: int, decided: decision.Decision, now: datetime) -> None:
    _, new = Snapshot.objects.get_or_create(
        experiment=experiment,
        last_window=last,
        defaults={
            "at": now,
            "verdict": decided.verdict.value,
            "sentence": decided.sentence,
            "detail": decided.to_json(),
        },
    )
    if new:
        events.announce(ExperimentChanged(experiment.pk))


def _say(experiment: Experiment, sentence: str) -> None:
    if sentence != experiment.sentence:
        Experiment.objects.filter(pk=experiment.pk, status=experiment.status).update(sentence=sentence)


@transaction.atomic
def _end(experiment: Experiment, verb: str, sentence: str, now: datetime) -> None:
    before = experiment.status
    experiment.advance(verb, sentence=sentence, ended_at=now)
    audit.record(
        None, f"experiment.{verb}", experiment, before={"status": before}, after={"status": experiment.status},
        reason=sentence,
    )  # fmt: skip
    events.announce(ExperimentChanged(experiment.pk))


gates.register(STEP)(ExperimentGate())
