"""Evidence for and against each criterion: right at every outcome, and the same however the windows are handed over."""

from __future__ import annotations

import json
import math
import os
import random
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deploypipe.metrics.criteria import (
    Criterion,
    Evaluation,
    Kind,
    Plan,
    Reading,
    Role,
    Row,
    Scope,
    State,
    Unit,
    advance,
    advance_many,
    replay,
    rows,
    start,
)
from deploypipe.metrics.definitions import metric_named
from deploypipe.metrics.probes import compiled, questions
from deploypipe.metrics.windows import CANDIDATE, STABLE, Measured, Units, to_json
from tests.metrics.streams import arm, drawn, repeated, streams, window

ERRORS = Criterion("error_rate", Kind.INCREASE, 2.0, role=Role.GOAL)
P95 = Criterion("latency", Kind.INCREASE, 20, True, 0.95)
SAME_AS_ERRORS = Criterion("success_rate", Kind.LIMIT, 95.0)
EVERYTHING = (
    ERRORS,
    P95,
    Criterion("latency", Kind.IMPROVEMENT, 10, True, 0.5, aborts=False),
    Criterion("success_rate", Kind.INCREASE, 1.0),
    Criterion("error_rate", Kind.LIMIT, 5.0, proves=False),
    SAME_AS_ERRORS,
    Criterion("latency", Kind.LIMIT, 1000, level=0.95),
    Criterion("rating", Kind.LIMIT, 4.0),
    Criterion("rating", Kind.INCREASE, 0.2),
    Criterion("conversion_rate", Kind.INCREASE, 10, True),
    Criterion("cost", Kind.EQUIVALENCE, 10, True),
    Criterion("rating_response_rate", Kind.INCREASE, 10, True),
    Criterion("requests_per_session", Kind.EQUIVALENCE, 0.5),
)


def plan(*criteria: Criterion, **said: object) -> Plan:
    return Plan(criteria or (ERRORS,), **said)  # type: ignore[arg-type]


def row(criterion: Criterion, windows: list[Measured], **said: object) -> Row:
    (found,) = rows(replay(plan(criterion, **said), windows, intervals=True))
    return found


# --- Each metric is met by an equal candidate, broken by one that is far worse, open with little, missing with nothing


WELL = arm(40, 0, ratings={5: 20, 4: 20}, converted=20, cost=2.0)
CASES = [
    (ERRORS, WELL, arm(40, 12)),
    (Criterion("success_rate", Kind.INCREASE, 2.0), WELL, arm(40, 12)),
    (Criterion("error_rate", Kind.LIMIT, 5.0), WELL, arm(40, 12)),
    (Criterion("success_rate", Kind.LIMIT, 95.0), WELL, arm(40, 12)),
    (Criterion("error_rate", Kind.EQUIVALENCE, 2.0), WELL, arm(40, 12)),
    (P95, WELL, arm(40, ms=200)),
    (Criterion("latency", Kind.INCREASE, 20, True, 0.5), WELL, arm(40, ms=200)),
    (Criterion("latency", Kind.LIMIT, 1000, level=0.95), WELL, arm(40, ms=2000)),
    (Criterion("rating", Kind.LIMIT, 4.0), WELL, arm(40, ratings={2: 40})),
    (Criterion("rating", Kind.INCREASE, 0.3), WELL, arm(40, ratings={2: 40})),
    (Criterion("conversion_rate", Kind.INCREASE, 10.0), WELL, arm(40, converted=2)),
    (Criterion("conversion_rate", Kind.INCREASE, 25.0, True), WELL, arm(40, converted=2)),
    (Criterion("cost", Kind.INCREASE, 20.0, True), WELL, arm(40, cost=6.0)),
    (Criterion("cost", Kind.INCREASE, 0.5), WELL, arm(40, cost=6.0)),
    (Criterion("rating_response_rate", Kind.INCREASE, 40.0, True), WELL, arm(40, ratings={5: 2})),
    (Criterion("requests_per_session", Kind.INCREASE, 1.0), WELL, arm(40, requests_each=6)),
]


