"""Policies as files that a browser or a program takes away."""

from __future__ import annotations

from django.http import HttpResponse

from registry.models import QAPolicy, RegisteredModel
from registry.policies import Effective
from registry.qa.pipeline_config import Config, to_yaml

YAML = "application/yaml"


def own_text(policy: QAPolicy) -> str:
    """What this number says itself."""
    name = str(policy)
    return to_yaml(Config(policy.values, policy.pipeline), f"{name[0].upper()}{name[1:]}, set by {policy.created_by}.")


def file_of(policy: QAPolicy) -> HttpResponse:
    return _answer(own_text(policy), policy.model, policy.environment, f"-{policy.number}")


def file_of_effective(found: Effective) -> HttpResponse:
    """All that holds, whoever has set it."""
    what = f"What holds for {found.model or 'all models'} in {found.environment or 'all environments'}."
    text = to_yaml(found.config, "\n".join([what, *(f"From {row}." for row in found.rows)]))
    return _answer(text, found.model, found.environment)


def _answer(text: str, model: RegisteredModel | None, environment: str, number: str = "") -> HttpResponse:
    parts = [part for part in ("pipeline-config", model.name if model else "", environment) if part]
    name = f"{'-'.join(parts)}{number}.yaml"
    return HttpResponse(text, content_type=YAML, headers={"Content-Disposition": f'attachment; filename="{name}"'})
