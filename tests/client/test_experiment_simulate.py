"""`deploypipe experiment simulate` as its users run it."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import time
from itertools import pairwise
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from abtests.scenario import Scenario, parse_scenario
from deploypipe.client.picture import Band, draw, ticks
from registry.qa import places
from tests.client.conftest import COMMAND, Run, environment, hears_interrupts, installed

QUICK = ("--runs", "20", "--minutes", "10", "--requests-per-minute", "3000", "--split", "50", "--seed", "3")
POLICY = "goals: [{metric: error_rate, margin_points: 2}]\nguardrails: []\nmin_requests: 100\n"


@pytest.fixture
def policy(tmp_path: Path) -> str:
    (tmp_path / "policy.yaml").write_text(POLICY)
    return "policy.yaml"


@pytest.fixture
def simulate(experiment: Run, policy: str) -> Run:
    return lambda *arguments: experiment("simulate", "--policy", policy, *QUICK, *arguments)


def result(tmp_path: Path, name: str = "ab_test_results.json") -> dict[str, Any]:
    found: dict[str, Any] = json.loads((tmp_path / name).read_text())
    return found


# --- The result -------------------------------------------------------------------------------------------------------


def test_result_has_the_mission_s_keys_and_says_that_it_is_simulated(simulate: Run, tmp_path: Path) -> None:
    said = simulate()
    assert (said.code, said.err) == (0, "")
    found = result(tmp_path)
    assert found["simulated"] is True
    assert set(found) == {"simulated", "test_execution", "metrics_summary", "simulation"}
    execution = found["test_execution"]
    assert set(execution) == {"test_id", "status", "decision", "traffic_split_percent", "timestamp"}
    assert re.fullmatch(r"abtest-simulated-\d+-3", execution["test_id"])
    assert (execution["status"], execution["decision"], execution["traffic_split_percent"]) == (
        "completed", "promote_b", 50.0,
    )  # fmt: skip
    for version in ("stable_version", "canary_version"):
        assert found["metrics_summary"][version]["error_rate"] == pytest.approx(1, abs=0.2)
        assert found["metrics_summary"][version]["avg_latency_ms"] == pytest.approx(140, rel=0.02)
    assert found["simulation"]["verdicts"]["promote"]["runs"] == 20
    assert found["simulation"]["settings"]["min_requests"] == 100


def test_screen_says_errors_and_time_and_that_they_are_of_no_real_model(simulate: Run) -> None:
    lines = simulate().out.splitlines()
    assert lines[0] == (
        "Simulated: 20 experiments of at most 10 minutes, 3,000 requests/min, 50 % of them to the candidate."
    )
    assert lines[1] == "Stable fails in 1 % of requests, the candidate in 1 %, and is as quick."
    assert lines[2] == "By this policy the candidate should be promoted, for it keeps every criterion."
    assert re.fullmatch(r"  promoted +100\.0 % \(83\.9 to 100\.0 %\) +median 2 minutes, [\d,]+ requests", lines[4])
    assert (
        "False aborts: 0.0 % (0.0 to 16.1 %), at most 5 % allowed. Without a decision: 0.0 % (0.0 to 16.1 %)." in lines
    )
    assert "These figures are of no real model." in lines[-2]
    assert lines[-1] == "Written: ab_test_results.json, ab_test_results.svg."


@pytest.mark.parametrize(
    ("harm", "changes", "decision", "says"),
    [
        ("9", {}, "rollback", "False promotions: 0.0 % (0.0 to 16.1 %), at most 5 % allowed."),
        (
            "9",
            {"auto_rollback": False},
            "keep_a",
            "the candidate must not be promoted, for it is not true that the error",
        ),
        ("3", {"min_requests": 1_000_000}, "inconclusive", "not true that the error rate rises by less than 2 points."),
        ("1", {"min_requests": 1_000_000}, "inconclusive", "Without a decision: 100.0 %"),
    ],
)
def test_decision_is_what_most_runs_come_to(
    harm: str, changes: dict[str, Any], decision: str, says: str, simulate: Run, tmp_path: Path
) -> None:
    (tmp_path / "policy.yaml").write_text(json.dumps({**places.read(POLICY).value, **changes}))  # type: ignore[dict-item]
    said = simulate("--candidate-error", harm)
    assert (said.code, said.err) == (0, "")
    assert result(tmp_path)["test_execution"]["decision"] == decision
    assert says in said.out


def test_criterion_that_the_scenario_does_not_draw_is_not_guessed(simulate: Run, tmp_path: Path) -> None:
    (tmp_path / "policy.yaml").write_text("goals: [{margin_points: 2}, {metric: cost, margin_percent: 10}]\n")
    said = simulate()
    assert "nobody knows what the candidate deserves: the scenario does not draw every metric" in said.out
    assert "False verdicts cannot be counted." in said.out


def test_same_seed_gives_the_same_and_another_does_not(simulate: Run, tmp_path: Path) -> None:
    for name, seed in (("a", "3"), ("b", "3"), ("c", "4")):
        simulate("--candidate-error", "3.5", "--seed", seed, "--out", f"{name}.json", "--plot", f"{name}.svg")
    a, b, c = (result(tmp_path, f"{name}.json") for name in "abc")
    assert (a["simulation"], a["metrics_summary"]) == (b["simulation"], b["metrics_summary"])
    assert (tmp_path / "a.svg").read_text() == (tmp_path / "b.svg").read_text()
    assert a["metrics_summary"] != c["metrics_summary"]


def test_answer_for_programs_is_the_file(simulate: Run, tmp_path: Path) -> None:
    said = simulate("--json")
    assert json.loads(said.out) == result(tmp_path)
    only = simulate("--out", "-", "--no-plot")
    assert json.loads(only.out)["simulation"] == result(tmp_path)["simulation"]
    assert "Simulated: 20 experiments" in only.err
    quiet = simulate("--quiet")
    assert (quiet.out, quiet.err) == ("", "")
    assert not (tmp_path / "ab_test_results.svg").read_text().startswith("{")


# --- What is asked for ------------------------------------------------------------------------------------------------


def test_without_a_policy_the_mission_s_criteria_are_asked(experiment: Run, tmp_path: Path) -> None:
    assert experiment("simulate", "--runs", "1", "--requests-per-minute", "60").code == 0
    settings = result(tmp_path)["simulation"]["settings"]
    assert settings["goals"] == [
        {"metric": "error_rate", "aim": "non_inferiority", "margin_points": 0.5},
        {"metric": "latency", "aim": "non_inferiority", "margin_percent": 20.0, "level": 0.95},
        {"metric": "rating", "limit": 4.0},
    ]
    assert settings["guardrails"] == [
        {"metric": "error_rate", "limit": 5.0},
        {"metric": "latency", "limit": 1000.0, "level": 0.95},
        {"metric": "success_rate", "limit": 95.0},
    ]
    assert (settings["min_requests"], settings["max_seconds"]) == (1000, 1800)
    assert result(tmp_path)["test_execution"]["traffic_split_percent"] == 10


def test_pipeline_config_says_split_and_duration_and_the_shell_and_options_overrule_it(
    experiment: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "pipeline-config.yaml").write_text(
        "ab_testing:\n"
        "  default_traffic_split_percent: 25\n"
        "  default_duration_minutes: 20\n"
        "  success_criteria: {max_error_rate_increase: 2, min_requests_sample_size: 10}\n"
    )

    def asked(*arguments: str) -> tuple[float, float]:
        command = ("simulate", "--policy", "pipeline-config.yaml", "--runs", "1", "--requests-per-minute", "60")
        assert experiment(*command, *arguments).code == 0
        found = result(tmp_path)["simulation"]
        return found["traffic_split_percent"], found["settings"]["max_seconds"]

    assert asked() == (25, 1200)
    monkeypatch.setenv("TRAFFIC_SPLIT", "40")
    monkeypatch.setenv("AB_TEST_DURATION_MINUTES", "5")
    assert asked() == (40, 300)
    assert asked("--split", "50", "--minutes", "2") == (50, 120)


def test_scenario_comes_from_a_file_and_options_overrule_it(simulate: Run, tmp_path: Path) -> None:
    (tmp_path / "scenario.yaml").write_text("base_error_percent: 4\ncandidate_latency_percent: 30\nrating_percent: 0\n")
    said = simulate("--scenario", "scenario.yaml", "--candidate-error", "4.5", "--session-correlation", "0.1")
    assert "Stable fails in 4 % of requests, the candidate in 4.5 %, and is 30 % slower." in said.out
    scenario = result(tmp_path)["simulation"]["scenario"]
    assert (scenario["session_correlation"], scenario["rating_percent"]) == (0.1, 0)


def test_names_of_a_scenario_are_listed_as_a_file_that_can_be_used(experiment: Run, tmp_path: Path) -> None:
    said = experiment("simulate", "--list-scenario")
    assert said.code == 0
    listed: Any = places.read(said.out).value
    assert parse_scenario(listed) == Scenario()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--split", "0"], "--split: 0.0 is not a percentage above 0 and below 100, such as 10."),
        (["--split", "100"], "--split: 100.0 is not a percentage"),
        (["--split", "nan"], "--split: nan is not a percentage"),
        (["--split", "half"], "argument --split: invalid float value: 'half'"),
        (["--runs", "0"], "--runs: 0 is not a number from 1 to 100,000."),
        (["--runs", "100001"], "--runs: 100001 is not a number from 1 to 100,000."),
        (["--seed", "-1"], "--seed: -1 is not a whole number from 0 on."),
        (["--minutes", "0"], "--minutes: 0 is not a number of minutes above 0, such as 30."),
        (["--minutes", "0.01"], "The longest duration, 0.6 seconds, is no time to look: give at least 1."),
        (["--requests-per-minute", "1000000", "--runs", "1000"], "1,000 runs of 2,500,000 sessions each are more than"),
        (["--minutes", "inf"], "--minutes: inf is not a number of minutes"),
        (["--look-seconds", "0.5"], "--look-seconds: 0.5 is not a number of seconds from 1 to the duration, 600."),
        (["--minutes", "100000", "--look-seconds", "1"], "makes more than 100,000 looks: look less often."),
        (["--base-error", "101"], "--base-error: 101.0 is not a percentage from 0 to 100."),
        (["--latency-increase", "-100"], "--latency-increase: -100.0 is not a change in percent above -100"),
        (["--requests-per-minute", "0"], "--requests-per-minute: 0.0 is not a number of requests per minute above 0"),
        (["--requests-per-session", "0"], "--requests-per-session: 0.0 is not a mean number of requests from 1 to 30."),
        (["--session-correlation", "1"], "--session-correlation: 1.0 is not a correlation from 0 to 0.9."),
        (["--scenario", "nothere.yaml"], "--scenario nothere.yaml cannot be read: No such file or directory."),
        (
            ["--scenario", "wrong.yaml"],
            "requests_per_minut: there is no such setting; did you mean requests_per_minute?",
        ),
        (["--scenario", "wrong.yaml"], "base_error_percent: 'lots' is not a percentage from 0 to 100."),
        (["--scenario", "list.yaml"], "--scenario list.yaml holds no names with values"),
        (["--policy", "nothere.yaml"], "--policy nothere.yaml cannot be read: No such file or directory."),
        (
            ["--policy", "wrong.yaml"],
            "--policy wrong.yaml cannot be used:\n  requests_per_minut: there is no such setting",
        ),
        (["--policy", "/dev/zero"], "--policy /dev/zero is longer than "),
        (["--out", "not/there.json"], "not/there.json cannot be written: No such file or directory."),
        (["--out", "."], ". is a folder: name a file in it."),
        (["--plot", "ab_test_results.json"], "--out and --plot name the same place: name different files."),
        (["--json", "--out", "-"], "--json and another output both go to stdout: name a file."),
        (["--colour"], "unrecognized arguments: --colour"),
    ],
)
def test_wrong_input_is_named_and_nothing_is_written(
    arguments: list[str], says: str, simulate: Run, tmp_path: Path
) -> None:
    (tmp_path / "wrong.yaml").write_text("requests_per_minut: 3\nbase_error_percent: lots\n")
    (tmp_path / "list.yaml").write_text("- 1\n")
    before = sorted(tmp_path.iterdir())
    said = simulate(*arguments)
    assert (said.code, said.out) == (2, "")
    assert says in said.err
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize(
    ("variable", "value", "says"),
    [
        ("TRAFFIC_SPLIT", "half", "The environment variable TRAFFIC_SPLIT='half' is not a number."),
        ("TRAFFIC_SPLIT", "0", "TRAFFIC_SPLIT: 0.0 is not a percentage above 0 and below 100, such as 10."),
        ("AB_TEST_DURATION_MINUTES", "-3", "AB_TEST_DURATION_MINUTES: -3 is not a number of minutes above 0"),
    ],
)
def test_wrong_variable_is_named(
    variable: str, value: str, says: str, experiment: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, value)
    said = experiment("simulate", "--runs", "1")
    assert (said.code, says in said.err) == (2, True), said.err


def test_split_of_a_policy_is_checked_too(simulate: Run, experiment: Run, tmp_path: Path) -> None:
    (tmp_path / "policy.yaml").write_text(f"{POLICY}traffic_percent: 120\n")
    said = experiment("simulate", "--policy", "policy.yaml", "--runs", "1")
    assert "traffic_percent: 120 is not a percentage above 0 and below 100" in said.err


# --- The picture ------------------------------------------------------------------------------------------------------


def test_picture_stands_alone_and_says_what_it_shows(simulate: Run, tmp_path: Path) -> None:
    simulate("--candidate-error", "9")
    text = (tmp_path / "ab_test_results.svg").read_text()
    root = ElementTree.fromstring(text)  # noqa: S314 -- our own
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    assert set(re.findall(r"https?://[^\"' ]+", text)) == {"http://www.w3.org/2000/svg"}
    assert not {"script", "image", "foreignObject"} & {element.tag.rpartition("}")[2] for element in root.iter()}
    words = " ".join(element.text or "" for element in root.iter() if element.tag.endswith("text"))
    assert "Simulated: what becomes of 20 experiments" in words
    assert "Minutes since the start" in words
    assert re.search(r"Aborted 100\.0 % \(83\.9 to 100\.0 %\) median \d+ seconds", words)


def test_areas_fill_the_picture_and_end_where_the_shares_say() -> None:
    bands = [
        Band("Promoted", "promoted", ["half"], [0.0, 0.5]),
        Band("Not decided", "open", ["<none>"], [1.0, 0.25]),
        Band("Aborted", "aborted", [], [0.0, 0.25]),
    ]
    drawn = draw("A & B", ["first", "second"], [0.0, 10.0], bands)
    root = ElementTree.fromstring(drawn)  # noqa: S314 -- our own
    areas = {path.get("class"): path.get("d") or "" for path in root.iter("{http://www.w3.org/2000/svg}path")}
    corners = {kind: [float(n) for n in re.findall(r"[\d.]+", areas[kind])] for kind in ("promoted", "open", "aborted")}
    bottom, top = corners["promoted"][1], corners["aborted"][3]
    height = bottom - top
    assert corners["promoted"][3] == pytest.approx(bottom - height / 2)
    assert corners["open"][3] == pytest.approx(bottom - 0.75 * height)
    assert corners["open"][-3:] == pytest.approx([corners["promoted"][3], corners["promoted"][0], bottom])
    assert "A &amp; B" in drawn
    assert "&lt;none&gt;" in drawn


@pytest.mark.parametrize("shares", [(0.0, 0.0), (1.0, 0.0), (0.0, 1.0), (0.02, 0.02), (0.5, 0.48)])
def test_labels_never_cover_each_other_and_stay_inside(shares: tuple[float, float]) -> None:
    promoted, aborted = shares
    bands = [
        Band("Promoted", "promoted", ["1", "2"], [0.0, promoted]),
        Band("Not decided", "open", ["1"], [1.0, 1 - promoted - aborted]),
        Band("Aborted", "aborted", ["1", "2"], [0.0, aborted]),
    ]
    root = ElementTree.fromstring(draw("title", [], [0.0, 1.0], bands))  # noqa: S314 -- our own
    texts = [text for text in root.iter("{http://www.w3.org/2000/svg}text") if float(text.get("x") or 0) > 620]
    lines = sorted(float(text.get("y") or 0) for text in texts)
    assert len(lines) == 8
    assert min(after - before for before, after in pairwise(lines)) >= 16 - 1e-6
    assert lines[0] > 80
    assert lines[-1] < 470


@pytest.mark.parametrize(
    ("longest", "expected"),
    [
        (30.0, [0, 5, 10, 15, 20, 25, 30]),
        (1.0, [0, 0.2, 0.4, 0.6, 0.8, 1.0]),
        (1440.0, [0, 500, 1000]),
        (7.0, [0, 2, 4, 6]),
    ],
)
def test_ticks_are_round(longest: float, expected: list[float]) -> None:
    assert ticks(longest) == expected


# --- The process ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_it_leaves_no_half_a_result(number: signal.Signals, tmp_path: Path) -> None:
    (tmp_path / "ab_test_results.json").write_text("the old one")
    command = [COMMAND, "experiment", "simulate", "--runs", "50000"]
    with subprocess.Popen(
        command,
        cwd=tmp_path,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=hears_interrupts,
    ) as process:
        assert process.stderr
        while not list(tmp_path.glob(".ab_test_results.svg.*.part")):  # from then on it simulates
            assert process.poll() is None
            time.sleep(0.01)
        process.send_signal(number)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert err == "deploypipe experiment simulate: interrupted.\n"
    assert [path.name for path in tmp_path.iterdir()] == ["ab_test_results.json"]
    assert (tmp_path / "ab_test_results.json").read_text() == "the old one"


def test_installed_command_works_from_any_folder(tmp_path: Path) -> None:
    said = installed(tmp_path, "simulate", *QUICK)
    assert said.returncode == 0, said.stderr
    assert (tmp_path / "ab_test_results.svg").exists()
