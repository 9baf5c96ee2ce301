from __future__ import annotations

import json
import math
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deploypipe.stats.counts import EMPTY, ArmCounts, Window
from rollouts.analysis import AnalysisSettings, Judgement, SettingsError, Verdict, guard, judge, parse_settings
from tests.stats.simulation import at_most, poisson_windows
from tests.stats.test_two_arms import arms

TWO_POINTS = AnalysisSettings(max_error_increase_points=2.0)


def look(stable=(0, 0), candidate=(0, 0)):
    """(errors, requests) of each arm."""
    return Window(ArmCounts(stable[1], stable[0]), ArmCounts(candidate[1], candidate[0]))


def judged(windows, settings=TWO_POINTS, *, rollout=None, problem=None, seconds=60.0, compare=None):
    rollout = windows if rollout is None else rollout
    return judge(windows, rollout, settings, provider_problem=problem, seconds_in_step=seconds, compare=compare)


HEALTHY = [look((0, 90), (0, 10))] * 30
BROKEN = [look((0, 90), (1, 12))] * 10
DEAD = [look((0, 9), (1, 1))] * 4
FIRST = [look((0, 0), (0, 10))] * 20


def test_healthy_candidate_passes_with_a_sentence_of_numbers():
    judgement = judged(HEALTHY)
    assert judgement.verdict is Verdict.PASS
    assert judgement.decided_by == "not_worse_than_stable"
    assert judgement.sentence.startswith(
        "Candidate 0 of 300 requests failed (0 %), stable 0 of 2,700 (0 %): not worse by 2 points or more (evidence "
    )
    assert judgement.sentence.endswith(": 1, needed 20 : 1).")
    assert judgement.difference_points == 0


def test_broken_candidate_fails_with_a_sentence_of_numbers():
    judgement = judged(BROKEN, AnalysisSettings(max_error_increase_points=2.0, max_error_rate_percent=None))
    assert judgement.verdict is Verdict.FAIL
    assert judgement.decided_by == "worse_than_stable"
    assert judgement.sentence.startswith(
        "Candidate 10 of 120 requests failed (8.3 %), stable 0 of 900 (0 %): worse by more than 2 points (evidence "
    )
    assert judgement.sentence.endswith(": 1, needed 20 : 1).")


def test_dead_candidate_fails_the_limit_long_before_the_floor():
    judgement = judged(DEAD)
    assert judgement.verdict is Verdict.FAIL
    assert judgement.decided_by == "above_limit"
    assert "above the limit of 5 % (evidence" in judgement.sentence
    assert judgement.sentence.endswith("needed 100 : 1).")


@pytest.mark.parametrize("windows", [[], [EMPTY] * 50, [look((0, 100))] * 50])
@pytest.mark.parametrize("seconds", [0.0, 60.0, 1e6])
@pytest.mark.parametrize("compare", [None, True, False])
def test_no_data_never_passes_and_never_fails(windows, seconds, compare):
    judgement = judged(windows, seconds=seconds, compare=compare)
    assert judgement.verdict is Verdict.INSUFFICIENT_DATA
    assert "no request has reached the candidate" in judgement.sentence
    assert judgement.timed_out == (seconds >= 1800)


@given(
    st.lists(st.builds(Window, arms(), arms()), max_size=8),
    st.floats(0, 1e5),
    st.one_of(st.none(), st.floats(0.1, 50)),
    st.booleans(),
)
def test_provider_problem_never_fails_and_never_passes(windows, seconds, limit, compare):
    settings = AnalysisSettings(max_error_rate_percent=limit, min_requests=1)
    judgement = judged(windows, settings, problem="Prometheus did not answer.", seconds=seconds, compare=compare)
    assert judgement.verdict is Verdict.PROVIDER_ERROR
    assert judgement.sentence.endswith("could not be read: Prometheus did not answer.")
    assert guard(windows, settings, provider_problem="down").verdict is Verdict.PROVIDER_ERROR


def test_floor_holds_back_a_pass_and_says_how_many_are_missing():
    settings = AnalysisSettings(max_error_increase_points=20.0, min_requests=1000)
    judgement = judged(HEALTHY, settings)
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
    assert "evidence that it is not worse by 2 points or more:" in judgement.sentence
    assert not judgement.timed_out


def test_time_past_the_longest_is_no_verdict_of_its_own():
    judgement = judged(HEALTHY[:3], seconds=1800.0)
    assert judgement.verdict is Verdict.INSUFFICIENT_DATA
    assert judgement.timed_out
    assert judgement.sentence.startswith("No decision after 30 minutes, the longest allowed: candidate 0 of 30")
    assert judged(HEALTHY, seconds=1800.0).verdict is Verdict.PASS


def test_pass_needs_evidence_from_this_step_alone():
    assert judged(HEALTHY[:3], rollout=HEALTHY).verdict is Verdict.INSUFFICIENT_DATA


def test_fail_counts_the_whole_rollout():
    assert judged(BROKEN[:2], rollout=BROKEN).verdict is Verdict.FAIL
    assert judged([], rollout=BROKEN).verdict is Verdict.FAIL


