from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from registry.changes import Kind, changes
from registry.qa.base import Outcome
from registry.qa.runner import Result

SPEED = Result("performance.first_token", "Time to first token", "performance", 3, False,
               Outcome.passed("Quick.", value=74.0, limit=200.0, unit="ms"), 1.0)  # fmt: skip


def now(**outcome: Any) -> Result:
    return replace(SPEED, outcome=replace(SPEED.outcome, **outcome))


def test_nothing_is_told_of_the_same() -> None:
    assert changes([SPEED], [SPEED]) == []


def test_check_that_fails_now_is_told_with_both_figures() -> None:
    failed = replace(SPEED, outcome=Outcome.failed("Slow.", value=222.0, limit=200.0, unit="ms"))
    [change] = changes([SPEED], [failed])
    assert (change.kind, change.sentence) == (Kind.WORSE, "was passed, is failed: 74 → 222 ms (+200 %)")
    [back] = changes([failed], [SPEED])
    assert (back.kind, back.sentence) == (Kind.BETTER, "was failed, is passed: 222 → 74 ms (−67 %)")


@pytest.mark.parametrize(
    ("value", "told"), [(80.0, []), (81.4, ["74 → 81.4 ms (+10 %)"]), (37.0, ["74 → 37 ms (−50 %)"])]
)
def test_figures_are_told_from_a_tenth_on(value: float, told: list[str]) -> None:
    assert [change.sentence for change in changes([SPEED], [now(value=value)])] == told


def test_first_finding_after_none_is_told() -> None:
    [change] = changes([now(value=0.0, unit="findings")], [now(value=2.0, unit="findings")])
    assert change.sentence == "0 → 2 findings"


def test_checks_that_came_and_went_are_told_last() -> None:
    other = replace(SPEED, name="security.new", label="New", outcome=Outcome.failed("No."))
    worse = replace(SPEED, outcome=Outcome.error("It broke."))
    gone = replace(SPEED, name="security.gone", label="Gone")
    told = changes([SPEED, gone], [other, worse])
    assert [(change.label, change.kind) for change in told] == [
        ("Time to first token", Kind.WORSE), ("New", Kind.NEW), ("Gone", Kind.GONE),
    ]  # fmt: skip
    assert told[1].sentence == "was not made before; failed now"
    assert told[2].sentence == "was passed, and was not made now"


def test_figures_in_another_unit_are_not_compared() -> None:
    assert changes([SPEED], [now(value=0.5, unit="s")]) == []
