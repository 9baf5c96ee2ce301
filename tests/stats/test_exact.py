import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from deploypipe.stats.exact import GAMMA, MANY, p_value


@pytest.mark.parametrize(("n_a", "s_a", "n_b", "s_b"), [(60, 2, 40, 7), (30, 0, 30, 5), (200, 3, 50, 4)])
def test_without_a_margin_it_is_the_pooled_test_of_barnard(n_a: int, s_a: int, n_b: int, s_b: int) -> None:
    theirs = stats.barnard_exact([[s_b, s_a], [n_b - s_b, n_a - s_a]], alternative="greater", pooled=True).pvalue
    # Ours searches the rates that stable makes likely, and pays GAMMA for it; theirs searches all.
    assert p_value(n_a, s_a, n_b, s_b, 0.0, above=True) == pytest.approx(theirs, rel=0.1, abs=2 * GAMMA)
    assert p_value(n_a, s_a, n_b, s_b, 0.0, above=True) <= theirs + 2 * GAMMA


@pytest.mark.parametrize("base", [0.0, 0.002, 0.02, 0.2])
@pytest.mark.parametrize("alpha", [0.05, 0.01])
def test_candidate_at_the_margin_is_called_worse_with_chance_alpha_at_most(base: float, alpha: float) -> None:
    """Every outcome weighed by its chance: no simulation."""
    n_a, n_b, margin = 200, 40, 0.02
    a = np.arange(0, _most(n_a, base) + 1)
    b = np.arange(0, _most(n_b, base + margin) + 1)
    chances = stats.binom.pmf(a, n_a, base)[:, None] * stats.binom.pmf(b, n_b, base + margin)[None, :]
    called = np.array([[p_value(n_a, int(i), n_b, int(j), margin, above=True) <= alpha for j in b] for i in a])
    assert (chances * called).sum() <= alpha
    assert chances.sum() > 1 - 1e-6
    assert called.any()


def _most(n: int, rate: float) -> int:
    return int(stats.binom.ppf(1 - 1e-8, n, rate))


@given(st.integers(1, 150), st.integers(1, 150), st.floats(0, 1), st.floats(0, 1), st.floats(-0.3, 0.3))
def test_one_more_failure_of_the_candidate_never_speaks_for_it(
    n_a: int, n_b: int, a: float, b: float, margin: float
) -> None:
    s_a, s_b = int(a * n_a), int(b * (n_b - 1))
    before, after = (p_value(n_a, s_a, n_b, s, margin, above=True) for s in (s_b, s_b + 1))
    assert 0 <= after <= before + 1e-9 <= 1 + 1e-9


def test_side_of_the_null_matters() -> None:
    assert p_value(1000, 10, 1000, 60, 0.005, above=True) < 1e-3
    assert p_value(1000, 10, 1000, 60, 0.005, above=False) > 0.99
    assert p_value(2000, 20, 2000, 18, 0.02, above=False) < 1e-3


def test_many_failures_are_judged_by_the_normal_law_without_a_jump() -> None:
    few, many = int(MANY) - 1, int(MANY)
    below = p_value(20_000, few, 20_000, few + 140, 0.005, above=True)
    from_there = p_value(20_000, many, 20_000, many + 140, 0.005, above=True)
    assert below == pytest.approx(from_there, rel=0.1)


def test_arm_without_units_proves_nothing() -> None:
    assert p_value(0, 0, 10, 10, 0.0, above=True) == 1.0
    assert p_value(10, 0, 0, 0, 0.0, above=True) == 1.0


@pytest.mark.parametrize(("failures", "margin"), [((11, 1), 0.0), ((-1, 1), 0.0), ((1, 11), 0.0), ((1, 1), 1.0)])
def test_impossible_numbers_are_refused(failures: tuple[int, int], margin: float) -> None:
    with pytest.raises(ValueError, match="must lie between"):
        p_value(10, failures[0], 10, failures[1], margin, above=True)
