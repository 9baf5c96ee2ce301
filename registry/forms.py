"""Input of the registry's pages."""

from __future__ import annotations

from typing import Any

from django import forms

from deploypipe.core.errors import Invalid
from registry.qa.places import LARGEST


def said(form: forms.Form) -> dict[str, Any]:
    """What a verb's small form says; raises Invalid that names what is wrong with it."""
    if not form.is_valid():
        raise Invalid("What was sent was not understood.", fields={k: str(v[0]) for k, v in form.errors.items()})
    return form.cleaned_data


class DecisionForm(forms.Form):
    note = forms.CharField(required=False, max_length=5000)
    override = forms.BooleanField(required=False)
    seen_run = forms.IntegerField(required=False, min_value=1)


class ExamineForm(forms.Form):
    environment = forms.CharField(required=False, max_length=40)


class SuspendForm(forms.Form):
    reason = forms.CharField(required=False, max_length=5000)


class PolicyForm(forms.Form):
    text = forms.CharField(
        required=False,
        strip=False,
        max_length=LARGEST,
        label="pipeline-config.yaml",
        help_text="Only what differs from what is inherited; an empty mapping, {}, takes all back.",
        widget=forms.Textarea(
            attrs={"rows": 24, "spellcheck": "false", "class": "font-monospace", "autocomplete": "off"}
        ),
    )
    file = forms.FileField(
        required=False, label="Or a file", help_text="Instead of the text above.", allow_empty_file=True
    )
    note = forms.CharField(
        required=False, max_length=5000, label="Note (optional)", help_text="Why; it stands in the history."
    )
    seen = forms.IntegerField(required=False, min_value=0, widget=forms.HiddenInput)

    @property
    def whole_text(self) -> bytes:
        """Of a valid form."""
        if file := self.cleaned_data["file"]:
            return bytes(file.read(LARGEST + 1))
        text: str = self.cleaned_data["text"]
        return text.replace("\r\n", "\n").encode(errors="surrogatepass")


class PolicyRestoreForm(forms.Form):
    note = forms.CharField(required=False, max_length=5000)
    seen = forms.IntegerField(required=False, min_value=0)
