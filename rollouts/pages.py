"""What the pages of rollouts show, put together from the rows."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from django.db.models import Q, QuerySet, Sum
from django.shortcuts import get_object_or_404
from django.utils import timezone

from deploypipe.core.pages import Request, history
from deploypipe.core.status import status_of
from deploypipe.metrics.bins import first_ms
from deploypipe.metrics.models import Window
from deploypipe.metrics.windows import CANDIDATE
from deploypipe.stats.histogram import Histogram
from deploypipe.stats.intervals import wilson
from registry.models import ModelVersion, RegisteredModel
from rollouts.lifecycle import ACTIVE, Cause, Purpose, Status, StepStatus
from rollouts.models import Deployment, Environment, Rollout, RolloutQuerySet, RolloutStep, Route, Strategy
from rollouts.page_verbs import step_title, verbs
from rollouts.queries import backends_of, share_of, shares_of
from rollouts.strategy import APPROVAL, KINDS, PAUSE, SET_WEIGHT
from rollouts.targets.base import Phase
from rollouts.traffic.base import TOTAL_WEIGHT
from rollouts.verdict_panel import look_of

LOOKS = 30
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
    ).prefetch_related("steps__approved_by", "arms__version__model", "arms__deployment__version__model")  # fmt: skip


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
    requests: int
    errors: int
    p95: float | None

    @property
    def per_second(self) -> float:
        return self.requests / RECENT.total_seconds()

    @property
    def error_rate(self) -> float | None:
        return self.errors / self.requests if self.requests else None


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
        latencies = latencies.merge(first_ms(window))
    requests, errors = sum(w.requests for w in windows), sum(w.errors for w in windows)
    weight = route.weight if route.candidate_id and route.stable_id else None
    return Serving(route, weight, route.stable, route.candidate, requests, errors, latencies.quantile(0.95))


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
class ArmShare:
    version: ModelVersion
    set: int
    """Hundredths of a percent."""
    measured: Share | None


def of_rollout(one: Rollout, request: Request) -> dict[str, Any]:
    """What changes while one looks. `moved`: the head and the history are not what the browser has."""
    route = Route.objects.filter(environment=one.environment_id, model=one.model_id).first()
    weight, past = weight_of(one, route), history(one)
    analyses = list(one.analyses.all()[:LOOKS])
    state = f"{one.shown_status}.{one.step_index}.{weight}.{one.promote}.{past.newest}"
    steps, shares = step_rows(one), _shares(one, route)
    return {
        "rollout": one,
        "steps": steps,
        "current": next((row for row in steps if row.place == "current"), None),
        "weight": weight,
        "share": shares[0].measured,
        "shares": shares if len(shares) > 1 else [],
        "look": look_of(analyses[0]) if analyses else None,
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


def _shares(one: Rollout, route: Route | None) -> list[ArmShare]:
    """Of each candidate."""
    versions = {CANDIDATE: one.version, **{arm.name: arm.version for arm in one.arms.all()}}
    wanted = shares_of(route, one) if route and one.is_active else {}
    counted = _counted(one, route) if one.is_active else {}
    total = sum(counted.values())
    since = route.changed_at if route else timezone.now()
    return [
        ArmShare(version, wanted.get(arm, 0), _share(counted.get(arm, 0), total, since) if total else None)
        for arm, version in versions.items()
    ]


def _counted(one: Rollout, route: Route | None) -> dict[str, int]:
    """Arm → requests of sessions that chance has sent there, since the share was last changed."""
    if route is None or one.candidate is None or one.previous is None or not one.traffic_from:
        return {}
    arms, since = backends_of(one), route.changed_at
    rows = Window.objects.filter(
        environment=one.environment.name,
        model=one.model.name,
        backend__in=arms,
        group="",  # nobody drew those who were sent there by name
        taken_at__gte=since,
        first_at__gte=since,
    )
    sums = rows.values_list("backend").annotate(Sum("requests"))
    return {arms[backend]: requests for backend, requests in sums}


def _share(requests: int, total: int, since: datetime) -> Share:
    interval = wilson(requests, total)
    return Share(requests, total, interval.low, interval.high, since)


def _servers(one: Rollout, route: Route | None) -> list[dict[str, Any]]:
    named: list[tuple[str, Deployment | None]] = [("Candidate", one.candidate)]
    named += [(f"Candidate {arm.position}", arm.deployment) for arm in one.arms.all() if arm.position > 1]
    named.append(("Before it", one.previous))
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


def environments() -> QuerySet[Environment]:
    return Environment.objects.all()


def tone_of(one: Rollout) -> str:
    """Of the sentence that says what it does."""
    if one.problem:
        return "warn"
    return "hold" if waits(one) else status_of("rollout", one.shown_status).tone
