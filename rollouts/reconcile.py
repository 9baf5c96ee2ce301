"""The shell around `plan.decide`: look at the world, ask what to do, do that one thing, write down what was done.

Level-triggered: it reads everything anew each time, so running it twice, late, or after a crash is harmless. One writer
per rollout: the lease gives a fencing token, and every write names it. Effects outside of the database are made true by
`routing.write` and `servers.converge` from the rows; a crash between a row and its effect is mended by the next pass.
"""

from __future__ import annotations

import logging
import os
import socket
import threading
from datetime import datetime, timedelta
from typing import Any

from django.conf import settings
from django.db import transaction
from django.db.models import F, Q
from django.utils import timezone

from deploypipe.core import audit, events
from deploypipe.core.errors import ConcurrentChange, Conflict, RouterError
from registry.lifecycle import Stage
from registry.models import ModelVersion
from rollouts import actions, monitor, plan, queries, routing, servers
from rollouts.backends import gates
from rollouts.events import RolloutChanged, RolloutEnded, RolloutSaid
from rollouts.lifecycle import ENDED, Purpose, Status, StepStatus
from rollouts.models import Deployment, Rollout, RolloutStep, Route, warm_until
from rollouts.strategy import FIRST_DEPLOYMENT

logger = logging.getLogger(__name__)

MOST_ACTIONS = 20
"""In one pass; what is left is done in the next one."""


def owner() -> str:
    return f"{socket.gethostname()}/{os.getpid()}/{threading.get_ident()}"


def reconcile(rollout_id: int, *, by: str | None = None) -> bool:
    """Bring one rollout forward as far as it goes now. Whether there was work; False also where another holds it."""
    lease = _take_lease(rollout_id, by or owner())
    if lease is None:
        return False
    worked = False
    try:
        for _ in range(MOST_ACTIONS):
            if not _once(rollout_id, lease):
                break
            worked = True
    except ConcurrentChange:
        worked = True  # a person or another worker was first; the next pass reads what they did
    except Exception as error:
        logger.exception("rollout %s could not be brought forward", rollout_id)
        _say_fault(rollout_id, lease, error)
    finally:
        Rollout.objects.filter(pk=rollout_id, fence=lease).update(lease_until=None)
    return worked


def _take_lease(rollout_id: int, by: str) -> int | None:
    """The fencing token; None while somebody else holds the rollout, and where it has ended."""
    now = timezone.now()
    free = Q(lease_until=None) | Q(lease_until__lt=now) | Q(lease_owner=by)
    taken = (
        Rollout.objects.active()
        .filter(free, pk=rollout_id)
        .update(lease_owner=by, lease_until=now + timedelta(seconds=settings.LEASE_SECONDS), fence=F("fence") + 1)
    )
    if not taken:
        return None
    return Rollout.objects.values_list("fence", flat=True).get(pk=rollout_id)


def _say_fault(rollout_id: int, fence: int, error: Exception) -> None:
    """A fault of ours must be seen on the page, not in a log alone; traffic stays as it is, and the next pass tries."""
    Rollout.objects.active().filter(pk=rollout_id, fence=fence).update(
        sentence=f"The next step failed and is tried again: {type(error).__name__}: {error}", problem=True
    )


def _once(rollout_id: int, fence: int) -> bool:
    rollout = (
        Rollout.objects.select_related(
            "environment", "model", "version__model", "candidate__version__model", "previous__version__model"
        )
        .prefetch_related("steps")
        .get(pk=rollout_id)
    )
    if rollout.state in ENDED:
        return False
    until = timezone.now() + timedelta(seconds=settings.LEASE_SECONDS)
    if not Rollout.objects.filter(pk=rollout_id, fence=fence).update(lease_until=until):
        raise ConcurrentChange(f"Another worker has taken over {rollout}.")
    _look_at_servers(rollout)
    return _Step(rollout, fence).take(plan.decide(observe(rollout)))


