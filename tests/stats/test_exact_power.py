"""The chance that the exact test calls harm, against the test itself."""

from __future__ import annotations

import numpy as np
import pytest

from deploypipe.stats.exact import p_value
from deploypipe.stats.exact_power import power

CASES = [
    (1080, 0.01, 120, 0.05, 0.005, 0.02),
    (270, 0.05, 30, 0.2, 0.005, 0.02),
    (1000, 0.021, 500, 0.05, 0.005, 0.01),  # by the normal law
]


@pytest.mark.parametrize("case", CASES)
def test_power_is_how_often_the_test_calls_harm(case: tuple[int, float, int, float, float, float]) -> None:
    n_a, q_a, n_b, q_b, margin, alpha = case
    rng = np.random.default_rng(1)
    drawn = zip(rng.binomial(n_a, q_a, 150).tolist(), rng.binomial(n_b, q_b, 150).tolist(), strict=True)
    called = np.mean([p_value(n_a, a, n_b, b, margin, above=True) <= alpha for a, b in drawn])
    assert power(n_a, q_a, n_b, q_b, margin, above=True, alpha=alpha) == pytest.approx(called, abs=0.12)  # 3 se
    assert power(n_a, 1 - q_a, n_b, 1 - q_b, -margin, above=False, alpha=alpha) == pytest.approx(
        power(n_a, q_a, n_b, q_b, margin, above=True, alpha=alpha)
    )


@pytest.mark.parametrize(("n_a", "n_b"), [(900, 100), (90_000, 10_000)])
def test_without_harm_beyond_the_margin_it_is_at_most_alpha(n_a: int, n_b: int) -> None:
    assert power(n_a, 0.01, n_b, 0.015, 0.005, above=True, alpha=0.05) <= 0.05 + 1e-9
    assert power(n_a, 0.01, n_b, 0.01, 0.005, above=True, alpha=0.05) < 0.05


def test_more_units_and_more_harm_are_seen_more_often() -> None:
    found = [power(9 * n, 0.01, n, q, 0.005, above=True, alpha=0.02) for n, q in ((50, 0.05), (200, 0.05), (200, 0.1))]
    assert found == sorted(found)
    assert found[0] < 0.5 < found[-1]


def test_nobody_there_sees_nothing() -> None:
    assert power(0, 0.01, 10, 0.5, 0.0, above=True, alpha=0.05) == 0.0
    assert power(10, 0.01, 0, 0.5, 0.0, above=True, alpha=0.05) == 0.0


@pytest.mark.parametrize(("changes", "says"), [({"q_a": 1.1}, "stable 1.1"), ({"alpha": 0.0}, "not 0.0")])
def test_wrong_numbers_are_named(changes: dict[str, float], says: str) -> None:
    given = {"q_a": 0.01, "alpha": 0.05, **changes}
    with pytest.raises(ValueError, match=says):
        power(10, given["q_a"], 10, 0.1, 0.0, above=True, alpha=given["alpha"])
