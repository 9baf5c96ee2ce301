"""Numbers that peers publish of their own examples; to agree with them, none of the packages is needed."""

from __future__ import annotations

import numpy as np
import pytest

from deploypipe.stats.srm import Assigned, Assignment, SrmProcess, update


def alarm(state: SrmProcess, assignments) -> tuple[int, float]:
    """After how many units the split is called wrong at 5 %, and the p-value then."""
    for number, assignment in enumerate(assignments, 1):
        state = update(state, assignment)
        if state.reached(0.05):
            return number, float(np.exp(-state.max_log_evidence))
    raise AssertionError("never called")


def test_sample_ratio_mismatch_is_called_at_the_unit_and_with_the_p_value_of_savvis_example():
    """savvi's README, "Multinomial Test": three groups that were promised 10, 40 and 50 % and get 10, 30 and 60 %."""
    units = np.random.RandomState(1).multinomial(1, [0.1, 0.3, 0.6], size=1000)
    promised = {"a": 0.1, "b": 0.4, "c": 0.5}
    found = alarm(SrmProcess(), (Assignment(promised, dict(zip("abc", map(int, unit), strict=True))) for unit in units))
    assert found == pytest.approx((402, 0.04845591105969517))


def test_difference_of_two_poisson_processes_is_called_at_the_event_of_savvis_example():
    """savvi 0.3.1, examples/InhomogeneousPoissonProcess: a fifth of the exposure, e^0.5 times the rate."""
    weights = np.array([0.8, 0.2]) * np.exp([1.5, 2.0])
    events = np.random.RandomState(1).multinomial(1, weights / weights.sum(), size=1500)
    found = alarm(SrmProcess(), (Assigned(0.2, int(stable), int(candidate)) for stable, candidate in events))
    assert found == pytest.approx((210, 0.045579631759249686))
