from __future__ import annotations

import math

import pytest

from deploypipe.stats.planning import growth_per_request, minutes, one_arm_requests, plan, requests_to_decide

PAIRS = [(0.01, 0.01), (0.01, 0.02), (0.01, 0.03), (0.01, 0.06), (0.002, 0.002)]
TABLE = {  # statistics.md (H): margin half a point, alpha 0.05, total requests
    0.05: (64_480, 81_236, 10_604, 1_623, 24_152),
    0.1: (33_308, 42_326, 5_565, 867, 12_212),
    0.25: (14_920, 19_563, 2_639, 435, 5_074),
    0.5: (9_764, 13_825, 1_967, 355, 2_763),
}


@pytest.mark.parametrize("share", TABLE)
def test_requests_to_decide_are_those_of_the_table(share):
    found = [requests_to_decide(stable, candidate, 0.005, share, 0.05) for stable, candidate in PAIRS]
    assert found == [pytest.approx(number, abs=1) for number in TABLE[share]]


@pytest.mark.parametrize(("rate", "published"), [(0.06, 3019), (0.08, 370), (0.10, 145), (0.15, 42), (0.20, 21)])
def test_requests_of_one_arm_are_those_of_the_reference(rate, published):
    """statistics.md (D): limit 5 %, alpha 0.05."""
    assert one_arm_requests(rate, 0.05, 0.05) == pytest.approx(published, abs=1)


def test_plan_says_both_what_passes_and_what_is_caught():
    answer = plan(0.01, 0.005, 0.1, 0.05)
    assert answer.requests_to_pass == pytest.approx(33_308, abs=1)
    assert answer.requests_to_abort_doubled == pytest.approx(42_326, abs=1)
    assert minutes(answer.requests_to_pass, 18 * 60) == pytest.approx(31, abs=0.5)


def test_twice_a_small_rate_within_the_margin_is_never_aborted():
    assert plan(0.002, 0.02, 0.1, 0.05).requests_to_abort_doubled is None


def test_at_the_margin_no_number_of_requests_decides():
    assert requests_to_decide(0.01, 0.015, 0.005, 0.1, 0.05) == math.inf
    assert one_arm_requests(0.05, 0.05, 0.05) == math.inf


@pytest.mark.parametrize("rate", [0.0, 1.0])
def test_extreme_rates_are_planned_too(rate):
    assert requests_to_decide(rate, rate, 0.02, 0.1, 0.05) > 0


def test_without_traffic_there_is_no_growth_and_no_end():
    assert growth_per_request(0.01, 0.01, 0.005, 0.0) == 0
    assert growth_per_request(0.01, 0.01, 0.005, 1.0) == 0
    assert minutes(1000, 0) == math.inf
