"""The verbs of rollouts that people and programs use. Each: permission, guard, write, audit, announce."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from typing import TYPE_CHECKING, Any

from django.db import IntegrityError, transaction
from django.db.models import F
from django.utils import timezone

from deploypipe.core import audit, events, roles
from deploypipe.core.errors import ConcurrentChange, Conflict, FourEyes, IllegalTransition, Invalid
from registry import actions as registry_actions
from registry.lifecycle import Stage
from registry.models import ModelVersion
from rollouts import arms as several
from rollouts import queries, servers
from rollouts.arms import drop_arm as drop_arm
from rollouts.backends import gates
from rollouts.events import RolloutChanged, RolloutEnded
from rollouts.lifecycle import ACTIVE, Cause, Purpose, Status, StepStatus
from rollouts.models import Environment, Rollout, RolloutStep, Route, Strategy
from rollouts.strategy import APPROVAL, PAUSE, SET_WEIGHT, Step, StrategyError, is_watched, parse_steps

if TYPE_CHECKING:
    from django.contrib.auth.models import User


def check_steps(value: Any) -> tuple[Step, ...]:
    """Steps from data, gates' settings included. Raises Invalid that names each place."""
    try:
        steps = parse_steps(value, gates=gates.names())
    except StrategyError as error:
        raise Invalid("The strategy cannot be used.", fields=error.fields) from None
    faults: dict[str, str] = {}
    for index, step in enumerate(steps):
        if gate := gates.get(step.kind):
            faults |= {f"steps[{index}].{step.kind}.{k}": v for k, v in gate.check(step.settings).items()}
    if faults:
        raise Invalid("The strategy cannot be used.", fields=faults)
    return steps


@transaction.atomic
def save_strategy(name: str, steps: Any, *, actor: User, description: str = "") -> Strategy:
    roles.require(actor, "rollouts.operate")
    checked = [step.to_json() for step in check_steps(steps)]
    before = list(Strategy.objects.filter(name=name).values_list("steps", flat=True))
    strategy, _ = Strategy.objects.update_or_create(name=name, defaults={"steps": checked, "description": description})
    audit.record(actor, "strategy.saved", strategy, before={"steps": before}, after={"steps": checked})
    return strategy


@transaction.atomic
def request(
    version: ModelVersion,
    environment: Environment,
    *,
    actor: User,
    strategy: Strategy | None = None,
    steps: Sequence[Any] | None = None,
    purpose: Purpose = Purpose.PROMOTE,
    options: Mapping[str, Any] | None = None,
    rollback_on_failure: bool = True,
    trigger: str = "page",
    note: str = "",
    request_key: str | None = None,
    arms: Sequence[ModelVersion] = (),
    arm_weights: Sequence[int] | None = None,
    routing: Mapping[str, Any] | None = None,
    holdout_percent: float = 0.0,
) -> Rollout:
    """Ask that a version be rolled out. It waits for its examination and approval where those are still to come.

    `arms`: up to three more versions that an experiment compares with the stable one at the same time; `arm_weights`:
    how they share its traffic, this version first, equally by default. `routing`: see `assignment.parse_routing`.
    """
    roles.require(actor, "rollouts.request")
    if request_key and (earlier := _requested_before(request_key)):
        return earlier
    if version.stage in several.NEVER:
        raise IllegalTransition(f"{version} may not be deployed: it is {version.stage}. {version.qa_sentence}".strip())
    plan = check_steps(steps if steps is not None else (strategy.steps if strategy else None))
    if version.must_be_watched and not is_watched(plan):
        raise Invalid(
            f"{version} scored {version.score:g}: it may be deployed only by a rollout that watches it.",
            fields={"steps": "add an analysis step after the first setWeight"},
        )
    _refuse_same(version, environment, purpose)
    if version.stage in (Stage.AWAITING_APPROVAL, Stage.APPROVED) and (
        elsewhere := queries.examined_elsewhere(version, environment)
    ):
        raise Conflict(elsewhere)
    lanes = several.check(version, environment, arms, arm_weights, purpose=purpose, steps=plan)
    routed, holdout = several.check_routing(routing, holdout_percent, candidates=1 + len(arms))
    try:
        with transaction.atomic():
            rollout = Rollout.objects.create(
                version=version,
                environment=environment,
                model=version.model,
                digest=version.digest,
                purpose=purpose,
                strategy=strategy.name if strategy and steps is None else "",
                options=dict(options or {}),
                routing=routed.to_json(),
                holdout=holdout,
                rollback_on_failure=rollback_on_failure,
                requested_by=actor,
                trigger=trigger,
                note=note,
                request_key=request_key,
                sentence="Requested.",
            )
    except IntegrityError:
        if request_key and (earlier := _requested_before(request_key)):
            return earlier  # the same request, sent twice at once
        raise _taken(version, environment) from None
    rollout.lay_out(plan)
    several.write(rollout, [version, *arms], lanes)
    for each in (version, *arms):
        if each.stage == Stage.REGISTERED:
            registry_actions.examine(each, actor=None, environment=environment.name)
    audit.record(actor, "rollout.requested", rollout, after=_asked(rollout, plan, arms), reason=note)
    events.announce(RolloutChanged(rollout.pk, rollout.status))
    return rollout


