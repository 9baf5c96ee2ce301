"""What other judges, and other settings, would have said of an experiment's traffic."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from abtests import decision
from abtests.decision import Outcome
from abtests.retrospect import Judge, Retrospect, look_back, of_analysis, ours, settled
from abtests.settings import ExperimentSettings, parse_settings
from abtests.thresholds import kept, thresholds
from deploypipe.metrics.questions import Criterion, Kind
from deploypipe.metrics.windows import Measured
from rollouts.analysis import AnalysisSettings
from tests.metrics.streams import arm, drawn, repeated, window

SETTINGS: dict[str, Any] = {"goals": [{"margin_points": 2}], "min_requests": 100, "closing_share": 0}
WINDOWS = drawn(np.random.default_rng(1), 24, 40, 20, 0.02, 0.03)
"""Ten seconds each."""


def said_by(judge: Judge, windows: list[Measured] = WINDOWS, **how: Any) -> Retrospect:
    return look_back(windows, judge, **how)


def test_other_settings_say_when_they_would_have_ended() -> None:
    patient = said_by(ours(ExperimentSettings(min_requests=100)))
    assert patient.end is None
    assert len(patient.said) == 24
    quick = said_by(ours(parse_settings({**SETTINGS, "alpha": 0.2, "goals": [{"margin_points": 4}]})))
    assert quick.end is not None
    assert quick.end.verdict == Outcome.PROMOTE
    assert quick.end == quick.said[-1]
    assert quick.end.seconds == 10.0 * len(quick.said)
    assert quick.end.requests == sum(
        each.requests for window in WINDOWS[: len(quick.said)] for each in window.arms.values()
    )
    assert json.loads(json.dumps(quick.to_json()))["end"]["window"] == quick.end.window


def test_it_agrees_with_the_decision_at_each_look() -> None:
    settings = parse_settings(SETTINGS)
    said = said_by(ours(settings)).said
    for place in (0, 5, len(said) - 1):
        progress = decision.advance(decision.start(settings), WINDOWS[: place + 1])
        decided = decision.decide(progress, seconds=10.0 * (place + 1), ahead=False)
        assert (said[place].verdict, said[place].sentence) == (decided.verdict.value, decided.sentence)


def test_order_in_the_file_does_not_matter() -> None:
    assert said_by(ours(parse_settings(SETTINGS)), WINDOWS[::-1]) == said_by(ours(parse_settings(SETTINGS)))


def test_silence_after_the_last_window_counts_as_time() -> None:
    """The experiment was over at its time limit, although nothing more was measured."""
    settings = parse_settings({"max_seconds": 260, "closing_share": 0})
    assert said_by(ours(settings)).end is None
    found = said_by(ours(settings), until=260.0)
    assert found.end is not None
    assert (found.end.verdict, found.end.seconds, found.end.window) == ("inconclusive", 260.0, 23)
    assert found.end.requests == found.said[-2].requests


def test_without_windows_nobody_says_anything() -> None:
    assert look_back([], ours(ExperimentSettings()), until=99.0) == Retrospect((), None)


def test_several_candidates_are_judged_together() -> None:
    windows = [window(number, arm(40), arm(40, 20), share=0.3, others={"candidate-2": arm(40)}) for number in range(60)]
    arms = ("candidate", "candidate-2")
    assert said_by(ours(parse_settings(SETTINGS), arms), windows).end.verdict == "promote"  # type: ignore[union-attr]
    found = said_by(thresholds(parse_settings(SETTINGS), arms), windows).end
    assert found is not None
    assert found.sentence.startswith("candidate-2: 0.00 % against 0.00 %: the error rate rises by less than 2 points.")


# --- What is settled at the start -------------------------------------------------------------------------------------


def test_what_would_have_been_settled_at_the_start_is_settled_by_the_traffic() -> None:
    """20 sessions of the candidate in ten seconds: 240 in two minutes, 3,600 in half an hour."""
    short = parse_settings({"max_seconds": 120})
    assert settled(short, WINDOWS).closing_share == 0.8
    assert settled(replace(short, max_seconds=1800.0), WINDOWS).closing_share == 0.0
    assert settled(replace(short, closing_share=0.3), WINDOWS).closing_share == 0.3
    assert settled(replace(short, unit=parse_settings({"unit": "request"}).unit), WINDOWS).closing_share == 0.0
    assert settled(short, []).closing_share == 0.0


# --- The judge of a rollout's step ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("failed", "verdict"), [(0, "promote"), (15, "abort")])
def test_judge_of_a_rollout_is_asked_too(failed: int, verdict: str) -> None:
    windows = repeated(60, arm(40), arm(40, failed), share=0.5)
    found = said_by(of_analysis(AnalysisSettings(max_error_increase_points=2.0)), windows).end
    assert found is not None
    assert found.verdict == verdict


def test_step_whose_time_is_over_is_inconclusive() -> None:
    windows = repeated(3, arm(4), arm(4))
    over = said_by(of_analysis(AnalysisSettings(max_seconds=20)), windows).end
    assert over is not None
    assert (over.verdict, over.seconds) == ("inconclusive", 20.0)
    late = said_by(of_analysis(AnalysisSettings(max_seconds=40)), windows, until=40.0).end
    assert late is not None
    assert (late.verdict, late.seconds) == ("inconclusive", 40.0)


# --- The usual rule ---------------------------------------------------------------------------------------------------

ALL: dict[str, Any] = {
    "goals": [
        {"metric": "error_rate", "margin_points": 0.5},
        {"metric": "latency", "margin_percent": 20},
        {"metric": "rating", "limit": 4.0},
    ],
    "guardrails": [{"metric": "success_rate", "limit": 95}],
    "min_requests": 50,
}


@pytest.mark.parametrize(
    ("candidate", "verdict", "says"),
    [
        (arm(100, 1, ratings={5: 2}), "promote", "1.00 % against 1.00 %: the error rate rises by less than 0.5"),
        (arm(100, 2, ratings={5: 2}), "abort", "2.00 % against 1.00 %: it is not so that the error rate rises by less"),
        (
            arm(100, 1, ms=130.0, ratings={5: 2}), "abort",
            "131 ms against 101 ms: it is not so that the P95 latency rises by less than 20 %.",
        ),
        (arm(100, 1, ratings={3: 2}), "abort", "3.00 stars: it is not so that the rating is at least 4 stars."),
        (arm(100, 0), "continue", "Nothing was measured of it whether the rating is at least 4 stars."),
        (arm(49, 49), "continue", "49 of 50 requests."),
    ],
)  # fmt: skip
def test_numbers_are_compared_with_what_is_allowed(candidate: Any, verdict: str, says: str) -> None:
    [found] = said_by(thresholds(parse_settings(ALL)), repeated(1, arm(100, 1), candidate)).said
    assert found.verdict == verdict
    assert says in found.sentence


def test_what_may_not_abort_only_holds_back() -> None:
    asked = {**ALL, "goals": [{"metric": "error_rate", "aim": "superiority", "margin_points": 0}], "guardrails": []}
    judge = thresholds(parse_settings(asked))
    assert said_by(judge, repeated(2, arm(100, 1), arm(100, 1))).said[-1].verdict == "continue"
    assert (
        said_by(thresholds(parse_settings(asked)), repeated(1, arm(100, 1), arm(100, 0))).said[-1].verdict == "promote"
    )


def test_usual_rule_takes_chance_for_truth_where_ours_waits() -> None:
    """Three of a hundred against five of four hundred: harm, if one looks at the numbers alone."""
    unlucky = repeated(1, arm(400, 5), arm(100, 3), share=0.2)
    asked = parse_settings({"min_requests": 100})
    assert said_by(thresholds(asked), unlucky).said[-1].verdict == "abort"
    assert said_by(ours(asked), unlucky).said[-1].verdict == "continue"


def test_usual_rule_ends_without_an_answer_when_time_is_over() -> None:
    judge = thresholds(parse_settings({"min_requests": 1000, "max_seconds": 40}))
    found = said_by(judge, repeated(5, arm(100, 1), arm(20, 1), share=0.2)).end
    assert found is not None
    assert (found.verdict, found.sentence, found.seconds) == ("inconclusive", "80 of 1,000 requests.", 40.0)


def test_arrivals_have_no_number_of_their_own() -> None:
    asked = {**ALL, "goals": [{"metric": "rating_response_rate", "margin_percent": 10}]}
    with pytest.raises(ValueError, match="rating_response_rate has no number of its own that could be compared"):
        thresholds(parse_settings(asked))


@pytest.mark.parametrize(
    ("criterion", "stable", "candidate", "keeps"),
    [
        (Criterion("error_rate", Kind.INCREASE, 0.5), 1.0, 1.4999, True),
        (Criterion("error_rate", Kind.INCREASE, 0.5), 1.0, 1.5, False),
        (Criterion("error_rate", Kind.INCREASE, 50.0, relative=True), 1.0, 1.4, True),
        (Criterion("error_rate", Kind.INCREASE, 50.0, relative=True), 1.0, 1.6, False),
        (Criterion("latency", Kind.INCREASE, 20.0, relative=True, level=0.95), 10.0, 13.0, False),
        (Criterion("latency", Kind.INCREASE, 20.0, relative=True, level=0.95, slack=5.0), 10.0, 13.0, True),
        (Criterion("rating", Kind.INCREASE, 0.2), 4.4, 4.25, True),
        (Criterion("rating", Kind.INCREASE, 0.2), 4.4, 4.1, False),
        (Criterion("rating", Kind.IMPROVEMENT, 0.2), 4.4, 4.7, True),
        (Criterion("rating", Kind.IMPROVEMENT, 0.2), 4.4, 4.5, False),
        (Criterion("rating", Kind.EQUIVALENCE, 0.2), 4.4, 4.7, False),
        (Criterion("rating", Kind.LIMIT, 4.0), 0.0, 4.0, True),
        (Criterion("error_rate", Kind.LIMIT, 5.0), 0.0, 5.0, True),
        (Criterion("error_rate", Kind.LIMIT, 5.0), 0.0, 5.1, False),
    ],
)
def test_edges_of_what_is_allowed(criterion: Criterion, stable: float, candidate: float, keeps: bool) -> None:
    assert kept(criterion, stable, candidate) is keeps
