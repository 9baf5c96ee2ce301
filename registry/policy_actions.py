"""The verbs of policies. A policy is never changed: each verb makes the next number."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from django.db import IntegrityError, transaction

from deploypipe.core import audit, events, roles
from deploypipe.core.errors import ConcurrentChange, Conflict, FourEyes, Invalid
from registry import policies
from registry.events import PolicyChanged
from registry.lifecycle import DECIDED
from registry.models import ModelVersion, QAPolicy, RegisteredModel
from registry.qa import policy_values
from registry.qa.catalogue import all_checks
from registry.qa.pipeline_config import Config, ConfigError, load_config
from registry.qa.policy_values import Change

if TYPE_CHECKING:
    from django.contrib.auth.models import User


@dataclass(frozen=True)
class Saved:
    policy: QAPolicy
    is_new: bool
    """False where the newest one said the same already."""


@dataclass(frozen=True)
class Preview:
    """What saving would change."""

    config: Config
    effective: list[Change] = field(default_factory=list)
    """In what versions of this model and environment are judged by."""
    own: list[Change] = field(default_factory=list)
    """In what this model and environment say themselves; the inherited value may be the same."""
    pipeline: list[Change] = field(default_factory=list)

    @property
    def is_empty(self) -> bool:
        return not (self.own or self.pipeline)


@transaction.atomic
def save_policy(
    model: RegisteredModel | None,
    environment: str,
    values: Mapping[str, Any],
    *,
    actor: User,
    note: str = "",
    pipeline: Mapping[str, Any] | None = None,
    seen: int | None = None,
) -> Saved:
    """The next number of this model (None: all) and environment (empty: all); `values` is all that it says itself.

    `pipeline` None keeps the other sections as they are. `seen` is the number that the person looked at (0: none);
    where there is a newer one, they must look again. Four eyes: nobody sets what a version of theirs is judged by.
    """
    roles.require(actor, "registry.set_policy")
    _not_of_own_version(model, actor)
    policies.require_environment(environment)
    current = policies.of_scope(model, environment).select_for_update(of=("self",)).first()
    number = current.number if current else 0
    if seen is not None and seen != number:
        raise Conflict(f"Somebody else set this policy since: it is at number {number} now. Look at it first.")
    _must_be_right(model, environment, values)
    kept = dict(pipeline if pipeline is not None else (current.pipeline if current else {}))
    if current and (current.values, current.pipeline) == (values, kept):
        return Saved(current, is_new=False)
    try:
        with transaction.atomic():
            policy = QAPolicy.objects.create(
                model=model,
                environment=environment,
                number=number + 1,
                values=dict(values),
                pipeline=kept,
                note=note.strip(),
                created_by=actor,
            )
    except IntegrityError:
        raise ConcurrentChange("Somebody else set this policy at the same moment. Look at it first.") from None
    audit.record(actor, "policy.saved", policy, before=_said(current), after=_said(policy), reason=policy.note)
    events.announce(PolicyChanged(policy.pk))
    return Saved(policy, is_new=True)


def restore(policy: QAPolicy, *, actor: User, note: str = "", seen: int | None = None) -> Saved:
    """What an earlier number said, as a new number."""
    said = note.strip() or f"As number {policy.number}."
    return save_policy(
        policy.model, policy.environment, policy.values, actor=actor, note=said, pipeline=policy.pipeline, seen=seen
    )


def import_config(
    text: str | bytes,
    model: RegisteredModel | None,
    environment: str,
    *,
    actor: User,
    note: str = "",
    seen: int | None = None,
) -> Saved:
    roles.require(actor, "registry.set_policy")
    config = _read(text, model, environment)
    return save_policy(model, environment, config.values, actor=actor, note=note, pipeline=config.pipeline, seen=seen)


def preview(text: str | bytes, model: RegisteredModel | None, environment: str) -> Preview:
    """What an import would change. Raises ConfigError as the import does."""
    policies.require_environment(environment)
    config = load(text, model, environment)
    current = policies.of_scope(model, environment).first()
    below = policies.inherited(model, environment)
    now = policies.with_own(below, current.values if current else {})
    return Preview(
        config,
        policy_values.changes(now.values, policies.with_own(below, config.values).values),
        own_changes(current, config.values),
        policy_values.changes(
            dict(policy_values.paths(current.pipeline if current else {})),
            dict(policy_values.paths(config.pipeline)),
        ),
    )


def load(text: str | bytes, model: RegisteredModel | None, environment: str) -> Config:
    below = policies.inherited(model, environment).policy.to_json()
    return load_config(text, all_checks(), inherited=below)


def own_changes(before: QAPolicy | None, values: Mapping[str, Any]) -> list[Change]:
    said = dict(policy_values.settings(before.values)) if before else {}
    return policy_values.changes(said, dict(policy_values.settings(values)))


def _read(text: str | bytes, model: RegisteredModel | None, environment: str) -> Config:
    try:
        return load(text, model, environment)
    except ConfigError as error:
        raise unusable(error) from None


def unusable(error: ConfigError) -> Invalid:
    """Each place once, with its line."""
    fields: dict[str, str] = {}
    for problem in error.problems:
        place = problem.path or "file"
        sentence = f"line {problem.line}, column {problem.column}: {problem.message}"
        fields[place] = f"{fields[place]}; {sentence}" if place in fields else sentence
    return Invalid("The file cannot be used.", fields=fields)


def _not_of_own_version(model: RegisteredModel | None, actor: User) -> None:
    own = ModelVersion.objects.select_related("model").filter(registered_by=actor).exclude(stage__in=DECIDED)
    if version := (own.filter(model=model) if model else own).order_by("-pk").first():
        raise FourEyes(
            f"You registered {version}, which is {version.stage.replace('_', ' ')}: "
            "someone else must set what it is judged by."
        )


def _must_be_right(model: RegisteredModel | None, environment: str, values: Mapping[str, Any]) -> None:
    below = policies.inherited(model, environment).policy.to_json()
    if wrong := policy_values.validate(values, all_checks(), inherited=below):
        fields = {"values" if name == "values" else f"values.{name}": sentence for name, sentence in wrong.items()}
        raise Invalid("The policy cannot be used.", fields=fields)


def _said(policy: QAPolicy | None) -> dict[str, Any]:
    if policy is None:
        return {}
    return {"number": policy.number, "values": policy.values, "sections": sorted(policy.pipeline)}
