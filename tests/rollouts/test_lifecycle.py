"""The table of a rollout's phases."""

from __future__ import annotations

import pytest

from deploypipe.core.errors import IllegalTransition
from rollouts.lifecycle import ACTIVE, ENDED, MOVES_TRAFFIC, ROLLOUTS, Status


def test_every_phase_is_in_the_table() -> None:
    assert set(ROLLOUTS.table) == set(Status)


def test_phases_are_either_active_or_ended() -> None:
    assert set(ACTIVE) | ENDED == set(Status)
    assert not set(ACTIVE) & ENDED


@pytest.mark.parametrize("status", [s for s in ACTIVE if s is not Status.ROLLING_BACK])
def test_every_phase_that_is_not_an_end_can_be_aborted(status: Status) -> None:
    assert ROLLOUTS.next(status, "abort") in (Status.ROLLING_BACK, Status.CANCELLED)


@pytest.mark.parametrize("status", [Status.WAITING_QA, Status.WAITING_APPROVAL])
def test_abort_before_anything_runs_is_a_cancellation(status: Status) -> None:
    assert ROLLOUTS.next(status, "abort") is Status.CANCELLED


@pytest.mark.parametrize("status", ACTIVE)
def test_every_active_phase_reaches_an_end(status: Status) -> None:
    reached, last = {status}, set[Status]()
    while reached != last:
        last = set(reached)
        reached |= {after for before in last for after in ROLLOUTS.table[before].values()}
    assert reached & ENDED


@pytest.mark.parametrize("status", [Status.ROLLED_BACK, Status.CANCELLED])
def test_nothing_leads_out_of_the_end(status: Status) -> None:
    assert ROLLOUTS.is_terminal(status)
    with pytest.raises(IllegalTransition, match="it has ended"):
        ROLLOUTS.next(status, "resume")


def test_success_can_be_taken_back_and_nothing_else() -> None:
    assert dict(ROLLOUTS.table[Status.SUCCEEDED]) == {"rollback": Status.ROLLING_BACK}


def test_only_provisioned_rollouts_get_to_traffic() -> None:
    into = {before for before in Status for after in ROLLOUTS.table[before].values() if after is Status.PROGRESSING}
    assert into == {Status.PROVISIONING, Status.PROGRESSING}
    assert {after for before in MOVES_TRAFFIC for after in ROLLOUTS.table[before].values()} == {
        Status.PROGRESSING, Status.PROMOTING, Status.CONCLUDING, Status.SUCCEEDED, Status.ROLLING_BACK,
    }  # fmt: skip


def test_refusal_says_what_is_possible() -> None:
    assert ROLLOUTS.refusal(Status.PROMOTING, "pause") == (
        "This rollout is promoting: it cannot pause now. Possible: abort, promoted."
    )


def test_way_back_goes_on_once_begun() -> None:
    assert "abort" not in ROLLOUTS.table[Status.ROLLING_BACK]
    assert Status.PROGRESSING not in ROLLOUTS.table[Status.ROLLING_BACK].values()