@pytest.mark.parametrize(("criterion", "well", "badly"), CASES, ids=lambda value: getattr(value, "metric", ""))
def test_each_criterion_is_met_broken_open_or_missing(criterion: Criterion, well: object, badly: object) -> None:
    equal = row(criterion, repeated(60, well, well, share=0.5))  # type: ignore[arg-type]
    assert equal.state is State.MET
    assert equal.log_threshold is not None
    assert equal.log_evidence >= equal.log_threshold
    worse = row(criterion, repeated(60, well, badly, share=0.5))  # type: ignore[arg-type]
    assert worse.state is State.BROKEN
    assert worse.log_threshold_against is not None
    assert worse.log_evidence_against >= worse.log_threshold_against
    one = arm(1, ratings={4: 1}, converted=0, cost=1.0)
    assert row(criterion, repeated(1, one, one)).state is State.OPEN
    assert row(criterion, repeated(30, arm(), arm())).state is State.MISSING
    assert row(criterion, []).state is State.MISSING


@pytest.mark.parametrize(
    ("criterion", "better"),
    [
        (Criterion("error_rate", Kind.IMPROVEMENT, 5.0, aborts=False), arm(40, 0)),
        (Criterion("error_rate", Kind.IMPROVEMENT, 0.0, aborts=False), arm(40, 0)),
        (Criterion("success_rate", Kind.IMPROVEMENT, 5.0, aborts=False), arm(40, 0)),
        (Criterion("latency", Kind.IMPROVEMENT, 20, True, 0.95, aborts=False), arm(40, ms=50)),
        (Criterion("rating", Kind.IMPROVEMENT, 0.5, aborts=False), arm(40, ratings={5: 40})),
        (Criterion("conversion_rate", Kind.IMPROVEMENT, 20, True, aborts=False), arm(40, converted=36)),
    ],
    ids=lambda value: getattr(value, "metric", ""),
)
def test_improvement_asks_for_more_than_equality(criterion: Criterion, better: object) -> None:
    usual = arm(40, 8, ms=100, ratings={3: 40}, converted=20)
    assert row(criterion, repeated(60, usual, usual, share=0.5)).state is State.OPEN
    assert row(criterion, repeated(60, usual, better, share=0.5)).state is State.MET  # type: ignore[arg-type]


def test_without_need_of_proof_it_is_enough_that_it_holds_as_measured() -> None:
    watched = Criterion("error_rate", Kind.LIMIT, 5.0, proves=False)
    assert row(watched, repeated(1, arm(9), arm(3))).state is State.MET
    over = row(watched, repeated(1, arm(9), arm(3, 1)))
    assert (over.state, over.log_threshold, over.log_evidence) == (State.OPEN, None, 0.0)
    assert row(watched, repeated(1, arm(9), arm())).state is State.MISSING


def test_a_few_milliseconds_more_than_its_percentage_hold_as_measured() -> None:
    lenient = Criterion("latency", Kind.INCREASE, 20, True, 0.5, proves=False, slack=5)
    few = repeated(1, arm(3, ms=10), arm(3, ms=14))
    assert row(lenient, few).state is State.MET
    assert row(replace(lenient, slack=2), few).state is State.OPEN
    assert row(replace(lenient, slack=0), few).state is State.OPEN


def test_equivalence_in_percent_is_broken_by_no_change_that_is_smaller() -> None:
    """A fifth less is as much as a fifth more."""
    fifth = Criterion("conversion_rate", Kind.EQUIVALENCE, 20, True)
    assert [question.ratio for pair in questions(fifth, metric_named(fifth.metric)) for question in pair] == [
        pytest.approx(ratio) for ratio in (1.2, 1.2, 0.8, 0.8)
    ]
    nineteen_less = repeated(2000, arm(100, converted=50), arm(200, converted=81), share=0.5)
    assert row(fifth, nineteen_less).state is not State.BROKEN


def test_without_leave_to_abort_nothing_is_broken() -> None:
    patient = replace(ERRORS, aborts=False)
    found = row(patient, repeated(60, WELL, arm(40, 12)))
    assert (found.state, found.log_threshold_against) == (State.OPEN, None)


# --- Readings, units and scopes


def test_harm_is_seen_in_either_reading_and_proof_in_the_whole_alone() -> None:
    first_only = [replace_units(w, CANDIDATE, whole={}, whole_latency={}) for w in repeated(20, arm(40), arm(40, 12))]
    found = row(ERRORS, first_only)
    assert (found.state, found.reading, found.reading_against) == (State.BROKEN, Reading.FIRST, Reading.FIRST)
    assert found.measured == "candidate 240 of 800 sessions failed (30 %), stable 0 of 800 (0 %)"

    late = [replace_units(w, CANDIDATE, first=(40, 0)) for w in repeated(20, arm(40), arm(40, 12))]
    found = row(ERRORS, late)
    assert (found.state, found.reading_against) == (State.BROKEN, Reading.WHOLE)
    assert found.measured == "candidate 30 % of the requests of 800 sessions failed, stable 0 % of 800"

    well_at_once = [replace_units(w, CANDIDATE, whole={}) for w in repeated(60, arm(40), arm(40))]
    assert row(ERRORS, well_at_once).state is State.MISSING


