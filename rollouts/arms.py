"""Several candidates in one experiment: what may be asked for, and how one of them leaves."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from django.db import transaction
from django.db.models import F
from django.utils import timezone

from deploypipe.core import audit, events, roles
from deploypipe.core.errors import Conflict, IllegalTransition, Invalid
from deploypipe.metrics.windows import CANDIDATE, STABLE
from registry.lifecycle import Stage
from registry.models import ModelVersion
from rollouts import queries
from rollouts.assignment import Routing, RoutingError, parse_holdout, parse_routing
from rollouts.bucketing import Lane, arm_name, cuts_of, weights_of
from rollouts.events import RolloutChanged
from rollouts.lifecycle import Cause, Purpose, Status
from rollouts.models import Deployment, Environment, Rollout, RolloutArm, Route
from rollouts.strategy import ANALYSIS, SET_WEIGHT, Step, is_watched
from rollouts.traffic.base import TOTAL_WEIGHT

if TYPE_CHECKING:
    from django.contrib.auth.models import User

MOST_CANDIDATES = 4
MOST_PARTS = 1000
NEVER = (Stage.BLOCKED, Stage.REFUSED, Stage.RETIRED, Stage.SUSPENDED)


def check(
    version: ModelVersion,
    environment: Environment,
    others: Sequence[ModelVersion],
    parts: Sequence[int] | None,
    *,
    purpose: Purpose,
    steps: Sequence[Step],
) -> tuple[Lane, ...]:
    """The lanes of a comparison of several versions; none for a rollout of one. Raises Invalid, Conflict."""
    if not others:
        if parts is not None:
            raise Invalid("One version has nothing to share.", fields={"arm_weights": "leave it out, or give arms"})
        return ()
    if purpose is not Purpose.EXPERIMENT:
        raise Invalid(
            "Only an experiment of its own compares several versions.",
            fields={"arms": "leave them out, or ask for an experiment and roll the winner out afterwards"},
        )
    if faults := _version_faults(version, environment, others, steps):
        raise Invalid("These versions cannot be compared.", fields=faults)
    for other in others:
        if other.stage in (Stage.AWAITING_APPROVAL, Stage.APPROVED) and (
            elsewhere := queries.examined_elsewhere(other, environment)
        ):
            raise Conflict(elsewhere)
    lanes = _lanes(1 + len(others), parts)
    if faults := _weight_faults(lanes, steps):
        raise Invalid("The steps do not fit a comparison of several versions.", fields=faults)
    return lanes


def _version_faults(
    version: ModelVersion, environment: Environment, others: Sequence[ModelVersion], steps: Sequence[Step]
) -> dict[str, str]:
    if len(others) >= MOST_CANDIDATES:
        most = MOST_CANDIDATES - 1
        return {"arms": f"{len(others)} are too many: give at most {most} beside the rollout's own version"}
    route = Route.objects.filter(environment=environment, model=version.model).select_related("stable").first()
    stable = route.stable.version_id if route and route.stable else None
    seen = {version.pk}
    faults: dict[str, str] = {}
    for index, other in enumerate(others):
        if other.model_id != version.model_id:
            faults[f"arms[{index}]"] = f"{other} is of another model: give versions of {version.model}"
        elif other.pk in seen:
            faults[f"arms[{index}]"] = f"{other} is named twice: give each version once"
        elif other.pk == stable:
            faults[f"arms[{index}]"] = f"{other} is the stable version already: every arm is compared with it anyway"
        elif other.stage in NEVER:
            faults[f"arms[{index}]"] = f"{other} may not be deployed: it is {other.stage}. {other.qa_sentence}".strip()
        elif other.must_be_watched and not is_watched(steps):
            faults[f"arms[{index}]"] = f"{other} scored {other.score:g}: add a step that judges it"
        seen.add(other.pk)
    return faults


def _lanes(count: int, parts: Sequence[int] | None) -> tuple[Lane, ...]:
    if parts is None:
        parts = [1] * count
    usable = all(isinstance(p, int) and not isinstance(p, bool) and 1 <= p <= MOST_PARTS for p in parts)
    if len(parts) != count or not usable:
        right = f"give {count} whole numbers from 1 to {MOST_PARTS}, the rollout's own version first"
        raise Invalid("The weights cannot be used.", fields={"arm_weights": f"{list(parts)} is not usable: {right}"})
    return tuple(Lane(arm_name(position), part) for position, part in enumerate(parts, start=1))


def _weight_faults(lanes: Sequence[Lane], steps: Sequence[Step]) -> dict[str, str]:
    faults: dict[str, str] = {}
    for index, step in enumerate(steps):
        if step.kind == ANALYSIS:
            faults[f"steps[{index}].analysis"] = "judges one candidate: give a step that judges several, an experiment"
        if step.kind != SET_WEIGHT or not step.weight:
            continue
        shares = weights_of(cuts_of(step.weight, lanes))
        if step.weight == TOTAL_WEIGHT:
            faults[f"steps[{index}].setWeight"] = (
                "leaves the stable version no share to compare with: give less than 100"
            )
        elif empty := [lane.arm for lane in lanes if not shares.get(lane.arm)]:
            faults[f"steps[{index}].setWeight"] = f"is too little to share: {', '.join(empty)} would get nothing"
    return faults


def check_routing(value: object, holdout_percent: object, *, candidates: int) -> tuple[Routing, int]:
    """The holdout in hundredths of a percent. Raises Invalid that names every fault."""
    faults: dict[str, str] = {}
    routing, holdout = Routing(), 0
    names = [STABLE, *(arm_name(position) for position in range(1, candidates + 1))]
    try:
        routing = parse_routing(value, arms=names)
    except RoutingError as error:
        faults |= error.fields
    try:
        holdout = parse_holdout(holdout_percent)
    except RoutingError as error:
        faults |= error.fields
    if faults:
        raise Invalid("The routing cannot be used.", fields=faults)
    return routing, holdout


def write(rollout: Rollout, versions: Sequence[ModelVersion], lanes: Sequence[Lane]) -> None:
    """The rows of a comparison of several; `versions` and `lanes` in the same order."""
    RolloutArm.objects.bulk_create(
        RolloutArm(rollout=rollout, position=position, version=version, digest=version.digest, parts=lane.parts)
        for position, (version, lane) in enumerate(zip(versions, lanes, strict=bool(lanes)), start=1)
        if lanes
    )


@transaction.atomic
def drop_arm(
    rollout: Rollout, arm: str, reason: str, *, actor: User | None = None, cause: Cause = Cause.VERDICT
) -> bool:
    """Take one arm off and let the others go on; its share goes to the stable version. Whether it was on until now.

    Without an actor it is the word of a judge or of the health checks. The last arm cannot leave: that is an abort.
    """
    if actor is not None:
        roles.require(actor, "rollouts.operate")
        if not reason.strip():
            raise Invalid("Taking an arm off needs a reason.", fields={"reason": "say what you saw"})
        cause = Cause.PERSON
    state = Rollout.objects.select_for_update().get(pk=rollout.pk).state
    rows = {
        row.name: row
        for row in RolloutArm.objects.filter(rollout=rollout).select_related("version__model", "deployment")
    }
    row = rows.get(arm)
    if row is None:
        known = ", ".join(rows) or "none, it rolls out one version"
        raise Invalid("There is no such arm.", fields={"arm": f"{arm!r}: this rollout has {known}"})
    if not row.is_on:
        return False
    if state not in _MAY_LEAVE or (arm == CANDIDATE and state in _NOT_BEGUN):
        raise IllegalTransition(f"{row.version} cannot be taken off alone while the rollout is {state}: abort it.")
    if not any(other.is_on for other in rows.values() if other is not row):
        raise IllegalTransition(f"{row.version} is the last arm of this rollout: abort it.")
    now = timezone.now()
    RolloutArm.objects.filter(pk=row.pk, dropped_at=None).update(dropped_at=now, cause=cause, reason=reason)
    Route.objects.filter(rollout=rollout).update(generation=F("generation") + 1, changed_at=now)
    if row.deployment is not None:
        Deployment.objects.filter(pk=row.deployment.pk).update(stop_after=now)
    audit.record(
        actor, "rollout.arm_dropped", rollout, before={"arm": arm, "version": str(row.version)},
        after={"cause": cause}, reason=reason,
    )  # fmt: skip
    events.announce(RolloutChanged(rollout.pk, state))
    return True


_NOT_BEGUN = (Status.WAITING_QA, Status.WAITING_APPROVAL)
_MAY_LEAVE = (*_NOT_BEGUN, Status.PROVISIONING, Status.PROGRESSING)
