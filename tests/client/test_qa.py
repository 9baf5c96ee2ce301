"""`deploypipe qa` as its user runs it: against a running server, with its options, its files and its exit codes."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from deploypipe.client import main
from registry import artifacts
from registry.qa.catalogue import all_checks
from registry.report import deployment_hash
from tests.client.conftest import hears_interrupts
from tests.registry.faulty_engine import KEY, MODEL, Engine, running_engine
from tests.registry.test_report import VALID

POLICY = """\
quality_thresholds:
  minimum_score: 80
  performance:
    max_latency_ms: 450
quality_gate:
  load:
    requests_per_second: 60
    seconds: 0.5
    warm_up_requests: 2
    max_tokens: 20
"""
QUICK = ("--only", "security.keys_not_echoed")
COMMAND = str(Path(sys.executable).with_name("deploypipe"))


@pytest.fixture(scope="module")
def one_engine() -> Iterator[Engine]:
    with running_engine() as engine:
        yield engine


@pytest.fixture
def engine(one_engine: Engine) -> Engine:
    one_engine.reset()
    return one_engine


@dataclass(frozen=True)
class Said:
    code: int
    out: str
    err: str


Run = Callable[..., Said]


@pytest.fixture
def qa(engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs the command in a folder of its own, with the right key."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DEPLOYPIPE_API_KEY", KEY)
    (tmp_path / "policy.yaml").write_text(POLICY)

    def run(*arguments: str, endpoint: str = "") -> Said:
        capsys.readouterr()
        try:
            code = main(["qa", "--endpoint", endpoint or engine.base_url, *arguments])
        except SystemExit as error:  # argparse
            code = int(error.code or 0)
        captured = capsys.readouterr()
        return Said(code, captured.out, captured.err)

    return run


@pytest.fixture
def report(tmp_path: Path) -> Callable[[], dict[str, Any]]:
    def read() -> dict[str, Any]:
        found: dict[str, Any] = json.loads((tmp_path / "qa_report.json").read_text())
        return found

    return read


# --- Verdicts ---------------------------------------------------------------------------------------------------------


def test_faultless_server_is_approved(qa: Run, report: Any, tmp_path: Path) -> None:
    said = qa("--policy", "policy.yaml", "--markdown", "qa_report.md")
    assert (said.code, said.err.count("✗")) == (0, 0), said.err
    found = report()
    assert [error.message for error in VALID.iter_errors(found)] == []
    summary = found["qa_report"]
    assert (summary["deployment_approved"], summary["model_name"], summary["engine"]) == (True, MODEL, "vllm")
    assert summary["deployment_hash"] == deployment_hash(found)
    checks = [check["name"] for category in found["test_results"].values() for check in category["checks"]]
    assert sorted(checks) == sorted(check.name for check in all_checks())
    assert found["policy"]["load"]["requests_per_second"] == 60
    assert found["policy_sources"] == ["policy.yaml"]
    assert "✓ passed          A key is required" in said.err
    assert f"{MODEL}: approved\n" in said.out
    assert "Written: qa_report.json\nWritten: qa_report.md" in said.out
    assert (tmp_path / "qa_report.md").read_text().startswith(f"## ✅ {MODEL}: approved")
    assert KEY not in (tmp_path / "qa_report.json").read_text()


def test_open_server_is_not_approved_and_the_report_says_why(qa: Run, report: Any, engine: Engine) -> None:
    engine.faults = {"open"}
    said = qa("--policy", "policy.yaml")
    assert said.code == 1
    assert f"{MODEL}: not approved\nBlocked: " in said.out
    assert "✗ failed          A key is required" in said.err
    summary = report()["qa_report"]
    assert (summary["blocked"], summary["deployment_approved"]) == (True, False)
    assert "without a key" in summary["sentence"]


def test_files_are_examined_with_their_manifest(qa: Run, report: Any, tmp_path: Path, artifact: Path) -> None:
    manifest = artifacts.build(artifact)
    (tmp_path / "manifest.json").write_text(json.dumps(manifest.to_json()))
    given = ("--artifact", str(artifact), "--manifest", "manifest.json", "--only", "compatibility.digest")
    qa(*given)
    assert report()["test_results"]["compatibility"]["digest"] == "passed"
    assert report()["qa_report"]["artifact_digest"] == manifest.digest
    (artifact / "model.json").write_text("other bytes")
    assert qa(*given).code == 1
    assert report()["test_results"]["compatibility"]["digest"].startswith("failed: ")


def test_digest_is_told_without_a_manifest(qa: Run, report: Any, artifact: Path) -> None:
    qa("--artifact", str(artifact), "--only", "compatibility.digest")
    assert report()["qa_report"]["artifact_digest"] == artifacts.build(artifact).digest


def test_required_check_that_is_left_out_means_not_approved(qa: Run, report: Any) -> None:
    said = qa("--policy", "policy.yaml", "--skip", "security.key_required", "--skip", "performance,integration")
    assert said.code == 1
    assert "Left out although required, so it cannot be approved: " in said.out
    assert "A key is required" in said.out
    found = report()
    assert "security.key_required" in found["qa_report"]["left_out"]
    skipped = "not_checked: “A key is required” was left out by --skip security.key_required."
    assert found["test_results"]["security"]["key_required"] == skipped


def test_only_makes_the_checks_that_it_names(qa: Run, report: Any) -> None:
    said = qa(*QUICK)
    assert "1 check." in said.err
    assert report()["test_results"]["security"]["keys_not_echoed"] == "passed"


def test_baseline_is_the_live_version_to_compare_with(qa: Run, report: Any, engine: Engine) -> None:
    with running_engine() as live:
        qa("--policy", "policy.yaml", "--baseline", live.base_url, "--only", "performance.baseline")
        [check] = [c for c in report()["test_results"]["performance"]["checks"] if c["name"] == "performance.baseline"]
        assert check["status"] in ("passed", "failed"), check["reason"]
        assert check["evidence"]
        said = qa("--baseline", engine.base_url)
        assert (said.code, "--baseline is the server that is examined" in said.err) == (2, True)


def test_custom_checks_are_found_by_the_environment(tmp_path: Path, engine: Engine) -> None:
    package = tmp_path / "ours"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "qa_checks.py").write_text(
        "from registry.qa.base import Check, Context, Outcome\n"
        "from registry.qa.catalogue import check\n\n"
        "@check\n"
        "class Ours(Check):\n"
        "    name, label, category = 'house.ours', 'Ours', 'house'\n"
        "    weight, required, timeout = 1.0, False, 5.0\n\n"
        "    def run(self, context: Context) -> Outcome:\n"
        "        return Outcome.passed('Ours was made.')\n"
    )
    said = _command(tmp_path, engine, "--only", "house", "--out", "-", DEPLOYPIPE_APPS="ours")
    assert json.loads(said.stdout)["test_results"]["house"]["ours"] == "passed", said.stderr
    said = _command(tmp_path, engine, DEPLOYPIPE_APPS="not_there")
    assert (said.returncode, said.stdout) == (2, "")
    assert "DEPLOYPIPE_APPS: The app 'not_there' cannot be imported: " in said.stderr


# --- What is recognised -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("dialect", "engine_name"), [("vllm", "vllm"), ("aphrodite-0.9", "aphrodite")])
def test_engine_is_recognised_by_its_answers(
    dialect: str, engine_name: str, qa: Run, report: Any, engine: Engine
) -> None:
    engine.dialect = dialect
    qa(*QUICK)
    assert report()["qa_report"]["engine"] == engine_name
    qa(*QUICK, "--engine", "openai")
    assert report()["qa_report"]["engine"] == "openai"


@pytest.mark.parametrize("suffix", ["/", "/v1", "/v1/"])
def test_address_may_be_written_as_clients_of_the_api_do(suffix: str, qa: Run, report: Any, engine: Engine) -> None:
    assert qa(*QUICK, endpoint=engine.base_url + suffix).code == 1
    assert report()["qa_report"]["endpoint"] == engine.base_url
    assert qa(*QUICK, endpoint=engine.base_url.removeprefix("http://")).code == 1


def test_hardware_is_measured_here_and_may_be_declared(qa: Run, report: Any, tmp_path: Path) -> None:
    model = tmp_path / "model"
    model.mkdir()
    header = json.dumps({"weight": {"dtype": "F32", "shape": [1000, 1000], "data_offsets": [0, 4_000_000]}}).encode()
    (model / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + bytes(4_000_000))
    given = ("--artifact", "model", "--only", "compatibility.memory")
    qa(*given)
    assert report()["test_results"]["compatibility"]["memory"] == "passed"
    qa(*given, "--memory-gb", "0.001")
    assert report()["test_results"]["compatibility"]["memory"].startswith("failed: ")
    assert "argument --memory-gb: invalid number above 0 value: '-1'" in qa("--memory-gb", "-1").err


# --- What cannot be examined ------------------------------------------------------------------------------------------


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--only", "security.key_requird"), "did you mean security.key_required?"),
        (("--skip", "nothing-like-it"), "the categories are compatibility, integration, performance,"),
        (("--only", "quality", "--skip", "quality"), "no check is left"),
        (("--artifact", "not-there"), "--artifact not-there: there is no such folder."),
        (("--manifest", "policy.yaml"), "--artifact must name"),
        (("--policy", "not-there.yaml"), "--policy not-there.yaml cannot be read: No such file or directory."),
        (("--files", "not-there"), "--files not-there: there is no such folder."),
        (("--api-key-env", "NOT_SET"), "The environment variable NOT_SET is not set"),
        (("--policy", "/dev/zero"), "--policy /dev/zero is longer than 262,144 bytes: is it the right file?"),
        (("--artifact", ".", "--manifest", "/dev/zero"), "is longer than 67,108,864 bytes: is it the right file?"),
        (("--gpus", "2000"), "argument --gpus: invalid number from 0 to 1024 value: '2000'\n"),
        (("--out", "."), ". is a folder: name a file in it."),
        (("--out", "not-there/report.json"), "not-there/report.json cannot be written: No such file or directory."),
        (("--out", "policy.yaml/report.json"), "cannot be written: Not a directory."),
        (("--out", "one.json", "--markdown", "one.json"), "Two outputs go to the same place"),
        (("--out", "-", "--json"), "Two outputs go to the same place"),
    ],
)
def test_wrong_arguments_are_told_before_anything_is_asked(arguments: tuple[str, ...], words: str, qa: Run) -> None:
    nobody = f"http://127.0.0.1:{_free_port()}"
    said = qa(*arguments, endpoint=nobody)
    assert said.code == 2
    assert words in said.err
    assert nobody not in said.err


@pytest.mark.parametrize("arguments", [("--bogus",), ("--engine", "steam")])
def test_unknown_arguments_are_refused(arguments: tuple[str, ...], qa: Run) -> None:
    assert qa(*arguments).code == 2


def test_key_on_the_command_line_is_refused_and_not_repeated(qa: Run) -> None:
    said = qa("--api-key", "sk-very-secret")
    assert said.code == 2
    assert "everybody on the machine could read a key given here" in said.err
    assert "sk-very-secret" not in said.err


@pytest.mark.parametrize(
    ("endpoint", "words"),
    [
        ("ftp://127.0.0.1", "is not an address: give http://host:port"),
        ("http://127.0.0.1:notaport", "is not an address: give http://host:port"),
        ("http://user:sk-secret@127.0.0.1:1", "give the key by an environment variable"),
        ("http://127.0.0.1:1/?key=1", "leave out what comes after the path"),
    ],
)
def test_address_that_is_none_is_refused(endpoint: str, words: str, qa: Run) -> None:
    said = qa(endpoint=endpoint)
    assert said.code == 2
    assert words in said.err
    assert "sk-secret" not in said.err


def test_endpoint_where_nobody_is(qa: Run, tmp_path: Path) -> None:
    said = qa(endpoint=f"http://127.0.0.1:{_free_port()}")
    assert said.code == 2
    assert "takes no connection: Connection refused. Is the server running, and the address right?" in said.err
    assert [path.name for path in tmp_path.iterdir()] == ["policy.yaml"]


def test_wrong_key_and_no_key_are_told_apart(qa: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_KEY", "sk-wrong")
    said = qa("--api-key-env", "MY_KEY")
    assert (said.code, "refuses the key from MY_KEY: /v1/models answered 401." in said.err) == (2, True)
    assert "sk-wrong" not in said.err
    monkeypatch.delenv("DEPLOYPIPE_API_KEY")
    said = qa()
    assert (said.code, "asks for a key: /v1/models answered 401. Put it into" in said.err) == (2, True)


def test_key_is_read_from_a_file(qa: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, report: Any) -> None:
    monkeypatch.delenv("DEPLOYPIPE_API_KEY")
    (tmp_path / "key").write_text(f"{KEY}\n")
    monkeypatch.setenv("DEPLOYPIPE_API_KEY_FILE", str(tmp_path / "key"))
    qa(*QUICK)
    assert report()["test_results"]["security"]["keys_not_echoed"] == "passed"


@pytest.mark.parametrize("key", ["ключ", "sk-one\nsk-two"])
def test_key_that_no_header_may_hold_is_told_before_it_is_sent(
    key: str, qa: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DEPLOYPIPE_API_KEY", key)
    said = qa("--model", "words")
    assert said.code == 2
    assert "The key from DEPLOYPIPE_API_KEY holds a character that no HTTP header may hold." in said.err
    assert "sk-one" not in said.err


def test_every_problem_of_a_policy_file_is_told_with_its_line(qa: Run, tmp_path: Path) -> None:
    (tmp_path / "policy.yaml").write_text(
        "quality_thresholds:\n  minimum_scor: 80\n  performance:\n    max_latency_s: 1\n"
    )
    said = qa("--policy", "policy.yaml")
    assert said.code == 2
    assert "--policy policy.yaml cannot be used:\n  line 2," in said.err
    assert "minimum_score" in said.err
    assert "\n  line 4," in said.err
    assert "max_latency_ms" in said.err


def test_server_that_names_no_model_is_asked_for_one(qa: Run, engine: Engine) -> None:
    said = qa(endpoint=f"{engine.base_url}/nothing/here")
    assert said.code == 2
    assert "does not say which model it serves: /v1/models answered 404. Name it with --model." in said.err


def test_old_report_stays_when_nothing_can_be_examined(qa: Run, tmp_path: Path) -> None:
    (tmp_path / "qa_report.json").write_text("the old one")
    qa(endpoint=f"http://127.0.0.1:{_free_port()}")
    assert (tmp_path / "qa_report.json").read_text() == "the old one"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["policy.yaml", "qa_report.json"]


# --- What is told -----------------------------------------------------------------------------------------------------


def test_json_lines_are_for_programs(qa: Run) -> None:
    said = qa(*QUICK, "--json")
    events = [json.loads(line) for line in said.out.splitlines()]
    assert [event["event"] for event in events] == ["begins", "started", "result", "ended"]
    assert events[0]["checks"] == ["security.keys_not_echoed"]
    assert (events[2]["check"], events[2]["status"]) == ("security.keys_not_echoed", "passed")
    assert events[3]["deployment_approved"] is False
    assert said.err == ""
    refused = qa("--artifact", "not-there", "--json")
    assert json.loads(refused.out)["event"] == "gave_up"


def test_quiet_says_nothing_but_what_went_wrong(qa: Run) -> None:
    assert qa(*QUICK, "--quiet") == Said(1, "", "")
    assert "there is no such folder" in qa("--quiet", "--artifact", "not-there").err


def test_report_goes_to_stdout_alone(qa: Run, tmp_path: Path) -> None:
    said = qa(*QUICK, "--out", "-")
    assert json.loads(said.out)["schema_version"] == 1
    assert f"{MODEL}: not approved" in said.err
    assert not (tmp_path / "qa_report.json").exists()


def test_link_is_written_through_and_a_device_is_not_replaced(qa: Run, tmp_path: Path) -> None:
    (tmp_path / "real.json").write_text("old")
    (tmp_path / "link.json").symlink_to("real.json")
    qa(*QUICK, "--out", "link.json")
    assert (tmp_path / "link.json").is_symlink()
    assert json.loads((tmp_path / "real.json").read_text())["schema_version"] == 1
    os.mkfifo(tmp_path / "pipe")
    with subprocess.Popen(["cat", tmp_path / "pipe"], stdout=subprocess.PIPE) as reader:
        qa(*QUICK, "--out", "pipe")
        assert reader.stdout
        assert json.load(reader.stdout)["schema_version"] == 1
    assert (tmp_path / "pipe").is_fifo()


# --- The process ------------------------------------------------------------------------------------------------------


def _environment(**more: str) -> dict[str, str]:
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
    return {**kept, "DEPLOYPIPE_API_KEY": KEY, **more}


def _command(folder: Path, engine: Engine, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [COMMAND, "qa", "--endpoint", engine.base_url, *arguments]
    return subprocess.run(
        command, cwd=folder, env=_environment(**environment), capture_output=True, text=True, timeout=60, check=False
    )


def test_installed_command_works_from_any_folder(tmp_path: Path, engine: Engine) -> None:
    said = _command(tmp_path, engine, *QUICK)
    assert said.returncode == 1, said.stderr
    assert (tmp_path / "qa_report.json").exists()


def test_it_is_readable_in_a_terminal_that_knows_ascii_only(tmp_path: Path, engine: Engine) -> None:
    said = _command(tmp_path, engine, *QUICK, PYTHONIOENCODING="ascii")
    assert "+ passed          Keys are not echoed" in said.stderr


def test_it_imports_no_django(tmp_path: Path, engine: Engine) -> None:
    program = (
        "import sys; from deploypipe.client import main\n"
        f"main(['qa', '--endpoint', {engine.base_url!r}, '--policy', 'policy.yaml', '--quiet'])\n"
        "print(sorted({'django', 'celery', 'channels', 'rest_framework'} & set(sys.modules)))"
    )
    (tmp_path / "policy.yaml").write_text(POLICY)
    said = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, env=_environment(), capture_output=True, text=True, check=True
    )
    assert said.stdout == "[]\n"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_it_leaves_neither_half_a_report_nor_a_trace(
    number: signal.Signals, tmp_path: Path, engine: Engine
) -> None:
    engine.faults = {"hangs"}
    (tmp_path / "qa_report.json").write_text("the old one")
    command = [COMMAND, "qa", "--endpoint", engine.base_url, "--model", MODEL]
    with subprocess.Popen(
        command,
        cwd=tmp_path,
        env=_environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=hears_interrupts,
    ) as process:
        assert process.stderr
        assert process.stderr.readline().startswith("Examining ")
        process.send_signal(number)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert err.endswith("deploypipe qa: Interrupted; no report was written.\n")
    assert "Traceback" not in err
    assert [path.name for path in tmp_path.iterdir()] == ["qa_report.json"]
    assert (tmp_path / "qa_report.json").read_text() == "the old one"


SERVER = """
import sys, time
from tests.registry.faulty_engine import running_engine
with running_engine() as engine:
    print(engine.base_url, flush=True)
    sys.stdin.read()
