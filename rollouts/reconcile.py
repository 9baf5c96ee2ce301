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
from datetime import timedelta
from typing import Any

from django.conf import settings
from django.db import transaction
from django.db.models import F, Q
from django.utils import timezone

from deploypipe.core import audit, events
from deploypipe.core.errors import ConcurrentChange, Conflict, IllegalTransition, RouterError
from rollouts import actions, plan, routing, servers
from rollouts.events import RolloutChanged, RolloutEnded, RolloutSaid
from rollouts.lifecycle import ENDED, Cause, StepStatus
from rollouts.models import Deployment, Rollout, RolloutArm, RolloutStep, Route, warm_until
from rollouts.observation import observe
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
        .prefetch_related("steps", "arms__version__model", "arms__deployment__version__model")
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
    for deployment in (*rollout.deployments, rollout.previous):
        if deployment is not None:
            servers.converge(deployment, timezone.now())


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
            case plan.DropArm(arm=arm, cause=cause):
                self._drop(arm, action.sentence, cause)
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
                    for deployment in self.rollout.deployments:
                        self._let_go(deployment)
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
        for arm in rollout.arms.filter(dropped_at=None).select_related("version__model"):
            deployment = candidate if arm.position == 1 else servers.deploy(arm.version, rollout.environment)
            RolloutArm.objects.filter(pk=arm.pk).update(deployment=deployment)
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

    def _drop(self, arm: str, sentence: str, cause: Cause) -> None:
        with transaction.atomic():
            self._update(sentence=sentence, problem=False)
            try:
                actions.drop_arm(self.rollout, arm, sentence, cause=cause)
            except IllegalTransition:
                raise ConcurrentChange(f"Somebody took another arm off {self.rollout} at the same moment.") from None
        self._write()

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
                changes |= {"salt": routing.new_salt(), "salt_at": self.now, "rollout": self.rollout}
            # Naming the lease and the step in the same transaction: an old reconciler cannot move traffic any more.
            begun = {"traffic_from": self.rollout.traffic_from or self.now} if changes["weight"] else {}
            self._update(sentence=sentence, problem=False, **begun)
            Route.objects.filter(pk=route.pk, generation=route.generation).update(
                generation=F("generation") + 1, changed_at=self.now, **changes
            )
            after: dict[str, Any] = {name: _said(changes[name]) for name in _SAID if name in changes}
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
        back = {"stable": self.rollout.previous, "candidate": None, "rollout": None, "weight": 0}
        self._route(back, "rollout.restore", sentence)

    def _promote(self, sentence: str) -> None:
        """Stable := candidate, where stable still is what it was when the rollout began."""
        rollout = self.rollout
        with transaction.atomic():
            swapped = Route.objects.filter(
                environment=rollout.environment,
                model=rollout.model,
                stable=rollout.previous,
                candidate=rollout.candidate,
            ).update(stable=rollout.candidate, generation=F("generation") + 1, changed_at=self.now, **_NO_CANDIDATE)
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
            generation=F("generation") + 1, changed_at=self.now, **_NO_CANDIDATE
        )


_SAID = ("stable", "candidate", "weight")
_NO_CANDIDATE: dict[str, Any] = {"candidate": None, "rollout": None, "weight": 0}


def _said(value: Deployment | int | None) -> str | int:
    return value if isinstance(value, int) else str(value or "")


def due() -> list[int]:
    """The rollouts that a pass could bring forward: all that are under way. Those with a live lease are left alone."""
    return list(Rollout.objects.active().order_by("pk").values_list("pk", flat=True))