def test_candidate_above_the_limit_does_not_pass_for_being_like_stable():
    windows = [look((60, 1000), (6, 100))] * 10
    judgement = judged(windows, AnalysisSettings(max_error_increase_points=10.0))
    assert judgement.verdict is not Verdict.PASS


def test_first_deployment_is_judged_by_the_limit_alone():
    judgement = judged(FIRST)
    assert judgement.verdict is Verdict.PASS
    assert judgement.decided_by == "below_limit"
    assert "stable no requests: below the limit of 5 % (evidence" in judgement.sentence
    assert judged([look((0, 0), (3, 10))] * 10).verdict is Verdict.FAIL


def test_step_without_stable_traffic_is_judged_by_the_limit_when_told_so():
    rollout = [*HEALTHY, *FIRST]
    assert judged(FIRST, rollout=rollout).verdict is Verdict.INSUFFICIENT_DATA  # is stable's traffic merely unseen?
    assert judged(FIRST, rollout=rollout, compare=False).verdict is Verdict.PASS


def test_first_deployment_without_limit_says_that_nothing_can_decide():
    judgement = judged(FIRST, AnalysisSettings(max_error_rate_percent=None))
    assert judgement.verdict is Verdict.INSUFFICIENT_DATA
    assert "Nothing can decide without stable traffic to compare with or a limit." in judgement.sentence


def test_guard_fails_a_rollout_and_passes_nothing():
    assert guard(BROKEN, TWO_POINTS, provider_problem=None).verdict is Verdict.FAIL
    quiet = guard(HEALTHY, TWO_POINTS, provider_problem=None)
    assert quiet.verdict is Verdict.INSUFFICIENT_DATA
    assert (
        quiet.sentence == "No sign of harm so far: candidate 0 of 300 requests failed (0 %), stable 0 of 2,700 (0 %)."
    )
    assert not quiet.timed_out


@pytest.mark.parametrize("windows", [[], HEALTHY, BROKEN, DEAD, FIRST, HEALTHY[:3]])
def test_stored_windows_give_the_same_judgement_to_the_last_bit(windows):
    judgement = judged(windows)
    stored = json.loads(json.dumps([window.to_json() for window in windows]))
    kept = json.loads(json.dumps(judgement.to_json()))
    again = judged([Window.from_json(window) for window in stored], parse_settings(kept["settings"]))
    assert again == judgement == Judgement.from_json(kept)
    assert again.to_json() == kept
    assert kept["code_version"]


def test_in_margin_candidate_is_failed_in_at_most_alpha_of_rollouts_by_both_rules_together():
    """At the margin and at the limit at once, the worst that is allowed, over a ramp."""
    rng, runs, failed = np.random.default_rng(51), 200, 0
    settings = AnalysisSettings(max_error_increase_points=1.0, max_error_rate_percent=5.0)
    for _ in range(runs):
        windows = poisson_windows(rng, 150, 45, 5, 0.04, 0.05) + poisson_windows(rng, 150, 25, 25, 0.04, 0.05)
        failed += guard(windows, settings, provider_problem=None).verdict is Verdict.FAIL
    assert at_most(failed / runs, 0.05, runs)


def test_cost_of_a_look_grows_with_the_windows_and_not_with_their_square():
    windows = poisson_windows(np.random.default_rng(52), 2000, 45, 6, 0.01, 0.012)

    def least_seconds(part: list[Window]) -> float:
        found = []
        for _ in range(7):
            begin = time.process_time()
            judged(part)
            found.append(time.process_time() - begin)
        return min(found)

    # Ten times the windows; their square would be a hundred times the cost.
    assert least_seconds(windows) < 30 * least_seconds(windows[:200])


def test_settings_are_read_with_their_defaults():
    assert parse_settings({}) == AnalysisSettings()
    given_settings = parse_settings(
        {"max_error_increase_points": 2, "max_error_rate_percent": None, "min_requests": 50}
    )
    assert given_settings == AnalysisSettings(2.0, None, min_requests=50)


@pytest.mark.parametrize(
    ("given_settings", "field", "says"),
    [
        ({"max_error_increse_points": 1}, "max_error_increse_points", "did you mean max_error_increase_points?"),
        ({"zzz": 1}, "zzz", "there are alpha, max_error_increase_points"),
        (
            {"max_error_increase_points": 0},
            "max_error_increase_points",
            "0 is not a number of percentage points above 0",
        ),
        ({"max_error_rate_percent": 100}, "max_error_rate_percent", "or nothing for no limit"),
        ({"alpha": "0.05"}, "alpha", "'0.05' is not a probability"),
        ({"alpha": math.nan}, "alpha", "nan is not a probability"),
        ({"min_requests": True}, "min_requests", "True is not a whole number"),
        ({"min_requests": 1.5}, "min_requests", "1.5 is not a whole number"),
        ({"max_seconds": math.inf}, "max_seconds", "inf is not a number of seconds"),
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
