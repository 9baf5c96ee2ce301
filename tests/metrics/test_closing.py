"""The exact test at the planned end: what it sees, when it is taken, and what it costs."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import pytest

from deploypipe.metrics import criteria, definitions
from deploypipe.metrics.closing import ENOUGH, KEPT, usual_share
from deploypipe.metrics.criteria import Criterion, Evaluation, Kind, Plan, Row, State
from deploypipe.metrics.probes import closes, compiled
from deploypipe.metrics.windows import Measured, Units
from deploypipe.stats.exact import p_value
from deploypipe.stats.samples import Sample
from tests.metrics.streams import arm, repeated, window

ERRORS = Criterion("error_rate", Kind.INCREASE, 0.5)
PLAN = Plan((ERRORS,), closing=0.8)


def closed(windows: list[Measured], plan: Plan = PLAN) -> Evaluation:
    return criteria.close(criteria.replay(plan, windows))


def only_row(evaluation: Evaluation) -> Row:
    (row,) = criteria.rows(evaluation)
    return row


WORSE = repeated(12, arm(90, 1), arm(10))[:6] + [window(6 + i, arm(90, 1), arm(10, 1)) for i in range(6)]
"""12 of 1,080 against 6 of 120."""


def test_it_sees_harm_that_the_looks_on_the_way_have_missed() -> None:
    before = criteria.replay(PLAN, WORSE)
    assert only_row(before).state is State.OPEN
    assert only_row(before).closing_p is None
    row = only_row(criteria.close(before))
    assert row.state is State.BROKEN
    assert row.closing_p == p_value(1080, 12, 120, 6, 0.005, above=True)
    assert row.closing_alpha == pytest.approx(0.8 * 0.05)
    assert row.measured.startswith("candidate 6 of 120 sessions failed (5 %), stable 12 of 1,080")


def test_equal_versions_are_not_called_worse() -> None:
    row = only_row(closed(repeated(12, arm(90, 1), arm(10))))
    assert row.state is State.OPEN
    assert row.closing_p is not None
    assert row.closing_p > 0.5


def test_success_rate_is_the_same_test_mirrored() -> None:
    as_success = Plan((Criterion("success_rate", Kind.INCREASE, 0.5),), closing=0.8)
    assert only_row(closed(WORSE, as_success)).closing_p == only_row(closed(WORSE)).closing_p


def test_it_is_taken_once_and_later_windows_do_not_move_it() -> None:
    first = closed(WORSE)
    later = criteria.close(criteria.advance(first, [window(99, arm(900, 9), arm(900, 9))]))
    assert later.closed == first.closed
    assert only_row(later).state is State.BROKEN
    assert Evaluation.from_json(later.to_json()) == later


def test_where_the_split_has_changed_there_is_none() -> None:
    """What changed it may have been the data, and then its numbers were not settled beforehand."""
    changed = [*WORSE, window(50, arm(90, 1), arm(90, 20), period=2, share=0.5)]
    plan = Plan((ERRORS,), closing=0.94)
    assert closed(changed, plan).closed == (None,)
    assert only_row(closed(changed, plan)).closing_p is None


def test_looks_on_the_way_keep_the_rest_of_alpha() -> None:
    with_it, without = compiled(PLAN), compiled(Plan((ERRORS,)))
    thresholds = [[probe.log_threshold for probe in each.probes if probe.against] for each in (with_it, without)]
    assert thresholds[0] == pytest.approx([t + math.log(5) for t in thresholds[1]])
    proofs = [[probe.log_threshold for probe in each.probes if not probe.against] for each in (with_it, without)]
    assert proofs[0] == proofs[1]
    assert without.closing == (None,)


@pytest.mark.parametrize(
    ("criterion", "arms"),
    [
        (Criterion("error_rate", Kind.INCREASE, 20, relative=True), 1),
        (Criterion("error_rate", Kind.LIMIT, 5), 1),
        (Criterion("latency", Kind.INCREASE, 20, relative=True, level=0.95), 1),
        (Criterion("rating", Kind.INCREASE, 0.2), 1),
        (Criterion("error_rate", Kind.INCREASE, 0.5, aborts=False), 1),
        (ERRORS, 2),
    ],
)
def test_what_has_no_closing_look_keeps_all_of_its_alpha(criterion: Criterion, arms: int) -> None:
    plan, without = Plan((criterion,), arms=arms, closing=0.8), Plan((criterion,), arms=arms)
    assert not closes(criterion, plan)
    assert compiled(plan).probes == compiled(without).probes
    assert closed(WORSE, plan).closed == (None,)


def test_looks_and_closing_together_call_a_candidate_at_the_margin_with_chance_alpha_at_most() -> None:
    random = np.random.default_rng(8)
    runs, called, caught = 400, 0, 0
    for _ in range(runs):
        for rate in (0.03, 0.15):
            windows = [
                window(n, arm(90, random.binomial(90, 0.01)), arm(10, random.binomial(10, rate))) for n in range(10)
            ]
            broken = only_row(closed(windows, Plan((Criterion("error_rate", Kind.INCREASE, 2),), closing=0.8)))
            called += rate == 0.03 and broken.state is State.BROKEN
            caught += rate == 0.15 and broken.state is State.BROKEN
    assert called <= runs * 0.05 + 3 * math.sqrt(runs * 0.05 * 0.95)
    assert caught > 0.8 * runs


def test_it_is_kept_where_few_units_are_expected() -> None:
    assert usual_share(ENOUGH - 1) == KEPT
    assert usual_share(ENOUGH) == 0.0


@pytest.mark.parametrize("closing", [-0.1, 1.0])
def test_share_that_leaves_nothing_for_the_looks_is_refused(closing: float) -> None:
    with pytest.raises(ValueError, match="closing must be at least 0 and below 1"):
        Plan((ERRORS,), closing=closing)


@pytest.fixture
def partly() -> Iterator[str]:
    """A metric of one's own that says of the first request that it failed by half."""
    before = definitions.registered()

    @definitions.metric
    class Partly(definitions.Metric):
        name, label, unit, event = "partly_failed", "part that failed", "%", "failed"
        family = definitions.Family.BOUNDED
        session_readings = (definitions.Reading.FIRST,)

        def sessions(self, units: Units, reading: definitions.Reading) -> Sample:
            sessions, failed = units.first
            return Sample.of({0.0: sessions - failed, 0.5: failed})

    yield Partly.name
    definitions.restore(before)


def test_of_values_between_nothing_and_all_there_is_none(partly: str) -> None:
    """Counted as if they were nothing, any number of them would be hidden, or called."""
    plan = Plan((Criterion(partly, Kind.INCREASE, 0.5),), closing=0.8)
    assert closed(WORSE, plan).closed == (None,)
    assert closed(repeated(3, arm(90), arm(10)), plan).closed != (None,)
