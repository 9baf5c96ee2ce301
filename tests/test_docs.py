"""The documents say what the code does."""

from __future__ import annotations

import json
import re
import shlex
from dataclasses import fields
from datetime import UTC, datetime
from itertools import takewhile
from pathlib import Path
from typing import Any

import pytest
import yaml
from django.urls import get_resolver

from abtests.decision import Outcome
from abtests.design import Design, MetricForecast, TrafficFacts
from abtests.design_api import DesignIn
from abtests.evidence import from_file
from abtests.gates import STEP, ExperimentGate
from abtests.lifecycle import EXPERIMENTS, Status
from abtests.serializers import ExperimentIn, ExperimentOut
from abtests.settings import ExperimentSettings, parse_settings
from deploypipe.client import parser
from deploypipe.metrics import feedback_items
from deploypipe.metrics.closing import usual_share
from deploypipe.metrics.definitions import all_metrics
from deploypipe.metrics.feedback import Receipt
from deploypipe.metrics.models import FeedbackTotals
from deploypipe.metrics.windows import to_json
from deploypipe.metrics.wording import wanted
from deploypipe.stats.histogram import edge
from registry.lifecycle import STAGES
from rollouts.analysis_settings import SettingsError
from rollouts.assignment import parse_holdout, parse_routing
from rollouts.lifecycle import ROLLOUTS
from rollouts.strategy import parse_steps

ROOT = Path(__file__).resolve().parent.parent
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]


@pytest.mark.parametrize("lifecycle", [ROLLOUTS, STAGES, EXPERIMENTS], ids=lambda one: str(one.noun))
def test_the_architecture_draws_each_lifecycle_as_it_is(lifecycle: Any) -> None:
    assert lifecycle.mermaid().strip() in (ROOT / "docs" / "architecture.md").read_text()


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_and_pictures_lead_somewhere(document: Path) -> None:
    targets = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", document.read_text())
    assert [target for target in targets if not (document.parent / target).exists()] == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_files_that_are_named_exist(document: Path) -> None:
    named = re.findall(
        r"`((?:registry|rollouts|abtests|deploypipe|tests|examples|static)/[\w/.]+)`", document.read_text()
    )
    assert [name for name in named if not any((place / name).exists() for place in (ROOT, ROOT / "templates"))] == []


def test_every_address_of_the_api_is_listed() -> None:
    listed = (ROOT / "docs" / "api.md").read_text()
    api = next(entry for entry in get_resolver().url_patterns if str(entry.pattern) == "api/v1/")
    words = {word for entry in api.url_patterns for word in str(entry.pattern).split("/") if word.isalpha()}  # type: ignore[union-attr]
    assert {word for word in words if f"{word}/" not in listed} == set()


# --- Experiments ------------------------------------------------------------------------------------------------------

EXPERIMENTS_TEXT = (ROOT / "docs" / "experiments.md").read_text()
API_TEXT = (ROOT / "docs" / "api.md").read_text()


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.DOTALL | re.MULTILINE)


def rows(text: str, head: str) -> list[list[str]]:
    """Cells of the table that begins with this line."""
    lines = text[text.index(head) :].splitlines()[2:]
    return [
        [cell.strip() for cell in line.strip("|").split(" | ")]
        for line in takewhile(lambda line: line.startswith("|"), lines)
    ]


def bodies(text: str) -> list[tuple[str, Any]]:
    """What the commands post: address and body."""
    found = re.findall(r"""/api/v1/([\w/]+)" -d '(.*?)'""", "\n".join(blocks(text, "console")), re.DOTALL)
    return [(address, json.loads(body)) for address, body in found]


def test_every_setting_of_an_experiment_is_listed_with_its_default() -> None:
    usual = ExperimentSettings()
    says = {
        **{name: f"{value:g}" for name, value in usual.to_json().items() if type(value) in (int, float)},
        "goals": wanted(usual.goals[0]),
        "guardrails": wanted(usual.guardrails[0]),
        "unit": f"`{usual.unit}`",
        "closing_share": "by the traffic",
        "auto_promote": "yes" if usual.auto_promote else "no",
        "auto_rollback": "yes" if usual.auto_rollback else "no",
    }
    listed = {row[0].strip("`"): row[1] for row in rows(EXPERIMENTS_TEXT, "| setting | default | unit | what |")}
    assert listed == says
    assert set(listed) == set(usual.to_json())
    assert (len(usual.goals), len(usual.guardrails), usual.closing_share) == (1, 1, None)


def test_settings_that_are_traffic_s_to_choose_are_said_as_they_are() -> None:
    assert usual_share(299) == 0.8
    assert usual_share(300) == 0
    [closing] = [row for row in rows(EXPERIMENTS_TEXT, "| setting |") if row[0] == "`closing_share`"]
    assert "0.8 where fewer than 300 sessions" in closing[3]


def test_every_metric_and_every_verdict_is_listed() -> None:
    named = {
        name for row in rows(EXPERIMENTS_TEXT, "| metric | unit | of |") for name in re.findall(r"`(\w+)`", row[0])
    }
    assert named == {
        metric.name for metric in all_metrics() if type(metric).__module__ == "deploypipe.metrics.definitions"
    }
    assert {row[0].strip("`") for row in rows(EXPERIMENTS_TEXT, "| verdict |")} == {
        verdict.value for verdict in Outcome
    }


