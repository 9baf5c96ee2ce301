"""Tests of pairs, held to published numbers and to scipy."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from deploypipe.stats.paired import sign_flip, solved_more

# Darwin's 15 pairs of maize plants, crossed minus self-fertilised, eighths of an inch; the example on which Fisher
# introduced the test (The Design of Experiments, section 21): 863 of 32,768 assignments of signs reach the sum, so the
# one-sided chance is 2.634 %.
DARWIN: list[float] = [49, -67, 8, 16, 6, 23, 28, 41, 14, 29, 56, 24, 75, 60, -48]


def test_fishers_own_example_has_his_answer() -> None:
    exact = sign_flip_listed(DARWIN)
    assert exact == 863 / 2**15
    assert sign_flip(DARWIN) == pytest.approx(exact, abs=4 * math.sqrt(exact * (1 - exact) / 9999))


def sign_flip_listed(differences: list[float]) -> float:
    """In halves: all sums of the first part, counted against those of the second."""
    values = np.array(differences)
    first, second = (np.array([sum(s) for s in signs(part)]) for part in (values[:7], values[7:]))
    return float(np.mean(first[:, None] + second[None, :] >= values.sum()))


def signs(values: np.typing.NDArray[np.float64]) -> list[list[float]]:
    found: list[list[float]] = [[]]
    for value in values:
        found = [[*known, sign * value] for known in found for sign in (1, -1)]
    return found


@pytest.mark.parametrize(
    ("differences", "p"),
    [([], 1.0), ([1.0], 0.5), ([1.0] * 5, 1 / 32), ([-1.0] * 5, 1.0), ([0.0] * 8, 1.0), ([3.0, 1.0, -1.0], 0.375)],
)
def test_few_pairs_are_listed_one_by_one(differences: list[float], p: float) -> None:
    assert sign_flip(differences) == p


@given(st.lists(st.integers(-800, 800).map(lambda eighths: eighths / 8), min_size=2, max_size=10))
def test_listed_signs_agree_with_scipy(differences: list[float]) -> None:
    values = np.array(differences)
    found = stats.permutation_test(
        (values,), np.mean, permutation_type="samples", alternative="greater", n_resamples=2**10
    )
    assert sign_flip(differences) == pytest.approx(found.pvalue, abs=1e-9)


def test_level_is_kept_where_there_is_no_difference() -> None:
    """1,000 comparisons of equals: 5 % may say "worse"; 7.2 % lies beyond three standard deviations."""
    rng = np.random.default_rng(7)
    false = sum(sign_flip(rng.standard_t(3, size=40).tolist(), seed=seed) <= 0.05 for seed in range(1000))
    assert 30 <= false <= 71


def test_score_test_has_the_published_answer() -> None:
    """Tango's first example: 44 patients, one succeeds with the standard only, none with the other only; that the other
    is worse by 10 points is rejected with Z = 1.709."""
    chance = solved_more(0, 1, 44, allowed=-0.1, correction=0.0)
    assert -stats.norm.ppf(chance) == pytest.approx(1.709, abs=5e-4)


@pytest.mark.parametrize(("only_first", "only_second"), [(5, 0), (8, 2), (30, 20), (121, 59)])
def test_with_nothing_allowed_it_is_nearly_the_exact_test(only_first: int, only_second: int) -> None:
    exact = stats.binomtest(only_first, only_first + only_second, alternative="greater").pvalue
    assert exact <= solved_more(only_first, only_second, 500) <= 1.25 * exact


@pytest.mark.parametrize(("only_first", "only_second", "tasks"), [(0, 0, 0), (0, 0, 5), (2, 8, 20), (3, 3, 6)])
def test_who_did_not_solve_more_is_not_shown_to(only_first: int, only_second: int, tasks: int) -> None:
    assert solved_more(only_first, only_second, tasks) == solved_more(only_first, only_second, tasks, allowed=0.1) == 1


@pytest.mark.parametrize("tasks", [20, 200, 1000])
@pytest.mark.parametrize("allowed", [0.0, 0.02, 0.1])
@pytest.mark.parametrize("each_alone", [0.0, 0.02, 0.1, 0.3])
def test_level_is_kept_where_the_first_solves_exactly_as_many_more_as_it_may(
    tasks: int, allowed: float, each_alone: float
) -> None:
    """2,000 comparisons of two that each solve a share of the tasks alone, the first `allowed` more."""
    rng = np.random.default_rng(9)
    drawn = rng.multinomial(tasks, [each_alone + allowed, each_alone, 1 - 2 * each_alone - allowed], size=2000)
    false = sum(solved_more(int(a), int(b), tasks, allowed=allowed) <= 0.05 for a, b, _ in drawn)
    assert false / 2000 <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / 2000)
