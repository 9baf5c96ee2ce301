from __future__ import annotations

import math

import pytest

from deploypipe.stats import words


@pytest.mark.parametrize(
    ("share", "expected"),
    [
        (5 / 61, "8.2 %"),
        (2 / 3240, "0.06 %"),
        (0.001, "0.1 %"),
        (0, "0 %"),
        (1, "100 %"),
        (0.05, "5 %"),
        (1e-8, "less than 0.001 %"),
    ],
)
def test_percent_keeps_the_digits_that_matter(share, expected):
    assert words.percent(share) == expected


@pytest.mark.parametrize(
    ("value", "expected"), [(2, "2 points"), (1, "1 point"), (0.5, "0.5 points"), (0.25, "0.25 points")]
)
def test_points(value, expected):
    assert words.points(value) == expected


@pytest.mark.parametrize(
    ("evidence", "expected"),
    [
        (20, "20 : 1"),
        (19.99, "19 : 1"),
        (3.19, "3.1 : 1"),
        (0.01, "less than 0.1 : 1"),
        (1e9, "more than 1,000,000 : 1"),
    ],
)
def test_odds_are_never_rounded_up_to_a_threshold(evidence, expected):
    assert words.odds(math.log(evidence)) == expected


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [(1, "1 second"), (40.2, "41 seconds"), (1800, "30 minutes"), (7200, "2 hours"), (4 * 86400, "4 days")],
)
def test_duration(seconds, expected):
    assert words.duration(seconds) == expected


@pytest.mark.parametrize(("value", "expected"), [(8377, "8,377"), (33_308.2, "33,300"), (0.2, "1")])
def test_count_of_an_estimate(value, expected):
    assert words.count(value) == expected


def test_errors_of_requests():
    assert words.of(2, 3240) == "2 of 3,240 (0.06 %)"
    assert words.of(0, 0) == "no requests"


def test_a_limit_is_said_as_it_was_set():
    assert words.limit(5.0) == "5 %"
    assert words.limit(2.25) == "2.25 %"


def test_one_of_them_is_one() -> None:
    assert [words.plural(number, "request") for number in (0, 1, 1000)] == ["0 requests", "1 request", "1,000 requests"]
