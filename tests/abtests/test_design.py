from __future__ import annotations

import math

import pytest

from abtests.design import design


def designed(**changes):
    return design(
        **{
            "base_rate": 0.01,
            "margin_points": 0.5,
            "share": 0.1,
            "requests_per_minute": 600.0,
            "max_minutes": 30.0,
            **changes,
        }
    )


def test_form_says_requests_and_minutes_before_the_test_starts():
    answer = designed(requests_per_minute=18 * 60, max_minutes=40)
    assert answer.requests_to_pass == pytest.approx(33_309, abs=1)
    assert answer.feasible
    assert answer.suggested_share is None
    assert answer.sentence == (
        "An equal version is promoted after about 33,300 requests, 31 minutes at today's traffic."
        " Twice the error rate is caught after about 42,300 requests, 40 minutes at today's traffic."
    )


def test_infeasible_split_is_answered_with_one_that_fits():
    answer = designed()
    assert not answer.feasible
    assert answer.suggested_share == 0.25
    assert answer.sentence.endswith("That is more than 30 minutes; with 25 % instead of 10 % it fits.")


def test_when_no_split_fits_it_says_what_else_would_help():
    answer = designed(requests_per_minute=20)
    assert answer.suggested_share is None
    assert answer.sentence.endswith("No usual split decides within 30 minutes: allow more time or a wider margin.")


def test_twice_a_rate_within_the_margin_is_said_not_to_be_caught():
    answer = designed(base_rate=0.002, margin_points=2.0)
    assert answer.requests_to_abort_doubled is None
    assert "Twice the error rate stays within the margin" in answer.sentence


def test_floor_of_candidate_requests_counts():
    assert designed(base_rate=0.0, margin_points=5.0, min_requests=1000).requests_to_pass == 10_000


def test_no_traffic_is_said_and_never_feasible():
    answer = designed(requests_per_minute=0)
    assert not answer.feasible
    assert math.isinf(answer.minutes_to_pass)
    assert "there is no traffic now" in answer.sentence
