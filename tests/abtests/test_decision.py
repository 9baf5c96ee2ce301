from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from abtests.decision import (
    Aim,
    ExperimentSettings,
    Goal,
    Guardrail,
    Outcome,
    State,
    decide,
    gate_verdict,
    parse_settings,
    sequence_for,
)
from deploypipe.stats.counts import EMPTY, ArmCounts, Window
from deploypipe.stats.intervals import extend
from deploypipe.stats.srm import Assigned
from rollouts.analysis import SettingsError, Verdict
from tests.stats.simulation import poisson_windows
from tests.stats.test_two_arms import arms

TWO_POINTS = ExperimentSettings(goals=(Goal(margin_points=2.0),), min_requests=100)


def look(stable, candidate):
    """(errors, requests) of each arm."""
    return Window(ArmCounts(stable[1], stable[0]), ArmCounts(candidate[1], candidate[0]))


HEALTHY = [look((0, 90), (0, 10))] * 30
BROKEN = [look((0, 90), (1, 12))] * 10
DEAD = [look((0, 9), (1, 1))] * 4
BETTER = [look((3, 60), (0, 40))] * 30
SKEWED = [Assigned(0.1, 500, 500)]


def decided(windows, settings=TWO_POINTS, *, seconds=60.0, problem=None, units=(), sequence=None):
    return decide(windows, settings, seconds=seconds, provider_problem=problem, units=units, sequence=sequence)


def test_equal_version_is_promoted_with_a_sentence_of_numbers():
    decision = decided(HEALTHY)
    assert decision.verdict is Outcome.PROMOTE
    assert decision.gate is Verdict.PASS
    assert decision.sentence.startswith(
        "Candidate 0 of 300 requests failed (0 %), stable 0 of 2,700 (0 %):"
        " the error rate rises by less than 2 points (least evidence "
    )
    assert [row.state for row in decision.rows] == [State.MET, State.MET]


def test_worse_version_is_aborted_by_the_goal_it_misses():
    decision = decided(BROKEN)
    assert decision.verdict is Outcome.ABORT
    assert decision.gate is Verdict.FAIL
    assert decision.automatic
    assert "worse by more than 2 points (evidence" in decision.sentence
    assert decision.sentence.endswith("needed 25 : 1).")
    row = decision.rows[0]
    assert row.state is State.BROKEN
    assert row.low >= 2.0
    assert row.estimate == pytest.approx(100 / 12)


def test_dead_version_is_aborted_by_the_limit_before_any_floor():
    decision = decided(DEAD)
    assert decision.verdict is Outcome.ABORT
    assert "above the limit of 5 %" in decision.sentence


@pytest.mark.parametrize("windows", [[], [EMPTY] * 20, [look((0, 100), (0, 0))] * 20])
@pytest.mark.parametrize("seconds", [0.0, 1e6])
def test_no_data_never_decides(windows, seconds):
    decision = decided(windows, seconds=seconds)
    assert decision.verdict is (Outcome.INCONCLUSIVE if seconds else Outcome.CONTINUE)
    assert decision.gate is Verdict.INSUFFICIENT_DATA
    assert not decision.automatic


@given(st.lists(st.builds(Window, arms(), arms()), max_size=4), st.floats(0, 1e5), st.booleans())
def test_provider_problem_holds_whatever_was_measured(windows, seconds, skewed):
    decision = decided(windows, seconds=seconds, problem="Prometheus did not answer.", units=SKEWED if skewed else ())
    assert decision.verdict is Outcome.CONTINUE
    assert decision.gate is Verdict.PROVIDER_ERROR


def test_wrong_split_makes_everything_invalid():
    for windows in (HEALTHY, BROKEN):
        decision = decided(windows, units=SKEWED)
        assert decision.verdict is Outcome.INVALID
        assert decision.gate is Verdict.PROVIDER_ERROR
        assert "500 of 1,000 sessions (50 %) met the candidate, 10 % should have" in decision.sentence


def test_right_split_disturbs_nothing():
    assert decided(HEALTHY, units=[Assigned(0.1, 900, 100)] * 5).verdict is Outcome.PROMOTE


def test_floor_holds_back_a_promotion():
    decision = decided(HEALTHY, ExperimentSettings(goals=(Goal(margin_points=2.0),)))
    assert decision.verdict is Outcome.CONTINUE
    assert "may be promoted after 1,000 requests, 700 more" in decision.sentence
    assert decision.further_requests == 7000


def test_end_without_decision_is_inconclusive_and_no_success():
    decision = decided(HEALTHY[:3], seconds=1800.0)
    assert decision.verdict is Outcome.INCONCLUSIVE
    assert decision.timed_out
    assert decision.gate is Verdict.INSUFFICIENT_DATA
    assert decision.sentence.startswith("No decision after 30 minutes")