def test_what_a_criterion_may_say_is_listed() -> None:
    listed = {
        name for row in rows(EXPERIMENTS_TEXT, "| name | unit | what |") for name in re.findall(r"`(\w+)`", row[0])
    }
    with pytest.raises(SettingsError) as error:
        parse_settings({"goals": [{"no_such_name": 1}]})
    said = error.value.fields["goals"].partition("there are ")[2].rstrip(").").split(", ")
    assert {*listed, "metric"} == set(said)


def test_steps_of_the_example_are_a_strategy() -> None:
    [steps] = [yaml.safe_load(block) for block in blocks(EXPERIMENTS_TEXT, "yaml")]
    parsed = parse_steps(steps, gates=[STEP])
    [experiment] = [step for step in parsed if step.kind == STEP]
    assert ExperimentGate().check(experiment.settings) == {}
    assert parse_settings(experiment.settings).goals[1].metric == "rating"


@pytest.mark.parametrize(
    ("address", "body"), bodies(EXPERIMENTS_TEXT), ids=lambda one: one if isinstance(one, str) else ""
)
def test_bodies_of_the_examples_can_be_sent(address: str, body: Any) -> None:
    if address == "feedback/":
        parsed = feedback_items.parse(body["items"], datetime(2026, 11, 25, tzinfo=UTC))
        assert (parsed.rejected, len(parsed.items)) == ([], 3)
        return
    read = {"experiments/": ExperimentIn, "experiments/design/": DesignIn}[address](data=body)
    assert read.is_valid(), read.errors
    parse_settings(body["settings"])
    parse_routing(body.get("routing"), arms=["stable", "candidate", "candidate-2"])
    parse_holdout(body.get("holdout_percent", 0))


COMMANDS = re.findall(r"^\$ (deploypipe experiment .*)$", "\n".join(blocks(EXPERIMENTS_TEXT, "console")), re.MULTILINE)


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_of_the_examples_are_understood(command: str) -> None:
    assert parser().parse_args(shlex.split(command, comments=True)[1:]).run


def test_each_command_of_experiments_is_shown() -> None:
    assert {command.split()[2] for command in COMMANDS} == {"replay", "judge", "simulate"}


# --- The examples of the API ------------------------------------------------------------------------------------------


def examples(heading: str) -> list[Any]:
    """Every JSON block of a section, in their order."""
    section = API_TEXT.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    return [json.loads(block) for block in blocks(section, "json")]


def names(of: type) -> set[str]:
    return {field.name for field in fields(of)}


def test_forecast_is_asked_and_answered_as_the_example_says() -> None:
    asked, answer, wrong, *_ = examples("Experiments")
    read = DesignIn(data=asked)
    assert read.is_valid(), read.errors
    assert set(answer) == names(Design)
    assert set(answer["metrics"][0]) == names(MetricForecast)
    assert set(answer["traffic"]) == names(TrafficFacts)
    with pytest.raises(SettingsError) as error:
        parse_settings({"alpha": 2})
    assert wrong["fields"]["settings.alpha"] == error.value.fields["alpha"]
    assert set(wrong) == {"code", "message", "fields"}


def test_experiment_of_the_example_has_every_field() -> None:
    experiment = examples("Experiments")[3]
    assert list(experiment) == ExperimentOut.Meta.fields
    assert parse_settings(experiment["settings"]).to_json() == experiment["settings"]
    assert experiment["status"] in {state.value for state in Status}
    told = API_TEXT.partition("`status` is ")[2].partition(";")[0]
    assert {state.value for state in Status} == set(re.findall(r"\w+", told)) - {"or"}


def test_evidence_of_the_example_can_be_read() -> None:
    evidence = from_file(examples("Experiments")[4])
    [window] = evidence.windows
    assert window.arm("stable").fresh.whole == {(2, 0): 4, (1, 1): 1}
    assert json.loads(json.dumps(to_json(window))) == examples("Experiments")[4]["windows"][0]
    assert edge(64) == 2.0


def test_feedback_of_the_example_is_taken() -> None:
    posted, answer, became = examples("Feedback")
    now = datetime(2026, 11, 25, tzinfo=UTC)
    assert feedback_items.parse(posted["items"], now).rejected == []
    four = feedback_items.parse([*posted["items"], {"session": "s", "rating": 9}], now)
    assert [one.to_json() for one in four.rejected] == answer["rejected"]
    assert (answer["accepted"], set(answer)) == (len(four.items), names(Receipt))
    assert {field.name for field in FeedbackTotals._meta.get_fields()} - {"id"} <= set(became)
    assert became["waiting"] == became["accepted"] - became["matched"] - became["unmatched"]


def test_addresses_of_experiments_and_feedback_are_these() -> None:
    api = next(entry for entry in get_resolver().url_patterns if str(entry.pattern) == "api/v1/")
    urls = [str(entry.pattern) for entry in api.url_patterns]  # type: ignore[union-attr]
    told = {*re.findall(r"^\| `(experiments/[^`]*|feedback/)`", API_TEXT, re.MULTILINE), "experiments/{id}/stop/"}
    assert told == {url.replace("<int:pk>", "{id}") for url in urls if url.startswith(("experiments/", "feedback/"))}
