"""The buttons of a rollout's page: which have a sense now, what each would do, why one may not be pressed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from django.urls import reverse

from deploypipe.core import roles
from deploypipe.core.pages import Verb, Verbs
from rollouts.backends import gates
from rollouts.lifecycle import Purpose, Status
from rollouts.models import Rollout, RolloutStep, Route
from rollouts.strategy import APPROVAL, PAUSE, SET_WEIGHT, Step
from rollouts.targets.base import Phase
from rollouts.traffic.base import TOTAL_WEIGHT

if TYPE_CHECKING:
    from django.contrib.auth.models import User


def verbs(one: Rollout, user: User, weight: int) -> Verbs:
    """Those that have a sense in this phase; the ones that this person may not press say why."""
    wanted = _while_active(one, weight) if one.is_active else _after_the_end(one)
    return Verbs([_allowed(one, user, name, verb) for name, verb in wanted])


def _allowed(one: Rollout, user: User, name: str, verb: Verb) -> Verb:
    values = {
        "url": reverse("rollout-verb", args=[one.pk, name]),
        "disabled": verb.disabled or _refusal(one, user, name),
    }
    return Verb(**{**verb.__dict__, **values})


def _refusal(one: Rollout, user: User, name: str) -> str | None:
    if name == "approve":
        if one.requested_by_id == user.pk:
            return "You requested this rollout; someone else must approve its steps."
        return roles.refusal(user, "rollouts.approve")
    if sentence := roles.refusal(user, "rollouts.operate"):
        return sentence
    return one.refusal(name)


def _while_active(one: Rollout, weight: int) -> list[tuple[str, Verb]]:
    found: list[tuple[str, Verb]] = []
    rest = [step for step in one.steps.all() if step.index >= one.step_index]
    if one.state is Status.PROGRESSING and rest:
        if rest[0].kind == APPROVAL:
            found.append(("approve", _approve_step(one, rest[0])))
        else:
            found.append(("promote", _promote_step(one, rest[0], weight)))
        if len(rest) > 1:
            found.append(("promote", _promote_full(one, rest)))
    if one.refusal("pause") is None:
        found.append(_pause_or_resume(one, weight))
    if one.state is not Status.ROLLING_BACK:
        found.append(("abort", _abort(one, weight)))
    return found


def _approve_step(one: Rollout, step: RolloutStep) -> Verb:
    return Verb(
        "",
        "Approve step",
        tone="ok",
        icon="check",
        title=f"Approve step {step.index + 1} of rollout {one.pk}",
        confirm=f"{one.version} goes on to the next step in {one.environment}. Your word is bound to the bytes"
        f" {one.digest[:12]}….",
        reason="optional",
        reason_label="Note (optional)",
        disabled="This step is approved; it goes on now." if step.approved_by_id else None,
    )


def _promote_step(one: Rollout, step: RolloutStep, weight: int) -> Verb:
    judged = is_judge(step)
    skips = " before the judge has decided" if judged else ""
    return Verb(
        "",
        "Promote one step",
        icon="skip",
        title=f"Go on past step {step.index + 1} of rollout {one.pk}",
        confirm=f"Goes on past “{step_title(step.kind, step.settings)}”{skips}. {one.version} has"
        f" {percent(weight)} of the traffic in {one.environment} now.",
        reason="required" if judged else "optional",
        disabled=_asked_already(one),
    )


def _promote_full(one: Rollout, rest: list[RolloutStep]) -> Verb:
    if one.purpose == Purpose.EXPERIMENT:
        consequence = f"Ends the experiment now; all traffic in {one.environment} goes to {back(one)}."
    else:
        consequence = f"Passes by the {len(rest)} steps that are left and sends 100 % of {one.environment} traffic to"
        consequence += f" {one.version}. Health is still watched."
    return Verb(
        "",
        "Promote in full",
        icon="promote",
        title=f"Promote rollout {one.pk} in full",
        confirm=consequence,
        reason="required" if any(is_judge(step) for step in rest) else "optional",
        full="true",
        disabled=_asked_already(one),
    )


def _asked_already(one: Rollout) -> str | None:
    return "It was asked for already and happens now." if one.promote else None


def _pause_or_resume(one: Rollout, weight: int) -> tuple[str, Verb]:
    if one.paused_at:
        title = f"Resume rollout {one.pk}"
        return "resume", Verb("", "Resume", tone="primary", icon="play", title=title)
    consequence = (
        f"{one.version} stays at {percent(weight)}. Health and verdicts are still watched and can turn it back."
    )
    return "pause", Verb(
        "", "Pause", icon="pause", title=f"Pause rollout {one.pk}", confirm=consequence, reason="optional"
    )


def _abort(one: Rollout, weight: int) -> Verb:
    if one.state in (Status.WAITING_QA, Status.WAITING_APPROVAL):
        consequence = f"Cancels the rollout. No traffic of {one.environment} has moved."
    elif one.previous is None:
        consequence = f"{one.version} gets no traffic any more. Before it there was no version in {one.environment}."
    else:
        consequence = (
            f"Sends 100 % of {one.environment} traffic back to {back(one)} now; {one.version} has {percent(weight)}."
        )
    return Verb(
        "",
        "Abort",
        tone="bad",
        icon="x-circle",
        title=f"Abort rollout {one.pk}",
        confirm=consequence,
        reason="required",
        reason_label="What you saw",
    )


def _after_the_end(one: Rollout) -> list[tuple[str, Verb]]:
    if one.state is not Status.SUCCEEDED or one.purpose == Purpose.EXPERIMENT or one.previous is None:
        return []
    warm = one.previous.phase == Phase.READY
    how = "It is still warm: at once." if warm else "It was stopped and is started first."
    return [
        (
            "rollback",
            Verb(
                "",
                "Roll back",
                tone="bad",
                icon="rewind",
                title=f"Take back rollout {one.pk}",
                confirm=f"Sends 100 % of {one.environment} traffic back to {back(one)}. {how}",
                reason="required",
                reason_label="What you saw",
                disabled=_not_stable(one),
            ),
        )
    ]


def _not_stable(one: Rollout) -> str | None:
    route = Route.objects.filter(environment=one.environment_id, model=one.model_id).first()
    if route is None or route.stable_id != one.candidate_id:
        return f"{one.version} is not the stable version of {one.environment} any more: there is nothing to take back."
    return None


def back(one: Rollout) -> str:
    return str(one.previous.version) if one.previous else "the version before it"


def is_judge(step: RolloutStep) -> bool:
    return step.kind not in (SET_WEIGHT, PAUSE, APPROVAL)


def percent(weight: int) -> str:
    return f"{weight * 100 / TOTAL_WEIGHT:g} %"


def step_title(kind: str, settings: dict[str, Any]) -> str:
    gate = gates.get(kind)
    return gate.title(settings) if gate else Step(kind, settings).title