def _look_at_servers(rollout: Rollout) -> None:
    """So that a dead server is known as that before its unanswered requests are judged as errors of the model."""
    for deployment in (rollout.candidate, rollout.previous):
        if deployment is not None:
            servers.converge(deployment, timezone.now())


def observe(rollout: Rollout) -> plan.Snapshot:
    """Everything that the decision looks at, read now."""
    now = timezone.now()
    route = _route(rollout)
    look = monitor.look(rollout, now)
    step_row = next((row for row in rollout.steps.all() if row.index == rollout.step_index), None)
    installed, write_problem = _in_force(route, rollout)
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
        examined_elsewhere=_examined_elsewhere(rollout),
        weight=_set_weight(route, rollout),
        installed_weight=installed,
        write_problem=write_problem,
        route_seconds=(now - route.changed_at).total_seconds() if route else 0.0,
        previous=rollout.previous.view if rollout.previous else None,
        candidate_is_stable=bool(route and route.stable_id and route.stable_id == rollout.candidate_id),
        route_restored=route is None
        or (route.stable_id == rollout.previous_id and route.candidate_id != rollout.candidate_id),
        guard=look.guard,
        step_finding=_gates_word(rollout, step_row, now) or look.step,
        step_approved=bool(step_row and step_row.approved_by_id),
        paused=rollout.paused_at is not None,
        promote=rollout.promote,
        rollback_on_failure=rollout.rollback_on_failure,
        ready_timeout=settings.READY_TIMEOUT,
    )


def _examined_elsewhere(rollout: Rollout) -> str:
    """Asked only as long as the rollout has not begun."""
    if rollout.state not in (Status.WAITING_QA, Status.WAITING_APPROVAL):
        return ""
    return queries.examined_elsewhere(rollout.version, rollout.environment)


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
        Route.objects.select_related("environment", "model")
        .filter(environment=rollout.environment, model=rollout.model)
        .first()
    )


def _set_weight(route: Route | None, rollout: Rollout) -> int:
    return route.weight if route and route.candidate_id and route.candidate_id == rollout.candidate_id else 0


def _in_force(route: Route | None, rollout: Rollout) -> tuple[int | None, str]:
    """The candidate's weight as the data plane says, None when it does not answer; and why it cannot be put right.

    Where it is not what the rows say (a write failed or was cut off by a crash, somebody edited it), it is written
    anew.
    """
    if route is None or rollout.candidate is None:
        return 0, ""
    router = rollout.environment.router
    try:
        weight = routing.installed_share(routing.installed(router), route, rollout.candidate)
    except RouterError as error:
        logger.warning("%s: %s", rollout, error.message)
        return None, ""
    if weight == _set_weight(route, rollout):
        return weight, ""
    try:
        routing.write(router)
        return routing.installed_share(routing.installed(router), route, rollout.candidate), ""
    except RouterError as error:
        logger.warning("%s: %s", rollout, error.message)
        return weight, error.message


