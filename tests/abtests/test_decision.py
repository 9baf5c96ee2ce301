"""Every outcome, with its sentence: from windows alone."""

from __future__ import annotations

import json
import random
from dataclasses import replace

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from abtests import decision
from abtests.decision import Decision, Outcome, Progress, Standing, gate_verdict
from abtests.pipeline_config import from_pipeline_config
from abtests.settings import ExperimentSettings, parse_settings
from deploypipe.metrics.criteria import Criterion, Kind, Role, State
from deploypipe.metrics.windows import ArmWindow, Measured
from rollouts.analysis import Verdict
from tests.metrics.streams import arm, drawn, renumbered, repeated, streams, window
from tests.registry.test_pipeline_config import MISSION

TWO_POINTS = ExperimentSettings(goals=(Criterion("error_rate", Kind.INCREASE, 2.0, role=Role.GOAL),), min_requests=100)
BETTER = Criterion("error_rate", Kind.IMPROVEMENT, 0.0, role=Role.GOAL, aborts=False)
HEALTHY = repeated(30, arm(90), arm(10))
BROKEN = repeated(20, arm(90), arm(12, 2))
DEAD = repeated(4, arm(9), arm(3, 3))
FEW = repeated(3, arm(90), arm(10))


def decided(
    windows: list[Measured],
    asked: ExperimentSettings = TWO_POINTS,
    *,
    seconds: float = 60.0,
    problem: str | None = None,
    arms: tuple[str, ...] = ("candidate",),
    gone: dict[str, str] | None = None,
) -> Decision:
    progress = decision.advance(decision.start(asked, arms), windows)
    return decision.decide(progress, seconds=seconds, provider_problem=problem, gone=gone)


def skewed(windows: list[Measured]) -> list[Measured]:
    """A tenth of the sessions was promised to the candidate, and half came."""
    return [
        replace(
            w,
            shares={"stable": 0.9, "candidate": 0.1},
            arms={name: replace(one, assigned=50) for name, one in w.arms.items()},
        )
        for w in windows
    ]


# --- One candidate


def test_equal_version_is_promoted_with_a_sentence_of_numbers() -> None:
    found = decided(HEALTHY)
    assert (found.verdict, found.gate, found.winner) == (Outcome.PROMOTE, Verdict.PASS, "candidate")
    assert found.sentence.startswith(
        "Candidate 0 % of the requests of 300 sessions failed, stable 0 % of 2,700:"
        " the error rate rises by less than 2 points (least evidence "
    )
    assert [row.state for row in found.rows] == [State.MET, State.MET]
    assert found.decided_by == "all_goals"


def test_worse_version_is_aborted_by_the_goal_it_misses() -> None:
    found = decided(BROKEN)
    assert (found.verdict, found.gate, found.automatic) == (Outcome.ABORT, Verdict.FAIL, True)
    assert found.decided_by == "the error rate rises by less than 2 points"
    assert "worse by more than 2 points (evidence" in found.sentence
    row = found.rows[0]
    assert row.state is State.BROKEN
    assert row.estimate == pytest.approx(100 / 6)


def test_dead_version_is_aborted_by_the_limit_before_any_floor() -> None:
    found = decided(DEAD, replace(TWO_POINTS, min_requests=100_000, min_seconds=600.0))
    assert found.verdict is Outcome.ABORT


@pytest.mark.parametrize("windows", [[], repeated(20, arm(), arm()), repeated(20, arm(3), arm())])
@pytest.mark.parametrize("seconds", [0.0, 1e6])
def test_no_data_never_decides(windows: list[Measured], seconds: float) -> None:
    found = decided(windows, seconds=seconds)
    assert found.verdict is (Outcome.INCONCLUSIVE if seconds else Outcome.CONTINUE)
    assert found.gate is Verdict.INSUFFICIENT_DATA
    assert not found.automatic
    assert "no request has reached the candidate yet" in found.sentence


@settings(max_examples=30)
@given(streams(4), st.floats(0, 1e5))
def test_provider_problem_holds_whatever_was_measured(windows: list[Measured], seconds: float) -> None:
    found = decided(windows, seconds=seconds, problem="Prometheus did not answer.")
    assert (found.verdict, found.gate) == (Outcome.CONTINUE, Verdict.PROVIDER_ERROR)
    assert found.sentence == "On hold: Prometheus did not answer."
    assert not found.drop


@pytest.mark.parametrize("windows", [HEALTHY, BROKEN])
def test_wrong_split_makes_everything_invalid(windows: list[Measured]) -> None:
    found = decided(skewed(windows))
    assert (found.verdict, found.gate, found.decided_by) == (Outcome.INVALID, Verdict.PROVIDER_ERROR, "sample_ratio")
    many = 50 * len(windows)
    assert f"{many:,} of {2 * many:,} sessions (50 %) met the candidate, 10 % should have" in found.sentence
    assert "needed 1,000 : 1" in found.sentence


