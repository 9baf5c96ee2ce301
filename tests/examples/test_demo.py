"""The demo's own judgement: it must be able to say no."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from examples.story.cast import STORY
from examples.story.demo import accounted, errors_of_good_versions
from examples.story.play import judge
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


def test_a_request_that_is_not_accounted_for_is_named() -> None:
    seen = {"sent": 5, "answered_ok": 3, "stream_errors": 1, "empty": 0, "http_errors": {}, "transport_errors": {}}
    assert accounted(seen) == ["5 requests were sent, 4 are accounted for"]


def test_another_fate_than_the_story_tells_is_a_fault() -> None:
    fifth = STORY[4]
    version = json.loads('{"stage": "approved", "score": 100, "qa_sentence": ""}')
    promoted = {"status": "succeeded", "cause": "", "reason": "", "sentence": "All well.", "steps": []}
    outcome = judge(fifth, version, promoted)
    assert not outcome.as_expected
    assert "rollout is 'succeeded', must be 'rolled_back'" in outcome.faults