def replace_units(measured: Measured, name: str, **changes: object) -> Measured:
    one = measured.arm(name)
    return replace(measured, arms={**measured.arms, name: replace(one, fresh=replace(one.fresh, **changes))})  # type: ignore[arg-type]


def test_requests_are_the_unit_where_each_is_routed_on_its_own() -> None:
    windows = repeated(20, arm(40, requests_each=3), arm(40, requests_each=3))
    found = row(ERRORS, windows, unit=Unit.REQUEST)
    assert (found.unit, found.reading, found.candidate_units) == (Unit.REQUEST, Reading.REQUEST, 2400)
    assert found.measured == "candidate 0 of 2,400 requests failed (0 %), stable 0 of 2,400 (0 %)"


def test_returning_sessions_count_in_the_first_period_of_a_question_about_all() -> None:
    both = [window(n, arm(10), arm(10), period=1 + n) for n in range(2)]
    both = [
        replace(w, arms={name: replace(one, returning=Units((5, 0), {}, {(1, 0): 5})) for name, one in w.arms.items()})
        for w in both
    ]
    assert row(ERRORS, both).candidate_units == 20
    assert row(ERRORS, both, scope=Scope.ALL).candidate_units == 25


# --- Alpha


@pytest.mark.parametrize("arms", [1, 3])
@pytest.mark.parametrize("unit", [Unit.SESSION, Unit.REQUEST])
def test_all_that_may_abort_spends_alpha_and_no_more(arms: int, unit: Unit) -> None:
    by_session_alone = ("rating_response_rate", "requests_per_session")
    asked = [c for c in EVERYTHING if c.metric not in by_session_alone and c != SAME_AS_ERRORS]
    whole = Plan(tuple(asked), alpha=0.05, unit=unit, arms=arms)
    spent = sum(math.exp(-probe.log_threshold) for probe in compiled(whole).probes if probe.against)
    assert spent <= 0.05 / arms + 1e-12
    assert spent == pytest.approx(0.05 / arms)
    for probe in compiled(whole).probes:
        if not probe.against:
            assert probe.log_threshold == pytest.approx(-math.log(0.05 / arms))


def test_weights_of_concerns_that_are_absent_are_shared() -> None:
    alone = compiled(plan(ERRORS)).probes
    against = [math.exp(-probe.log_threshold) for probe in alone if probe.against]
    assert against == pytest.approx([0.025, 0.025])
    beside = compiled(plan(ERRORS, P95)).probes
    errors = [math.exp(-p.log_threshold) for p in beside if p.against][:2]
    assert errors == pytest.approx([0.05 * 0.5 / 0.8 / 2] * 2)


def test_limit_that_is_asked_twice_in_other_words_costs_alpha_once() -> None:
    once = plan(Criterion("error_rate", Kind.LIMIT, 5.0))
    twice = plan(Criterion("error_rate", Kind.LIMIT, 5.0), Criterion("success_rate", Kind.LIMIT, 95.0))
    thresholds = {round(p.log_threshold, 9) for p in compiled(twice).probes if p.against}
    assert thresholds == {round(p.log_threshold, 9) for p in compiled(once).probes if p.against}


# --- The same bits


def bits(evaluation: Evaluation) -> str:
    return json.dumps(evaluation.to_json(), allow_nan=False)


@settings(max_examples=20)
@given(streams(), st.randoms(use_true_random=False), st.sampled_from(list(Scope)))
def test_any_batching_gives_the_same_bits(windows: list[Measured], rng: random.Random, scope: Scope) -> None:
    asked = Plan(EVERYTHING, scope=scope)
    whole = replay(asked, windows, intervals=True)
    stepwise, place = start(asked, intervals=True), 0
    while place < len(windows):
        size = rng.randint(1, 3)
        stepwise = advance(stepwise, windows[place : place + size])
        stepwise = Evaluation.from_json(json.loads(bits(stepwise)))
        place += size
    assert bits(stepwise) == bits(whole)
    assert stepwise == whole
    assert rows(stepwise) == rows(whole)
    json.dumps([found.to_json() for found in rows(whole)], allow_nan=False)  # a database takes no infinity


