"""`deploypipe experiment judge`: what another policy, or another judge, would have said of an experiment's traffic."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from abtests import retrospect
from abtests.evidence import Evidence
from abtests.retrospect import Judge, Retrospect
from abtests.settings import ExperimentSettings, parse_settings
from abtests.thresholds import thresholds
from abtests.watch import watched_by
from deploypipe.client import experiment_files
from deploypipe.client.experiment_files import listed
from deploypipe.client.problems import CannotRead, Ended
from deploypipe.client.screen import plain
from deploypipe.stats import words
from registry.qa import places
from rollouts import analysis
from rollouts.analysis_settings import SettingsError

OURS, THRESHOLDS, ANALYSIS = "ours", "thresholds", "analysis"
NAMES = {OURS: "So judged", THRESHOLDS: "By thresholds", ANALYSIS: "As a rollout's step"}


def add(parser: argparse.ArgumentParser) -> None:
    by = parser.add_argument_group("what it is judged by")
    by.add_argument("--settings", metavar="FILE", help="settings or a pipeline-config.yaml (default: its own)")
    by.add_argument(
        "--set", action="append", default=[], metavar="NAME=VALUE", help="one setting, as alpha=0.01; repeatable"
    )
    by.add_argument(
        "--judge",
        choices=tuple(NAMES),
        default=OURS,
        help="ours; thresholds: what most tools do, compare the numbers with the limits at each look; analysis: what"
        " an analysis step of a rollout would say, by settings of such a step (default: ours)",
    )


def run(options: argparse.Namespace) -> Ended:
    evidence = experiment_files.evidence(options)
    if not evidence.windows:
        raise CannotRead("Nothing was measured in this experiment: there is nothing to judge.")
    asked = _asked(options, evidence)
    ended = max((look.seconds for look in evidence.looks), default=0.0)
    found = retrospect.look_back(evidence.windows, asked.judge, until=ended)
    if options.json:
        answer = {"judge": options.judge, "settings": asked.settings, **found.to_json()}
        json.dump(answer, sys.stdout, indent=2, ensure_ascii=False)
        print()  # noqa: T201
    else:
        for line in _lines(evidence, found, NAMES[options.judge]):
            print(plain(line))  # noqa: T201
    return Ended.WELL


@dataclass(frozen=True)
class _Asked:
    judge: Judge
    settings: Mapping[str, Any]


def _asked(options: argparse.Namespace, evidence: Evidence) -> _Asked:
    try:
        if options.judge == ANALYSIS:
            return _as_a_step(options, evidence)
        settings = _settings(options, evidence)
        if options.judge == OURS:
            return _Asked(retrospect.ours(settings, evidence.arms), settings.to_json())
        return _Asked(thresholds(settings, evidence.arms), settings.to_json())
    except SettingsError as error:
        raise CannotRead(listed("The settings cannot be used", error.fields)) from error
    except ValueError as error:
        raise CannotRead(f"--judge {options.judge} cannot be asked about this experiment: {error}.") from error


def _settings(options: argparse.Namespace, evidence: Evidence) -> ExperimentSettings:
    given: dict[str, Any] = dict(evidence.settings)
    if options.settings:
        given = experiment_files.policy("--settings", options.settings).settings.to_json()
    settings = parse_settings(given | _set(options))
    return retrospect.settled(settings, evidence.windows, evidence.arms)


def _as_a_step(options: argparse.Namespace, evidence: Evidence) -> _Asked:
    """By default it is asked what the experiment asks, as far as a step can ask it."""
    if len(evidence.arms) > 1:
        raise ValueError(f"an analysis step has one candidate, and there are {len(evidence.arms)}")
    if options.settings:
        given = experiment_files.mapping("--settings", options.settings)
    else:
        own = parse_settings(evidence.settings)
        given = {**watched_by(own), "min_requests": own.min_requests, "max_seconds": own.max_seconds}
    settings = analysis.parse_settings(given | _set(options))
    return _Asked(retrospect.of_analysis(settings), settings.to_json())


def _set(options: argparse.Namespace) -> dict[str, Any]:
    given = {}
    for one in options.set:
        name, equals, value = one.partition("=")
        read = places.read(value)
        if not equals or not name.strip() or read.problems:
            raise CannotRead(f"--set {one}: give a name and a value, as alpha=0.01.")
        given[name.strip()] = read.value
    return given


def _lines(evidence: Evidence, found: Retrospect, who: str) -> Iterator[str]:
    name = evidence.experiment.get("name") or "an experiment without a name"
    yield f"{name}: {words.plural(len(evidence.windows), 'window')}."
    if evidence.looks:
        last = evidence.looks[-1]
        yield f"{_label('As it was')}{last.verdict} after {words.duration(last.seconds)}. {last.sentence}"
    if found.end is None:
        yield f"{_label(who)}it would still run when the traffic ends. {found.said[-1].sentence}"
        return
    after = f"{words.duration(found.end.seconds)}, {found.end.requests:,} requests"
    yield f"{_label(who)}{found.end.verdict} after {after}. {found.end.sentence}"


def _label(text: str) -> str:
    return f"  {text + ':':<{max(map(len, NAMES.values())) + 3}}"
