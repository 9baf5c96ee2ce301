"""What may be registered as a check, and what becomes of an app's file that cannot be used."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from registry.qa import catalogue
from registry.qa.base import Check, Context, Outcome
from registry.qa.catalogue import CheckFileError, check, discover
from registry.qa.parameters import Parameter
from registry.scoring import CATEGORY_WEIGHTS


class Sound(Check):
    name = "house.sound"
    label = "Sound"
    category = "house"
    weight = 1.0
    required = False
    timeout = 5.0

    def run(self, context: Context) -> Outcome:
        return Outcome.passed("It is sound.")


class Runless(Check):
    name = "house.runless"
    label = "Runless"
    category = "house"
    weight = 1.0
    required = False
    timeout = 5.0


TWICE = (Parameter("a", int, 1, "One."), Parameter("a", int, 2, "Two."))


@pytest.mark.parametrize(
    ("facts", "words"),
    [
        ({"label": None}, "label is None, give str"),
        ({"weight": "1"}, "weight is '1', give int or float"),
        ({"weight": True}, "weight is True, give int or float"),
        ({"label": "x" * 121}, "label has 121 characters, give 1 to 120"),
        ({"label": ""}, "label has 0 characters, give 1 to 120"),
        ({"weight": -1.0}, "weight is -1.0, give 0 or more"),
        ({"weight": float("nan")}, "weight is nan, give 0 or more"),
        ({"timeout": 0}, "timeout is 0, give seconds up to 3600"),
        ({"timeout": float("inf")}, "timeout is inf, give seconds up to 3600"),
        ({"required": 1}, "required is 1, give bool"),
        ({"needs_server": "yes"}, "needs_server is 'yes', give bool"),
        ({"parameters": [Parameter("a", int, 1, "One.")]}, "give tuple"),
        ({"parameters": ("a",)}, "parameters must be Parameter objects"),
        ({"parameters": TWICE}, "each with a name of its own"),
        ({"name": "sound"}, 'give "house.word"'),
        ({"name": "security.sound"}, 'give "house.word"'),
        ({"name": "house.Sound"}, 'give "house.word"'),
    ],
)
def test_class_that_does_not_keep_the_contract_is_refused(facts: dict[str, Any], words: str) -> None:
    before = [known.name for known in catalogue.all_checks()]
    with pytest.raises(ValueError, match=r"^Wrong") as raised:
        check(type("Wrong", (Sound,), facts))
    assert words in str(raised.value)
    assert [known.name for known in catalogue.all_checks()] == before


def test_class_without_run_or_a_fact_is_refused() -> None:
    with pytest.raises(ValueError, match=r"it has no run\(self, context\)"):
        check(Runless)
    with pytest.raises(ValueError, match=r"it has no name \(str\)"):
        check(type("Bare", (Check,), {}))


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


def app(folder: Path, name: str, source: str | None, package: str = "") -> None:
    (folder / name).mkdir()
    (folder / name / "__init__.py").write_text(package)
    if source is not None:
        (folder / name / "qa_checks.py").write_text(source)


def test_app_without_checks_is_none_of_our_business(folder: Path) -> None:
    app(folder, "app_without_checks", None)
    discover(["app_without_checks"])


@pytest.mark.parametrize(
    ("source", "line", "words"),
    [
        ("import json\n\nwrong(", 3, "SyntaxError: '(' was never closed"),
        ("x = 1\nraise RuntimeError", 2, "RuntimeError: no text"),
        ("import sys\nsys.exit(0)", 2, "SystemExit: 0"),  # else the product would end here without a word
        ("x = 1\n\n\nimport no_such_module_anywhere", 4, "No module named 'no_such_module_anywhere'"),
        ("import json\njson.loads('{')", 2, "JSONDecodeError"),
    ],
)
def test_file_that_cannot_be_imported_is_told_with_its_line(folder: Path, source: str, line: int, words: str) -> None:
    name = f"app_broken_{abs(hash(source))}"
    app(folder, name, source)
    with pytest.raises(CheckFileError) as raised:
        discover([name])
    assert f"{folder / name / 'qa_checks.py'}, line {line}: " in str(raised.value)
    assert words in str(raised.value)
    assert f"Mend the file, or take '{name}' out of DEPLOYPIPE_APPS." in str(raised.value)


def test_check_that_takes_the_name_of_one_of_ours_is_told_at_the_start(folder: Path) -> None:
    takes = (
        "from registry.qa.catalogue import check\n"
        "from tests.registry.test_catalogue import Sound\n"
        "check(type('Taker', (Sound,), {'name': 'security.rate_limit', 'category': 'security'}))\n"
    )
    app(folder, "app_taker", takes)
    # In a process of its own: here, ours have been imported long ago.
    code = "from registry.qa.catalogue import discover; discover(['app_taker'])"
    path = os.pathsep.join([str(folder), str(Path(__file__).parents[2])])
    done = subprocess.run([sys.executable, "-c", code], env={"PYTHONPATH": path}, capture_output=True, text=True)
    assert "'security.rate_limit' is already the check registry.qa.builtin.security_rate." in done.stderr
    assert "take 'app_taker' out of DEPLOYPIPE_APPS" in done.stderr


def test_checks_above_the_broken_line_are_not_kept(folder: Path) -> None:
    half = (
        "from registry.qa.catalogue import check\n"
        "from tests.registry.test_catalogue import Sound\n"
        "check(type('Half', (Sound,), {'name': 'house.half'}))\n"
        "raise ValueError('the rest is wrong')\n"
    )
    app(folder, "app_half", half)
    with pytest.raises(CheckFileError, match="the rest is wrong"):
        discover(["app_half"])
    assert catalogue.find("house.half") is None


@pytest.mark.parametrize("name", ["no_such_app_anywhere", "no_such_app.anywhere"])
def test_app_that_is_not_there_is_told(name: str) -> None:
    with pytest.raises(CheckFileError, match=f"The app '{name}' cannot be imported: ModuleNotFoundError"):
        discover([name])


def test_app_whose_package_breaks_is_told(folder: Path) -> None:
    app(folder, "app_of_a_broken_package.inner".partition(".")[0], None, package="1 / 0")
    with pytest.raises(CheckFileError, match="cannot be imported: ZeroDivisionError"):
        discover(["app_of_a_broken_package"])


def test_checks_stand_in_the_order_of_the_categories_then_of_the_modules() -> None:
    order = [(known.category, known.__module__.rpartition(".")[2]) for known in catalogue.all_checks()]
    categories = list(dict.fromkeys(category for category, _ in order))
    assert categories == [name for name in CATEGORY_WEIGHTS if name in categories]
    for category in categories:
        places = [catalogue._MODULES.index(module) for of, module in order if of == category]
        assert places == sorted(places)
