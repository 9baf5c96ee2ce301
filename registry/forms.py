"""Input of the registry's pages."""

from __future__ import annotations

from django import forms


class DecisionForm(forms.Form):
    note = forms.CharField(required=False, max_length=5000)
    override = forms.BooleanField(required=False)
    seen_run = forms.IntegerField(required=False, min_value=1)
