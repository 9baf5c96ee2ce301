"""What the reader of an experiment's page can do now, and how much time there is."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from django.urls import reverse

from abtests.lifecycle import Status
from abtests.models import Experiment, Snapshot
from abtests.settings import ExperimentSettings
from deploypipe.stats import words

ACTS = ("promote", "abort")
"""Verdicts on which somebody acts."""


@dataclass(frozen=True)
class Advice:
    sentence: str
    url: str = ""
    label: str = ""


def advice(one: Experiment, newest: Snapshot | None) -> Advice:
    rollout = reverse("rollout-detail", args=[one.rollout_id])
    again = f"{reverse('experiment-new')}?version={one.candidate_id}&environment={one.environment_id}"
    live = one.stable or "the live version"
    match one.state:
        case Status.DRAFT:
            return Advice("Nothing to do yet: it begins by itself.", rollout, f"See rollout {one.rollout_id}")
        case Status.RUNNING:
            return _while_running(newest)
        case Status.PROMOTE if one.stands_alone:
            winner = one.winner or one.candidate
            url = f"{reverse('rollout-new')}?version={winner.pk}"
            return Advice(f"All traffic is with {live} again. Roll {winner} out where you agree.", url, "New rollout")
        case Status.PROMOTE:
            return Advice("The rollout goes on by itself.", rollout, f"See rollout {one.rollout_id}")
        case Status.ABORT:
            return Advice(
                f"All traffic goes back to {live}. The results below say what broke; a version that is put right"
                " can be compared anew."
            )
        case Status.INCONCLUSIVE:
            return Advice(
                "Neither proven nor broken in the time allowed. More time, more traffic or a wider margin would decide"
                " it: the form says how much before it starts.",
                again,
                "Try again",
            )
        case _:
            return Advice("It ended without an answer.", again, "Try again")


def _while_running(newest: Snapshot | None) -> Advice:
    if waits_for_person(newest):
        return Advice("It does not end by itself on this verdict: a person must agree, or stop it.")
    if newest is not None and newest.verdict == "invalid":
        return Advice(
            "Find out why users do not meet the versions as they should, before you believe any number: a router beside"
            " ours, a cache, bots, or a version that loses its sessions. Then stop this one and start anew."
        )
    if newest is not None and newest.detail.get("provider_problem"):
        return Advice(
            "Nothing is decided until the gateway's records are read again. Look at the worker and the gateway."
        )
    return Advice("Nothing to do: it ends by itself, at harm at once. You may look as often as you like, or stop it.")


def waits_for_person(newest: Snapshot | None) -> bool:
    return newest is not None and newest.verdict in ACTS and not newest.detail.get("automatic", False)


@dataclass(frozen=True)
class Time:
    sentence: str
    part: int
    """Percent of the longest duration that has passed."""
    left: str
    """Until a decision, if things go on as they are."""


def time_of(one: Experiment, ahead: dict[str, Any] | None, now: datetime) -> Time | None:
    """How long it has run, and how long it can; None before it began. `ahead`: what the newest look says of the units
    and seconds that are still needed."""
    if one.started_at is None:
        return None
    longest = float(one.settings.get("max_seconds", ExperimentSettings().max_seconds))
    passed = ((one.ended_at or now) - one.started_at).total_seconds()
    if one.state is not Status.RUNNING:
        ran = f"Ran for {words.duration(passed)} of at most {words.duration(longest)}"
        return Time(ran, _part(passed, longest), "")
    rest = longest - passed
    ends = f"Ends at the latest in {words.duration(rest)}" if rest > 0 else "The time allowed is over"
    return Time(ends, _part(passed, longest), _left(ahead, rest))


def _left(ahead: dict[str, Any] | None, rest: float) -> str:
    if ahead is None or ahead.get("verdict") != "continue" or ahead.get("provider_problem"):
        return ""
    units, seconds = ahead.get("further_units"), ahead.get("further_seconds")
    if not units or not seconds:
        return ""
    said = f"about {words.count(units)} more {ahead.get('unit', 'session')}s to a decision, {words.duration(seconds)}"
    return f"{said}: longer than the time that is left" if seconds > rest else said


def _part(passed: float, longest: float) -> int:
    return round(100 * min(1.0, passed / longest)) if longest else 100