def _asked(rollout: Rollout, plan: Sequence[Step], arms: Sequence[ModelVersion]) -> dict[str, Any]:
    asked: dict[str, Any] = {
        "version": str(rollout.version),
        "digest": rollout.digest,
        "steps": [step.to_json() for step in plan],
    }
    unusual = {
        "arms": [{"version": str(arm), "digest": arm.digest} for arm in arms],
        "routing": rollout.routing,
        "holdout": rollout.holdout,
    }
    return asked | {name: value for name, value in unusual.items() if value}


def _refuse_same(version: ModelVersion, environment: Environment, purpose: Purpose) -> None:
    route = Route.objects.filter(environment=environment, model=version.model).select_related("stable").first()
    if route and route.stable and route.stable.version_id == version.pk:
        raise Conflict(f"{version} is the stable version of {environment} already.")
    if purpose is Purpose.EXPERIMENT and not (route and route.stable):
        raise Conflict(f"No version of {version.model} is live in {environment}: there is nothing to compare with.")


def _requested_before(request_key: str) -> Rollout | None:
    return Rollout.objects.filter(request_key=request_key).first()


def _taken(version: ModelVersion, environment: Environment) -> Conflict:
    active = Rollout.objects.active().filter(environment=environment, model=version.model).first()
    which = f"Rollout {active.pk} of {active.version}" if active else "Another rollout"
    return Conflict(f"{which} is under way for {version.model} in {environment}: wait for its end, or abort it.")


@transaction.atomic
def pause(rollout: Rollout, *, actor: User, reason: str = "") -> None:
    """Stop going forward. Health and verdicts go on being watched, and can still turn it back."""
    _guard(rollout, actor, "pause")
    if rollout.paused_at:
        raise IllegalTransition("This rollout is paused already.")
    _change(rollout, {"paused_at": None}, paused_at=timezone.now(), paused_by=actor)
    _tell(rollout, actor, "rollout.paused", reason=reason)


@transaction.atomic
def resume(rollout: Rollout, *, actor: User, reason: str = "") -> None:
    _guard(rollout, actor, "resume")
    if rollout.paused_at is None:
        raise IllegalTransition("This rollout is not paused.")
    seconds = (timezone.now() - rollout.paused_at).total_seconds()
    _change(
        rollout,
        {"paused_at": rollout.paused_at},
        paused_at=None,
        paused_by=None,
        paused_seconds=F("paused_seconds") + seconds,
    )
    _tell(rollout, actor, "rollout.resumed", reason=reason)


@transaction.atomic
def promote(rollout: Rollout, *, actor: User, full: bool = False, reason: str = "") -> None:
    """Go on past the current step, or (`full`) past all of them to 100 %. Health is still watched.

    Passing by a judge's step is a person's decision against waiting, so it asks for a reason.
    """
    _guard(rollout, actor, "promote")
    rest = list(rollout.steps.filter(index__gte=rollout.step_index))
    passed_by = rest if full else rest[:1]
    if any(step.kind == APPROVAL and step.approved_by_id is None for step in passed_by):
        if roles.refusal(actor, "rollouts.approve"):
            raise IllegalTransition("An approval step is passed by approving it, not by promoting.")
        _four_eyes(rollout, actor)
    if any(step.kind not in (SET_WEIGHT, APPROVAL, PAUSE) for step in passed_by) and not reason.strip():
        raise Invalid("This passes by a judge that has not decided yet.", fields={"reason": "say why it may go on"})
    if rollout.paused_at:
        resume(rollout, actor=actor, reason=reason)
    _change(rollout, {"step_index": rollout.step_index}, promote="full" if full else "step")
    _tell(rollout, actor, "rollout.promote_full" if full else "rollout.promote_step", reason=reason)


@transaction.atomic
def approve_step(rollout: Rollout, *, actor: User, note: str = "") -> None:
    """Let an approval step pass; bound to the step and, by the rollout, to the version's digest."""
    roles.require(actor, "rollouts.approve")
    _four_eyes(rollout, actor)
    step = rollout.steps.filter(index=rollout.step_index).first()
    if rollout.state is not Status.PROGRESSING or step is None or step.kind != APPROVAL:
        raise IllegalTransition("This rollout is not waiting for an approval.")
    if not RolloutStep.objects.filter(pk=step.pk, approved_by=None).update(approved_by=actor):
        raise IllegalTransition("This step was approved already.")
    audit.record(
        actor, "rollout.step_approved", rollout, after={"step": step.index, "digest": rollout.digest}, reason=note
    )
    events.announce(RolloutChanged(rollout.pk, rollout.status))


