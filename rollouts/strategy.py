"""A strategy as data: a list of steps, each an object with one key. Pure; every fault is named with its place.

[{"setWeight": 10}, {"pause": {"seconds": 30}}, {"analysis": {"max_error_increase_points": 0.5}},
 {"approval": {}}, {"experiment": {"guardrails": …}}]
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from itertools import pairwise
from typing import Any

from rollouts.analysis import SettingsError, parse_settings
from rollouts.analysis import title as judge_title
from rollouts.traffic.base import TOTAL_WEIGHT

SET_WEIGHT, PAUSE, ANALYSIS, APPROVAL = "setWeight", "pause", "analysis", "approval"
KINDS = (SET_WEIGHT, PAUSE, ANALYSIS, APPROVAL)
ON_TIMEOUT = ("rollback", "hold")


class StrategyError(ValueError):
    """`fields` maps the place ("steps[2].analysis.alpha") to what would be right."""

    def __init__(self, fields: Mapping[str, str]) -> None:
        self.fields = dict(fields)
        super().__init__("; ".join(f"{place}: {right}" for place, right in self.fields.items()))


@dataclass(frozen=True)
class Step:
    kind: str
    settings: Mapping[str, Any] = field(default_factory=dict)

    @property
    def weight(self) -> int:
        """Of a setWeight step, in hundredths of a percent."""
        return round(float(self.settings["percent"]) * TOTAL_WEIGHT / 100)

    @property
    def title(self) -> str:
        if self.kind == SET_WEIGHT:
            return f"Send {self.settings['percent']:g} % of traffic"
        if self.kind == PAUSE:
            seconds = self.settings.get("seconds")
            return "Wait for a person to go on" if seconds is None else f"Wait {seconds:g} s"
        if self.kind == ANALYSIS:
            return judge_title(self.settings)
        if self.kind == APPROVAL:
            return "Approval to go on"
        return self.kind.capitalize()

    def to_json(self) -> dict[str, Any]:
        if self.kind == SET_WEIGHT:
            return {SET_WEIGHT: self.settings["percent"]}
        return {self.kind: dict(self.settings)}


def parse_steps(value: Any, *, gates: Collection[str] = ()) -> tuple[Step, ...]:
    """`gates` are the kinds of step that other apps registered. Raises StrategyError."""
    if not isinstance(value, Sequence) or isinstance(value, str) or not value:
        raise StrategyError({"steps": 'give a list with at least one step, such as [{"setWeight": 10}]'})
    faults: dict[str, str] = {}
    steps: list[Step] = []
    for index, item in enumerate(value):
        try:
            steps.append(_step(item, f"steps[{index}]", gates))
        except StrategyError as error:
            faults |= error.fields
    faults = faults or _order_faults(steps)
    if faults:
        raise StrategyError(faults)
    return tuple(steps)


def _step(item: Any, place: str, gates: Collection[str]) -> Step:
    known = [*KINDS, *gates]
    if not isinstance(item, Mapping) or len(item) != 1:
        raise StrategyError({place: f"{item!r} is not a step: give an object with one key of {', '.join(known)}"})
    kind, settings = next(iter(item.items()))
    place = f"{place}.{kind}"
    if kind not in known:
        near = get_close_matches(str(kind), known, 1)
        raise StrategyError({place: f"is not a kind of step; did you mean {near[0] if near else known[0]}?"})
    if kind == SET_WEIGHT:
        return Step(kind, {"percent": _percent(settings, place)})
    if settings is None:
        settings = {}
    if not isinstance(settings, Mapping):
        raise StrategyError({place: f"{settings!r} is not usable: give an object of settings, {{}} for the defaults"})
    if kind == PAUSE:
        return Step(kind, _pause(settings, place))
    if kind == ANALYSIS:
        return Step(kind, _analysis(settings, place))
    if kind == APPROVAL and settings:
        raise StrategyError({place: "takes no settings: give {}"})
    return Step(kind, dict(settings))


def _percent(value: Any, place: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 100:
        raise StrategyError({place: f"{value!r} is not usable: give a percentage from 0 to 100"})
    if round(value, 2) != value:
        raise StrategyError({place: f"{value!r} is too fine: hundredths of a percent are the finest share"})
    return float(value)


def _pause(settings: Mapping[str, Any], place: str) -> dict[str, Any]:
    if unknown := set(settings) - {"seconds"}:
        raise StrategyError({f"{place}.{min(unknown)}": "is not known; a pause has seconds, or nothing at all"})
    seconds = settings.get("seconds")
    if seconds is None:
        return {}
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not 0 < seconds <= 7 * 86400:
        raise StrategyError({f"{place}.seconds": f"{seconds!r} is not usable: give seconds, up to seven days"})
    return {"seconds": float(seconds)}


def _analysis(settings: Mapping[str, Any], place: str) -> dict[str, Any]:
    judged = {key: value for key, value in settings.items() if key != "on_timeout"}
    if (on_timeout := settings.get("on_timeout", "rollback")) not in ON_TIMEOUT:
        raise StrategyError({f"{place}.on_timeout": f"{on_timeout!r} is not usable: give {' or '.join(ON_TIMEOUT)}"})
    try:
        parse_settings(judged)
    except SettingsError as error:
        raise StrategyError({f"{place}.{name}": right for name, right in error.fields.items()}) from None
    return dict(settings)


def _order_faults(steps: Sequence[Step]) -> dict[str, str]:
    weights = [(i, step.weight) for i, step in enumerate(steps) if step.kind == SET_WEIGHT]
    first = next((i for i, weight in weights if weight), None)
    if first is None:
        return {"steps": "no step sets a weight above 0: the candidate would get no traffic before it is promoted"}
    early = [i for i, step in enumerate(steps[:first]) if step.kind not in (SET_WEIGHT, PAUSE, APPROVAL)]
    if early:
        place = f"steps[{early[0]}].{steps[early[0]].kind}"
        return {place: "comes before the first setWeight above 0: without traffic there is nothing to judge"}
    for (_, before), (i, weight) in pairwise(weights):
        if weight < before:
            return {f"steps[{i}].setWeight": "is less than the step before: a rollout goes up, a rollback goes down"}
    return {}


FIRST_DEPLOYMENT = (Step(SET_WEIGHT, {"percent": 100.0}),)
"""Where nothing is live there is nothing to share traffic or compare with: the version takes all of it once healthy."""


def is_watched(steps: Sequence[Step]) -> bool:
    """Whether anything in it judges the candidate on real traffic."""
    return any(step.kind not in (SET_WEIGHT, PAUSE, APPROVAL) for step in steps)