@settings(max_examples=30)
@given(streams(), st.randoms(use_true_random=False))
def test_order_in_which_windows_and_arms_are_handed_over_does_not_matter(
    windows: list[Measured], rng: random.Random
) -> None:
    shuffled = [
        replace(w, arms=dict(reversed(list(w.arms.items()))), shares=dict(reversed(list(w.shares.items()))))
        for w in windows
    ]
    rng.shuffle(shuffled)
    assert bits(replay(plan(*EVERYTHING), shuffled)) == bits(replay(plan(*EVERYTHING), windows))


def test_every_process_computes_the_same_bits() -> None:
    """Whatever the order in which it holds a set of words."""
    windows = drawn(np.random.default_rng(4), 6, 30, 20, 0.02, 0.05)
    script = (
        "import json, sys; from deploypipe.metrics.criteria import *; from deploypipe.metrics.windows import from_json;"
        "said = json.load(sys.stdin); found = replay(Plan.from_json(said['plan']), map(from_json, said['windows']),"
        "intervals=True); print(json.dumps([found.to_json(), [row.to_json() for row in rows(found)]]))"
    )
    said = json.dumps({"plan": plan(*EVERYTHING, arms=3).to_json(), "windows": [to_json(w) for w in windows]})
    computed = {
        subprocess.run(
            [sys.executable, "-c", script], input=said, text=True, capture_output=True, check=True, timeout=120,
            env={**os.environ, "PYTHONHASHSEED": seed},
        ).stdout
        for seed in ("1", "2", "3", "4")
    }  # fmt: skip
    assert len(computed) == 1


@settings(max_examples=30)
@given(st.lists(streams(), min_size=2, max_size=4))
def test_many_at_once_give_the_bits_of_each_alone(several: list[list[Measured]]) -> None:
    plans = [plan(*EVERYTHING), plan(ERRORS), plan(P95, unit=Unit.REQUEST), plan(*EVERYTHING[:6], arms=2)]
    begun = [start(plans[place]) for place in range(len(several))]
    together = advance_many(begun, several, [CANDIDATE] * len(several))
    for before, windows, after in zip(begun, several, together, strict=True):
        assert bits(after) == bits(advance(before, windows))


@settings(max_examples=40)
@given(streams())
def test_order_of_windows_within_a_period_moves_no_estimate_and_no_evidence_of_one_arm(windows: list[Measured]) -> None:
    """Evidence between two arms is gathered in the order of time, because each bet is made before its window; what is
    known of one arm alone, and what is shown, is a function of the totals."""
    limits = plan(
        Criterion("error_rate", Kind.LIMIT, 5.0, aborts=False),
        Criterion("rating", Kind.LIMIT, 4.0, aborts=False),
        Criterion("latency", Kind.LIMIT, 100, level=0.95, aborts=False),
        replace(ERRORS, aborts=False),
        replace(P95, aborts=False),
    )
    turned: list[Measured] = []
    for period in sorted({w.period for w in windows}):
        same = [w for w in windows if w.period == period]
        numbers = [w.number for w in same]
        turned += [replace(w, number=number) for w, number in zip(reversed(same), numbers, strict=True)]
    one, other = replay(limits, windows), replay(limits, turned)
    for place, (left, right) in enumerate(zip(rows(one), rows(other), strict=True)):
        assert left.estimate == pytest.approx(right.estimate)
        assert (left.stable_units, left.candidate_units) == pytest.approx((right.stable_units, right.candidate_units))
        if place < 3:
            for index in compiled(limits).of_criterion[place]:
                assert one.states[index].log_evidence == pytest.approx(other.states[index].log_evidence)


def test_arms_that_change_places_change_sides() -> None:
    """What speaks for "rises by less than 2" of one order speaks for nothing of the other."""
    rng = np.random.default_rng(3)
    windows = drawn(rng, 150, 40, 40, 0.02, 0.3)
    swapped = [replace(w, arms={STABLE: w.arm(CANDIDATE), CANDIDATE: w.arm(STABLE)}) for w in windows]
    assert row(ERRORS, windows).state is State.BROKEN
    assert row(ERRORS, swapped).state is State.MET
    mine, theirs = row(ERRORS, windows), row(ERRORS, swapped)
    assert mine.estimate is not None
    assert theirs.estimate == pytest.approx(-mine.estimate)


