"""The forecast of an experiment as it is put together: at today's traffic of the live version."""

from __future__ import annotations

from typing import Any

from django.conf import settings as configured
from django.db.models import QuerySet

from abtests.design import Asked, Design, design
from abtests.settings import ExperimentSettings, parse_settings
from abtests.traffic_now import traffic_now
from deploypipe.core.errors import Invalid
from registry.models import RegisteredModel
from rollouts.analysis_settings import SettingsError
from rollouts.arms import MOST_CANDIDATES
from rollouts.assignment import RoutingError, parse_holdout
from rollouts.models import Environment, Route


def designed(
    model: RegisteredModel,
    environment: Environment,
    settings: dict[str, Any],
    *,
    traffic_percent: float,
    candidates: int = 1,
    holdout_percent: float = 0.0,
) -> Design:
    """Raises Invalid, which names each wrong field."""
    faults: dict[str, str] = {}
    parsed = ExperimentSettings()
    try:
        parsed = parse_settings(settings)
    except SettingsError as error:
        faults |= {f"settings.{field}": right for field, right in error.fields.items()}
    if not 0 < traffic_percent < 100:
        faults["traffic_percent"] = f"{traffic_percent:g}: give more than 0 and less than 100"
    try:
        parse_holdout(holdout_percent)
    except RoutingError as error:
        faults |= error.fields
    if not 1 <= candidates <= MOST_CANDIDATES:
        faults["arms"] = f"{candidates} candidates: give 1 to {MOST_CANDIDATES}"
    if not live(model).filter(environment=environment).exists():
        faults["environment"] = f"no version of {model} is live in {environment}: there is nothing to compare with"
    if faults:
        raise Invalid("There is no forecast of this experiment.", fields=faults)
    asked = Asked(
        share=traffic_percent / 100,
        max_minutes=parsed.max_seconds / 60,
        min_minutes=parsed.min_seconds / 60,
        min_requests=parsed.min_requests,
        holdout=holdout_percent / 100,
        session_minutes=configured.SESSION_SECONDS / 60,
        remembered=configured.SESSIONS_REMEMBERED,
        closing_share=parsed.closing_share,
    )
    return design(parsed.plan(candidates), traffic_now(model, environment), asked)


def live(model: RegisteredModel | None = None) -> QuerySet[Route]:
    """Routes that have a live version."""
    routes = Route.objects.exclude(stable=None)
    return routes if model is None else routes.filter(model=model)
