"""The settings of an experiment, as its page tells them."""

from __future__ import annotations

from typing import Any

from abtests.models import Experiment
from abtests.settings import ExperimentSettings, parse_settings
from deploypipe.metrics.wording import wanted
from deploypipe.stats import words
from rollouts.analysis_settings import SettingsError
from rollouts.strategy import SET_WEIGHT

_VERBS = {
    (True, True): "must be proven, and aborts",
    (True, False): "must be proven",
    (False, True): "aborts",
    (False, False): "is watched",
}
"""(proves, aborts) → words."""


def criteria_of(one: Experiment) -> list[tuple[str, str]]:
    try:
        settings = parse_settings(one.settings)
    except SettingsError:  # stored by a version of this code that knew more
        return []
    return [(wanted(criterion), _VERBS[criterion.proves, criterion.aborts]) for criterion in settings.criteria]


def settings_of(one: Experiment) -> list[tuple[str, str]]:
    given = {**ExperimentSettings().to_json(), **one.settings}
    rollout = one.rollout
    shown = [
        ("Traffic of the candidates" if len(one.versions) > 1 else "Traffic of the candidate", _traffic(one)),
        ("Held out", f"{rollout.percent_held_out:g} %" if rollout.holdout else ""),
        ("Users are told apart by", _routing(rollout.routing)),
        ("What counts once", f"a {given['unit']}"),
        ("Requests at least", f"{given['min_requests']:,}"),
        ("Not before", words.duration(given["min_seconds"]) if given["min_seconds"] else ""),
        ("Ends at the latest after", words.duration(float(given["max_seconds"]))),
        ("Wrong verdicts at most", words.percent(given["alpha"])),
        ("Kept for an exact test at the end", _closing(given.get("closing_share"))),
        ("A winner", "ends it" if given["auto_promote"] else "waits for a person"),
        ("Harm", "ends it" if given["auto_rollback"] else "waits for a person"),
    ]
    return [(name, value) for name, value in shown if value]


def _traffic(one: Experiment) -> str:
    """In force when its step begins."""
    set_before = [s for s in one.rollout.steps.all() if s.kind == SET_WEIGHT and s.index < one.step_index]
    return f"{set_before[-1].settings['percent']:g} %" if set_before else ""


def _closing(share: float | None) -> str:
    return f"{words.percent(share)} of that, for aborts" if share else ""


def _routing(routing: dict[str, Any]) -> str:
    by, name = routing.get("by", "session"), routing.get("name", "")
    rules = routing.get("forced", ())
    forced = "".join(f"; {rule['header']}: {rule['value']} goes to {rule['arm']}" for rule in rules)
    return f"{by} {name}".strip() + forced
