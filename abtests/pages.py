"""What the pages of experiments show, put together from the rows."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from django.db.models import F, Field, FloatField, OuterRef, QuerySet, Subquery, TextField, Value, Window
from django.db.models.fields.json import KT
from django.db.models.functions import Cast, Lag, NullIf, RowNumber
from django.http import Http404
from django.shortcuts import get_object_or_404
from django.utils import timezone

from abtests import charts, results
from abtests.advice import ACTS, Time, advice, time_of, waits_for_person
from abtests.frozen import criteria_of, settings_of
from abtests.lifecycle import Status
from abtests.models import Experiment, Snapshot
from abtests.page_verbs import drop, verbs
from abtests.ratings import ratings
from abtests.results import ArmResults, capital, named, unbroken
from abtests.traffic_health import health
from deploypipe.core.pages import Request, Verb, history
from deploypipe.core.status import Tone, status_of
from deploypipe.metrics.windows import STABLE

SNAPSHOTS = 30
TURNS = 8
"""Looks that brought another verdict than the one before, of which the page tells at most."""
POINTS = 120
"""Looks that a chart begins with, evenly spread over the experiment."""


def experiments() -> QuerySet[Experiment]:
    return (
        Experiment.objects.select_related(
            "environment", "rollout__candidate", "rollout__previous", "stable__model", "candidate__model",
            "winner__model", "created_by",
        )
        .prefetch_related("rollout__arms__version__model", "rollout__arms__deployment", "rollout__steps")
        .defer("progress")
        .annotate(mismatch=F("progress__mismatch"))
    )  # fmt: skip


def experiment(pk: int) -> Experiment:
    return get_object_or_404(experiments(), pk=pk)


# --- The list ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ListLine:
    experiment: Experiment
    verdict: str
    """Of the newest look, while it runs; "on_hold" where the measurements cannot be read."""
    sentence: str
    time: Time | None

    @property
    def waits(self) -> bool:
        """For a person: a verdict that was carried out by itself has ended it."""
        return self.verdict in ACTS


def listed() -> QuerySet[Experiment]:
    """With what the newest look of each says, and without the looks."""
    newest = Snapshot.objects.filter(experiment=OuterRef("pk")).order_by("-pk")
    said = {
        "verdict": Subquery(newest.values("verdict")[:1]),
        "further_units": _told(newest, "further_units", FloatField()),
        "further_seconds": _told(newest, "further_seconds", FloatField()),
        "provider_problem": _told(newest, "provider_problem", TextField()),
        "unit": _told(newest, "unit", TextField()),
    }
    rows = Experiment.objects.select_related(
        "environment", "rollout", "stable__model", "candidate__model", "created_by"
    )
    return rows.prefetch_related("rollout__arms__version__model").defer("progress").annotate(**said)


def _told(newest: QuerySet[Snapshot], name: str, kind: Field[Any, Any]) -> Subquery:
    """One value of its detail; a key of JSON alone would come back from a subquery as it lies in the database, where
    some write a null as a word."""
    return Subquery(newest.values(told=Cast(NullIf(KT(f"detail__{name}"), Value("null")), kind))[:1])


def lines(found: Iterable[Experiment]) -> list[ListLine]:
    now = timezone.now()
    return [_line(one, now) for one in found]


def _line(one: Experiment, now: datetime) -> ListLine:
    names = ("verdict", "further_units", "further_seconds", "provider_problem", "unit")
    ahead = {name: getattr(one, name) for name in names}
    verdict = (ahead["verdict"] or "") if one.state is Status.RUNNING else ""
    if verdict and ahead["provider_problem"]:
        verdict = "on_hold"
    return ListLine(one, verdict, named(one.sentence, _versions(one)), time_of(one, ahead, now))


# --- An experiment ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class LookRow:
    number: int
    at: datetime
    verdict: str
    sentence: str
    last_window: int


@dataclass(frozen=True)
class Candidate:
    """A row of the table of several candidates."""

    results: ArmResults
    drop: Verb | None
    """None where it is off already, or all is over."""


def of_experiment(one: Experiment, request: Request) -> dict[str, Any]:
    """What changes while one looks. `moved`: the head and the history are not what the browser has."""
    newest = one.snapshots.first()
    detail = newest.detail if newest else {}
    past = history(one)
    waiting = newest.verdict if newest and one.state is Status.RUNNING else ""
    state = f"{one.status}.{past.newest}.{waiting}"
    versions = _versions(one)
    arms = results.by_arm(detail, versions)
    moved = bool(request.htmx) and request.GET.get("seen") != state
    return {
        "experiment": one,
        "newest": newest,
        **(looks_of(one, request) if moved or not request.htmx else {"looks": one.snapshots.count()}),
        "sentence": unbroken(named(one.sentence, versions)),
        "goes_on": one.state is Status.RUNNING and newest is not None and newest.verdict == "continue",
        "arms": arms,
        "candidates": [_candidate(one, arm, request) for arm in arms] if len(arms) > 1 else [],
        "unit": detail.get("unit", ""),
        "health": health(detail, one.mismatch, versions) if detail else None,  # type: ignore[attr-defined]
        "ratings": ratings(one, versions) if detail else [],
        "advice": advice(one, newest),
        "waits": one.state is Status.RUNNING and waits_for_person(newest),
        "time": time_of(one, {**detail, "verdict": newest.verdict} if newest else None, timezone.now()),
        "tone": _tone(one, newest),
        "verbs": verbs(one, newest, request.user),
        "history": past,
        "history_id": f"experiment-{one.pk}-history",
        "state": state,
        "topic": f"experiment-{one.pk}",
        "moved": moved,
    }


def looks_of(one: Experiment, request: Request) -> dict[str, Any]:
    """The history of verdicts, and the settings."""
    snapshots = list(one.snapshots.defer("detail")[:SNAPSHOTS])
    looks, versions = one.snapshots.count(), _versions(one)
    return {
        "experiment": one,
        "looks": looks,
        "look_rows": [
            LookRow(looks - place, look.at, look.verdict, _short(look.sentence, versions), look.last_window)
            for place, look in enumerate(snapshots)
        ],
        "turns": _turns(one, versions),
        "criteria": criteria_of(one),
        "settings": settings_of(one),
        "server": request.build_absolute_uri("/").rstrip("/"),
    }


def _versions(one: Experiment) -> dict[str, str]:
    """Arm → the version's name."""
    return {
        STABLE: str(one.stable) if one.stable else STABLE,
        **{arm: str(version) for arm, version in one.versions.items()},
    }


