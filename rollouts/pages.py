"""What the pages of rollouts show, put together from the rows."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from django.db.models import Q, QuerySet, Sum
from django.shortcuts import get_object_or_404
from django.utils import timezone

from deploypipe.core.pages import Request, history
from deploypipe.core.status import status_of
from deploypipe.metrics import series
from deploypipe.metrics.models import Window
from deploypipe.stats import words
from deploypipe.stats.counts import ArmCounts
from deploypipe.stats.histogram import Histogram
from deploypipe.stats.intervals import wilson
from registry.models import ModelVersion, RegisteredModel
from rollouts import charts, monitor
from rollouts.analysis import Judgement, capitalised
from rollouts.lifecycle import ACTIVE, Cause, Purpose, Status, StepStatus
from rollouts.models import Analysis, Deployment, Environment, Rollout, RolloutQuerySet, RolloutStep, Route, Strategy
from rollouts.page_verbs import back, step_title, verbs
from rollouts.queries import share_of
from rollouts.strategy import APPROVAL, KINDS, PAUSE, SET_WEIGHT
from rollouts.targets.base import Phase
from rollouts.traffic.base import TOTAL_WEIGHT

if TYPE_CHECKING:
    pass

LOOKS = 30
POINTS = 600
"""Readings that a chart begins with; about ten minutes."""
RECENT = timedelta(seconds=60)
CAUSES: dict[str, str] = {
    Cause.PERSON: "A person turned it back.",
    Cause.HEALTH: "It turned back because a server was not well.",
    Cause.VERDICT: "It turned back because of the verdict.",
    Cause.DEADLINE: "It turned back because the time was over.",
    Cause.APPROVAL: "It turned back because the version may not be deployed any more.",
}


def rollouts() -> RolloutQuerySet:
    return Rollout.objects.select_related(
        "environment", "model", "version__model", "requested_by", "paused_by",
        "candidate__version__model", "previous__version__model",
    ).prefetch_related("steps__approved_by")  # fmt: skip


def rollout(pk: int) -> Rollout:
    return get_object_or_404(rollouts(), pk=pk)


# --- Lists ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Line:
    """A rollout in a list."""

    rollout: Rollout
    weight: int | None
    """Hundredths of a percent that the candidate has now; None once that says nothing any more."""
    step: int
    steps: int
    waits: bool
    """For a person."""


def lines(found: Iterable[Rollout]) -> list[Line]:
    listed = list(found)
    routes = {
        (route.environment_id, route.model_id): route
        for route in Route.objects.filter(model__in={r.model_id for r in listed if r.is_active})
    }
    return [_line(one, routes.get((one.environment_id, one.model_id))) for one in listed]


def _line(one: Rollout, route: Route | None) -> Line:
    steps = len(one.steps.all())
    return Line(
        one, weight_of(one, route) if one.is_active else None, min(one.step_index + 1, steps), steps, waits(one)
    )


def waits(one: Rollout) -> bool:
    """Its current step goes on only when a person does something."""
    step = next((row for row in one.steps.all() if row.status == StepStatus.ACTIVE), None)
    if step is None or one.state is not Status.PROGRESSING:
        return False
    return (step.kind == APPROVAL and step.approved_by_id is None) or (step.kind == PAUSE and not step.settings)


def weight_of(one: Rollout, route: Route | None) -> int:
    """The candidate's share; of a rollout that has ended, as it was then: the route may be about others by now."""
    if not one.is_active:
        return TOTAL_WEIGHT if one.status == Status.SUCCEEDED and one.purpose == Purpose.PROMOTE else 0
    return share_of(route, one.candidate) if route and one.candidate else 0


def narrowed(asked: dict[str, str]) -> RolloutQuerySet:
    fields = {"environment": "environment__name", "model": "model__name"}
    found = rollouts().filter(**{field: asked[name] for name, field in fields.items() if asked.get(name)})
    if (version := asked.get("version", "")).isdigit():
        found = found.filter(version_id=int(version))
    match asked.get("state"):
        case "active":
            return found.active()
        case "attention":
            return found.filter(needs_attention())
        case "ended":
            return found.exclude(status__in=ACTIVE)
        case _:
            return found


def needs_attention() -> Q:
    """Under way, and it goes on only when a person does something."""
    waits = Q(problem=True) | Q(paused_at__isnull=False) | Q(pk__in=_waiting_steps().values("rollout_id"))
    return Q(status__in=ACTIVE) & waits


def _waiting_steps() -> QuerySet[RolloutStep]:
    for_a_person = Q(kind=APPROVAL, approved_by=None) | Q(kind=PAUSE, settings={})
    return RolloutStep.objects.filter(for_a_person, status=StepStatus.ACTIVE, rollout__status=Status.PROGRESSING)