def test_right_split_disturbs_nothing_also_when_it_changes() -> None:
    ramp = renumbered([*repeated(20, arm(90), arm(10)), *repeated(20, arm(50), arm(50), period=2, share=0.5)])
    assert decided(ramp).verdict is Outcome.PROMOTE


def test_windows_in_which_the_split_changed_promise_nothing() -> None:
    found = decided([replace(w, shares={}) for w in skewed(HEALTHY)])
    assert (found.verdict, found.log_srm_evidence) == (Outcome.PROMOTE, 0.0)


def test_floors_hold_back_a_promotion_and_say_how_long() -> None:
    found = decided(HEALTHY, replace(TWO_POINTS, min_requests=1000))
    assert found.verdict is Outcome.CONTINUE
    assert "may be promoted after 1,000 requests, 700 more" in found.sentence
    assert found.further_units == 7000
    assert found.further_seconds == pytest.approx(140.0)
    assert found.sentence.endswith("About 7,000 more sessions are needed, 3 minutes at this traffic.")
    found = decided(HEALTHY, replace(TWO_POINTS, min_seconds=600.0), seconds=300.0)
    assert found.verdict is Outcome.CONTINUE
    assert "may be promoted after 10 minutes, in 5 minutes" in found.sentence
    assert decided(HEALTHY, replace(TWO_POINTS, min_seconds=600.0), seconds=600.0).verdict is Outcome.PROMOTE


def test_it_says_how_much_longer_before_the_evidence_says_anything() -> None:
    found = decided(FEW)
    assert found.verdict is Outcome.CONTINUE
    assert found.further_units is not None
    truth = 100 * next(n for n in range(1, 60) if decided(repeated(n, arm(90), arm(10))).verdict is Outcome.PROMOTE)
    assert truth / 3 <= found.further_units + 300 <= 3 * truth


def test_no_decision_in_sight_is_said() -> None:
    asked = replace(TWO_POINTS, goals=(BETTER,), guardrails=())
    found = decided(repeated(40, arm(90, 2), arm(10, 1)), asked)
    assert found.further_units is None
    assert found.sentence.endswith("No decision is in sight at these rates.")


def test_end_without_decision_is_inconclusive_and_no_success() -> None:
    found = decided(FEW, seconds=1800.0)
    assert (found.verdict, found.gate, found.timed_out) == (Outcome.INCONCLUSIVE, Verdict.INSUFFICIENT_DATA, True)
    assert found.sentence.startswith("No decision after 30 minutes, the longest allowed: candidate 0 %")


def test_what_nobody_said_is_missing_and_never_met() -> None:
    stars = replace(TWO_POINTS, goals=(*TWO_POINTS.goals, Criterion("rating", Kind.LIMIT, 4.0, role=Role.GOAL)))
    found = decided(HEALTHY, stars)
    assert found.verdict is Outcome.CONTINUE
    assert found.rows[1].state is State.MISSING
    assert "nothing was measured yet that could show that the rating is at least 4 stars" in found.sentence
    assert decided(HEALTHY, stars, seconds=1800).verdict is Outcome.INCONCLUSIVE


def test_guardrail_that_needs_no_proof_must_hold_as_measured() -> None:
    quick = replace(TWO_POINTS, guardrails=(Criterion("latency", Kind.LIMIT, 500, level=0.5, proves=False),))
    assert decided(HEALTHY, quick).verdict is Outcome.PROMOTE
    slow = repeated(2, arm(900), arm(100, ms=600.0))
    found = decided(slow, replace(quick, guardrails=(replace(quick.guardrails[0], aborts=False),)))
    assert found.verdict is Outcome.CONTINUE
    assert "it does not hold at the moment that the P50 latency is at most 500 ms" in found.sentence
    assert decided(repeated(20, arm(90), arm(10, ms=600.0)), quick).verdict is Outcome.ABORT


def test_superiority_needs_a_better_version_and_never_aborts() -> None:
    asked = ExperimentSettings(
        goals=(BETTER,),
        guardrails=(),
        min_requests=100,
    )
    assert decided(repeated(30, arm(60, 6), arm(40), share=0.4), asked).verdict is Outcome.PROMOTE
    assert decided(HEALTHY, asked).verdict is Outcome.CONTINUE
    assert decided(repeated(30, arm(100, 1), arm(100, 4), share=0.5), asked).verdict is Outcome.CONTINUE


def test_acting_alone_is_an_option() -> None:
    assert not decided(HEALTHY).automatic
    willing = replace(TWO_POINTS, auto_promote=True, auto_rollback=False)
    assert decided(HEALTHY, willing).automatic
    assert not decided(BROKEN, willing).automatic


