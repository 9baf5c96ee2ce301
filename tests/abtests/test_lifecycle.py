from __future__ import annotations

import pytest

from abtests.decision import Outcome
from abtests.gates import _ENDS
from abtests.lifecycle import EXPERIMENTS, Status

ENDS = [Status.PROMOTE, Status.ABORT, Status.INCONCLUSIVE, Status.STOPPED]


@pytest.mark.parametrize("status", ENDS)
def test_an_answer_is_final(status: Status) -> None:
    assert EXPERIMENTS.is_terminal(status)


@pytest.mark.parametrize("status", [Status.DRAFT, Status.RUNNING])
def test_experiment_can_be_stopped_until_it_has_an_answer(status: Status) -> None:
    assert EXPERIMENTS.next(status, "stop") is Status.STOPPED


@pytest.mark.parametrize("outcome", [Outcome.PROMOTE, Outcome.ABORT, Outcome.INCONCLUSIVE])
def test_each_final_verdict_ends_in_the_state_of_its_name(outcome: Outcome) -> None:
    assert EXPERIMENTS.next(Status.RUNNING, _ENDS[outcome]) == outcome.value


@pytest.mark.parametrize("outcome", [Outcome.CONTINUE, Outcome.INVALID])
def test_verdict_that_decides_nothing_ends_nothing(outcome: Outcome) -> None:
    assert outcome not in _ENDS
