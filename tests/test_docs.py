"""The documents say what the code does."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from django.urls import get_resolver

from abtests.lifecycle import EXPERIMENTS
from registry.lifecycle import STAGES
from rollouts.lifecycle import ROLLOUTS

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
    assert [name for name in named if not (ROOT / name).exists()] == []


def test_every_address_of_the_api_is_listed() -> None:
    listed = (ROOT / "docs" / "api.md").read_text()
    api = next(entry for entry in get_resolver().url_patterns if str(entry.pattern) == "api/v1/")
    words = {word for entry in api.url_patterns for word in str(entry.pattern).split("/") if word.isalpha()}  # type: ignore[union-attr]
    assert {word for word in words if f"{word}/" not in listed} == set()