def _four_eyes(rollout: Rollout, actor: User) -> None:
    if rollout.requested_by_id == actor.pk:
        raise FourEyes("You requested this rollout; someone else must approve its steps.")


@transaction.atomic
def abort(rollout: Rollout, *, actor: User, reason: str) -> None:
    """Turn back: all traffic to the previous version. From every state that is not an end."""
    roles.require(actor, "rollouts.operate")
    if not reason.strip():
        raise Invalid("An abort needs a reason.", fields={"reason": "say what you saw"})
    turn_back(rollout, actor=actor, reason=reason, cause=Cause.PERSON)


@transaction.atomic
def turn_back(rollout: Rollout, *, actor: User | None, reason: str, cause: Cause) -> None:
    """What an abort does, also when a verdict, health or a deadline asks for it and no person."""
    before = rollout.status
    ends = rollout.LIFECYCLE.next(rollout.state, "abort") is Status.CANCELLED
    now = timezone.now()
    rollout.advance(
        "abort",
        cause=cause,
        reason=reason,
        sentence=reason,
        problem=False,
        promote="",
        paused_at=None,
        paused_by=None,
        paused_seconds=0,
        phase_at=now,
        step_at=now,
        ended_at=now if ends else None,
    )
    leave_gates(rollout, now=now)
    rollout.steps.filter(status=StepStatus.ACTIVE).update(status=StepStatus.FAILED, sentence=reason, ended_at=now)
    rollout.steps.filter(status=StepStatus.PENDING).update(status=StepStatus.SKIPPED)
    audit.record(
        actor, "rollout.aborted", rollout, before={"status": before}, after={"status": rollout.status, "cause": cause},
        reason=reason,
    )  # fmt: skip
    events.announce(RolloutChanged(rollout.pk, rollout.status))
    if ends:
        events.announce(RolloutEnded(rollout.pk, rollout.status))


def leave_gates(rollout: Rollout, *, now: datetime, only_current: bool = False) -> None:
    """Tell the gates of the current step and of those to come that they will not be asked any more."""
    steps = rollout.steps.filter(index__gte=rollout.step_index)
    if only_current:
        steps = steps.filter(index=rollout.step_index)
    for step in steps:
        if gate := gates.get(step.kind):
            with suppress(ConcurrentChange):  # it came to its own end at this moment
                gate.end(rollout, step.index, now=now)


@transaction.atomic
def rollback(rollout: Rollout, *, actor: User, reason: str) -> None:
    """Take back a promotion. At once when the previous version is still warm, else after it has been started again."""
    roles.require(actor, "rollouts.operate")
    if not reason.strip():
        raise Invalid("A rollback needs a reason.", fields={"reason": "say what you saw"})
    if rollout.state in ACTIVE:
        abort(rollout, actor=actor, reason=reason)
        return
    if sentence := rollout.refusal("rollback"):
        raise IllegalTransition(sentence)
    route = Route.objects.select_for_update().get(environment=rollout.environment, model=rollout.model)
    if rollout.purpose == Purpose.EXPERIMENT or route.stable_id != rollout.candidate_id:
        raise Conflict(f"{rollout.version} is not the stable version of {rollout.environment}: nothing to take back.")
    if rollout.previous is None:
        raise Conflict(f"{rollout.version} was the first version in {rollout.environment}: there is none before it.")
    servers.deploy(rollout.previous.version, rollout.environment)
    now = timezone.now()
    try:
        with transaction.atomic():
            rollout.advance(
                "rollback", cause=Cause.PERSON, reason=reason, sentence=reason, phase_at=now, step_at=now, ended_at=None
            )
    except IntegrityError:
        raise Conflict(
            f"Another rollout of {rollout.model} is under way in {rollout.environment}: abort that one first."
        ) from None
    audit.record(
        actor, "rollout.rollback", rollout, before={"status": Status.SUCCEEDED}, after={"status": rollout.status},
        reason=reason,
    )  # fmt: skip
    events.announce(RolloutChanged(rollout.pk, rollout.status))


def _guard(rollout: Rollout, actor: User, verb: str) -> None:
    roles.require(actor, "rollouts.operate")
    if sentence := rollout.refusal(verb):
        raise IllegalTransition(sentence)


def _change(rollout: Rollout, seen: Mapping[str, Any], **changes: Any) -> None:
    if not Rollout.objects.filter(pk=rollout.pk, status=rollout.status, **seen).update(**changes):
        raise ConcurrentChange("Somebody else changed this rollout at the same moment. Look again.")
    rollout.refresh_from_db()


def _tell(rollout: Rollout, actor: User, verb: str, *, reason: str) -> None:
    audit.record(actor, verb, rollout, after={"status": rollout.status, "step": rollout.step_index}, reason=reason)
    events.announce(RolloutChanged(rollout.pk, rollout.status))