"""


def test_server_that_dies_half_way_is_not_approved(tmp_path: Path) -> None:
    """The last checks are made of what is no longer there, and each says so."""
    (tmp_path / "policy.yaml").write_text(POLICY)
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL, "text": True}
    with subprocess.Popen([sys.executable, "-c", SERVER], stdin=subprocess.PIPE, **pipes) as server:
        assert server.stdout
        command = [COMMAND, "qa", "--endpoint", server.stdout.readline().strip(), "--json", "--policy", "policy.yaml"]
        with subprocess.Popen(command, cwd=tmp_path, env=_environment(), **pipes) as process:
            assert process.stdout
            for line in process.stdout:
                if (event := json.loads(line))["event"] == "result" and event["check"] == "security.key_required":
                    server.kill()
                    break
            rest = [json.loads(line) for line in process.stdout]
    assert process.returncode == 1
    assert rest[-1]["event"] == "ended"
    assert [
        event for event in rest if event.get("status") in ("failed", "error") and "no connection" in event["reason"]
    ]
    assert json.loads((tmp_path / "qa_report.json").read_text())["qa_report"]["blocked"] is True


def test_fault_of_our_own_is_not_mistaken_for_a_verdict(tmp_path: Path, engine: Engine) -> None:
    """Python would leave with 1, which says "not approved"."""
    (tmp_path / "ours").mkdir()
    (tmp_path / "ours" / "__init__.py").write_text("")
    (tmp_path / "ours" / "qa_checks.py").write_text("import registry.qa.catalogue as c\nc._MODULES = ('not_there',)\n")
    said = _command(tmp_path, engine, DEPLOYPIPE_APPS="ours")
    assert said.returncode == 2
    assert "This is a fault of deploypipe itself; it says nothing of the server." in said.stderr
    assert "DEPLOYPIPE_APPS" not in said.stderr
    assert not (tmp_path / "qa_report.json").exists()


def test_reader_of_the_lines_may_go_away(tmp_path: Path, engine: Engine) -> None:
    command = [COMMAND, "qa", "--endpoint", engine.base_url, "--json", *QUICK]
    environment = _environment(DEPLOYPIPE_API_KEY=KEY)
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, cwd=tmp_path, env=environment, **pipes) as process:
        assert process.stdout
        assert process.stderr
        process.stdout.close()
        assert process.stderr.read() == ""
    assert process.returncode == 2


def test_help_reads_well(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, words in ((["--help"], "examine a running model server"), (["qa", "--help"], "exit codes:")):
        with pytest.raises(SystemExit) as ended:
            main(arguments)
        assert ended.value.code == 0
        assert words in capsys.readouterr().out


def test_python_module_is_the_same_command() -> None:
    said = subprocess.run(
        [sys.executable, "-m", "deploypipe", "--version"],
        capture_output=True,
        text=True,
        check=True,
        env=_environment(),
    )
    assert said.stdout.startswith("deploypipe ")
