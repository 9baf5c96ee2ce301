"""Tests of pairs, held to published numbers and to scipy."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from deploypipe.stats.paired import mcnemar, sign_flip

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


@given(st.lists(st.floats(-100, 100), min_size=2, max_size=10))
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


@pytest.mark.parametrize(("only_first", "only_second"), [(0, 0), (5, 0), (8, 2), (2, 8), (30, 30), (121, 59)])
def test_mcnemar_is_the_binomial_tail(only_first: int, only_second: int) -> None:
    n = only_first + only_second
    expected = stats.binomtest(only_first, n, alternative="greater").pvalue if n else 1.0
    assert mcnemar(only_first, only_second) == pytest.approx(expected)
