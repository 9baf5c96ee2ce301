"""Stored looks, computed again from their evidence."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from abtests import decision
from abtests.evidence import Evidence, EvidenceError, Look, chain, from_file, to_file
from abtests.replay import MOST, replay
from abtests.settings import parse_settings
from deploypipe.metrics.windows import Measured
from tests.metrics.streams import drawn, streams

SETTINGS: dict[str, Any] = {"goals": [{"margin_points": 2}], "min_requests": 100}


def recorded(windows: list[Measured], *, every: int = 3, problem_at: int | None = None) -> Evidence:
    """As a gate looks at them: every few windows."""
    progress = decision.start(parse_settings(SETTINGS))
    looks = []
    for place in range(0, len(windows), every):
        progress = decision.advance(progress, windows[place : place + every])
        problem = "Nobody read the records." if place == problem_at else None
        found = decision.decide(progress, seconds=10.0 * progress.looks, provider_problem=problem)
        looks.append(
            Look(
                progress.last_window, "2026-01-02T03:04:05+00:00", found.verdict.value, found.sentence, found.seconds,
                problem, {}, found.to_json(), found.code_version, found.digest,
            )
        )  # fmt: skip
    return Evidence({"id": 1, "name": "test"}, SETTINGS, ("candidate",), tuple(windows), tuple(looks))


WINDOWS = drawn(np.random.default_rng(1), 24, 40, 20, 0.02, 0.03)


def as_file(evidence: Evidence) -> Any:
    return json.loads(json.dumps(to_file(evidence)))


def test_every_look_is_computed_again_to_the_last_bit() -> None:
    evidence = recorded(WINDOWS, problem_at=3)
    found = replay(from_file(as_file(evidence)))
    assert len(found) == 8
    assert all(one.equal and not one.differences and not one.other_code for one in found)
    assert [one.verdict for one in found] == [look.verdict for look in evidence.looks]
    assert found[1].sentence.startswith("On hold")


def test_window_that_was_changed_is_noticed_from_its_look_on() -> None:
    stored = as_file(recorded(WINDOWS))
    stored["windows"][7]["arms"]["candidate"]["fresh"]["first"][0] += 1
    found = replay(from_file(stored))
    assert [one.equal for one in found] == [True, True, *[False] * 6]
    assert found[2].differences[0] == "windows"
    assert len(found[2].differences) <= MOST


@pytest.mark.parametrize(
    ("change", "difference"),
    [
        (lambda look: look.update(verdict="promote"), "verdict"),
        (lambda look: look["detail"]["rows"][0].update(log_evidence=9.9), "rows[0].log_evidence"),
        (lambda look: look["detail"].update(more=1), "more"),
        (lambda look: look.update(digest="0" * 64), "windows"),
    ],
)
def test_look_that_was_changed_is_named(change: Any, difference: str) -> None:
    stored = as_file(recorded(WINDOWS))
    change(stored["looks"][0])
    found = replay(from_file(stored))[0]
    assert not found.equal
    assert difference in found.differences


def test_look_by_other_code_is_said_to_be_that() -> None:
    stored = as_file(recorded(WINDOWS))
    stored["looks"][0]["code_version"] = "experiment-1"
    assert replay(from_file(stored))[0].other_code


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda f: f.update(format="x"), "its format is 'x'"),
        (lambda f: f["windows"][2].pop("number"), r"windows\[2\]: KeyError"),
        (lambda f: f["windows"][2].update(number=1), "windows: window 1 comes after window 1"),
        (lambda f: f["looks"][1].update(colour=1), r"looks\[1\]: TypeError"),
        (lambda f: f["looks"][1].update(last_window="5"), r"looks\[1\]: TypeError: last_window is '5'"),
        (lambda f: f["looks"][1].update(detail=[]), r"looks\[1\]: TypeError: detail is \[\]"),
        (lambda f: f["looks"][1]["detail"].update(closed_after="5"), r"detail.closed_after is '5'"),
        (lambda f: f.pop("settings"), "settings: KeyError"),
        (lambda f: f.update(settings={"alpha": 9}), "settings: alpha: 9 is not a probability"),
        (lambda f: f.update(arms=[]), "arms must name each candidate once"),
    ],
)
def test_file_that_is_no_evidence_is_refused(change: Any, says: str) -> None:
    stored = as_file(recorded(WINDOWS))
    change(stored)
    with pytest.raises(EvidenceError, match=says):
        replay(from_file(stored))
    with pytest.raises(EvidenceError, match="its format is 'list'"):
        from_file([])


@given(streams(5), st.integers(0, 5))
def test_digest_does_not_depend_on_batches(windows: list[Measured], at: int) -> None:
    whole = chain("", windows)
    assert chain(chain("", windows[:at]), windows[at:]) == whole
    if windows:
        assert chain("", windows[1:]) != whole
