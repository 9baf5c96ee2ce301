"""Everything that the plan looks at, read now; and the data plane put right where it is not what the rows say."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from datetime import datetime

from django.conf import settings
from django.utils import timezone

from deploypipe.core.errors import RouterError
from registry.lifecycle import Stage
from registry.models import ModelVersion
from rollouts import monitor, plan, queries, routing
from rollouts.backends import gates
from rollouts.lifecycle import Purpose, Status, StepStatus
from rollouts.models import Rollout, RolloutArm, RolloutStep, Route
from rollouts.traffic.base import Installed

logger = logging.getLogger(__name__)


def observe(rollout: Rollout) -> plan.Snapshot:
    """Everything that the decision looks at, read now."""
    now = timezone.now()
    route = _route(rollout)
    step_row = next((row for row in rollout.steps.all() if row.index == rollout.step_index), None)
    word = _gates_word(rollout, step_row, now)
    look = monitor.look(rollout, now, gate_judges=word is not None and not word.timed_out)
    seen = _in_force(route, rollout)
    return plan.Snapshot(
        status=rollout.state,
        purpose=Purpose(rollout.purpose),
        steps=rollout.plan,
        step_index=rollout.step_index,
        step_seconds=rollout.seconds_since(rollout.step_at, now),
        phase_seconds=rollout.seconds_since(rollout.phase_at, now),
        candidate=rollout.candidate.view if rollout.candidate else _NOT_YET,
        stage=rollout.version.stage,
        stage_sentence=_stage_sentence(rollout.version),
        needs_approval=rollout.environment.protected,
        must_be_watched=rollout.version.must_be_watched,
        examined_elsewhere=_examined_elsewhere(rollout, rollout.version),
        arms=tuple(_arm_view(rollout, arm) for arm in rollout.arms.all()),
        weight=_set_weight(route, rollout),
        installed_weight=seen.weight,
        split_differs=seen.differs,
        write_problem=seen.problem,
        answer=_answer(rollout),
        route_seconds=(now - route.changed_at).total_seconds() if route else 0.0,
        previous=rollout.previous.view if rollout.previous else None,
        candidate_is_stable=bool(route and route.stable_id and route.stable_id == rollout.candidate_id),
        route_restored=route is None
        or (
            route.stable_id == rollout.previous_id
            and route.candidate_id != rollout.candidate_id
            and route.rollout_id != rollout.pk
        ),
        guard=look.guard,
        step_finding=word or look.step,
        step_approved=bool(step_row and step_row.approved_by_id),
        paused=rollout.paused_at is not None,
        promote=rollout.promote,
        rollback_on_failure=rollout.rollback_on_failure,
        ready_timeout=settings.READY_TIMEOUT,
    )


def _examined_elsewhere(rollout: Rollout, version: ModelVersion) -> str:
    """Asked only as long as the rollout has not begun."""
    if rollout.state not in (Status.WAITING_QA, Status.WAITING_APPROVAL):
        return ""
    return queries.examined_elsewhere(version, rollout.environment)


def _arm_view(rollout: Rollout, arm: RolloutArm) -> plan.ArmView:
    # The same row as the candidate's, but only the candidate's was just looked at.
    deployment = rollout.candidate if arm.position == 1 else arm.deployment
    return plan.ArmView(
        name=arm.name,
        server=deployment.view if deployment else _NOT_YET,
        stage=arm.version.stage,
        stage_sentence=_stage_sentence(arm.version),
        must_be_watched=arm.version.must_be_watched,
        examined_elsewhere=_examined_elsewhere(rollout, arm.version),
        on=arm.is_on,
    )


def _answer(rollout: Rollout) -> str:
    """What the last gate of an experiment on its own said: the experiment's result, with the winner's name."""
    if rollout.state is not Status.CONCLUDING:
        return ""
    said = [row.sentence for row in rollout.steps.all() if row.kind in gates.names() and row.status == StepStatus.DONE]
    return said[-1] if said else ""


_NOT_YET = plan.ServerView(False, False, None, "it has not been asked for yet.")


def _stage_sentence(version: ModelVersion) -> str:
    """The examination's word where the examination decided the stage."""
    if version.stage in (Stage.SUSPENDED, Stage.REFUSED, Stage.RETIRED) or not version.qa_sentence:
        return f"{version} is {version.stage}."
    return version.qa_sentence


def _gates_word(rollout: Rollout, step: RolloutStep | None, now: datetime) -> plan.Finding | None:
    if rollout.state is not Status.PROGRESSING or step is None or (gate := gates.get(step.kind)) is None:
        return None
    return gate.judge(rollout, step.index, now=now, seconds=rollout.seconds_since(rollout.step_at, now))


def _route(rollout: Rollout) -> Route | None:
    return (
        Route.objects.select_related("environment", "model", "rollout")
        .prefetch_related("rollout__arms__deployment")
        .filter(environment=rollout.environment, model=rollout.model)
        .first()
    )


def _set_weight(route: Route | None, rollout: Rollout) -> int:
    return route.weight if route and route.candidate_id and route.candidate_id == rollout.candidate_id else 0


@dataclass(frozen=True)
class _InForce:
    """What the data plane says of the rollout's candidates."""

    weight: int | None
    """Of all together; None when it does not answer."""
    differs: bool = False
    """It divides it otherwise among them."""
    problem: str = ""
    """Why it cannot be put right."""


def _in_force(route: Route | None, rollout: Rollout) -> _InForce:
    """Where it is not what the rows say (a write failed or was cut off by a crash, somebody edited it), it is written
    anew."""
    if route is None or not rollout.deployments:
        return _InForce(0)
    router = rollout.environment.router
    try:
        seen = _compared(route, rollout, routing.installed(router))
    except RouterError as error:
        logger.warning("%s: %s", rollout, error.message)
        return _InForce(None)
    if not seen.differs:
        return seen
    try:
        routing.write(router)
        return _compared(route, rollout, routing.installed(router))
    except RouterError as error:
        logger.warning("%s: %s", rollout, error.message)
        return replace(seen, problem=error.message)


def _compared(route: Route, rollout: Rollout, seen: Installed) -> _InForce:
    """Where every arm has what it shall, that is the whole weight, also where rounding left a bucket to stable."""
    shall = {
        d.pk: queries.share_of(route, d) if route.candidate_id == rollout.candidate_id else 0
        for d in rollout.deployments
    }
    has = {d.pk: routing.installed_share(seen, route, d) for d in rollout.deployments}
    return _InForce(_set_weight(route, rollout)) if has == shall else _InForce(sum(has.values()), differs=True)
