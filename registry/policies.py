"""What a model's versions are judged by in an environment: which policies hold, and what they make together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from django.core.exceptions import ValidationError
from django.db.models import Max, Q, QuerySet

from deploypipe.core.errors import Invalid
from registry import hooks
from registry.models import NAME, QAPolicy, RegisteredModel
from registry.qa import policy_values
from registry.qa.pipeline_config import Config
from registry.qa.policy import Policy


@dataclass(frozen=True)
class Effective:
    """All that holds for a model (None: for any) in an environment (empty: in any), laid over each other."""

    model: RegisteredModel | None
    environment: str
    rows: tuple[QAPolicy, ...]
    """From general to particular."""

    @cached_property
    def resolved(self) -> policy_values.Resolved:
        return policy_values.resolve([row.values for row in self.rows])

    @property
    def policy(self) -> Policy:
        return self.resolved.policy

    def origin(self, name: str) -> QAPolicy | None:
        """Which of the rows has set it; None where it is the product's default."""
        index = self.resolved.origins.get(name)
        return None if index is None else self.rows[index]

    @property
    def config(self) -> Config:
        """The whole of it as one file has it."""
        pipeline: dict[str, Any] = {}
        for row in self.rows:
            pipeline = _over(pipeline, row.pipeline)
        return Config(policy_values.plain(self.policy.to_json()), pipeline)

    @property
    def sources(self) -> list[dict[str, Any]]:
        """What a run keeps of where its policy came from."""
        said = {name: self.origin(name) for name in self.resolved.origins}
        return [
            {**identity(row), "sets": [name for name, origin in said.items() if origin == row]} for row in self.rows
        ]


def identity(row: QAPolicy) -> dict[str, Any]:
    return {
        "id": row.pk,
        "model": row.model.name if row.model else "",
        "environment": row.environment,
        "number": row.number,
    }


def newest() -> QuerySet[QAPolicy]:
    """Those that hold: the last of each model and environment. They are only ever added to."""
    last = QAPolicy.objects.order_by().values("model", "environment").annotate(last=Max("pk")).values("last")
    return QAPolicy.objects.filter(pk__in=last).select_related("model", "created_by")


def of_scope(model: RegisteredModel | None, environment: str) -> QuerySet[QAPolicy]:
    """All numbers of one model and environment, the newest first."""
    found = QAPolicy.objects.select_related("model", "created_by").order_by("-number")
    return found.filter(model=model, environment=environment)


def effective(model: RegisteredModel | None, environment: str = "") -> Effective:
    wanted = Q(model=None) | Q(model=model) if model else Q(model=None)
    rows = newest().filter(wanted, environment__in=["", environment])
    ordered = sorted(rows, key=lambda row: (row.model_id is not None, row.environment != ""))
    return Effective(model, environment, tuple(ordered))


def inherited(model: RegisteredModel | None, environment: str) -> Effective:
    """What a policy of exactly this model and environment is laid over."""
    whole = effective(model, environment)
    scope = (model.pk if model else None, environment)
    return Effective(model, environment, tuple(r for r in whole.rows if (r.model_id, r.environment) != scope))


def with_own(below: Effective, values: Mapping[str, Any]) -> policy_values.Resolved:
    """What would hold if these were the own values of that model and environment."""
    return policy_values.resolve([*(row.values for row in below.rows), values])


def asked_for(asked: Mapping[str, Any]) -> tuple[RegisteredModel | None, str]:
    """The model and environment that an address or a body names; empty is all of them."""
    name, environment = asked.get("model") or "", asked.get("environment") or ""
    model = RegisteredModel.objects.filter(name=name).first() if name else None
    if name and model is None:
        raise Invalid("There is no such model.", fields={"model": f"{name!r} is not registered"})
    require_environment(environment)
    return model, environment


def require_environment(name: str) -> None:
    """Empty is all of them."""
    if not name:
        return
    known = hooks.environments()
    if known and name not in known:
        raise Invalid(
            "There is no such environment.", fields={"environment": f"{name!r}: use one of {', '.join(known)}"}
        )
    try:
        NAME(name)
    except ValidationError as error:
        raise Invalid("There is no such environment.", fields={"environment": str(error.messages[0])}) from None


def _over(base: Mapping[str, Any], more: Mapping[str, Any]) -> dict[str, Any]:
    found = dict(base)
    for name, value in more.items():
        below = found.get(name)
        found[name] = _over(below, value) if isinstance(below, Mapping) and isinstance(value, Mapping) else value
    return found
