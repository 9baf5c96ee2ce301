"""The rollout's judge: errors are proven, latency is watched, and nothing is decided without data."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deploypipe.metrics import criteria
from deploypipe.metrics.criteria import Scope, State
from deploypipe.metrics.windows import CANDIDATE, STABLE, WHOLE, ArmWindow, Measured, Units, from_json, to_json
from deploypipe.stats.histogram import bin_of
from rollouts import analysis
from rollouts.analysis import (
    AnalysisSettings,
    Inquiry,
    Judgement,
    SettingsError,
    Verdict,
    parse_settings,
    rollout_plan,
    step_plan,
)
from tests.stats.simulation import at_most

NO_LATENCY = AnalysisSettings(max_latency_increase_percent=None)
TWO_POINTS = replace(NO_LATENCY, max_error_increase_points=2.0)
WATCHED = AnalysisSettings(max_error_increase_points=2.0)

Failed = tuple[int, int]
"""Failed ones of so many sessions."""


def arm(seen: Failed = (0, 0), latency: Mapping[float, int] | None = None, *, returning: bool = False) -> ArmWindow:
    """Sessions of one request each; `latency`: milliseconds → sessions."""
    failed, sessions = seen
    bins: dict[int, int] = {}
    for ms, count in (latency or {}).items():
        bins[bin_of(ms)] = bins.get(bin_of(ms), 0) + count
    units = Units(
        first=(sessions, failed),
        first_latency=bins,
        whole={key: count for key, count in (((1, 0), sessions - failed), ((1, 1), failed)) if count},
        whole_latency={bin_: WHOLE * count for bin_, count in bins.items()},
    )
    return ArmWindow(
        requests=sessions,
        errors={"http_5xx": failed} if failed else {},
        latency=bins,
        fresh=Units() if returning else units,
        returning=units if returning else Units(),
    )


def look(
    stable: Failed = (0, 0),
    candidate: Failed = (0, 0),
    *,
    slow: tuple[Mapping[float, int], Mapping[float, int]] = ({}, {}),
    period: int = 1,
    returning: bool = False,
) -> Measured:
    arms = {
        STABLE: arm(stable, slow[0], returning=returning),
        CANDIDATE: arm(candidate, slow[1], returning=returning),
    }
    return Measured(0, 1.0, period, {STABLE: 0.9, CANDIDATE: 0.1}, arms)


def numbered(windows: Sequence[Measured]) -> list[Measured]:
    return [replace(window, number=number) for number, window in enumerate(windows, 1)]


def judged(
    windows: Sequence[Measured],
    settings: AnalysisSettings = TWO_POINTS,
    *,
    rollout: Sequence[Measured] | None = None,
    problem: str | None = None,
    seconds: float = 60.0,
    compare: bool = True,
) -> Judgement:
    return analysis.judge(
        analysis.replay(numbered(windows), step_plan(settings, compare=compare)),
        analysis.replay(numbered(windows if rollout is None else rollout), rollout_plan(settings)),
        settings,
        provider_problem=problem,
        seconds_in_step=seconds,
        compare=compare,
    )


def guarded(windows: Sequence[Measured], settings: AnalysisSettings, *, problem: str | None = None) -> Judgement:
    return analysis.guard(
        analysis.replay(numbered(windows), rollout_plan(settings)), settings, provider_problem=problem
    )


HEALTHY = [look((0, 90), (0, 10))] * 30
BROKEN = [look((0, 90), (1, 12))] * 12
DEAD = [look((0, 9), (1, 1))] * 8
FIRST = [look((0, 0), (0, 10))] * 20
QUICK = {5.0: 85, 20.0: 5}
AS_QUICK = [look((0, 90), (0, 10), slow=(QUICK, {5.0: 9, 20.0: 1} if n % 2 else {5.0: 10})) for n in range(60)]
SLOWER = [look((0, 90), (0, 10), slow=(QUICK, {5.0: 2, 40.0: 8})) for _ in range(60)]


# Errors


def test_healthy_candidate_passes_with_a_sentence_of_numbers():
    judgement = judged(HEALTHY)
    assert judgement.verdict is Verdict.PASS
    assert judgement.decided_by == "error_rate_increase"
    assert judgement.sentence.startswith("Candidate 0 % of the requests of 300 sessions failed, stable 0 % of 2,700: ")
    assert "the error rate rises by less than 2 points (evidence " in judgement.sentence
    assert judgement.sentence.endswith(": 1, needed 20 : 1).")


def test_broken_candidate_fails_with_a_sentence_of_numbers():
    judgement = judged(BROKEN, replace(TWO_POINTS, max_error_rate_percent=None))
    assert judgement.verdict is Verdict.FAIL
    assert judgement.decided_by == "error_rate_increase"
    assert judgement.sentence.startswith("Candidate 12 of 144 sessions failed (8.3 %), stable 0 of 1,080 (0 %): ")
    assert "worse by more than 2 points (evidence " in judgement.sentence
    assert judgement.sentence.endswith(": 1, needed 40 : 1).")  # half of alpha for each reading of a session


def test_dead_candidate_fails_long_before_the_floor():
    judgement = judged(DEAD)
    assert judgement.verdict is Verdict.FAIL
    assert judgement.step.candidate.requests < TWO_POINTS.min_requests


def test_absolute_limit_fails_a_candidate_that_is_no_worse_than_stable():
    judgement = judged([look((30, 100), (15, 50))] * 10, replace(TWO_POINTS, max_error_increase_points=50.0))
    assert judgement.verdict is Verdict.FAIL
    assert judgement.decided_by == "error_rate_limit"
    assert "above the limit of 5 %" in judgement.sentence


@pytest.mark.parametrize("windows", [[], [look()] * 50, [look((0, 100))] * 50])
@pytest.mark.parametrize("seconds", [0.0, 60.0, 1e6])
@pytest.mark.parametrize("compare", [True, False])
def test_no_data_never_passes_and_never_fails(windows, seconds, compare):
    judgement = judged(windows, WATCHED, seconds=seconds, compare=compare)
    assert judgement.verdict is Verdict.INSUFFICIENT_DATA
    assert "no request has reached the candidate" in judgement.sentence
    assert judgement.timed_out == (seconds >= 1800)


FAILED = st.tuples(st.integers(0, 30), st.integers(0, 60)).map(lambda pair: (min(pair), max(pair)))


@given(
    st.lists(st.builds(look, FAILED, FAILED), max_size=8),
    st.floats(0, 1e5),
    st.one_of(st.none(), st.floats(0.1, 50)),
    st.booleans(),
)
def test_provider_problem_never_fails_and_never_passes(windows, seconds, limit, compare):
    settings = AnalysisSettings(max_error_rate_percent=limit, min_requests=1)
    judgement = judged(windows, settings, problem="Prometheus did not answer.", seconds=seconds, compare=compare)
    assert judgement.verdict is Verdict.PROVIDER_ERROR
    assert judgement.sentence.endswith("could not be read: Prometheus did not answer.")
    assert guarded(windows, settings, problem="down").verdict is Verdict.PROVIDER_ERROR


def test_floor_holds_back_a_pass_and_says_how_many_are_missing():
    judgement = judged(HEALTHY, replace(TWO_POINTS, max_error_increase_points=20.0, min_requests=1000))
    assert judgement.verdict is Verdict.INSUFFICIENT_DATA
    assert "may pass after 1,000 requests in this step, 700 more" in judgement.sentence
    assert judgement.further_requests == 7000
    assert "About 7,000 more requests are needed, 3 minutes at this traffic." in judgement.sentence


def test_undecided_says_what_is_missing_and_how_long_it_takes():
    judgement = judged(HEALTHY[:3], seconds=30.0)
    assert judgement.verdict is Verdict.INSUFFICIENT_DATA
    assert judgement.further_requests is not None
    assert judgement.further_requests > 700
    assert judgement.further_seconds == pytest.approx(judgement.further_requests / 10)
    assert "evidence that the error rate rises by less than 2 points:" in judgement.sentence
    assert not judgement.timed_out


def test_few_sessions_that_make_many_requests_are_named_as_what_makes_it_slow():
    few = [
        replace(window, arms={n: replace(a, requests=50 * a.requests) for n, a in window.arms.items()})
        for window in HEALTHY
    ]
    said = judged(few[:1]).sentence
    assert said.endswith(
        " 5,000 requests came from 100 sessions, and a session counts once: with unit 'request' each request counts."
    )
    assert judged(few[:1], replace(TWO_POINTS, unit="request")).sentence.count("sessions") == 0


def test_what_is_said_to_be_missing_is_about_what_it_takes():
    early = judged(HEALTHY[:3], seconds=3.0)
    passed_after = next(n for n in range(1, 31) if judged(HEALTHY[:n]).verdict is Verdict.PASS)
    assert early.further_requests is not None
    assert 0.5 * 100 * passed_after < 300 + early.further_requests < 2 * 100 * passed_after


def test_time_past_the_longest_is_no_verdict_of_its_own():
    judgement = judged(HEALTHY[:3], seconds=1800.0)
    assert judgement.verdict is Verdict.INSUFFICIENT_DATA
    assert judgement.timed_out
    assert judgement.sentence.startswith("No decision after 30 minutes, the longest allowed: candidate 0 % of the")
    assert judged(HEALTHY, seconds=1800.0).verdict is Verdict.PASS


def test_pass_needs_evidence_from_this_step_alone():
    assert judged(HEALTHY[:3], rollout=HEALTHY).verdict is Verdict.INSUFFICIENT_DATA


def test_fail_counts_the_whole_rollout():
    assert judged(BROKEN[:2], rollout=BROKEN).verdict is Verdict.FAIL
    assert judged([], rollout=BROKEN).verdict is Verdict.FAIL


def test_session_that_comes_back_counts_for_this_step_and_not_twice_for_the_rollout():
    back = [look((0, 90), (0, 10), period=2, returning=True)] * 30
    judgement = judged(back, rollout=[*HEALTHY, *back])
    assert judgement.verdict is Verdict.PASS
    assert judgement.step.candidate.sessions == 300
    assert judgement.rollout.candidate.sessions == 300


def test_candidate_above_the_limit_does_not_pass_for_being_like_stable():
    judgement = judged([look((60, 1000), (6, 100))] * 10, replace(TWO_POINTS, max_error_increase_points=10.0))
    assert judgement.verdict is not Verdict.PASS


def test_first_deployment_is_judged_by_the_limit_alone():
    judgement = judged(FIRST, compare=False)
    assert judgement.verdict is Verdict.PASS
    assert judgement.decided_by == "error_rate_limit"
    assert "5 %" in judgement.sentence
    assert judged([look((0, 0), (3, 10))] * 10, compare=False).verdict is Verdict.FAIL


def test_step_without_stable_traffic_is_judged_by_the_limit_when_told_so():
    rollout = [*HEALTHY, *FIRST]
    assert judged(FIRST, rollout=rollout).verdict is Verdict.INSUFFICIENT_DATA  # is stable's traffic merely unseen?
    assert judged(FIRST, rollout=rollout, compare=False).verdict is Verdict.PASS


def test_first_deployment_without_limit_says_that_nothing_can_decide():
    judgement = judged(FIRST, replace(NO_LATENCY, max_error_rate_percent=None), compare=False)
    assert judgement.verdict is Verdict.INSUFFICIENT_DATA
    assert "Nothing can decide without stable traffic to compare with or a limit." in judgement.sentence


def test_guard_fails_a_rollout_and_passes_nothing():
    assert guarded(BROKEN, TWO_POINTS).verdict is Verdict.FAIL
    quiet = guarded(HEALTHY, TWO_POINTS)
    assert quiet.verdict is Verdict.INSUFFICIENT_DATA
    assert quiet.sentence == (
        "No sign of harm so far: candidate 0 % of the requests of 300 sessions failed, stable 0 % of 2,700."
    )
    assert not quiet.timed_out


# Latency


def test_latency_that_is_as_it_was_is_watched_and_said():
    judgement = judged(AS_QUICK, WATCHED)
    assert judgement.verdict is Verdict.PASS
    assert " Latency is watched, not proven: " in judgement.sentence
    assert "ms" in judgement.sentence


def test_candidate_that_is_slower_fails_though_it_makes_no_error():
    judgement = judged(SLOWER, WATCHED)
    assert judgement.verdict is Verdict.FAIL
    assert judgement.decided_by == "latency_increase"
    assert "20 %" in judgement.sentence
    assert judged(SLOWER, TWO_POINTS).verdict is Verdict.PASS


def test_few_milliseconds_more_are_no_harm_unless_the_settings_say_so():
    small, large = ({scale * ms: count for ms, count in {2.0: 85, 5.0: 5}.items()} for scale in (1, 20))
    of_small = [look((0, 90), (0, 10), slow=(small, {3.0: 7, 8.0: 3}))] * 60
    of_large = [look((0, 90), (0, 10), slow=(large, {60.0: 7, 160.0: 3}))] * 60
    assert judged(of_small, WATCHED).verdict is Verdict.PASS
    strict = judged(of_small, replace(WATCHED, latency_slack_ms=0.0))
    assert (strict.verdict, strict.decided_by) == (Verdict.FAIL, "latency_increase")
    assert "worse by more than 20 % (evidence" in strict.sentence
    said = judged(of_large, WATCHED)
    assert (said.verdict, said.decided_by) == (Verdict.FAIL, "latency_increase")
    assert "worse by more than 20 % and 5 ms (evidence" in said.sentence


def test_latency_of_which_nothing_is_known_holds_up_no_step_that_only_watches_it():
    assert judged(HEALTHY, WATCHED).verdict is Verdict.PASS
    held = judged(HEALTHY, replace(WATCHED, prove_latency=True))
    assert held.verdict is Verdict.INSUFFICIENT_DATA
    assert "evidence that the P95" in held.sentence or "latency" in held.sentence


def test_step_that_wants_latency_proven_passes_only_with_its_proof():
    rng = np.random.default_rng(50)
    windows = [drawn(rng, 50, 50, 1, errors=(0.0, 0.0), slower=1.0) for _ in range(60)]
    watched = replace(WATCHED, max_latency_increase_percent=50.0)
    settings = replace(watched, prove_latency=True)
    assert judged(windows[:6], watched).verdict is Verdict.PASS
    early = judged(windows[:6], settings)
    assert early.verdict is Verdict.INSUFFICIENT_DATA
    assert "evidence that the P95 latency rises by less than 50 % or 5 ms: " in early.sentence
    proven = judged(windows, settings)
    assert proven.verdict is Verdict.PASS
    assert "the P95 latency rises by less than 50 % or 5 ms (evidence " in proven.sentence
    assert "watched" not in proven.sentence


def test_absolute_latency_limit_fails_without_a_stable_version():
    settings = replace(NO_LATENCY, max_latency_ms=10.0)
    slow = [look((0, 0), (0, 10), slow=({}, {5.0: 5, 40.0: 5}))] * 30
    judgement = judged(slow, settings, compare=False)
    assert judgement.verdict is Verdict.FAIL
    assert judgement.decided_by == "latency_limit"


def test_passing_is_held_while_the_latency_is_above_its_limit():
    settings = replace(TWO_POINTS, max_error_increase_points=5.0, max_latency_ms=10.0)
    above = [look((0, 90), (0, 10), slow=(QUICK, {5.0: 9, 20.0: 1}))] * 16
    judgement = judged(above, settings)
    assert judgement.needed[0].state is State.MET
    assert judgement.verdict is Verdict.INSUFFICIENT_DATA
    assert "at the moment it does not hold that " in judgement.sentence


# What is asked


@pytest.mark.parametrize(
    ("wanted", "compare", "rollout", "proven"),
    [
        (AnalysisSettings(), True, ["error_rate_increase", "error_rate_limit", "latency_increase"],
         ["error_rate_increase"]),
        (AnalysisSettings(), False, ["error_rate_increase", "error_rate_limit", "latency_increase"],
         ["error_rate_limit"]),
        (AnalysisSettings(prove_latency=True, max_latency_ms=900.0), True,
         ["error_rate_increase", "error_rate_limit", "latency_increase", "latency_limit"],
         ["error_rate_increase", "latency_increase", "latency_limit"]),
        (AnalysisSettings(prove_latency=True, max_latency_ms=900.0), False,
         ["error_rate_increase", "error_rate_limit", "latency_increase", "latency_limit"],
         ["error_rate_limit", "latency_limit"]),
        (NO_LATENCY, True, ["error_rate_increase", "error_rate_limit"], ["error_rate_increase"]),
        (replace(NO_LATENCY, max_error_rate_percent=None), True, ["error_rate_increase"], ["error_rate_increase"]),
        (replace(NO_LATENCY, max_error_rate_percent=None), False, ["error_rate_increase"], []),
    ],
)  # fmt: skip
def test_each_setting_asks_its_own_question(wanted, compare, rollout, proven):
    whole, step = rollout_plan(wanted), step_plan(wanted, compare=compare)
    assert [f"{one.metric}_{one.kind.value}" for one in whole.criteria] == rollout
    assert all(one.aborts and not one.proves for one in whole.criteria)
    assert whole.scope is Scope.FRESH
    asked = step.criteria if step else ()
    assert [f"{one.metric}_{one.kind.value}" for one in asked if one.proves] == proven
    assert not any(one.aborts for one in asked)
    assert step is None or step.scope is Scope.ALL


@pytest.mark.parametrize(
    ("given_settings", "said"),
    [
        ({}, "Judge: error rate at most 0.5 points worse; P95 latency watched, at most 20 % or 5 ms worse"),
        ({"max_error_increase_points": 1, "on_timeout": "hold", "max_latency_increase_percent": None},
         "Judge: error rate at most 1 point worse"),
        ({"prove_latency": True, "latency_level": 0.5, "latency_slack_ms": 0},
         "Judge: error rate at most 0.5 points worse; P50 latency at most 20 % worse"),
        ({"max_latency_ms": 800, "max_latency_increase_percent": 50, "latency_slack_ms": 2.5},
         "Judge: error rate at most 0.5 points worse; P95 latency watched, at most 50 % or 2.5 ms worse"
         " and at most 800 ms"),
        ({"alpha": "unreadable"}, "Judge"),
    ],
)  # fmt: skip
def test_title_says_what_must_be_proven_and_what_is_watched(given_settings, said):
    assert analysis.title(given_settings) == said


# What is kept


@pytest.mark.parametrize("windows", [[], HEALTHY, BROKEN, DEAD, FIRST, HEALTHY[:3], AS_QUICK, SLOWER])
@pytest.mark.parametrize("wanted", [WATCHED, replace(WATCHED, prove_latency=True, max_latency_ms=500.0)])
def test_stored_windows_give_the_same_judgement_to_the_last_bit(windows, wanted):
    judgement = judged(windows, wanted)
    stored = json.loads(json.dumps([to_json(window) for window in windows]))
    kept = json.loads(json.dumps(judgement.to_json()))
    again = judged([from_json(window) for window in stored], parse_settings(kept["settings"]))
    assert again == judgement == Judgement.from_json(kept)
    assert again.to_json() == kept
    assert kept["code_version"]


@pytest.mark.parametrize("cut", [1, 2, 7, 30, 59])
def test_what_is_kept_between_two_looks_loses_no_bit(cut):
    windows = numbered([*AS_QUICK, *[replace(window, period=2) for window in SLOWER[:20]]])
    settings = replace(WATCHED, prove_latency=True, max_latency_ms=30.0)
    for plan in (rollout_plan(settings), step_plan(settings, compare=True)):
        whole = analysis.replay(windows, plan)
        known = analysis.inquiry(plan)
        for start, end in pairwise([0, cut, cut + 1, len(windows)]):
            kept = json.loads(json.dumps(known.to_json()))
            known = analysis.advance(Inquiry.from_json(kept), windows[start:end])
        assert known == whole
        assert known.to_json() == whole.to_json()


def test_progress_of_another_version_of_the_judge_is_not_gone_on_with():
    kept = analysis.replay(numbered(HEALTHY), rollout_plan(WATCHED)).to_json()
    with pytest.raises(ValueError, match="written by the judge 'older'"):
        Inquiry.from_json({**kept, "code_version": "older"})


def test_in_margin_candidate_is_failed_in_at_most_alpha_of_rollouts_by_all_rules_together():
    """At the margin of errors, at the limit and at the margin of latency at once, the worst that is allowed, on a
    ramp."""
    rng, runs = np.random.default_rng(51), 120
    settings = AnalysisSettings(max_error_increase_points=1.0, max_error_rate_percent=5.0)
    ramps = [
        numbered([*(drawn(rng, 45, 5, 1) for _ in range(40)), *(drawn(rng, 25, 25, 2) for _ in range(40))])
        for _ in range(runs)
    ]
    ended = criteria.advance_many([criteria.start(rollout_plan(settings))] * runs, ramps, [CANDIDATE] * runs)
    failed = sum(
        analysis.guard(Inquiry(evaluation), settings, provider_problem=None).verdict is Verdict.FAIL
        for evaluation in ended
    )
    assert at_most(failed / runs, 0.05, runs)


def drawn(
    rng: np.random.Generator,
    stable: float,
    candidate: float,
    period: int,
    *,
    errors: tuple[float, float] = (0.04, 0.05),
    slower: float = 1.2,
) -> Measured:
    """Latency is exponential, the candidate's so many times as slow."""
    counted: list[Any] = []
    for mean, rate, scale in ((stable, errors[0], 100.0), (candidate, errors[1], 100.0 * slower)):
        sessions = int(rng.poisson(mean))
        failed = int(rng.binomial(sessions, rate))
        ms, times = np.unique(np.ceil(rng.exponential(scale, sessions - failed) / 4) * 4, return_counts=True)
        counted.append(((failed, sessions), dict(zip(ms.tolist(), times.tolist(), strict=True))))
    (a, slow_a), (b, slow_b) = counted
    return look(a, b, slow=(slow_a, slow_b), period=period)


