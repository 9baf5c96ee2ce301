"""The buttons of an experiment's page: which have a sense now, what each would do, why one may not be pressed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from django.urls import reverse

from abtests.advice import waits_for_person
from abtests.models import Experiment, Snapshot
from deploypipe.core import roles
from deploypipe.core.pages import Verb, Verbs

if TYPE_CHECKING:
    from django.contrib.auth.models import User


def verbs(one: Experiment, newest: Snapshot | None, user: User) -> Verbs:
    if one.refusal("stop"):
        return Verbs()
    found = [_stop(one, user)]
    if newest is not None and waits_for_person(newest) and one.refusal(f"decide_{newest.verdict}") is None:
        found.insert(0, _agree(one, newest, user))
    return Verbs(found)


def _agree(one: Experiment, newest: Snapshot, user: User) -> Verb:
    live = one.stable or "the live version"
    winner = one.versions.get(newest.detail.get("winner") or "", one.candidate)
    if newest.verdict == "abort":
        label, tone, icon = "Abort", "bad", "x-circle"
        consequence = f"Ends it: harm was seen. All traffic in {one.environment} goes back to {live}."
    elif one.stands_alone:
        label, tone, icon = "Promote", "ok", "promote"
        consequence = f"Ends it with {winner} as the winner. All traffic goes back to {live} until it is rolled out."
    else:
        label, tone, icon = "Promote", "ok", "promote"
        consequence = f"{winner} has met everything: rollout {one.rollout_id} goes on with it."
    return Verb(
        reverse("experiment-agree", args=[one.pk, newest.verdict]),
        label,
        tone=tone,
        icon=icon,
        title=f"{label}: experiment {one.pk}",
        confirm=consequence,
        reason="optional",
        reason_label="Why you agree (optional)",
        disabled=may_decide(one, user),
    )


def may_decide(one: Experiment, user: User) -> str | None:
    """Why not, as a sentence; None where this person may."""
    return roles.refusal(user, "abtests.run" if one.stands_alone else "rollouts.operate")


def _stop(one: Experiment, user: User) -> Verb:
    disabled = roles.refusal(user, "abtests.run")
    if not one.stands_alone:
        disabled = f"It belongs to rollout {one.rollout_id}: abort or promote that one."
    live = one.stable or "the live version"
    return Verb(
        reverse("experiment-stop", args=[one.pk]),
        "Stop",
        tone="bad",
        icon="stop",
        title=f"Stop experiment {one.pk}",
        confirm=f"Ends it without an answer; all traffic in {one.environment} goes back to {live}.",
        reason="required",
        reason_label="What you saw",
        disabled=disabled,
    )


def drop(one: Experiment, arm: str, version: str, user: User) -> Verb:
    """Take one of several candidates off."""
    return Verb(
        reverse("experiment-drop", args=[one.pk, arm]),
        "Take off",
        tone="bad",
        icon="minus",
        title=f"Take {version} off",
        confirm=f"Its share goes to {one.stable or 'the live version'}; the others go on. It cannot come back.",
        reason="required",
        reason_label="What you saw",
        disabled=roles.refusal(user, "rollouts.operate"),
    )