# --- The mission's criteria

THE_MISSION = from_pipeline_config(yaml.safe_load(MISSION.read_text())).settings
PLEASED = {5: 20, 4: 20}


def mission(candidate: ArmWindow, *, seconds: float = 700.0, count: int = 40) -> Decision:
    return decided(repeated(count, arm(100, ratings=PLEASED), candidate, share=0.5), THE_MISSION, seconds=seconds)


def test_mission_promotes_what_keeps_all_its_criteria_after_ten_minutes() -> None:
    good = arm(100, ratings=PLEASED)
    found = mission(good)
    assert (found.verdict, found.automatic) == (Outcome.PROMOTE, True)
    for part in (
        "the error rate rises by less than 0.5 points",
        "the P95 latency rises by less than 20 %",
        "the rating is at least 4 stars",
    ):
        assert part in found.sentence
    assert mission(good, seconds=599).verdict is Outcome.CONTINUE
    assert "may be promoted after 1,000 requests" in mission(good, count=9).sentence


@pytest.mark.parametrize(
    ("candidate", "by"),
    [
        (arm(100, 12, ratings=PLEASED), "the error rate"),
        (arm(100, ms=1500, ratings=PLEASED), "the P95 latency"),
        (arm(100, ms=150, ratings=PLEASED), "the P95 latency rises by less than 20 %"),
        (arm(100, ratings={2: 20, 3: 20}), "the rating is at least 4 stars"),
    ],
)
def test_mission_aborts_what_breaks_one_of_them(candidate: ArmWindow, by: str) -> None:
    found = mission(candidate)
    assert (found.verdict, found.automatic) == (Outcome.ABORT, True)
    assert found.decided_by.startswith(by)


# --- Several candidates


def three(candidate: ArmWindow, second: ArmWindow, *, count: int = 40) -> list[Measured]:
    return repeated(count, arm(300, 6), candidate, share=0.2, others={"candidate-2": second})


GOOD, BETTER_STILL, BAD = arm(100, 2), arm(100, 1), arm(100, 20)
BOTH = ("candidate", "candidate-2")


def test_alpha_is_divided_among_the_candidates() -> None:
    alone = decided(HEALTHY).rows[0]
    of_two = decided(three(GOOD, GOOD), arms=BOTH).rows[0]
    assert alone.log_threshold is not None
    assert of_two.log_threshold == pytest.approx(alone.log_threshold + np.log(2))
    assert alone.log_threshold_against is not None
    assert of_two.log_threshold_against == pytest.approx(alone.log_threshold_against + np.log(2))


def test_best_of_those_that_met_all_wins() -> None:
    found = decided(three(GOOD, BETTER_STILL), arms=BOTH)
    assert (found.verdict, found.winner) == (Outcome.PROMOTE, "candidate-2")
    assert found.sentence.startswith("Candidate-2 wins, better than candidate by the first goal. Candidate-2 1 % of")
    found = decided(three(GOOD, GOOD), arms=BOTH)
    assert (found.verdict, found.winner) == (Outcome.PROMOTE, "candidate")
    assert found.sentence.startswith(
        "Candidate wins, named before candidate-2, which is level with it by the first goal. Candidate 2 % of"
    )


def test_one_that_breaks_something_is_dropped_while_the_other_goes_on() -> None:
    found = decided(three(BAD, GOOD, count=2), arms=BOTH)
    assert (found.verdict, found.drop) == (Outcome.CONTINUE, ("candidate",))
    assert {one.name: one.standing for one in found.arms} == {
        "candidate": Standing.BROKEN, "candidate-2": Standing.OPEN,
    }  # fmt: skip
    later = decided(three(BAD, GOOD), arms=BOTH)
    assert (later.verdict, later.winner) == (Outcome.PROMOTE, "candidate-2")
    assert "Candidate 800 of 4,000 sessions failed (20 %): " in later.sentence


def test_all_broken_is_an_abort() -> None:
    found = decided(three(BAD, BAD), arms=BOTH)
    assert (found.verdict, found.drop) == (Outcome.ABORT, ())
    assert found.sentence.startswith("Candidate 800 of 4,000 sessions failed (20 %): above the limit of 5 %")
    assert "Candidate-2 800 of 4,000 sessions failed (20 %): above the limit of 5 %" in found.sentence


def test_one_that_was_taken_off_waits_for_nobody() -> None:
    windows = [replace(w, shares={}) for w in three(GOOD, arm())]
    assert decided(windows, arms=BOTH).verdict is Outcome.CONTINUE
    found = decided(windows, arms=BOTH, gone={"candidate-2": "Its server died."})
    assert (found.verdict, found.winner) == (Outcome.PROMOTE, "candidate")
    assert found.sentence.endswith("Candidate-2 was taken off: Its server died.")
    assert decided(windows, arms=BOTH, gone=dict.fromkeys(BOTH, "Dead.")).verdict is Outcome.ABORT


