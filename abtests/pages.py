"""What the pages of experiments show, put together from the rows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from django.db.models import QuerySet
from django.shortcuts import get_object_or_404
from django.urls import reverse

from abtests.decision import State
from abtests.models import Experiment, Snapshot
from deploypipe.core import roles
from deploypipe.core.pages import Request, Verb, Verbs, history
from deploypipe.core.status import Tone, readable, status_of
from deploypipe.stats import words
from rollouts.strategy import SET_WEIGHT

if TYPE_CHECKING:
    from django.contrib.auth.models import User

SNAPSHOTS = 30
STATES: dict[str, tuple[Tone, str, str]] = {
    State.MET: ("ok", "Met", "check-circle"),
    State.BROKEN: ("bad", "Broken", "x-circle"),
    State.OPEN: ("idle", "Open", "clock"),
}
VERDICTS: dict[str, Tone] = {
    "promote": "ok",
    "abort": "bad",
    "continue": "info",
    "inconclusive": "warn",
    "invalid": "bad",
}


def experiments() -> QuerySet[Experiment]:
    return Experiment.objects.select_related(
        "environment", "rollout", "stable__model", "candidate__model", "created_by"
    )


def experiment(pk: int) -> Experiment:
    return get_object_or_404(experiments(), pk=pk)


@dataclass(frozen=True)
class MetricLine:
    """A row of the results: what was wanted on the left, what was seen on the right."""

    name: str
    role: str
    tone: Tone
    state: str
    icon: str
    estimate: str
    interval: str
    evidence: str
    against: str


def lines(detail: dict[str, Any]) -> list[MetricLine]:
    return [_line(row) for row in detail.get("rows", ())]


def _line(row: dict[str, Any]) -> MetricLine:
    tone, state, icon = STATES.get(row["state"], ("idle", readable(row["state"]), "circle"))
    difference = row["metric"] != "error_rate" or row["log_threshold"] > 0
    show = words_of_points if difference else words_of_percent
    against = row.get("log_threshold_against")
    return MetricLine(
        name=row["name"][:1].upper() + row["name"][1:],
        role=readable(row["role"]),
        tone=tone,
        state=state,
        icon=icon,
        estimate="–" if row["estimate"] is None else show(row["estimate"]),
        interval=f"{show(row['low'])} to {show(row['high'])} ({row['confidence']:.0%})",
        evidence=_odds(row["log_evidence"], row["log_threshold"]) if row["log_threshold"] > 0 else "–",
        against="–" if against is None else _odds(row["log_evidence_against"], against),
    )


def words_of_points(value: float) -> str:
    return f"{value:+.2f} pp".replace("-", "−")


def words_of_percent(value: float) -> str:
    return f"{value:.2f} %"


def _odds(seen: float, needed: float) -> str:
    return f"{words.odds(seen)}, needed {words.odds(needed)}"


def of_experiment(one: Experiment, request: Request) -> dict[str, Any]:
    """What changes while one looks. `moved`: the head and the history are not what the browser has."""
    snapshots = list(one.snapshots.all()[:SNAPSHOTS])
    newest = snapshots[0] if snapshots else None
    past = history(one)
    state = f"{one.status}.{past.newest}"
    return {
        "experiment": one,
        "snapshots": [(snapshot, VERDICTS.get(snapshot.verdict, "idle")) for snapshot in snapshots],
        "newest": newest,
        "lines": lines(newest.detail) if newest else [],
        "totals": _totals(newest),
        "tone": status_of("experiment", one.status).tone,
        "settings": _settings(one),
        "verbs": verbs(one, request.user),
        "history": past,
        "history_id": f"experiment-{one.pk}-history",
        "state": state,
        "moved": bool(request.htmx) and request.GET.get("seen") != state,
    }


def _totals(newest: Snapshot | None) -> list[tuple[str, int, int, float | None]]:
    seen = newest.detail.get("totals") if newest else None
    if not seen:
        return []
    arms = [("Candidate", seen["candidate"]), ("Stable", seen["stable"])]
    return [
        (name, arm["requests"], arm["errors"], arm["errors"] / arm["requests"] if arm["requests"] else None)
        for name, arm in arms
    ]


def _settings(one: Experiment) -> list[tuple[str, str]]:
    given = one.settings
    weight = next((s.settings.get("percent") for s in one.rollout.steps.all() if s.kind == SET_WEIGHT), None)
    shown = [
        ("Traffic of the candidate", f"{weight:g} %" if weight is not None else ""),
        ("Requests at least", f"{given['min_requests']:,}" if "min_requests" in given else "1,000"),
        ("Ends at the latest after", words.duration(float(given.get("max_seconds", 1800)))),
        ("False alarms at most", f"{given.get('alpha', 0.05):g}"),
        ("Wins by itself", "yes" if given.get("auto_promote", False) else "no, a person decides"),
        ("Ends by itself on harm", "yes" if given.get("auto_rollback", True) else "no, a person decides"),
    ]
    return [(name, value) for name, value in shown if value]


def verbs(one: Experiment, user: User) -> Verbs:
    if one.refusal("stop"):
        return Verbs()
    disabled = roles.refusal(user, "abtests.run")
    if not one.stands_alone:
        disabled = f"It belongs to rollout {one.rollout_id}: abort or promote that one."
    consequence = (
        f"Ends it without an answer; all traffic in {one.environment} goes back to {one.stable or 'the live version'}."
    )
    return Verbs(
        [
            Verb(
                reverse("experiment-stop", args=[one.pk]),
                "Stop",
                tone="bad",
                icon="stop",
                title=f"Stop experiment {one.pk}",
                confirm=consequence,
                reason="required",
                reason_label="What you saw",
                disabled=disabled,
            )
        ]
    )
