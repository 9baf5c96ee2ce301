"""The metrics of docs/extending.md judge an experiment, from the gateway's log and posted feedback to the verdict."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from abtests.evidence import Evidence, to_file
from deploypipe.metrics import feedback
from deploypipe.metrics.sessions import session_digest
from deploypipe.metrics.windows import Measured, to_json
from tests.extending.conftest import DOCUMENT, ROOT, environment
from tests.metrics.world import BEGAN, Gateway, facts, line, seen

JUDGE = """
import json, sys
given = json.loads(sys.argv[1])
if given["django"]:
    import django
    django.setup()  # the app registry discovers
else:
    from deploypipe.metrics.catalogue import discover
    discover(["shopmetrics"])
from abtests import decision
from abtests.settings import parse_settings
from deploypipe.metrics.windows import from_json
windows = [from_json(window) for window in json.load(sys.stdin)]
found = decision.replay(windows, parse_settings(given["settings"]), seconds=60.0)
print(json.dumps({**found.to_json(), "has_django": "django" in sys.modules}))
"""


def blocks(language: str) -> list[str]:
    part = DOCUMENT.read_text().partition("# A metric of your own")[2]
    return re.findall(rf"^```{language}\n(.*?)^```", part, re.S | re.M)


@pytest.fixture
def apps(tmp_path: Path) -> Path:
    write(tmp_path, *blocks("python"))
    return tmp_path


def write(folder: Path, source: str) -> None:
    (folder / "shopmetrics").mkdir(exist_ok=True)
    (folder / "shopmetrics" / "__init__.py").touch()
    (folder / "shopmetrics" / "experiment_metrics.py").write_text(source)


def judged(apps: Path, windows: list[Measured], *, django: bool = False) -> dict[str, Any]:
    (settings,) = blocks("json")
    given = {"django": django, "settings": {**json.loads(settings), "min_requests": 100, "alpha": 0.2}}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", JUDGE, json.dumps(given)],
        input=json.dumps([to_json(window) for window in windows]),
        capture_output=True,
        text=True,
        timeout=120,
        cwd=apps,
        env=environment(apps, apps / "var", **({"DEPLOYPIPE_APPS": "shopmetrics"} if django else {})),
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def traffic(tmp_path: Path, *, late_ms: float = 90.0, tokens: float = 100.0, seconds: int = 100) -> list[Measured]:
    """Ten sessions of each version a second. Every fifth of the candidate's is as slow as `late_ms`."""
    gateway = Gateway(tmp_path / "access.jsonl", [facts(0.5)])
    for second in range(0, seconds, 10):
        said = []
        for number in range(100):
            for backend in ("v1", "v2"):
                user = f"{backend}-{second}-{number}"
                late = backend == "v2" and number % 5 == 0
                first_ms = late_ms if late else 90.0
                gateway.write(line(session_digest(user), backend, second + number / 10, first_ms=first_ms, took=0.05))
                spent = tokens if backend == "v2" else 100.0
                said.append({"session": user, "values": {"tokens": spent + number % 10}})
        feedback.accept("production", "textgen", said, BEGAN + timedelta(seconds=second + 10))
        gateway.read(second + 11)
    gateway.settle(seconds + 200)
    return seen()


def test_document_shows_one_file_of_metrics_and_settings_that_use_it() -> None:
    (source,) = blocks("python")
    assert source.startswith("# shopmetrics/experiment_metrics.py\n")
    assert len(blocks("json")) == 1


@pytest.mark.django_db
@pytest.mark.parametrize("django", [False, True], ids=["without Django", "with Django"])
def test_version_whose_answers_come_late_is_aborted_by_the_metric(apps: Path, tmp_path: Path, django: bool) -> None:
    found = judged(apps, traffic(tmp_path, late_ms=800.0, seconds=40), django=django)
    assert found["has_django"] is django
    assert found["verdict"] == "abort"
    row = next(row for row in found["rows"] if row["name"] == found["decided_by"])
    assert (row["metric"], row["state"]) == ("late_answers", "broken")
    assert row["candidate_value"] == pytest.approx(20.0)
    assert row["stable_value"] == 0
    assert found["sentence"].startswith("Candidate 80 of 400 sessions came late (20 %), stable 0 of 400 (0 %): ")


