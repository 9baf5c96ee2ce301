"""`deploypipe experiment simulate`: many experiments that could be, through the engine that judges real ones."""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
import time
from contextlib import ExitStack
from dataclasses import fields, replace
from datetime import UTC, datetime
from typing import Any

from abtests.pipeline_config import from_pipeline_config
from abtests.scenario import Scenario, parse_scenario
from abtests.settings import ExperimentSettings
from abtests.simulation import Simulated, simulate
from deploypipe.client import experiment_files, simulation_report
from deploypipe.client.experiment_files import Policy, listed
from deploypipe.client.output import STDOUT, Output
from deploypipe.client.problems import CannotRead, Ended
from deploypipe.client.screen import plain
from rollouts.analysis_settings import SettingsError

RUNS, MOST_RUNS = 500, 100_000
MOST_LOOKS = 100_000
MOST_SESSIONS = 3e8
"""Of all runs together: an hour or so."""
USUAL_LOOKS = 60
"""In the time allowed, where nobody says how often one looks."""
LEAST_LOOK_SECONDS = 1.0
MISSION = {
    "success_criteria": {
        "max_error_rate_increase": 0.5,
        "max_latency_increase_percent": 20,
        "min_user_satisfaction": 4.0,
        "min_requests_sample_size": 1000,
    },
    "failure_criteria": {"max_error_rate": 5.0, "max_latency_ms": 1000, "min_success_rate": 95.0},
}
OPTIONS = {
    "base_error": "base_error_percent",
    "candidate_error": "candidate_error_percent",
    "latency_increase": "candidate_latency_percent",
    "requests_per_minute": "requests_per_minute",
    "requests_per_session": "requests_per_session",
    "session_correlation": "session_correlation",
}
"""The command's option → the scenario's name."""


def add(parser: argparse.ArgumentParser) -> None:
    policy = parser.add_argument_group("the policy")
    policy.add_argument("--policy", metavar="FILE", help="settings or a pipeline-config.yaml (default: the mission's)")
    policy.add_argument("--split", type=float, metavar="PERCENT", help="traffic of the candidate (default: 10)")
    policy.add_argument("--minutes", type=float, metavar="N", help="longest duration (default: 30)")
    what = parser.add_argument_group("the traffic")
    what.add_argument("--scenario", metavar="FILE", help="YAML or JSON with any of a scenario's names")
    what.add_argument("--list-scenario", action="store_true", help="show these names with their usual values, and end")
    what.add_argument("--base-error", type=float, metavar="PERCENT", help="of stable's requests that fail")
    what.add_argument("--candidate-error", type=float, metavar="PERCENT", help="of the candidate's (default: the same)")
    what.add_argument("--latency-increase", type=float, metavar="PERCENT", help="the candidate slower by so much")
    what.add_argument("--requests-per-minute", type=float, metavar="N", help="to both versions together")
    what.add_argument("--requests-per-session", type=float, metavar="N", help="in the mean")
    what.add_argument("--session-correlation", type=float, metavar="R", help="of the errors in one session, 0 to 0.9")
    how = parser.add_argument_group("the simulation")
    how.add_argument("--runs", type=int, default=RUNS, metavar="N", help="experiments (default: %(default)s)")
    how.add_argument("--look-seconds", type=float, metavar="N", help="between two looks (default: 60 looks in all)")
    how.add_argument("--seed", type=int, default=1, metavar="N", help="of the random numbers (default: %(default)s)")
    told = parser.add_argument_group("what is told")
    told.add_argument(
        "--out", default="ab_test_results.json", metavar="FILE", help="the result (default: %(default)s; -: stdout)"
    )
    told.add_argument(
        "--plot", default="ab_test_results.svg", metavar="FILE", help="the picture, an SVG (default: %(default)s)"
    )
    told.add_argument("--no-plot", action="store_true", help="no picture")
    told.add_argument("--quiet", "-q", action="store_true", help="say nothing but errors")


def run(options: argparse.Namespace) -> Ended:
    if options.list_scenario:
        print(_known_names(), end="")  # noqa: T201
        return Ended.WELL
    policy = _policy(options)
    settings, scenario = _settings(options, policy), _scenario(options)
    asked = _asked(options, policy, settings)
    _bearable(settings, scenario, asked)
    place = None if options.no_plot else options.plot
    if place == options.out:
        raise CannotRead("--out and --plot name the same place: name different files.")
    if options.json and STDOUT in (options.out, place):
        raise CannotRead("--json and another output both go to stdout: name a file.")
    with ExitStack() as stack:
        out = stack.enter_context(Output(options.out))
        picture = stack.enter_context(Output(place)) if place else None
        found = simulate(settings, scenario, asked, tell=_Progress(quiet=options.quiet))
        answer = simulation_report.results(found, datetime.now(UTC))
        out.write(json.dumps(answer, indent=2, ensure_ascii=False) + "\n")
        if picture:
            picture.write(simulation_report.plot(found))
    if options.json:
        print(json.dumps(answer, indent=2, ensure_ascii=False))  # noqa: T201
    elif not options.quiet:
        stream = sys.stderr if STDOUT in (options.out, place) else sys.stdout
        for line in simulation_report.told(found, [name for name in (options.out, place) if name and name != STDOUT]):
            print(plain(line), file=stream)
    return Ended.WELL


