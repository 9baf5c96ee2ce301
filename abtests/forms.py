"""Input of the experiment pages."""

from __future__ import annotations

from typing import Any

from django import forms

from abtests.form_criteria import (
    AIMS,
    GOALS,
    GUARDRAILS,
    LEVELS,
    OWN,
    OWN_UNIT,
    PERCENT,
    PRESETS,
    ROWS,
    USUAL,
    USUAL_LEVEL,
    metric_choices,
    other,
    unit_field,
)
from abtests.form_fields import choice, number, read_number, version_choice
from deploypipe.metrics.definitions import metric_named
from deploypipe.metrics.windows import CANDIDATE
from registry.models import ModelVersion
from rollouts.assignment import KINDS, MOST_HELD_OUT
from rollouts.models import Environment

ARMS = ("second", "third", "fourth")
"""Fields of further candidates."""
ORDINALS = ("Second", "Third", "Fourth")


_ORDER = [
    "version", "environment", "name", *ARMS, "preset", "latency_level",
    *(field for name in ROWS for field in (name, unit_field(name))),
    "other_metric", "other_aim", "other_margin", "other_unit",
]  # fmt: skip
"""Of what comes first; the rest is in the order of the class."""


class ExperimentForm(forms.Form):
    version = version_choice(
        "Candidate", "Choose a version", required=True, help_text="It is compared with the version that is live."
    )
    environment = forms.ModelChoiceField(
        Environment.objects.all(),
        label="Environment",
        empty_label="Choose an environment",
        error_messages={
            "required": "Choose an environment.",
            "invalid_choice": "“%(value)s” cannot be chosen: take an environment of the list.",
        },
    )
    name = forms.CharField(
        required=False,
        max_length=100,
        label="Name (optional)",
        error_messages={"max_length": "%(show_value)d characters are too many: give at most %(limit_value)d."},
    )

    preset = choice(
        [*((name, words) for name, (words, _) in PRESETS.items()), (OWN, "My own")],
        "Preset",
        USUAL,
        help_text="Fills the fields below. An empty field asks nothing.",
    )
    applied = forms.CharField(required=False, widget=forms.HiddenInput, initial=USUAL)
    """The preset that the fields were filled from."""
    latency_level = choice(
        LEVELS, "Latency means", USUAL_LEVEL, help_text="Of the time to the first token: P95 is what 95 % stay below."
    )
    other_aim = choice([(name, words) for name, (words, _) in AIMS.items()], "Aim", "non_inferiority")
    other_margin = number("a number, such as 5", lambda v: v >= 0, required=False, label="Margin or limit")
    other_unit = choice([(OWN_UNIT, "in its own unit"), (PERCENT, "% of stable’s")], "Counted", OWN_UNIT)

    traffic_percent = number(
        "a percentage above 0 and below 100, such as 50",
        lambda v: 0 < v < 100,
        initial=50,
        label="Traffic of the candidates, %",
        help_text="The live version has the rest.",
    )
    holdout_percent = number(
        f"a percentage from 0 to {MOST_HELD_OUT:g}, such as 5",
        lambda v: 0 <= v <= MOST_HELD_OUT,
        required=False,
        initial=0,
        label="Held out, %",
        help_text="These sessions meet the live version in every experiment, and no comparison counts them.",
    )
    unit = choice(
        [("session", "a session"), ("request", "a request")],
        "What counts once",
        "session",
        help_text="A request only where each one is routed on its own.",
    )
    routing_by = choice(
        [(kind, kind) for kind in KINDS],
        "Users are told apart by",
        "session",
        help_text="“session” is the header x-session-id, or a cookie that the gateway hands out.",
    )
    routing_name = forms.CharField(
        required=False, max_length=64, label="Name of the header or cookie", help_text="Such as x-user-id."
    )
    forced_header = forms.CharField(
        required=False,
        max_length=64,
        label="Header of testers (optional)",
        help_text="Whoever sends it meets the candidate, and is not counted. Such as x-beta.",
    )
    forced_value = forms.CharField(
        required=False, max_length=128, label="Its value", help_text="To the letter, such as true."
    )

    min_requests = number(
        "a whole number of requests, at least 1, such as 1000",
        lambda v: 1 <= v < 1e12,
        whole=True,
        initial=1000,
        label="Requests at least",
        help_text="Of a candidate, before it may win. Harm is called before.",
    )
    least_minutes = number(
        "minutes from 0 on, such as 10",
        lambda v: 0 <= v <= 10_000,
        required=False,
        initial=10,
        label="Minutes at least",
        help_text="Before a candidate may win. Harm is called before.",
    )
    minutes = number(
        "minutes above 0 and at most 10,000, such as 30",
        lambda v: 0 < v <= 10_000,
        initial=30,
        label="Minutes at most",
        help_text="Then it ends, decided or not.",
    )
    alpha = number(
        "percent above 0 and at most 50, such as 5",
        lambda v: 0 < v <= 50,
        initial=5,
        label="Wrong verdicts at most, %",
        help_text="Of a wrong promotion, and again of a wrong abort, however often one looks.",
    )
    auto_promote = forms.BooleanField(
        required=False, initial=True, label="Ends by itself when a candidate has won; otherwise a person agrees"
    )
    auto_rollback = forms.BooleanField(
        required=False, initial=True, label="Ends by itself when a candidate does harm; otherwise a person agrees"
    )

    def __init__(self, *given: Any, **more: Any) -> None:
        super().__init__(*given, **more)
        usual = PRESETS[USUAL][1]
        for name, row in ROWS.items():
            units = row.units
            # Which numbers are right depends on the unit, and that is read last: `clean` looks at it.
            self.fields[name] = forms.CharField(
                required=False,
                label=row.label,
                initial=usual.get(name),
                widget=forms.TextInput(attrs={"inputmode": "decimal", "autocomplete": "off"}),
            )
            if len(units) > 1:
                self.fields[unit_field(name)] = choice(
                    [(unit, unit) for unit in units], f"Unit of “{row.label.lower()}”", units[0]
                )
        self.fields["other_metric"] = choice([("", "No other"), *metric_choices()], "Another metric", "")
        for field, ordinal in zip(ARMS, ORDINALS, strict=True):
            self.fields[field] = version_choice(f"{ordinal} candidate", "None")
        self.order_fields(_ORDER)  # so that errors are told from the page's top to its end

    # --- As the template shows them ---

    @property
    def goals(self) -> list[tuple[forms.BoundField, forms.BoundField | str]]:
        """Each with its unit: a field to choose it, or a word."""
        return [self._with_unit(name) for name in GOALS]

    @property
    def guardrails(self) -> list[tuple[forms.BoundField, forms.BoundField | str]]:
        return [self._with_unit(name) for name in GUARDRAILS]

    def _with_unit(self, name: str) -> tuple[forms.BoundField, forms.BoundField | str]:
        units = ROWS[name].units
        return self[name], self[unit_field(name)] if len(units) > 1 else units[0]

    @property
    def further(self) -> list[forms.BoundField]:
        return [self[name] for name in ARMS]

    @property
    def has_further(self) -> bool:
        return any(self[name].value() or self[name].errors for name in ARMS)

    @property
    def has_other(self) -> bool:
        return bool(self["other_metric"].value() or self["other_margin"].errors)

    @property
    def has_testers(self) -> bool:
        return any(self[name].value() for name in ("forced_header", "forced_value"))

    # --- What was given ---

    def clean(self) -> dict[str, Any]:
        given = self.cleaned_data
        for name in ROWS:
            self._read_row(name)
        self._read_other()
        version = given.get("version")
        seen = {version} - {None}
        for field in ARMS:
            arm = given.get(field)
            if arm is None:
                continue
            if version is not None and arm.model_id != version.model_id:
                self.add_error(field, f"{arm} is of another model: choose a version of {version.model}.")
            elif arm in seen:
                self.add_error(field, f"{arm} is named twice: choose each version once.")
            seen.add(arm)
        if given.get("routing_by") in ("header", "cookie") and not given.get("routing_name"):
            self.add_error("routing_name", f"Which {given['routing_by']}? Give its name, such as x-user-id.")
        for one, missing in (("forced_header", "forced_value"), ("forced_value", "forced_header")):
            if given.get(one) and not given.get(missing):
                self.add_error(missing, f"“{given[one]}” alone does nothing: give the header and its value.")
        least, most = given.get("least_minutes"), given.get("minutes")
        if least is not None and most is not None and least > most:
            self.add_error(
                "least_minutes", f"{least:g} are more than the {most:g} allowed: give at most {most:g}, or more time."
            )
        return given

    def _read_row(self, name: str) -> None:
        text = str(self.cleaned_data.get(name) or "").strip()
        unit = self.cleaned_data.get(unit_field(name)) or ROWS[name].units[0]
        self.cleaned_data[name] = None
        if text:
            try:
                self.cleaned_data[name] = read_number(text, ROWS[name].rights[unit])
            except ValueError as error:
                self.add_error(name, str(error))

    def _read_other(self) -> None:
        given = self.cleaned_data
        metric, margin = given.get("other_metric"), given.get("other_margin")
        given["other"] = None
        if not metric or "other_margin" in self.errors:
            return
        if margin is None:
            self.add_error("other_margin", f"Give the margin or limit of the {metric_named(metric).label}.")
            return
        aim, unit = given.get("other_aim") or "non_inferiority", given.get("other_unit") or OWN_UNIT
        try:
            given["other"] = other(metric_named(metric), aim, margin, unit, self._level)
        except ValueError as error:
            self.add_error("other_margin", f"“{margin:g}” cannot be used: {error}.")

    @property
    def _level(self) -> float:
        return float(self.cleaned_data.get("latency_level") or USUAL_LEVEL)

    @property
    def arms(self) -> list[ModelVersion]:
        return [arm for name in ARMS if (arm := self.cleaned_data.get(name)) is not None]

    @property
    def settings(self) -> dict[str, Any]:
        given = self.cleaned_data
        more = [given["other"]] if given.get("other") else []
        return {
            "goals": [*self._criteria(GOALS), *more],
            "guardrails": self._criteria(GUARDRAILS),
            "unit": given.get("unit") or "session",
            "min_requests": int(given["min_requests"]),
            "min_seconds": (given["least_minutes"] or 0.0) * 60,
            "max_seconds": given["minutes"] * 60,
            "alpha": given["alpha"] / 100,
            "auto_promote": given["auto_promote"],
            "auto_rollback": given["auto_rollback"],
        }

    def _criteria(self, names: tuple[str, ...]) -> list[dict[str, Any]]:
        given = self.cleaned_data
        return [
            ROWS[name].make(given[name], given.get(unit_field(name)) or ROWS[name].units[0], self._level)
            for name in names
            if given.get(name) is not None
        ]

    @property
    def routing(self) -> dict[str, Any] | None:
        given = self.cleaned_data
        by, said = given.get("routing_by") or "session", {}
        if by != "session":
            said = {"by": by, "name": given["routing_name"]}
        if given.get("forced_header"):
            said["forced"] = [{"header": given["forced_header"], "value": given["forced_value"], "arm": CANDIDATE}]
        return said or None


FIELDS = {
    "settings.goals": "error_increase",
    "settings.guardrails": "error_limit",
    "settings.min_requests": "min_requests",
    "settings.min_seconds": "least_minutes",
    "settings.max_seconds": "minutes",
    "settings.alpha": "alpha",
    "settings.unit": "unit",
    "routing.by": "routing_by",
    "routing.name": "routing_name",
    "routing.forced[0].header": "forced_header",
    "routing.forced[0].value": "forced_value",
    **{f"arms[{place}]": name for place, name in enumerate(ARMS)},
}
"""The action's field → the form's."""


class ReasonForm(forms.Form):
    reason = forms.CharField(required=False, max_length=5000)
