"""The experiment as a gate of a rollout's step: rollouts asks, the decision engine answers."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from django.db import transaction

from abtests import decision
from abtests.decision import Decision, Outcome, Progress
from abtests.events import ExperimentChanged
from abtests.lifecycle import Status
from abtests.models import Experiment, Snapshot
from abtests.settings import ExperimentSettings, parse_settings
from abtests.traffic_now import arriving
from abtests.watch import watched_by
from deploypipe.core import audit, events
from deploypipe.metrics.measured import measured
from deploypipe.metrics.windows import Measured
from rollouts import monitor
from rollouts.analysis import Verdict
from rollouts.analysis_settings import SettingsError
from rollouts.backends import gates
from rollouts.lifecycle import Purpose
from rollouts.models import Rollout, Route
from rollouts.plan import Finding
from rollouts.queries import backends_of
from rollouts.traffic.base import TOTAL_WEIGHT

STEP = "experiment"
_ENDS = {Outcome.PROMOTE: "decide_promote", Outcome.ABORT: "decide_abort", Outcome.INCONCLUSIVE: "end_inconclusive"}


class ExperimentGate:
    def check(self, settings: Mapping[str, Any]) -> dict[str, str]:
        try:
            parse_settings(settings)
        except SettingsError as error:
            return error.fields
        return {}

    def title(self, settings: Mapping[str, Any]) -> str:
        return "Experiment: candidate against stable"

    def watch(self, settings: Mapping[str, Any]) -> Mapping[str, Any]:
        return watched_by(parse_settings(settings))

    def judge(self, rollout: Rollout, step_index: int, *, now: datetime, seconds: float) -> Finding:
        experiment = _started(rollout, step_index, now)
        if experiment.state is not Status.RUNNING:
            return _finding_of_ended(experiment)
        problem = monitor.provider_problem(now) or monitor.stable_problem(rollout)
        progress, is_new = _advanced(experiment, rollout)
        ended = decision.at_end(progress, seconds=seconds, provider_problem=problem)
        if ended is not progress:
            progress = ended
            Experiment.objects.filter(pk=experiment.pk).update(progress=progress.to_json())
        decided = decision.decide(progress, seconds=seconds, provider_problem=problem, gone=_gone(rollout))
        _keep(experiment, progress, decided, now, is_new=is_new)
        drop = tuple((arm.name, arm.sentence) for arm in decided.arms if arm.name in decided.drop)
        if decided.verdict in (Outcome.PROMOTE, Outcome.ABORT) and not decided.automatic:
            sentence = f"{decided.sentence} A person must act on it."
            _say(experiment, sentence)
            return Finding(Verdict.INSUFFICIENT_DATA, sentence)
        if verb := _ENDS.get(decided.verdict):
            _end(experiment, verb, decided.sentence, now, winner=decided.winner)
            return _finding_of_ended(experiment)
        _say(experiment, decided.sentence)
        return Finding(decided.gate.value, decided.sentence, drop=drop if decided.settings.auto_rollback else ())

    def end(self, rollout: Rollout, step_index: int, *, now: datetime) -> None:
        for experiment in Experiment.objects.filter(
            rollout=rollout, step_index__gte=step_index, status__in=[Status.DRAFT, Status.RUNNING]
        ):
            _end(experiment, "stop", rollout.reason or rollout.sentence, now)


def _advanced(experiment: Experiment, rollout: Rollout) -> tuple[Progress, bool]:
    """Up to the newest window, and whether there was one. What is stored is a cache: it equals a replay of all windows,
    bit for bit, so that code which would compute otherwise begins again."""
    stored = experiment.progress
    if stored and stored.get("code_version") == decision.CODE_VERSION:
        before = Progress.from_json(stored)
    else:
        before = _begun_again(experiment, rollout, stored.get("closed_after"))
    new = windows_of(experiment, rollout, after=before.last_window if before.looks else None)
    after = decision.advance(before, new)
    if new:
        Experiment.objects.filter(pk=experiment.pk).update(progress=after.to_json())
    return after, bool(new)


def _begun_again(experiment: Experiment, rollout: Rollout, closed_after: int | None) -> Progress:
    """Up to the closing look, where it was taken: another one, at later numbers, would promise nothing."""
    begun = decision.start(parse_settings(experiment.settings), candidates(rollout))
    if closed_after is None:
        return begun
    return decision.close(decision.advance(begun, windows_of(experiment, rollout, until=closed_after)))


def candidates(rollout: Rollout) -> tuple[str, ...]:
    """All that the experiment began with, also those that were taken off."""
    return tuple(lane.arm for lane in rollout.lanes)


def windows_of(
    experiment: Experiment, rollout: Rollout, *, after: int | None = None, until: int | None = None
) -> list[Measured]:
    """What was measured since the experiment began, oldest first: those after the number `after`, up to `until`."""
    if experiment.started_at is None or rollout.candidate is None:
        return []
    environment, model = rollout.environment.name, rollout.model.name
    return measured(environment, model, backends_of(rollout), experiment.started_at, after=after, until=until)


def _gone(rollout: Rollout) -> dict[str, str]:
    return {arm.name: arm.reason for arm in rollout.arms.all() if not arm.is_on}


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
        settings = _settled(parse_settings(experiment.settings), rollout)
        experiment.advance("start", started_at=now, stable=stable, settings=settings.to_json())
        audit.record(None, "experiment.started", experiment, after={"settings": experiment.settings})
        events.announce(ExperimentChanged(experiment.pk))
    return experiment


def _settled(settings: ExperimentSettings, rollout: Rollout) -> ExperimentSettings:
    if settings.closing_share is not None:
        return settings
    per_minute = arriving(rollout.model, rollout.environment, settings.unit)
    route = Route.objects.get(model=rollout.model, environment=rollout.environment)
    share = route.weight / TOTAL_WEIGHT * (1 - rollout.percent_held_out / 100)
    return settings.settled(per_minute * settings.max_seconds / 60 * share)


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


def _keep(experiment: Experiment, progress: Progress, decided: Decision, now: datetime, *, is_new: bool) -> None:
    """A look is kept where there was something new to see, and where time alone has changed the verdict."""
    if not is_new:
        newest = Snapshot.objects.filter(experiment=experiment).values_list("verdict", flat=True).first()
        if newest == decided.verdict or (newest is None and decided.verdict is Outcome.CONTINUE):
            return
    _, new = Snapshot.objects.get_or_create(
        experiment=experiment,
        last_window=max(progress.last_window, 0),
        verdict=decided.verdict.value,
        defaults={
            "at": now,
            "sentence": decided.sentence,
            "detail": decided.to_json(),
            "digest": decided.digest,
            "code_version": decided.code_version,
        },
    )
    if new:
        events.announce(ExperimentChanged(experiment.pk))


def _say(experiment: Experiment, sentence: str) -> None:
    if sentence != experiment.sentence:
        Experiment.objects.filter(pk=experiment.pk, status=experiment.status).update(sentence=sentence)


@transaction.atomic
def _end(experiment: Experiment, verb: str, sentence: str, now: datetime, *, winner: str | None = None) -> None:
    before = experiment.status
    version = experiment.versions.get(winner) if winner else None
    experiment.advance(verb, sentence=sentence, ended_at=now, winner=version)
    after: dict[str, Any] = {"status": experiment.status}
    if version is not None:
        after["winner"] = str(version)
    audit.record(None, f"experiment.{verb}", experiment, before={"status": before}, after=after, reason=sentence)
    events.announce(ExperimentChanged(experiment.pk))


gates.register(STEP)(ExperimentGate())