def test_window_counts_once() -> None:
    seen = replay(plan(), repeated(3, arm(4), arm(4)))
    with pytest.raises(ValueError, match="window 2 comes after window 2: each counts once"):
        advance(seen, [window(2, arm(4), arm(4))])
    with pytest.raises(ValueError, match="window 5 comes after window 5"):
        advance(seen, [window(5, arm(4), arm(4)), window(5, arm(4), arm(4))])
    assert advance(seen, []) is seen


# --- Simpson, and validity in a small simulation


def test_period_in_which_both_fail_more_does_not_count_against_the_candidate_that_had_more_traffic_then() -> None:
    calm = [window(n, arm(180, 2), arm(20), period=1, share=0.1) for n in range(40)]
    storm = [window(40 + n, arm(100, 10), arm(100, 10), period=2, share=0.5) for n in range(40)]
    found = row(ERRORS, calm + storm)
    assert found.candidate_value is not None
    assert found.stable_value is not None
    assert found.candidate_value - found.stable_value > 4  # pooled, it looks far worse
    assert found.estimate == pytest.approx(-100 * (2 / 180) * 20 / 120, abs=0.02)
    assert found.state is State.MET


@pytest.mark.parametrize("correlated", [False, True])
def test_equal_version_is_hardly_ever_called_broken_and_one_at_the_margin_hardly_ever_met(correlated: bool) -> None:
    asked = Plan((Criterion("error_rate", Kind.INCREASE, 5.0), P95, Criterion("error_rate", Kind.LIMIT, 12.0)))
    rng = np.random.default_rng(17)
    runs = 120
    bound = 0.05 + 3 * math.sqrt(0.05 * 0.95 / runs)

    def shares_of(state: State, candidate_rate: float, slower: float) -> list[float]:
        many = [drawn(rng, 20, 30, 10, 0.05, candidate_rate, slower=slower, correlated=correlated) for _ in range(runs)]
        after = [rows(one) for one in advance_many([start(asked)] * runs, many, [CANDIDATE] * runs)]
        return [sum(found[place].state is state for found in after) / runs for place in (0, 1)]

    assert max(shares_of(State.BROKEN, 0.05, 1.0)) <= bound
    assert max(shares_of(State.MET, 0.10, 1.2)) <= bound


# --- What is shown


def test_interval_lies_around_the_estimate_and_agrees_with_the_verdict() -> None:
    rng = np.random.default_rng(5)
    found = rows(replay(plan(*EVERYTHING), drawn(rng, 120, 40, 40, 0.02, 0.02), intervals=True))
    shown = [r for r in found if r.low is not None and r.estimate is not None]
    assert {r.metric for r in shown} >= {"error_rate", "success_rate", "latency", "requests_per_session"}
    for each in shown:
        assert each.low is not None
        assert each.high is not None
        assert each.estimate is not None
        assert each.low <= each.estimate <= each.high, each
        assert each.confidence == pytest.approx(0.9)
    errors = found[0]
    assert errors.state is State.MET
    assert errors.high is not None
    assert errors.high <= 2.0
    broken = row(ERRORS, drawn(rng, 60, 40, 40, 0.02, 0.3))
    assert broken.low is not None
    assert broken.low >= 2.0


def test_without_intervals_there_are_none_and_the_verdict_is_the_same() -> None:
    windows = drawn(np.random.default_rng(6), 30, 40, 10, 0.02, 0.05)
    bare, full = (rows(replay(plan(*EVERYTHING), windows, intervals=asked)) for asked in (False, True))
    assert all(r.low is None for r in bare)
    assert [replace(r, low=None, high=None) for r in full] == list(bare)


