"""Input of the rollout pages."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING

from django import forms

from registry.lifecycle import Stage
from registry.models import ModelVersion
from rollouts.models import Environment, Strategy

NEVER = (Stage.BLOCKED, Stage.REFUSED, Stage.RETIRED, Stage.SUSPENDED)


if TYPE_CHECKING:
    _Choice = forms.ModelChoiceField[ModelVersion]
else:
    _Choice = forms.ModelChoiceField


class VersionChoice(_Choice):
    def label_from_instance(self, obj: ModelVersion) -> str:
        score = f", {obj.score:g} points" if obj.score is not None else ""
        return f"{obj} ({obj.stage.replace('_', ' ')}{score})"


def request_key() -> str:
    return uuid.uuid4().hex


class RolloutForm(forms.Form):
    version = VersionChoice(
        ModelVersion.objects.exclude(stage__in=NEVER).select_related("model").order_by("model__name", "-number"),
        empty_label="Choose a version",
        help_text="It waits for its examination and approval where those are still to come.",
    )
    environment = forms.ModelChoiceField(Environment.objects.all(), empty_label="Choose an environment")
    strategy = forms.ModelChoiceField(Strategy.objects.all(), to_field_name="name", initial="canary", empty_label=None)
    rollback_on_failure = forms.BooleanField(
        required=False,
        initial=True,
        label="Turn back by itself when the candidate fails",
        help_text="Without it, a failed verdict or a sick server holds the rollout until a person decides.",
    )
    note = forms.CharField(
        required=False,
        max_length=2000,
        label="Note (optional)",
        help_text="Why now; it stands in the audit.",
        widget=forms.Textarea(attrs={"rows": 3}),
    )
    request_key = forms.CharField(required=False, max_length=100, initial=request_key, widget=forms.HiddenInput)
    """The same form sent twice makes one rollout."""


class ReasonForm(forms.Form):
    reason = forms.CharField(required=False, max_length=5000)
    full = forms.BooleanField(required=False)