# --- What is asked for ------------------------------------------------------------------------------------------------


def _policy(options: argparse.Namespace) -> Policy:
    if options.policy:
        return experiment_files.policy("--policy", options.policy)
    configured = from_pipeline_config({"ab_testing": MISSION})
    return Policy(configured.settings, configured.traffic_percent)


def _settings(options: argparse.Namespace, policy: Policy) -> ExperimentSettings:
    minutes = _first(options.minutes, "--minutes", "AB_TEST_DURATION_MINUTES")
    if minutes is None:
        return policy.settings
    number, place = minutes
    if not 0 < number < math.inf:
        raise CannotRead(f"{place}: {number:g} is not a number of minutes above 0, such as 30.")
    seconds = 60 * number
    return replace(policy.settings, max_seconds=seconds, min_seconds=min(policy.settings.min_seconds, seconds))


def _scenario(options: argparse.Namespace) -> Scenario:
    given = experiment_files.mapping("--scenario", options.scenario) if options.scenario else {}
    names = {}
    for option, name in OPTIONS.items():
        if (value := getattr(options, option)) is not None:
            given[name] = value
            names[name] = f"--{option.replace('_', '-')}"
    try:
        return parse_scenario(given)
    except SettingsError as error:
        wrong = {names.get(name, name): said for name, said in error.fields.items()}
        raise CannotRead(listed("The scenario cannot be used", wrong)) from error


def _asked(options: argparse.Namespace, policy: Policy, settings: ExperimentSettings) -> Simulated:
    split = _first(options.split, "--split", "TRAFFIC_SPLIT")
    percent, place = split or (
        policy.traffic_percent if policy.traffic_percent is not None else 10.0,
        "traffic_percent",
    )
    if isinstance(percent, bool) or not isinstance(percent, int | float) or not 0 < percent < 100:
        raise CannotRead(f"{place}: {percent!r} is not a percentage above 0 and below 100, such as 10.")
    if not 1 <= options.runs <= MOST_RUNS:
        raise CannotRead(f"--runs: {options.runs} is not a number from 1 to {MOST_RUNS:,}.")
    if options.seed < 0:
        raise CannotRead(f"--seed: {options.seed} is not a whole number from 0 on.")
    if settings.max_seconds < LEAST_LOOK_SECONDS:
        right = f"at least {LEAST_LOOK_SECONDS:g}"
        raise CannotRead(f"The longest duration, {settings.max_seconds:g} seconds, is no time to look: give {right}.")
    usual = max(LEAST_LOOK_SECONDS, settings.max_seconds / USUAL_LOOKS)
    seconds = usual if options.look_seconds is None else options.look_seconds
    if not LEAST_LOOK_SECONDS <= seconds <= settings.max_seconds:
        right = f"from {LEAST_LOOK_SECONDS:g} to the duration, {settings.max_seconds:g}"
        raise CannotRead(f"--look-seconds: {seconds:g} is not a number of seconds {right}.")
    if settings.max_seconds / seconds > MOST_LOOKS:
        raise CannotRead(f"--look-seconds: {seconds:g} makes more than {MOST_LOOKS:,} looks: look less often.")
    return Simulated(percent / 100, options.runs, seconds, options.seed)


def _bearable(settings: ExperimentSettings, scenario: Scenario, asked: Simulated) -> None:
    each = scenario.requests_per_minute * settings.max_seconds / 60 / scenario.requests_per_session
    if each * asked.runs > MOST_SESSIONS:
        raise CannotRead(
            f"{asked.runs:,} runs of {each:,.0f} sessions each are more than {MOST_SESSIONS:,.0f} in all:"
            " simulate fewer runs, less traffic or less time."
        )


def _first(option: float | None, name: str, variable: str) -> tuple[float, str] | None:
    """The option, else the variable; and which of them it was."""
    if option is not None:
        return option, name
    text = os.environ.get(variable, "").strip()
    if not text:
        return None
    try:
        return float(text), variable
    except ValueError:
        raise CannotRead(f"The environment variable {variable}={text!r} is not a number.") from None


def _known_names() -> str:
    lines = [f"{field.name}: {_yaml(field.default)}" for field in fields(Scenario)]
    return "\n".join(["# A scenario: what is not named has these values.", *lines, ""])


def _yaml(value: Any) -> str:
    return "null  # the same as stable" if value is None else f"{value:g}"


class _Progress:
    """One line that is written over, in a terminal."""

    def __init__(self, *, quiet: bool) -> None:
        self.live = not quiet and sys.stderr.isatty()
        self.began = time.monotonic()

    def __call__(self, look: int, looks: int, running: int) -> None:
        if not self.live:
            return
        if not running or look == looks:
            sys.stderr.write("\r\x1b[K")
        else:
            seconds = time.monotonic() - self.began
            sys.stderr.write(f"\r\x1b[Klook {look:,} of {looks:,}, {running:,} experiments go on, {seconds:.0f} s")
        sys.stderr.flush()