class _Step:
    """Carries out one action on one rollout, under one fencing token."""

    def __init__(self, rollout: Rollout, fence: int) -> None:
        self.rollout = rollout
        self.fence = fence
        self.now = timezone.now()

    def take(self, action: plan.Action) -> bool:
        match action:
            case plan.Hold():
                return self._hold(action)
            case plan.Move(verb=verb):
                self._move(verb, action.sentence)
            case plan.SetWeight(weight=weight):
                self._route({"candidate": self.rollout.candidate, "weight": weight}, "rollout.weight", action.sentence)
            case plan.NextStep(skipped=skipped):
                self._next_step(action.sentence, skipped)
            case plan.Abort(cause=cause):
                self._abort(action.sentence, cause)
            case plan.Restore():
                self._restore(action.sentence)
            case plan.Promote():
                self._promote(action.sentence)
        return True

    def _hold(self, action: plan.Hold) -> bool:
        if (action.sentence, action.problem) == (self.rollout.sentence, self.rollout.problem):
            return False
        with transaction.atomic():
            self._update(sentence=action.sentence, problem=action.problem)
            # Not RolloutChanged: that brings the rollout forward, and a sentence with a running number would never end.
            events.announce(RolloutSaid(self.rollout.pk))
        return False

    @property
    def _as_seen(self) -> dict[str, Any]:
        """The lease is still ours, and no person has paused it or asked for anything since the decision was taken."""
        rollout = self.rollout
        return {"fence": self.fence, "paused_at": rollout.paused_at, "promote": rollout.promote}

    def _update(self, **changes: Any) -> None:
        """Where the rollout is still as it was seen."""
        rollout = self.rollout
        where = {"status": rollout.status, "step_index": rollout.step_index, **self._as_seen}
        if not Rollout.objects.filter(pk=rollout.pk, **where).update(**changes):
            raise ConcurrentChange(f"{rollout} was changed at the same moment.")
        for name, value in changes.items():
            setattr(rollout, name, value)

    def _announce(self) -> None:
        events.announce(RolloutChanged(self.rollout.pk, self.rollout.status))

    def _advance(self, verb: str, sentence: str, **changes: Any) -> None:
        before = self.rollout.status
        ended = self.rollout.LIFECYCLE.next(self.rollout.state, verb) in ENDED
        self.rollout.advance(
            verb,
            where=self._as_seen,
            **{
                "sentence": sentence,
                "problem": False,
                "promote": "",
                "phase_at": self.now,
                "step_at": self.now,
                "paused_seconds": 0,
                "ended_at": self.now if ended else None,
                **changes,
            },
        )
        audit.record(
            None,
            f"rollout.{verb}",
            self.rollout,
            before={"status": before},
            after={"status": self.rollout.status},
            reason=sentence,
        )
        self._announce()
        if ended:
            events.announce(RolloutEnded(self.rollout.pk, self.rollout.status))

    def _move(self, verb: str, sentence: str) -> None:
        with transaction.atomic():
            match verb:
                case "approved":
                    self._begin(sentence)
                case "provisioned":
                    self._advance(verb, sentence)
                    self._enter_step(0)
                case "steps_done" | "conclude":
                    self._advance(verb, sentence)
                    self._skip_rest(sentence)
                case "cancel":
                    self._advance(verb, sentence, reason=sentence)
                    self._skip_rest(sentence)
                case "keep":
                    self._let_go(self.rollout.previous)
                    self._advance(verb, sentence, problem=True)
                case "rolled_back" | "concluded":
                    self._let_go(self.rollout.candidate)
                    self._take_off_route()
                    self._advance(verb, sentence)
                case _:
                    self._advance(verb, sentence)

    def _skip_rest(self, sentence: str) -> None:
        rest = self.rollout.steps.filter(index__gte=self.rollout.step_index)
        rest.update(status=StepStatus.SKIPPED, ended_at=self.now, sentence=sentence)
        actions.leave_gates(self.rollout, now=self.now)

    def _begin(self, sentence: str) -> None:
        """From here on there is a server: the row that asks for it, and what a rollback will go back to."""
        rollout = self.rollout
        route, _ = Route.objects.get_or_create(environment=rollout.environment, model=rollout.model)
        if route.stable_id is None:
            self._shorten_for_first_deployment()
        candidate = servers.deploy(rollout.version, rollout.environment)
        previous = route.stable
        if previous is not None:
            Deployment.objects.filter(pk=previous.pk).update(stop_after=None)
        self._advance("approved", sentence, candidate=candidate, previous=previous)

    def _shorten_for_first_deployment(self) -> None:
        self.rollout.steps.all().delete()
        self.rollout.lay_out(FIRST_DEPLOYMENT)

    def _enter_step(self, index: int) -> None:
        RolloutStep.objects.filter(rollout=self.rollout, index=index).update(
            status=StepStatus.ACTIVE, began_at=self.now
        )

    def _next_step(self, sentence: str, skipped: bool) -> None:
        index = self.rollout.step_index
        with transaction.atomic():
            status = StepStatus.SKIPPED if skipped else StepStatus.DONE
            RolloutStep.objects.filter(rollout=self.rollout, index=index).update(
                status=status, ended_at=self.now, sentence=sentence
            )
            if skipped:
                actions.leave_gates(self.rollout, now=self.now, only_current=True)
            audit.record(
                None,
                "rollout.step_skipped" if skipped else "rollout.step_done",
                self.rollout,
                before={"step": index},
                after={"step": index + 1},
                reason=sentence,
            )
            self._update(
                step_index=index + 1, step_at=self.now, paused_seconds=0, sentence=sentence, problem=False, promote=""
            )
            self._enter_step(index + 1)
            self._announce()

    def _abort(self, sentence: str, cause: Any) -> None:
        with transaction.atomic():
            self._update(sentence=sentence)
            actions.turn_back(self.rollout, actor=None, reason=sentence, cause=cause)

    def _route(self, changes: dict[str, Any], verb: str, sentence: str) -> None:
        """Change where traffic goes: the row first, then the data plane."""
        with transaction.atomic():
            route = Route.objects.select_for_update().get(
                environment=self.rollout.environment, model=self.rollout.model
            )
            before = {
                "candidate": str(route.candidate or ""),
                "weight": route.weight,
                "stable": str(route.stable or ""),
            }
            if "candidate" in changes and changes["candidate"] and route.candidate_id != changes["candidate"].pk:
                changes["salt"] = routing.new_salt()
            # Naming the lease and the step in the same transaction: an old reconciler cannot move traffic any more.
            begun = {"traffic_from": self.rollout.traffic_from or self.now} if changes["weight"] else {}
            self._update(sentence=sentence, problem=False, **begun)
            Route.objects.filter(pk=route.pk, generation=route.generation).update(
                generation=F("generation") + 1, changed_at=self.now, **changes
            )
            after = {k: str(v or "") if k in ("stable", "candidate") else v for k, v in changes.items() if k != "salt"}
            audit.record(None, verb, self.rollout, before=before, after=after, reason=sentence)
            self._announce()
        self._write()

    def _write(self) -> None:
        try:
            routing.write(self.rollout.environment.router)
        except RouterError as error:
            # The row stands: every look writes it again until the data plane takes it, and says why it does not.
            logger.warning("%s: %s", self.rollout, error.message)

    def _restore(self, sentence: str) -> None:
        self._route({"stable": self.rollout.previous, "candidate": None, "weight": 0}, "rollout.restore", sentence)

    def _promote(self, sentence: str) -> None:
        """Stable := candidate, where stable still is what it was when the rollout began."""
        rollout = self.rollout
        with transaction.atomic():
            swapped = Route.objects.filter(
                environment=rollout.environment,
                model=rollout.model,
                stable=rollout.previous,
                candidate=rollout.candidate,
            ).update(
                stable=rollout.candidate, candidate=None, weight=0, generation=F("generation") + 1, changed_at=self.now
            )
            if not swapped:
                raise Conflict(f"The route of {rollout.model} is not as this rollout has left it.")
            if rollout.previous is not None:
                Deployment.objects.filter(pk=rollout.previous.pk).update(stop_after=warm_until(self.now))
            self._advance("promoted", sentence)
        self._write()

    def _let_go(self, deployment: Deployment | None) -> None:
        """It may be stopped as soon as its streams are done."""
        if deployment is not None:
            Deployment.objects.filter(pk=deployment.pk).update(stop_after=self.now)

    def _take_off_route(self) -> None:
        of_ours = Route.objects.filter(environment=self.rollout.environment, model=self.rollout.model)
        of_ours.filter(candidate=self.rollout.candidate).exclude(candidate=None).update(
            candidate=None, weight=0, generation=F("generation") + 1, changed_at=self.now
        )


def due() -> list[int]:
    """The rollouts that a pass could bring forward: all that are under way. Those with a live lease are left alone."""
    return list(Rollout.objects.active().order_by("pk").values_list("pk", flat=True))