def test_superiority_needs_a_better_version_and_never_aborts():
    settings = ExperimentSettings(goals=(Goal(aim=Aim.SUPERIORITY, margin_points=0.0),), min_requests=100)
    assert decided(BETTER, settings).verdict is Outcome.PROMOTE
    assert decided(HEALTHY, settings).verdict is Outcome.CONTINUE
    worse = decided([look((1, 100), (4, 100))] * 30, settings)
    assert worse.verdict is Outcome.CONTINUE
    assert worse.rows[0].log_threshold_against is None


def test_every_goal_and_every_increase_must_be_shown():
    settings = ExperimentSettings(
        goals=(Goal(margin_points=2.0), Goal(aim=Aim.SUPERIORITY, margin_points=1.0)),
        guardrails=(Guardrail("error_rate_increase", 0.5),),
        min_requests=100,
    )
    decision = decided(HEALTHY, settings)
    assert decision.verdict is Outcome.CONTINUE
    assert [row.state for row in decision.rows] == [State.MET, State.OPEN, State.OPEN]
    assert decided(BETTER, settings).verdict is Outcome.PROMOTE


def test_abort_rules_share_alpha():
    settings = ExperimentSettings(
        goals=(Goal(margin_points=2.0), Goal(aim=Aim.SUPERIORITY)),
        guardrails=(Guardrail("error_rate_increase", 1.0), Guardrail("error_rate", 5.0), Guardrail("error_rate", 9.0)),
    )
    spent = len(settings.harm_margins) * settings.harm_alpha + len(settings.hard_limits) * settings.limit_alpha
    assert spent == pytest.approx(settings.alpha)
    assert ExperimentSettings(guardrails=()).harm_alpha == pytest.approx(0.05)


def test_acting_alone_is_an_option():
    assert not decided(HEALTHY).automatic
    willing = ExperimentSettings(goals=TWO_POINTS.goals, min_requests=100, auto_promote=True, auto_rollback=False)
    assert decided(HEALTHY, willing).automatic
    assert not decided(BROKEN, willing).automatic


def test_carried_interval_gives_the_same_decision_to_the_last_bit():
    windows = poisson_windows(np.random.default_rng(61), 200, 18, 2, 0.01, 0.02)
    sequence = sequence_for(TWO_POINTS)
    for first in range(0, 200, 9):
        sequence = extend(sequence, windows[first : first + 9])
    assert decided(windows, sequence=sequence) == decided(windows)
    with pytest.raises(ValueError, match="the interval has seen 200 windows"):
        decided(windows[:50], sequence=sequence)


def test_stored_windows_give_the_same_decision_to_the_last_bit():
    windows = poisson_windows(np.random.default_rng(62), 100, 18, 2, 0.01, 0.02)
    kept = json.loads(json.dumps(decided(windows).to_json()))
    stored = json.loads(json.dumps([window.to_json() for window in windows]))
    again = decided([Window.from_json(window) for window in stored], parse_settings(kept["settings"]))
    assert json.loads(json.dumps(again.to_json())) == kept


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
def test_each_outcome_is_one_of_the_four_verdicts_at_the_gate(outcome, gate):
    assert gate_verdict(outcome) is gate


def test_settings_are_read_from_plain_values():
    settings = parse_settings(
        {
            "goals": [{"metric": "error_rate", "aim": "superiority", "margin_points": 0}],
            "guardrails": [{"metric": "error_rate_increase", "limit": 1}],
            "auto_promote": True,
        }
    )
    assert settings.goals == (Goal(aim=Aim.SUPERIORITY, margin_points=0.0),)
    assert settings.guardrails == (Guardrail("error_rate_increase", 1.0),)
    assert parse_settings(json.loads(json.dumps(settings.to_json()))) == settings
    assert parse_settings({}) == ExperimentSettings()


@pytest.mark.parametrize(
    ("wrong", "field", "says"),
    [
        ({"goal": []}, "goal", "did you mean goals?"),
        ({"goals": "error_rate"}, "goals", "is not a list"),
        ({"goals": [{"metric": "latency"}]}, "goals", "'latency' is not one of error_rate"),
        ({"goals": [{"margin_points": 0}]}, "goals", "non-inferiority needs a margin above 0"),
        ({"goals": []}, "goals", "name at least one goal"),
        ({"guardrails": [{"metric": "error_rate"}]}, "guardrails", "not a guardrail such as"),
        ({"auto_promote": "yes"}, "auto_promote", "'yes' is not true or false"),
    ],
)
def test_wrong_settings_say_what_would_be_right(wrong, field, says):
    with pytest.raises(SettingsError) as caught:
        parse_settings(wrong)
    assert says in caught.value.fields[field]
