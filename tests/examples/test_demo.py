"""The demo's own judgement: it must be able to say no."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from abtests.settings import parse_settings
from examples.story import play
from examples.story.cast import CANARY, JUDGE, STORY, Part
from examples.story.demo import RATE, accounted, errors_of_good_versions, rated
from examples.story.play import table
from rollouts.strategy import parse_steps
from tests.metrics.test_records import line


def records(folder: Path, *lines: bytes) -> Path:
    (folder / "gateway").mkdir()
    (folder / "gateway" / "access.log").write_bytes(b"".join(lines))
    return folder


def backend(number: int) -> str:
    return f"textgen-v{number}-production"


def test_errors_on_the_canary_that_deserves_them_are_no_fault(tmp_path: Path) -> None:
    folder = records(
        tmp_path, line(backend=backend(1)), line(backend=backend(2)), line(backend=backend(5), stream_error=True)
    )
    assert errors_of_good_versions(folder) == []


@pytest.mark.parametrize("name", [backend(1), backend(2)])
def test_an_error_on_a_good_version_is_named(tmp_path: Path, name: str) -> None:
    lines = [line(backend=backend(1)), line(backend=backend(2)), line(backend=name, stream_error=True)]
    assert errors_of_good_versions(records(tmp_path, *lines)) == [f"1 of 2 requests failed on {name}"]


def test_no_records_at_all_are_a_fault(tmp_path: Path) -> None:
    assert errors_of_good_versions(records(tmp_path)) == ["the gateway has no records of every good version"]


SEEN = {
    "sent": 5, "answered_ok": 4, "stream_errors": 1, "empty": 0, "http_errors": {}, "transport_errors": {},
    "users": 4, "ratings": {"1": 1, "5": 1}, "ratings_lost": 0, "ratings_problem": "",
}  # fmt: skip


def test_a_request_that_is_not_accounted_for_is_named() -> None:
    assert accounted(SEEN) == []
    assert accounted({**SEEN, "answered_ok": 3}) == ["5 requests were sent, 4 are accounted for"]


def test_ratings_that_the_product_did_not_take_are_a_fault() -> None:
    lost = {**SEEN, "ratings_lost": 2, "ratings_problem": "HTTP 403"}
    assert accounted(lost) == ["2 ratings were not taken: HTTP 403"]


def test_what_users_said_is_told() -> None:
    assert rated(SEEN) == "2 of 4 users rated: 3.00 stars on average"
    assert rated({**SEEN, "ratings": {}}) == "nobody rated"


@pytest.mark.parametrize("part", STORY, ids=lambda part: f"v{part.number}")
def test_steps_of_the_story_are_such_as_the_product_takes(part: Part) -> None:
    steps = parse_steps(part.steps or CANARY, gates=["experiment"])
    settings = [parse_settings(step.settings) for step in steps if step.kind == "experiment"]
    assert len(settings) == (part.number == 2)


def test_sessions_suffice_for_the_first_step_within_its_time() -> None:
    judge = JUDGE["analysis"]
    share = CANARY[0]["setWeight"] / 100
    needed = math.log(20) / (judge["max_error_increase_points"] / 100)
    assert needed / (RATE / 2 * share) < judge["max_seconds"] / 4


def test_table_shows_what_decided() -> None:
    second = STORY[1]
    version = {"stage": "approved", "score": 100.0, "qa_sentence": ""}
    steps = [
        {"index": 0, "kind": "setWeight", "title": "Send 25 % of traffic", "status": "done", "sentence": "In force."},
        {
            "index": 1,
            "kind": "analysis",
            "title": "Judge",
            "status": "done",
            "sentence": "No errors (20 : 1).",
        },
        {"index": 2, "kind": "experiment", "title": "Experiment", "status": "done", "sentence": "4.5 stars."},
    ]
    rollout = {"status": "succeeded", "cause": "", "reason": "", "sentence": "All on it.", "steps": steps}
    shown = table([play.judge(second, version, rollout)])
    assert shown.startswith("✓ v2")
    assert "      Judge: No errors (20 : 1).\n      Experiment: 4.5 stars." in shown
    assert "In force." not in shown


def test_second_version_must_be_decided_by_what_users_said() -> None:
    steps = [{"index": 0, "kind": "analysis", "title": "Judge", "status": "done", "sentence": "No errors."}]
    rollout = {"status": "succeeded", "cause": "", "reason": "", "sentence": "All on it.", "steps": steps}
    outcome = play.judge(STORY[1], {"stage": "approved", "score": 100.0, "qa_sentence": ""}, rollout)
    assert outcome.faults == ["the reason does not say 'stars'"]


def test_another_fate_than_the_story_tells_is_a_fault() -> None:
    fifth = STORY[4]
    version = json.loads('{"stage": "approved", "score": 100, "qa_sentence": ""}')
    promoted = {"status": "succeeded", "cause": "", "reason": "", "sentence": "All well.", "steps": []}
    outcome = play.judge(fifth, version, promoted)
    assert not outcome.as_expected
    assert "rollout is 'succeeded', must be 'rolled_back'" in outcome.faults
