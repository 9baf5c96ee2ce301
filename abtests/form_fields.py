"""Fields of forms whose errors name what was typed, and what would be right."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from django import forms
from django.core.exceptions import ValidationError

from abtests.form_criteria import Right
from registry.models import ModelVersion
from rollouts.forms import NEVER, VersionChoice

if TYPE_CHECKING:
    from django.db.models import QuerySet


class Number(forms.Field):
    """A text field: a browser's own number field throws away what it cannot read, and nobody learns what was wrong."""

    def __init__(self, right: Right, *, whole: bool = False, **more: Any) -> None:
        widget = forms.TextInput(attrs={"inputmode": "numeric" if whole else "decimal", "autocomplete": "off"})
        super().__init__(widget=widget, error_messages={"required": f"Give {right.words}."}, **more)
        self.right, self.whole = right, whole

    def to_python(self, value: Any) -> float | None:
        if value in self.empty_values or not str(value).strip():
            return None
        try:
            return read_number(str(value), self.right, whole=self.whole)
        except ValueError as error:
            raise ValidationError(str(error)) from None


def read_number(text: str, right: Right, *, whole: bool = False) -> float:
    """ValueError names the text and says what would be right."""
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number) or not right.accepts(number) or (whole and number % 1):
        raise ValueError(f"“{text.strip()}” cannot be used: give {right.words}.")
    return number


def number(words: str, accepts: Callable[[float], bool], *, whole: bool = False, **more: Any) -> Number:
    return Number(Right(words, accepts), whole=whole, **more)


def choice(choices: list[tuple[str, str]], label: str, initial: str, **more: Any) -> forms.ChoiceField:
    wrong = {"invalid_choice": "“%(value)s” cannot be chosen: take one of the list."}
    return forms.ChoiceField(
        required=False, choices=choices, label=label, initial=initial, error_messages=wrong, **more
    )


def _versions() -> QuerySet[ModelVersion]:
    found = ModelVersion.objects.exclude(stage__in=NEVER).select_related("model")
    return found.order_by("model__name", "-number")


def version_choice(label: str, empty: str, *, required: bool = False, help_text: str = "") -> VersionChoice:
    wrong = {
        "required": "Choose a version.",
        "invalid_choice": "“%(value)s” cannot be chosen: take a version of the list.",
    }
    return VersionChoice(
        _versions(), label=label, empty_label=empty, required=required, help_text=help_text, error_messages=wrong
    )