# --- What serves now --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Serving:
    """A model in an environment: who has the traffic, and how it went in the last minute."""

    route: Route
    weight: int | None
    stable: Deployment | None
    candidate: Deployment | None
    counts: ArmCounts
    p95: float | None

    @property
    def per_second(self) -> float:
        return self.counts.requests / RECENT.total_seconds()


def serving(*, model: RegisteredModel | None = None) -> list[Serving]:
    routes = (
        Route.objects.exclude(stable=None, candidate=None)
        .select_related("environment", "model", "stable__version__model", "candidate__version__model")
        .order_by("model__name", "environment__position", "environment__name")
    )
    listed = list(routes.filter(model=model) if model else routes)
    since = timezone.now() - RECENT
    rows = Window.objects.filter(taken_at__gte=since, model__in={route.model.name for route in listed})
    by_key: dict[tuple[str, str], list[Window]] = {}
    for window in rows:
        by_key.setdefault((window.environment, window.model), []).append(window)
    return [_serving(route, by_key.get((route.environment.name, route.model.name), [])) for route in listed]


def _serving(route: Route, windows: list[Window]) -> Serving:
    latencies = Histogram()
    for window in windows:
        latencies = latencies.merge(Histogram.from_json(window.first_ms))
    counts = ArmCounts(sum(w.requests for w in windows), sum(w.errors for w in windows))
    weight = route.weight if route.candidate_id and route.stable_id else None
    return Serving(route, weight, route.stable, route.candidate, counts, latencies.quantile(0.95))


def of_version(version: ModelVersion) -> dict[str, Any]:
    deployments = version.deployments.kept().select_related("environment", "version__model")
    routes = Route.objects.filter(model=version.model_id)
    shares = [
        (deployment, sum(share_of(route, deployment) for route in routes)) for deployment in deployments
    ]  # fmt: skip
    return {"version": version, "shares": shares, "lines": lines(rollouts().filter(version=version)[:10])}


# --- A rollout --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class StepRow:
    step: RolloutStep
    title: str
    place: str
    """done, current or pending: how the rail draws it."""
    shown: str
    """The state whose word, tone and icon it has."""


@dataclass(frozen=True)
class Share:
    """The candidate's share, counted since the weight was last changed."""

    requests: int
    of: int
    low: float
    high: float
    since: datetime

    @property
    def hundredths(self) -> int:
        return round(TOTAL_WEIGHT * self.requests / self.of)


@dataclass(frozen=True)
class Look:
    analysis: Analysis
    judgement: Judgement | None
    """None where it was written by a version whose numbers this one cannot read."""

    @property
    def arms(self) -> list[tuple[str, ArmCounts]]:
        if self.judgement is None:
            return []
        step, rollout = self.judgement.step, self.judgement.rollout
        return [
            ("Candidate in this step", step.candidate),
            ("Stable in this step", step.stable),
            ("Candidate since it has traffic", rollout.candidate),
            ("Stable since then", rollout.stable),
        ]

    @property
    def evidence(self) -> list[dict[str, Any]]:
        if self.judgement is None:
            return []
        return [
            {
                "words": capitalised(item.name.replace("_", " ")),
                "seen": words.odds(item.log_evidence),
                "needed": words.odds(item.log_threshold),
                "part": round(100 * max(0.0, min(1.0, item.log_evidence / item.log_threshold))),
                "reached": item.reached,
                "bad": item.name in ("worse_than_stable", "above_limit"),
            }
            for item in self.judgement.evidence
        ]


def of_rollout(one: Rollout, request: Request) -> dict[str, Any]:
    """What changes while one looks. `moved`: the head and the history are not what the browser has."""
    route = Route.objects.filter(environment=one.environment_id, model=one.model_id).first()
    weight, past = weight_of(one, route), history(one)
    analyses = list(one.analyses.all()[:LOOKS])
    state = f"{one.shown_status}.{one.step_index}.{weight}.{one.promote}.{past.newest}"
    steps = step_rows(one)
    return {
        "rollout": one,
        "steps": steps,
        "current": next((row for row in steps if row.place == "current"), None),
        "weight": weight,
        "share": _share(one, route),
        "look": _look(analyses[0]) if analyses else None,
        "looks": analyses,
        "servers": _servers(one, route),
        "verbs": verbs(one, request.user, weight),
        "tone": tone_of(one),
        "waits": waits(one),
        "cause": CAUSES.get(one.cause, ""),
        "gated": any(row.step.kind not in KINDS for row in steps),
        "history": past,
        "history_id": f"rollout-{one.pk}-history",
        "state": state,
        "moved": bool(request.htmx) and request.GET.get("seen") != state,
    }


def step_rows(one: Rollout) -> list[StepRow]:
    return [_step_row(one, step) for step in one.steps.all()]


