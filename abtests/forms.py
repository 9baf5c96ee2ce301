"""Input of the experiment pages."""

from __future__ import annotations

from typing import Any

from django import forms

from registry.models import ModelVersion
from rollouts.forms import NEVER, VersionChoice
from rollouts.models import Environment


class ExperimentForm(forms.Form):
    version = VersionChoice(
        ModelVersion.objects.exclude(stage__in=NEVER).select_related("model").order_by("model__name", "-number"),
        label="Candidate",
        empty_label="Choose a version",
        help_text="It is compared with the version that is live.",
    )
    environment = forms.ModelChoiceField(Environment.objects.all(), empty_label="Choose an environment")
    name = forms.CharField(required=False, max_length=100, label="Name (optional)")
    traffic_percent = forms.FloatField(
        initial=50, min_value=0, max_value=100, label="Traffic of the candidate, %", help_text="Above 0, below 100."
    )
    min_requests = forms.IntegerField(
        initial=1000, min_value=1, label="Requests at least", help_text="Of the candidate, before it may win."
    )
    minutes = forms.FloatField(
        initial=30,
        min_value=0.1,
        max_value=10_000,
        label="Minutes at most",
        help_text="Then it ends without a decision.",
    )

    @property
    def settings(self) -> dict[str, Any]:
        given = self.cleaned_data
        return {"min_requests": given["min_requests"], "max_seconds": given["minutes"] * 60}


FIELDS = {
    "settings.min_requests": "min_requests",
    "settings.max_seconds": "minutes",
}
"""The action's field → the form's."""


class ReasonForm(forms.Form):
    reason = forms.CharField(required=False, max_length=5000)