@pytest.mark.parametrize(
    ("criterion", "name", "broken"),
    [
        (ERRORS, "the error rate rises by less than 2 points", "worse by more than 2 points"),
        (P95, "the P95 latency rises by less than 20 %", "worse by more than 20 %"),
        (Criterion("success_rate", Kind.INCREASE, 1.0), "the success rate falls by less than 1 point",
         "worse by more than 1 point"),
        (Criterion("rating", Kind.INCREASE, 0.2), "the rating falls by less than 0.2 stars",
         "worse by more than 0.2 stars"),
        (Criterion("rating", Kind.LIMIT, 4.0), "the rating is at least 4 stars", "below the limit of 4 stars"),
        (Criterion("latency", Kind.LIMIT, 1000, level=0.95), "the P95 latency is at most 1,000 ms",
         "above the limit of 1,000 ms"),
        (Criterion("error_rate", Kind.LIMIT, 5.0), "the error rate is at most 5 %", "above the limit of 5 %"),
        (Criterion("error_rate", Kind.IMPROVEMENT, 0.0), "the error rate falls", "not better"),
        (Criterion("latency", Kind.EQUIVALENCE, 10, True, 0.5), "the P50 latency changes by less than 10 %",
         "different by more than 10 %"),
    ],
)  # fmt: skip
def test_row_says_what_is_wanted_and_what_it_means_that_it_is_broken(
    criterion: Criterion, name: str, broken: str
) -> None:
    found = row(criterion, [])
    assert (found.name, found.broken_words) == (name, broken)


def test_row_is_written_and_read() -> None:
    for found in rows(replay(plan(*EVERYTHING), repeated(3, WELL, WELL), intervals=True)):
        assert Row.from_json(json.loads(json.dumps(found.to_json()))) == found


# --- What cannot be asked


@pytest.mark.parametrize(
    ("said", "problem"),
    [
        ({"metric": "beauty"}, "there is no metric 'beauty'; there are conversion_rate, cost"),
        ({"metric": "error_rate", "margin": 0}, "margin is 0, give a number above 0"),
        ({"metric": "error_rate", "margin": -1}, "margin is -1"),
        ({"metric": "error_rate", "margin": math.nan}, "margin is nan, give a number"),
        ({"metric": "error_rate", "margin": 100}, "give less than 100"),
        ({"metric": "error_rate", "level": 0.95}, "this metric has no quantiles"),
        ({"metric": "latency", "relative": True}, "level is None, give the quantile"),
        ({"metric": "latency", "level": 0.95}, "it is compared in percent: set relative"),
        ({"metric": "latency", "level": 95, "relative": True}, "level is 95"),
        ({"metric": "conversion_rate", "relative": True, "margin": 100}, "nothing falls by more than all"),
        (
            {"metric": "cost", "kind": Kind.EQUIVALENCE, "relative": True, "margin": 100},
            "nothing falls by more than all",
        ),
        ({"metric": "cost", "relative": True, "margin": 20_000}, "margin is 20000 %, give at most 10,000"),
        ({"metric": "rating", "relative": True, "margin": 5}, "begins at 1 and not at 0: give the margin in stars"),
        (
            {"metric": "rating_response_rate", "relative": True, "margin": 5, "proves": False, "aborts": False},
            "without a proof and without an abort nothing is known of it",
        ),
        ({"metric": "rating", "kind": Kind.LIMIT, "margin": 5}, "the limit is 5, give a number between 1 and 5"),
        ({"metric": "rating", "kind": Kind.LIMIT, "margin": 4, "relative": True}, "a limit cannot be relative"),
        ({"metric": "cost", "kind": Kind.LIMIT}, "there is no limit for it"),
        ({"metric": "latency", "kind": Kind.LIMIT, "level": 0.95, "margin": 0}, "the limit is 0"),
    ],
)
def test_criterion_that_makes_no_sense_is_refused(said: dict[str, object], problem: str) -> None:
    usual: dict[str, object] = {"kind": Kind.INCREASE, "margin": 1.0}
    with pytest.raises(ValueError, match=problem):
        Criterion(**{**usual, **said})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("said", "problem"),
    [
        ({"criteria": ()}, "nothing could ever be decided"),
        ({"criteria": (ERRORS, ERRORS)}, "the same one is there twice"),
        ({"alpha": 0}, "alpha must lie above 0"),
        ({"arms": 0}, "arms must be at least 1"),
        ({"criteria": (Criterion("duration", Kind.INCREASE, 10, True, 0.5),)}, "cannot be measured with sessions"),
        ({"unit": "user"}, "'user' is not a valid Unit"),
    ],
)
def test_plan_that_makes_no_sense_is_refused(said: dict[str, object], problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        Plan(**{"criteria": (ERRORS,), **said})  # type: ignore[arg-type]


def test_plan_is_written_and_read() -> None:
    asked = plan(*EVERYTHING, alpha=0.01, unit="session", arms=2, scope="all")
    assert Plan.from_json(json.loads(json.dumps(asked.to_json()))) == asked