@pytest.mark.django_db
def test_version_that_spends_half_as_much_again_is_aborted_by_the_posted_tokens(apps: Path, tmp_path: Path) -> None:
    found = judged(apps, traffic(tmp_path, tokens=150.0, seconds=40))
    assert found["verdict"] == "abort"
    row = next(row for row in found["rows"] if row["name"] == found["decided_by"])
    assert row["name"] == "the number of tokens per session rises by less than 20 %"
    assert row["asymptotic"]
    assert row["candidate_value"] == pytest.approx(154.5)
    assert row["stable_value"] == pytest.approx(104.5)


@pytest.mark.django_db
def test_version_like_the_live_one_is_promoted(apps: Path, tmp_path: Path) -> None:
    found = judged(apps, traffic(tmp_path, seconds=150))
    assert found["verdict"] == "promote", found["sentence"]
    assert "the share of late answers rises by less than 2 points" in found["sentence"]
    assert "the number of tokens per session rises by less than 20 %" in found["sentence"]


@pytest.mark.django_db
def test_command_line_judges_evidence_by_the_metric_too(apps: Path, tmp_path: Path) -> None:
    (settings,) = blocks("json")
    windows = tuple(traffic(tmp_path, late_ms=800.0, seconds=40))
    evidence = Evidence({"name": "Shop"}, json.loads(settings), ("candidate",), windows, ())
    (tmp_path / "evidence.json").write_text(json.dumps(to_file(evidence)))
    command = [sys.executable, "-m", "deploypipe", "experiment", "judge", "--file", "evidence.json", "--json"]
    with_it, without = (
        subprocess.run(
            command, capture_output=True, text=True, timeout=120, cwd=tmp_path,
            env=environment(apps, tmp_path / "var", DEPLOYPIPE_APPS=named),
        )
        for named in ("shopmetrics", "")
    )  # fmt: skip
    assert with_it.returncode == 0, with_it.stderr
    assert json.loads(with_it.stdout)["end"]["verdict"] == "abort"
    assert without.returncode != 0
    assert "'late_answers' is not one of" in without.stderr


def manage(apps: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(ROOT / "manage.py"), "check"],
        capture_output=True,
        text=True,
        timeout=120,
        cwd=apps,
        env=environment(apps, apps / "var", DEPLOYPIPE_APPS="shopmetrics"),
    )


def test_product_starts_with_the_example(apps: Path) -> None:
    done = manage(apps)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("import Units", "import Unit", "experiment_metrics.py, line"),
        ("@metric\nclass LateAnswers", "@metric\nclass LateAnswers(", "experiment_metrics.py, line"),
        ('name = "late_answers"', 'name = "Late answers"', "name is 'Late answers', give small letters"),
        ('name = "late_answers"', 'name = "latency"', "'latency' is already the metric"),
        ("True\n\n    def sessions", "True\n\n    def session", "it has session_readings and no sessions"),
    ],
)  # fmt: skip
def test_file_that_is_wrong_stops_the_product_and_says_where(apps: Path, old: str, new: str, words: str) -> None:
    (source,) = blocks("python")
    changed = (
        source.replace("ArmWindow, Units", "ArmWindow, Unit") if old == "import Units" else source.replace(old, new)
    )
    assert changed != source
    write(apps, changed)
    done = manage(apps)
    assert done.returncode != 0
    assert "The metrics of the app 'shopmetrics' cannot be used" in done.stderr
    assert words in done.stderr
    assert "take 'shopmetrics' out of DEPLOYPIPE_APPS" in done.stderr