def test_at_the_end_the_best_of_those_that_met_all_wins_whoever_is_open() -> None:
    windows = [replace(w, shares={}) for w in three(GOOD, arm(1))]
    assert decided(windows, arms=BOTH, seconds=60).verdict is Outcome.CONTINUE
    found = decided(windows, arms=BOTH, seconds=1800)
    assert (found.verdict, found.winner) == (Outcome.PROMOTE, "candidate")
    assert found.sentence.endswith("Candidate-2 has not shown what was asked of it.")


def test_arms_are_named_once_and_none_is_stable() -> None:
    for wrong in ((), ("stable",), ("candidate", "candidate")):
        with pytest.raises(ValueError, match="arms must name each candidate once"):
            decision.start(TWO_POINTS, wrong)


# --- The same bits


@settings(max_examples=25, deadline=None)
@given(streams(), st.randoms(use_true_random=False), st.floats(0, 3000))
def test_any_batching_and_storing_gives_the_same_decision(
    windows: list[Measured], rng: random.Random, seconds: float
) -> None:
    whole = decided(windows, THE_MISSION, seconds=seconds)
    progress, place = decision.start(THE_MISSION), 0
    while place < len(windows):
        size = rng.randint(1, 3)
        progress = decision.advance(progress, windows[place : place + size])
        progress = Progress.from_json(json.loads(json.dumps(progress.to_json())))
        place += size
    again = decision.decide(progress, seconds=seconds)
    assert again == whole
    assert json.dumps(again.to_json(), allow_nan=False) == json.dumps(whole.to_json(), allow_nan=False)
    json.dumps(progress.to_json(), allow_nan=False)


def test_many_experiments_at_once_are_the_same() -> None:
    rng = np.random.default_rng(8)
    several = [drawn(rng, 12, 20, 10, 0.02, rate) for rate in (0.02, 0.1, 0.5)]
    begun = [decision.start(TWO_POINTS), decision.start(THE_MISSION), decision.start(TWO_POINTS, intervals=False)]
    together = decision.advance_many(begun, several)
    for before, windows, after in zip(begun, several, together, strict=True):
        assert after == decision.advance(before, windows)


def test_verdict_does_not_wait_for_what_is_shown() -> None:
    windows = drawn(np.random.default_rng(9), 40, 40, 20, 0.02, 0.02)
    full = decided(windows)
    bare = decision.decide(
        decision.advance(decision.start(TWO_POINTS, intervals=False), windows), seconds=60.0, ahead=False
    )
    assert bare.verdict is full.verdict
    assert [row.log_evidence for row in bare.rows] == [row.log_evidence for row in full.rows]


def test_decision_is_plain_json_with_what_a_statistician_checks() -> None:
    said = json.loads(json.dumps(decided(BROKEN).to_json()))
    assert parse_settings(said["settings"]) == TWO_POINTS
    assert said["code_version"] == decision.CODE_VERSION
    assert said["totals"]["candidate"] == {"requests": 240, "errors": 40, "sessions": 240}
    row = said["rows"][0]
    assert (row["arm"], row["state"], row["unit"], row["reading"]) == ("candidate", "broken", "session", "whole")
    assert (row["candidate_units"], row["stable_units"]) == (240, 1800)
    assert row["low"] <= row["estimate"] <= row["high"]
    assert row["log_evidence_against"] >= row["log_threshold_against"]
    assert said["looks"] == 20
    assert len(said["digest"]) == 64


@pytest.mark.parametrize(
    ("outcome", "gate"),
    [
        (Outcome.PROMOTE, Verdict.PASS),
        (Outcome.ABORT, Verdict.FAIL),
        (Outcome.CONTINUE, Verdict.INSUFFICIENT_DATA),
        (Outcome.INCONCLUSIVE, Verdict.INSUFFICIENT_DATA),
        (Outcome.INVALID, Verdict.PROVIDER_ERROR),
    ],
)
def test_each_outcome_is_one_of_the_four_verdicts_at_the_gate(outcome: Outcome, gate: Verdict) -> None:
    assert gate_verdict(outcome) is gate
    assert gate_verdict(outcome, provider_problem=True) is Verdict.PROVIDER_ERROR


def test_window_that_was_seen_is_refused() -> None:
    progress = decision.advance(decision.start(TWO_POINTS), [window(3, arm(9), arm(1))])
    with pytest.raises(ValueError, match="window 3 comes after window 3"):
        decision.advance(progress, [window(3, arm(9), arm(1))])
