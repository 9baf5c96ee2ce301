"""The worked example of docs/extending.md measures something, with Django and without."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.extending.conftest import ROOT, Examined, environment, example, looping


@pytest.mark.parametrize("django", [False, True], ids=["without Django", "with Django"])
def test_example_passes_on_a_real_model_with_the_measured_share(
    textgen: dict[str, str], examined: Examined, django: bool
) -> None:
    found = examined(textgen, django=django)
    outcome = found["outcomes"][0]
    assert found["django"] is django
    assert found["names"] == ["shop.repetition"]
    assert outcome["status"] == "passed", outcome["reason"]
    assert 0 <= outcome["value"] <= outcome["limit"] == 25
    assert f"At most {outcome['value']:.0f} % of an answer had been said before" in outcome["reason"]
    assert len(outcome["evidence"]["exchanges"]) == 5
    assert outcome["value"] == max(outcome["evidence"]["percent_by_prompt"].values())


@pytest.mark.parametrize("django", [False, True], ids=["without Django", "with Django"])
def test_example_fails_on_a_model_that_loops(examined: Examined, django: bool) -> None:
    with looping() as server:
        outcome = examined(server, django=django)["outcomes"][0]
    assert outcome["status"] == "failed"
    assert outcome["value"] == 96.7  # 61 runs of four words, two of them different
    assert outcome["unit"] == "percent"
    assert "had been said before; 25 % are allowed." in outcome["reason"]
    assert outcome["findings"][0]["severity"] == "medium"


def test_example_fails_soon_where_no_server_is(examined: Examined) -> None:
    with looping() as server:
        pass
    outcome = examined(server)["outcomes"][0]
    assert outcome["status"] == "failed"
    assert "There is nothing to read: POST /v1/completions gave no answer" in outcome["reason"]
    assert len(outcome["evidence"]["exchanges"]) == 1


def test_policy_sets_the_limit_of_the_example(examined: Examined) -> None:
    with looping() as server:
        found = examined(server, policy={"parameters": {"shop.repetition": {"most_percent": 97.0}}})
    assert found["outcomes"][0]["status"] == "passed"
    assert found["outcomes"][0]["limit"] == 97


def test_category_of_the_example_is_shown_and_costs_only_what_the_policy_says(examined: Examined) -> None:
    with looping() as server:
        without = examined(server)
        given = examined(server, policy={"weights": {"security": 90, "shop": 10}})
    assert without["categories"]["shop"] == 0
    assert without["lost"] == []
    assert given["lost"] == [["shop.repetition", 100]]  # nothing else was examined here


def manage(apps: Path, tmp_path: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(ROOT / "manage.py"), *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        cwd=tmp_path,
        env=environment(apps, tmp_path / "var", DEPLOYPIPE_APPS="shopqa"),
    )


def test_product_starts_with_the_example(apps: Path, tmp_path: Path) -> None:
    done = manage(apps, tmp_path, "check")
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("weight = 1.0", "weight = heavy", "NameError: name 'heavy' is not defined"),
        ("weight = 1.0", 'weight = "heavy"', "no check that can be used: weight is 'heavy', give int or float"),
        ("    def ask(", "    def ask(:", "SyntaxError: invalid syntax"),
        ('name = "shop.repetition"', 'name = "repetition"', 'give "shop.word"'),
    ],
)
def test_product_does_not_start_with_a_file_that_is_wrong_and_says_where(
    apps: Path, tmp_path: Path, old: str, new: str, words: str
) -> None:
    file = apps / "shopqa" / "qa_checks.py"
    assert example().count(old) == 1
    file.write_text(example().replace(old, new))
    done = manage(apps, tmp_path, "check")
    last = done.stderr.strip().splitlines()[-1]
    assert done.returncode != 0
    assert "ImproperlyConfigured: The checks of the app 'shopqa' cannot be used:" in last
    assert f"{file}, line " in last
    assert words in last
    assert "take 'shopqa' out of DEPLOYPIPE_APPS" in last
