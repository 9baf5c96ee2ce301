"""The verbs of experiments."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from django.db import transaction
from django.utils import timezone

from abtests.events import ExperimentChanged
from abtests.gates import STEP
from abtests.models import Experiment
from abtests.settings import parse_settings
from deploypipe.core import audit, events, roles
from deploypipe.core.errors import Conflict, IllegalTransition, Invalid
from registry.models import ModelVersion
from rollouts import actions as rollout_actions
from rollouts.analysis_settings import SettingsError
from rollouts.lifecycle import Cause, Purpose
from rollouts.models import Environment
from rollouts.strategy import SET_WEIGHT

if TYPE_CHECKING:
    from django.contrib.auth.models import User

LONGEST_NAME = 100


@transaction.atomic
def start(
    candidate: ModelVersion,
    environment: Environment,
    *,
    actor: User,
    name: str = "",
    traffic_percent: float = 50.0,
    settings: Mapping[str, Any] | None = None,
    arms: Sequence[ModelVersion] = (),
    arm_weights: Sequence[int] | None = None,
    routing: Mapping[str, Any] | None = None,
    holdout_percent: float = 0.0,
    trigger: str = "page",
) -> Experiment:
    """Compare a version with the live one on real traffic; afterwards the live one has all traffic again.

    `arms`: more candidates, which share the traffic percent with the first one. `routing` and `holdout_percent` say who
    is drawn, and by what: see `rollouts.actions.request`.
    """
    roles.require(actor, "abtests.run")
    given = dict(settings or {})
    if faults := _faults(name, traffic_percent, given):
        raise Invalid("The experiment cannot be run.", fields=faults)
    rollout = rollout_actions.request(
        candidate,
        environment,
        actor=actor,
        steps=[{SET_WEIGHT: traffic_percent}, {STEP: {"auto_promote": True, "auto_rollback": True, **given}}],
        purpose=Purpose.EXPERIMENT,
        arms=arms,
        arm_weights=arm_weights,
        routing=routing,
        holdout_percent=holdout_percent,
        trigger=trigger,
        options={"ab_testing": True, "traffic_split": traffic_percent},
    )
    experiment = Experiment.objects.create(
        name=name or f"{candidate} in {environment}",
        environment=environment,
        candidate=candidate,
        rollout=rollout,
        step_index=1,
        settings=rollout.steps.get(index=1).settings,
        created_by=actor,
    )
    audit.record(actor, "experiment.requested", experiment, after=_asked(experiment, given, traffic_percent, arms))
    events.announce(ExperimentChanged(experiment.pk))
    return experiment


def _asked(
    experiment: Experiment, settings: Mapping[str, Any], traffic_percent: float, arms: Sequence[ModelVersion]
) -> dict[str, Any]:
    unusual = {
        "arms": [str(arm) for arm in arms],
        "routing": experiment.rollout.routing,
        "holdout": experiment.rollout.holdout,
    }
    asked = {"settings": dict(settings), "traffic_percent": traffic_percent}
    return asked | {name: value for name, value in unusual.items() if value}


def _faults(name: str, traffic_percent: float, settings: Mapping[str, Any]) -> dict[str, str]:
    faults: dict[str, str] = {}
    try:
        parse_settings(settings)
    except SettingsError as error:
        faults |= {f"settings.{field}": right for field, right in error.fields.items()}
    if isinstance(traffic_percent, bool) or not 0 < traffic_percent < 100 or round(100 * traffic_percent, 6) % 1:
        faults["traffic_percent"] = f"{traffic_percent!r}: give more than 0 and less than 100, in hundredths at most"
    if len(name) > LONGEST_NAME:
        faults["name"] = f"give at most {LONGEST_NAME} characters"
    return faults


@transaction.atomic
def agree(experiment: Experiment, verdict: str, *, actor: User, reason: str = "") -> None:
    """Carry out a verdict that waits for a person: the newest look must say it."""
    roles.require(actor, "abtests.run" if experiment.stands_alone else "rollouts.operate")
    if verdict not in ("promote", "abort"):
        raise Invalid("There is no such verdict.", fields={"verdict": f"{verdict!r}: give promote or abort"})
    if sentence := experiment.refusal(f"decide_{verdict}"):
        raise IllegalTransition(sentence)
    newest = experiment.snapshots.first()
    if newest is None or newest.verdict != verdict:
        says = f"says {newest.verdict}" if newest else "is still to come"
        raise Conflict(f"The newest look {says}, not {verdict}: look at the experiment again.")
    before, winner = experiment.status, experiment.versions.get(newest.detail.get("winner") or "")
    experiment.advance(f"decide_{verdict}", sentence=newest.sentence, ended_at=timezone.now(), winner=winner)
    after = {"status": experiment.status, **({"winner": str(winner)} if winner else {})}
    audit.record(
        actor, f"experiment.decide_{verdict}", experiment, before={"status": before}, after=after, reason=reason
    )
    events.announce(ExperimentChanged(experiment.pk))


@transaction.atomic
def stop(experiment: Experiment, *, actor: User, reason: str) -> None:
    """End it without an answer. On its own, its traffic goes back to the live version."""
    roles.require(actor, "abtests.run")
    if sentence := experiment.refusal("stop"):
        raise IllegalTransition(sentence)
    if not reason.strip():
        raise Invalid("Stopping needs a reason.", fields={"reason": "say what you saw"})
    if not experiment.stands_alone:
        raise Conflict(f"It belongs to rollout {experiment.rollout_id}: abort or promote that one.")
    before = experiment.status
    experiment.advance("stop", sentence=reason, ended_at=timezone.now())
    audit.record(
        actor, "experiment.stopped", experiment, before={"status": before}, after={"status": experiment.status},
        reason=reason,
    )  # fmt: skip
    events.announce(ExperimentChanged(experiment.pk))
    rollout_actions.turn_back(experiment.rollout, actor=actor, reason=reason, cause=Cause.PERSON)
