"""`deploypipe experiment replay` and `judge` as their users run them: on a file, and on a running server."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from http.server import HTTPServer, SimpleHTTPRequestHandler
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import pytest

from abtests import decision
from abtests.evidence import Evidence, Look, to_file
from abtests.gates import ExperimentGate
from abtests.models import Experiment
from abtests.settings import parse_settings
from deploypipe.core import tokens
from deploypipe.metrics.windows import Measured
from rollouts.models import Environment
from tests.abtests.world import NOW, World, make_world
from tests.client.conftest import COMMAND, Run, environment, installed
from tests.conftest import Cast
from tests.metrics.streams import arm, drawn, repeated

SETTINGS: dict[str, Any] = {"goals": [{"margin_points": 2}], "min_requests": 100, "closing_share": 0}
HARM = drawn(np.random.default_rng(1), 30, 40, 20, 0.02, 0.12)
EQUAL = drawn(np.random.default_rng(1), 40, 40, 20, 0.01, 0.01)


def evidence_of(
    measured: list[Measured], /, *, settings: dict[str, Any] | None = None, every: int = 3, **changes: Any
) -> dict[str, Any]:
    """As a server gives it: looks every few windows, until a verdict."""
    given = {**SETTINGS, **(settings or {})}
    progress, looks = decision.start(parse_settings(given)), []
    for place in range(0, len(measured), every):
        progress = decision.advance(progress, measured[place : place + every])
        found = decision.decide(progress, seconds=10.0 * progress.looks)
        looks.append(
            Look(
                progress.last_window, "2026-01-02T03:04:05+00:00", found.verdict.value, found.sentence, found.seconds,
                None, {}, found.to_json(), found.code_version, found.digest,
            )
        )  # fmt: skip
        if found.verdict in (decision.Outcome.PROMOTE, decision.Outcome.ABORT):
            break
    evidence = Evidence({"id": 7, "name": "textgen v2"}, given, ("candidate",), tuple(measured), tuple(looks))
    said: dict[str, Any] = json.loads(json.dumps(to_file(evidence)))
    return {**said, **changes}


Keep = Callable[..., str]


@pytest.fixture
def keep(tmp_path: Path) -> Keep:
    def kept(stored: Any, name: str = "evidence.json") -> str:
        (tmp_path / name).write_text(stored if isinstance(stored, str) else json.dumps(stored))
        return name

    return kept


# --- Replay -----------------------------------------------------------------------------------------------------------


def test_verdicts_that_come_out_again_are_said_in_few_lines(experiment: Run, keep: Keep) -> None:
    keep(evidence_of(EQUAL))
    said = experiment("replay", "--file", "evidence.json")
    assert (said.code, said.err) == (0, "")
    assert said.out.startswith("textgen v2: ")
    assert "  equal      looks 1 to " in said.out
    assert ": promote\n" in said.out
    assert "Every verdict came out as it was stored, to the last bit (" in said.out
    every = experiment("replay", "--file", "evidence.json", "--every")
    assert every.out.count("  equal      look ") == len(evidence_of(EQUAL)["looks"])


def test_window_that_was_changed_is_found(experiment: Run, keep: Keep) -> None:
    stored = evidence_of(EQUAL)
    stored["windows"][4]["arms"]["candidate"]["fresh"]["first"][0] += 1
    keep(stored)
    said = experiment("replay", "--file", "evidence.json")
    assert said.code == 1
    assert "  equal      look 1: continue\n  different  look 2: stored continue, computed continue\n" in said.out
    assert "    Look 2 was taken after window 5.\n    differs in windows, digest" in said.out
    assert "The windows are not those that were judged: the evidence was changed, or is not whole." in said.out
    assert f"{len(stored['looks']) - 1} verdicts of {len(stored['looks'])} came out differently." in said.out


def test_verdict_that_was_changed_is_told_beside_the_right_one(experiment: Run, keep: Keep) -> None:
    stored = evidence_of(HARM)
    stored["looks"][-1] |= {"verdict": "promote", "sentence": "All is well.", "code_version": "experiment-0"}
    keep(stored)
    said = experiment("replay", "--file", "evidence.json")
    assert said.code == 1
    assert "stored promote, computed abort" in said.out
    assert "    stored:   All is well.\n    computed: Candidate " in said.out
    assert "It was taken by experiment-0, another version of this code: look with that one." in said.out
    assert "1 verdict of" in said.out


def test_answer_for_programs_names_each_look(experiment: Run, keep: Keep) -> None:
    stored = evidence_of(EQUAL)
    stored["looks"][0]["digest"] = "0" * 64
    keep(stored)
    said = experiment("replay", "--file", "evidence.json", "--json")
    answer = json.loads(said.out)
    assert (said.code, answer["different"]) == (1, 1)
    assert answer["looks"][0] == {
        "look": 1, "last_window": 2, "stored": "continue", "computed": "continue", "equal": False,
        "differences": ["windows"], "other_code": False,
    }  # fmt: skip
    assert all(look["equal"] for look in answer["looks"][1:])


def test_evidence_may_come_by_a_pipe(tmp_path: Path) -> None:
    said = installed(tmp_path, "replay", "--file", "-", given=json.dumps(evidence_of(HARM)))
    assert (said.returncode, said.stderr) == (0, "")
    assert "to the last bit" in said.stdout


# --- What cannot be read ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["replay", "judge"])
@pytest.mark.parametrize(
    ("stored", "says"),
    [
        (None, "--file evidence.json cannot be read: No such file or directory."),
        ("", "evidence.json is no JSON: Expecting value: line 1"),
        ("{", "evidence.json is no JSON: "),
        ("[" * 100_000, "evidence.json is no JSON: "),
        ({"alpha": 0.05}, "evidence.json: This is no evidence of an experiment: its format is None, not "),
        ([], "its format is 'list', not "),
        (evidence_of(HARM, windows=[{}]), "The evidence cannot be read: windows[0]: KeyError: 'number'."),
        (evidence_of(HARM, settings={"alpha": 0.5}) | {"settings": {"alpha": 9}}, "alpha: 9 is not a probability"),
    ],
    ids=["missing", "empty", "cut", "deep", "other", "list", "window", "settings"],
)
def test_file_that_is_no_evidence_is_said_to_be_that(
    command: str, stored: Any, says: str, experiment: Run, keep: Keep
) -> None:
    if stored is not None:
        keep(stored)
    said = experiment(command, "--file", "evidence.json")
    assert (said.code, said.out) == (2, "")
    assert said.err.startswith(f"deploypipe experiment {command}: ")
    assert says in said.err
    assert "Traceback" not in said.err


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["replay"], "Which experiment? Give its number and --url, or --file with its evidence."),
        (["replay", "7"], "Which experiment? Give its number and --url"),
        (["replay", "7", "--file", "x.json"], "Give either --file, or the experiment's number with --url."),
        (["replay", "seven"], "argument ID: invalid int value: 'seven'"),
        (["replay", "--file", "."], "--file . cannot be read: Is a directory."),
        (["replay", "7", "--url", "http://127.0.0.1:1"], "There is no token: put it into the environment variable"),
        (["replay", "7", "--url", "x", "--token-env", "NOT_SET"], "The environment variable NOT_SET is not set"),
        (["replay", "7", "--url", "x", "--token", "dp_1"], "everybody on the machine could read a token given here"),
        (["judge", "--file", "x", "--judge", "coin"], "invalid choice: 'coin'"),
        (["judge", "--fil=x"], "unrecognized arguments: --fil=x"),
        ([], "the following arguments are required: COMMAND"),
    ],
)
def test_wrong_arguments_are_explained(arguments: list[str], says: str, experiment: Run) -> None:
    said = experiment(*arguments)
    assert (said.code, said.out) == (2, "")
    assert says in said.err


def test_experiment_that_nobody_has_looked_at_has_no_verdict(experiment: Run, keep: Keep) -> None:
    keep(evidence_of(EQUAL, looks=[]))
    assert "This experiment has no look yet" in experiment("replay", "--file", "evidence.json").err
    keep(evidence_of(EQUAL, looks=[], windows=[]))
    said = experiment("judge", "--file", "evidence.json")
    assert (said.code, "Nothing was measured in this experiment" in said.err) == (2, True)


# --- Judge ------------------------------------------------------------------------------------------------------------


def test_its_own_settings_say_what_they_said(experiment: Run, keep: Keep) -> None:
    keep(evidence_of(HARM, every=1))
    said = experiment("judge", "--file", "evidence.json")
    assert (said.code, said.err) == (0, "")
    title, was, judged = said.out.splitlines()
    assert title == "textgen v2: 30 windows."
    assert was.startswith("  As it was:            abort after ")
    assert judged.startswith("  So judged:            abort after ")
    assert was.split(". ", 1)[1] == judged.split(". ", 1)[1]


def test_other_settings_may_come_by_name_and_by_file(experiment: Run, keep: Keep) -> None:
    keep(evidence_of(HARM))
    lax = "goals: [{metric: error_rate, margin_points: 25}]\nguardrails: []\nmin_requests: 100\n"
    keep(lax, "lax.yaml")
    assert (
        "So judged:            promote after"
        in experiment("judge", "--file", "evidence.json", "--settings", "lax.yaml").out
    )
    said = experiment(
        "judge",
        "--file",
        "evidence.json",
        "--settings",
        "lax.yaml",
        "--set",
        "min_requests=50000",
        "--set",
        "alpha=0.01",
    )
    assert "it would still run when the traffic ends. Keep running: " in said.out
    keep("ab_testing:\n  success_criteria:\n    max_error_rate_increase: 0.5\n", "pipeline-config.yaml")
    assert (
        "worse by more than 0.5 points"
        in experiment("judge", "--file", "evidence.json", "--settings", "pipeline-config.yaml").out
    )


def test_time_that_is_over_ends_it_as_it_did_in_truth(experiment: Run, keep: Keep) -> None:
    stored = evidence_of(repeated(3, arm(4), arm(4)), settings={"max_seconds": 60}, every=1)
    stored["looks"][-1] |= {"seconds": 61.0, "verdict": "inconclusive"}
    keep(stored)
    said = experiment("judge", "--file", "evidence.json")
    assert "  So judged:            inconclusive after 61 seconds, 24 requests." in said.out


def test_other_judges_are_asked_by_name(experiment: Run, keep: Keep) -> None:
    unlucky = evidence_of(repeated(6, arm(60), arm(60, 2), share=0.5), settings={"goals": [{"margin_points": 2}]})
    keep(unlucky)
    ours = experiment("judge", "--file", "evidence.json")
    usual = experiment("judge", "--file", "evidence.json", "--judge", "thresholds")
    step = experiment("judge", "--file", "evidence.json", "--judge", "analysis")
    assert "So judged:            it would still run" in ours.out
    assert (
        "By thresholds:        abort after 20 seconds, 240 requests. 3.33 % against 0.00 %: it is not so that the error"
        " rate rises by less than 2 points." in usual.out
    )
    assert "As a rollout's step:  it would still run" in step.out


def test_step_of_a_rollout_has_settings_of_its_own(experiment: Run, keep: Keep) -> None:
    keep(evidence_of(HARM))
    asked = ("judge", "--file", "evidence.json", "--judge", "analysis", "--json")
    own = json.loads(experiment(*asked).out)
    assert (own["judge"], own["settings"]["max_error_increase_points"]) == ("analysis", 2.0)
    assert (own["settings"]["max_latency_increase_percent"], own["settings"]["min_requests"]) == (None, 100)
    keep("max_error_increase_points: 30\nmax_error_rate_percent: null\n", "step.yaml")
    lax = json.loads(experiment(*asked, "--settings", "step.yaml", "--set", "min_requests=200").out)
    assert (lax["end"]["verdict"], lax["settings"]["min_requests"]) == ("promote", 200)
    said = experiment(*asked, "--set", "goals=[]")
    assert (said.code, "goals: there is no such setting" in said.err) == (2, True)


def test_answer_for_programs_has_every_word(experiment: Run, keep: Keep) -> None:
    keep(evidence_of(HARM))
    answer = json.loads(experiment("judge", "--file", "evidence.json", "--json").out)
    assert answer["end"] == answer["said"][-1]
    assert answer["end"]["verdict"] == "abort"
    assert answer["settings"]["goals"][0]["margin_points"] == 2
    assert {"window", "seconds", "requests", "verdict", "sentence"} == set(answer["end"])


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (
            ["--set", "alpha=9", "--set", "min=3"],
            "  alpha: 9 is not a probability above 0 and at most 0.5, such as 0.05.",
        ),
        (["--set", "alpha=9", "--set", "min=3"], "  min: there is no such setting; there are alpha, "),
        (["--set", "alpha"], "--set alpha: give a name and a value, as alpha=0.01."),
        (["--set", "=3"], "--set =3: give a name and a value"),
        (["--settings", "nothere.yaml"], "--settings nothere.yaml cannot be read: No such file or directory."),
        (["--settings", "list.yaml"], "--settings list.yaml holds no names with values"),
        (["--settings", "broken.yaml"], "--settings broken.yaml cannot be used:\n  line 2, column 1: "),
        (
            ["--judge", "thresholds", "--set", "goals=[{metric: rating_response_rate, margin_percent: 10}]"],
            "--judge thresholds cannot be asked about this experiment: rating_response_rate has no number of its own",
        ),
    ],
)
def test_settings_that_cannot_be_used_are_named(arguments: list[str], says: str, experiment: Run, keep: Keep) -> None:
    keep(evidence_of(HARM))
    keep("- 1\n", "list.yaml")
    keep("alpha: [\n", "broken.yaml")
    said = experiment("judge", "--file", "evidence.json", *arguments)
    assert (said.code, said.out) == (2, "")
    assert says in said.err


def test_metric_of_ones_own_is_found_by_the_environment(tmp_path: Path) -> None:
    package = tmp_path / "ours"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "experiment_metrics.py").write_text(
        "from deploypipe.metrics.definitions import Family, Metric, metric\n\n"
        "@metric\n"
        "class Ours(Metric):\n"
        "    name, label, unit, family, of_requests = 'ours', 'our rate', '%', Family.BOUNDED, True\n\n"
        "    def requests(self, arm):\n"
        "        from deploypipe.stats.samples import Sample\n"
        "        return Sample.binary(arm.requests, arm.failed)\n"
    )
    (tmp_path / "evidence.json").write_text(json.dumps(evidence_of(HARM)))
    asked = ("judge", "--file", "evidence.json", "--set", "unit=request", "--set")
    own = installed(tmp_path, *asked, "goals=[{metric: ours, margin: 2}]", DEPLOYPIPE_APPS="ours")
    assert "worse by more than 2" in own.stdout, own.stderr
    unknown = installed(tmp_path, *asked, "goals=[{metric: ours, margin: 2}]")
    assert (unknown.returncode, "'ours' is not one of " in unknown.stderr) == (2, True)
    gone = installed(tmp_path, *asked, "alpha=0.1", DEPLOYPIPE_APPS="not_there")
    assert gone.returncode == 2
    assert "DEPLOYPIPE_APPS: The app 'not_there' cannot be imported: " in gone.stderr


# --- A server ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def running(transactional_db: None, cast: Cast, artifact: Path) -> World:
    """With an experiment that has been looked at once."""
    Environment.objects.get_or_create(
        name="production", defaults={"position": 1}
    )  # an earlier test may have flushed it
    world = make_world(cast, artifact)
    rollout = world.rollout(SETTINGS)
    world.measure(stable=(400, 4), candidate=(400, 4), batches=2)
    ExperimentGate().judge(rollout, 1, now=NOW, seconds=60)
    return world


@pytest.fixture
def token(running: World, monkeypatch: pytest.MonkeyPatch) -> str:
    made = tokens.issue(running.cast.dee, name="test")
    monkeypatch.setenv("DEPLOYPIPE_TOKEN", made)
    return made


@pytest.mark.parametrize("suffix", ["", "/", "/api/v1/"])
def test_running_server_is_asked_for_the_evidence(
    suffix: str, experiment: Run, running: World, token: str, live_server: Any
) -> None:
    pk = str(Experiment.objects.get().pk)
    said = experiment("replay", pk, "--url", live_server.url + suffix)
    assert (said.code, said.err) == (0, "")
    assert "Every verdict came out as it was stored, to the last bit (1 of 1)." in said.out
    assert "So judged:" in experiment("judge", pk, "--url", live_server.url.removeprefix("http://")).out


def test_server_says_no_and_we_say_why(
    experiment: Run, running: World, token: str, live_server: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    pk, url = str(Experiment.objects.get().pk), live_server.url
    assert experiment("replay", "999", "--url", url).err == (
        f"deploypipe experiment replay: {url} has no experiment 999, or is no deploypipe server.\n"
    )
    monkeypatch.setenv("OTHER", tokens.issue(running.cast.eve, name="test"))
    refused = experiment("replay", pk, "--url", url, "--token-env", "OTHER")
    assert (refused.code, f"{url} answered 403: " in refused.err) == (2, True)
    monkeypatch.setenv("DEPLOYPIPE_TOKEN", "dp_wrong")
    wrong = experiment("replay", pk, "--url", url)
    assert (wrong.code, wrong.out) == (2, "")
    assert f"{url} does not know the token. “manage.py issue_token USER” makes one." in wrong.err
    assert "dp_wrong" not in wrong.err
    monkeypatch.setenv("DEPLOYPIPE_TOKEN", "dp_ä")
    assert "The token from DEPLOYPIPE_TOKEN holds a character that no header may hold." in (
        experiment("replay", pk, "--url", url).err
    )


def test_token_may_come_from_a_file(
    tmp_path: Path, experiment: Run, token: str, live_server: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "token").write_text(f"{token}\n")
    monkeypatch.delenv("DEPLOYPIPE_TOKEN")
    monkeypatch.setenv("DEPLOYPIPE_TOKEN_FILE", str(tmp_path / "token"))
    assert experiment("replay", str(Experiment.objects.get().pk), "--url", live_server.url).code == 0
    monkeypatch.setenv("DEPLOYPIPE_TOKEN_FILE", "/not/there")
    said = experiment("replay", "1", "--url", live_server.url)
    assert (said.code, "DEPLOYPIPE_TOKEN_FILE='/not/there' is not usable" in said.err) == (2, True)


@pytest.fixture
def other_server(tmp_path: Path) -> Iterator[str]:
    """Something that is no deploypipe."""

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *words: Any) -> None: ...

    (tmp_path / "api" / "v1" / "experiments" / "7" / "evidence").mkdir(parents=True)
    server = HTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(tmp_path)))
    thread = Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.parametrize(
    ("number", "url", "says"),
    [
        ("7", "{other}", "experiment 7 is no JSON: "),
        ("8", "{other}", "{other} has no experiment 8, or is no deploypipe server."),
        ("7", "http://127.0.0.1:1", "http://127.0.0.1:1 gives no answer: "),
        ("7", "http://no-such-host.invalid", "Is the server running, and the address right?"),
        ("7", "ftp://127.0.0.1", "--url ftp://127.0.0.1 is not an address: give http://host:port or https://host."),
        ("7", "http://user:word@127.0.0.1", "is not an address: give http://host:port"),
        ("7", "http://[::", "--url http://[:: is not an address: "),
    ],
)
def test_address_without_our_server_is_said_to_be_that(
    number: str, url: str, says: str, other_server: str, experiment: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DEPLOYPIPE_TOKEN", "dp_1")
    said = experiment("replay", number, "--url", url.format(other=other_server))
    assert (said.code, said.out) == (2, "")
    assert says.format(other=other_server) in said.err


# --- The process ------------------------------------------------------------------------------------------------------


def test_it_imports_no_django(tmp_path: Path) -> None:
    (tmp_path / "evidence.json").write_text(json.dumps(evidence_of(HARM)))
    program = (
        "import sys; from deploypipe.client import main\n"
        "for command in ('replay', 'judge'): main(['experiment', command, '--file', 'evidence.json', '--json'])\n"
        "main(['experiment', 'simulate', '--runs', '1', '--minutes', '1', '-q'])\n"
        "print(sorted({'django', 'celery', 'channels', 'rest_framework'} & set(sys.modules)), file=sys.stderr)"
    )
    said = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, env=environment(), capture_output=True, text=True, check=True
    )
    assert said.stderr == "[]\n"


def test_it_is_readable_in_a_terminal_that_knows_ascii_only(tmp_path: Path) -> None:
    stored = evidence_of(HARM)
    stored["experiment"]["name"] = "Grün?\x1b[31m"
    (tmp_path / "evidence.json").write_text(json.dumps(stored))
    said = installed(tmp_path, "judge", "--file", "evidence.json", PYTHONIOENCODING="ascii")
    assert said.stdout.startswith("Gr?n? [31m: 30 windows.\n")


def test_reader_may_go_away(tmp_path: Path) -> None:
    (tmp_path / "evidence.json").write_text(json.dumps(evidence_of(HARM)))
    command = [COMMAND, "experiment", "judge", "--file", "evidence.json", "--json"]
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, cwd=tmp_path, env=environment(), **pipes) as process:
        assert process.stdout
        assert process.stderr
        process.stdout.close()
        assert process.stderr.read() == ""
    assert process.returncode == 2


@pytest.mark.parametrize("command", ["replay", "judge", "simulate"])
def test_help_says_how_it_ends(command: str, experiment: Run) -> None:
    said = experiment(command, "--help")
    assert said.code == 0
    assert "exit codes:" in said.out
    assert "examples:" in said.out