def _candidate(one: Experiment, arm: ArmResults, request: Request) -> Candidate:
    may_leave = one.state is Status.RUNNING and arm.goes_on
    return Candidate(arm, drop(one, arm.arm, arm.version, request.user) if may_leave else None)


def _tone(one: Experiment, newest: Snapshot | None) -> Tone:
    if one.state is Status.RUNNING and newest is not None:
        on_hold = bool(newest.detail.get("provider_problem"))
        return status_of("experiment", "on_hold" if on_hold else newest.verdict).tone
    return status_of("experiment", one.status).tone


def _short(sentence: str, versions: Mapping[str, str]) -> str:
    """The verdict stands beside it already."""
    return unbroken(named(capital(sentence.removeprefix("Keep running: ")), versions))


def _turns(one: Experiment, versions: Mapping[str, str]) -> list[LookRow]:
    """Looks with another verdict than the one before, the newest first."""
    counted = one.snapshots.annotate(
        number=Window(RowNumber(), order_by=F("pk").asc()),
        before=Window(Lag("verdict", default=Value("")), order_by=F("pk").asc()),
    )
    changed = counted.exclude(before=F("verdict")).order_by("-pk")
    rows = changed.values_list("number", "at", "verdict", "sentence", "last_window")[:TURNS]
    return [LookRow(number, at, verdict, _short(said, versions), last) for number, at, verdict, said, last in rows]


# --- Charts -----------------------------------------------------------------------------------------------------------


def charts_of(one: Experiment) -> dict[str, Any]:
    looks = _spread(one)
    return {
        "experiment": one,
        "topic": f"experiment-{one.pk}",
        "several": len(one.versions) > 1,
        "figures": charts.figures(looks, _versions(one)) if looks else None,
    }


def chart_of(one: Experiment, name: str) -> charts.Figure:
    if name not in charts.NAMES:
        raise Http404(f"There are the charts {', '.join(charts.NAMES)}.")
    return charts.figures(_spread(one), _versions(one))[name]


def _spread(one: Experiment) -> list[charts.Look]:
    """Looks, oldest first: about POINTS of them, and always the newest."""
    count = one.snapshots.count()
    step = max(1, count // POINTS)
    numbered = one.snapshots.annotate(number=Window(RowNumber(), order_by=F("pk").desc()))
    rows = numbered.annotate(place=(F("number") - 1) % step).filter(place=0).order_by("pk")
    return [(at, found or []) for at, found in rows.values_list("at", "detail__rows")]


def newest_points(pk: int) -> dict[str, dict[str, list[Any]]]:
    """Of the newest look, for the charts of pages that are open."""
    newest = Snapshot.objects.filter(experiment=pk).values_list("at", "detail__rows").first()
    return charts.points(newest[0], newest[1] or []) if newest else {}
