from __future__ import annotations

import pytest

from registry.lifecycle import RUNS, STAGES, RunStatus, Stage


def test_only_an_examined_version_can_be_approved() -> None:
    assert [stage for stage in Stage if STAGES.refusal(stage, "approve") is None] == [Stage.AWAITING_APPROVAL]


@pytest.mark.parametrize("stage", [s for s in Stage if s not in (Stage.EXAMINING, Stage.APPROVED, Stage.RETIRED)])
def test_version_can_be_examined_again_unless_it_is_approved_or_retired(stage: Stage) -> None:
    assert STAGES.next(stage, "examine") is Stage.EXAMINING


def test_approved_version_must_be_suspended_before_it_is_examined_again() -> None:
    assert STAGES.refusal(Stage.APPROVED, "examine")
    assert STAGES.next(Stage.APPROVED, "suspend") is Stage.SUSPENDED
    assert STAGES.refusal(Stage.SUSPENDED, "approve")


def test_failed_examination_teaches_nothing_about_the_version() -> None:
    assert STAGES.next(Stage.EXAMINING, "give_up") is Stage.REGISTERED


def test_only_retired_is_an_end() -> None:
    assert [stage for stage in Stage if STAGES.is_terminal(stage)] == [Stage.RETIRED]


def test_examination_that_was_left_behind_can_be_started_again() -> None:
    assert RUNS.next(RunStatus.RUNNING, "start") is RunStatus.RUNNING
    assert RUNS.active() == [RunStatus.QUEUED, RunStatus.RUNNING]