def _step_row(one: Rollout, step: RolloutStep) -> StepRow:
    ended = step.status in (StepStatus.DONE, StepStatus.FAILED)
    current = step.status == StepStatus.ACTIVE and one.is_active
    return StepRow(step, step_title(step.kind, step.settings), "done" if ended else "current" if current else "pending",
                   step.status)  # fmt: skip


def strategies() -> list[tuple[Strategy, list[str]]]:
    """Each with its steps in words; the most careful first."""
    found = sorted(Strategy.objects.all(), key=lambda strategy: -len(strategy.steps))
    return [(strategy, [_words(item) for item in strategy.steps]) for strategy in found]


def _words(item: dict[str, Any]) -> str:
    kind, settings = next(iter(item.items()))
    return step_title(kind, {"percent": settings} if kind == SET_WEIGHT else settings)


def _share(one: Rollout, route: Route | None) -> Share | None:
    if not one.is_active or route is None or one.candidate is None or one.previous is None or not one.traffic_from:
        return None
    since = route.changed_at
    counted = dict(
        Window.objects.filter(
            environment=one.environment.name,
            model=one.model.name,
            backend__in=[one.candidate.name, one.previous.name],
            taken_at__gte=since,
            first_at__gte=since,
        )
        .values_list("backend")
        .annotate(Sum("requests"))
    )
    total = sum(counted.values())
    if not total:
        return None
    mine = counted.get(one.candidate.name, 0)
    interval = wilson(mine, total)
    return Share(mine, total, interval.low, interval.high, since)


def _look(analysis: Analysis) -> Look:
    try:
        return Look(analysis, Judgement.from_json(analysis.detail))
    except (KeyError, TypeError, ValueError):
        return Look(analysis, None)


def _servers(one: Rollout, route: Route | None) -> list[dict[str, Any]]:
    named = [("Candidate", one.candidate), ("Before it", one.previous)]
    return [
        {
            "role": role,
            "deployment": deployment,
            "health": health_of(deployment),
            "share": share_of(route, deployment) if route else 0,
        }
        for role, deployment in named
        if deployment is not None
    ]


def health_of(deployment: Deployment) -> str:
    if deployment.phase != Phase.READY or deployment.healthy is None:
        return "unknown"
    return "healthy" if deployment.healthy else "unhealthy"


# --- Charts -----------------------------------------------------------------------------------------------------------


def charts_of(one: Rollout) -> dict[str, Any]:
    return {"figures": figures(one), "topic": f"rollout-{one.pk}"}


def figures(one: Rollout) -> dict[str, charts.Figure]:
    """Empty while nothing was measured."""
    windows = _windows(one)
    if not windows:
        return {}
    named = series.roles_of(one.candidate, one.previous)
    measured = series.history(windows, named)
    limit = monitor.settings_of(one.plan, None).max_error_rate_percent
    first, last = windows[0].taken_at, windows[-1].taken_at
    labels = {"candidate": str(one.version), **({"stable": back(one)} if one.previous else {})}
    return charts.figures(measured, _wanted(one, first, last), limit, labels)


def _windows(one: Rollout) -> list[Window]:
    backends = [d.name for d in (one.candidate, one.previous) if d is not None]
    if not backends or one.traffic_from is None:
        return []
    rows = Window.objects.filter(
        environment=one.environment.name, model=one.model.name, backend__in=backends, taken_at__gte=one.traffic_from
    )
    if one.ended_at:
        rows = rows.filter(taken_at__lte=one.ended_at + RECENT)
    return list(rows.order_by("-pk")[: POINTS * len(backends)])[::-1]


def _wanted(one: Rollout, first: datetime, last: datetime) -> list[tuple[datetime, float]]:
    """The share that was set, at each change within the chart, and where it stands at its end."""
    changes = [
        (step.began_at, float(step.settings["percent"]))
        for step in one.steps.all()
        if step.kind == SET_WEIGHT and step.began_at
    ]
    if one.status in (Status.PROMOTING, Status.SUCCEEDED) and one.purpose == Purpose.PROMOTE:
        changes.append((one.ended_at or one.phase_at, 100.0))
    if one.status in (Status.ROLLING_BACK, Status.ROLLED_BACK, Status.CONCLUDING):
        changes.append((one.phase_at, 0.0))
    before = [share for at, share in changes if at <= first]
    inside = [(at, share) for at, share in changes if first < at <= last]
    drawn = [(first, before[-1] if before else 0.0), *inside]
    return [*drawn, (last, drawn[-1][1])]


def environments() -> QuerySet[Environment]:
    return Environment.objects.all()


def tone_of(one: Rollout) -> str:
    """Of the sentence that says what it does."""
    if one.problem:
        return "warn"
    return "hold" if waits(one) else status_of("rollout", one.shown_status).tone