def test_cost_of_a_look_does_not_grow_with_the_windows_that_were_seen_before():
    windows = numbered(AS_QUICK * 20)
    plan = rollout_plan(WATCHED)
    late = analysis.replay(windows[:-1], plan)
    early = analysis.replay(windows[:50], plan)

    def least_seconds(known: Inquiry, window: Measured) -> float:
        found = []
        for _ in range(9):
            begin = time.process_time()
            analysis.advance(Inquiry.from_json(known.to_json()), [window])
            found.append(time.process_time() - begin)
        return min(found)

    assert least_seconds(late, windows[-1]) < 3 * least_seconds(early, windows[50])


# Settings


def test_settings_are_read_with_their_defaults():
    assert parse_settings({}) == AnalysisSettings()
    assert AnalysisSettings().max_latency_increase_percent == 20.0
    given_settings = parse_settings(
        {"max_error_increase_points": 2, "max_error_rate_percent": None, "min_requests": 50, "unit": "request"}
    )
    assert given_settings == AnalysisSettings(2.0, None, min_requests=50, unit="request")


@pytest.mark.parametrize(
    ("given_settings", "field", "says"),
    [
        ({"max_error_increse_points": 1}, "max_error_increse_points", "did you mean max_error_increase_points?"),
        ({"zzz": 1}, "zzz", "there are alpha, latency_level, latency_slack_ms, max_error_increase_points"),
        (
            {"max_error_increase_points": 0},
            "max_error_increase_points",
            "0 is not a number of percentage points above 0",
        ),
        ({"max_error_rate_percent": 100}, "max_error_rate_percent", "or nothing for no limit"),
        ({"max_latency_increase_percent": 0}, "max_latency_increase_percent", "or nothing to compare no latency"),
        ({"max_latency_ms": -5}, "max_latency_ms", "-5 is not a number of milliseconds above 0"),
        ({"latency_slack_ms": -1}, "latency_slack_ms", "-1 is not a number of milliseconds, at least 0"),
        ({"latency_slack_ms": None}, "latency_slack_ms", "None is not a number of milliseconds, at least 0"),
        ({"latency_level": 95}, "latency_level", "95 is not a share from 0.5 to 0.99"),
        ({"prove_latency": "yes"}, "prove_latency", "'yes' is not true or false"),
        ({"unit": "user"}, "unit", "'user' is not one of session, request"),
        ({"alpha": "0.05"}, "alpha", "'0.05' is not a probability"),
        ({"alpha": math.nan}, "alpha", "nan is not a probability"),
        ({"min_requests": True}, "min_requests", "True is not a whole number"),
        ({"min_requests": 1.5}, "min_requests", "1.5 is not a whole number"),
        ({"max_seconds": math.inf}, "max_seconds", "inf is not a number of seconds"),
        ({"max_seconds": 1e308}, "max_seconds", "1e+308 is not a number of seconds above 0 and at most a year"),
    ],
)
def test_wrong_settings_say_what_would_be_right(given_settings, field, says):
    with pytest.raises(SettingsError) as caught:
        parse_settings(given_settings)
    assert says in caught.value.fields[field]
    assert says in str(caught.value)


def test_all_wrong_settings_are_named_at_once():
    with pytest.raises(SettingsError) as caught:
        parse_settings({"alpha": 2, "min_requests": 0, "max_second": 5})
    assert set(caught.value.fields) == {"alpha", "min_requests", "max_second"}
