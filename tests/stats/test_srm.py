from __future__ import annotations

import json
import math

import numpy as np
import pytest
from scipy.special import betaln

from deploypipe.stats.srm import Assigned, SrmProcess, replay, update
from tests.stats.simulation import at_most


def units_until_alarm(rng, true_share, *, expected=0.1, alpha=0.01, looks=300, per_look=100):
    state = SrmProcess()
    for look in range(1, looks + 1):
        candidate = int(rng.binomial(per_look, true_share))
        state = update(state, Assigned(expected, per_look - candidate, candidate))
        if state.reached(alpha):
            return look * per_look
    return math.inf


def test_evidence_is_the_dirichlet_multinomial_bayes_factor():
    state = replay([Assigned(0.1, 80, 20)])
    by_hand = betaln(90 + 80, 10 + 20) - betaln(90, 10) - 80 * math.log(0.9) - 20 * math.log(0.1)
    assert state.log_evidence == pytest.approx(by_hand)


def test_stages_of_another_share_multiply():
    stages = [Assigned(0.1, 80, 20), Assigned(0.5, 55, 45)]
    assert replay(stages).log_evidence == pytest.approx(sum(replay([stage]).log_evidence for stage in stages))
    same = [Assigned(0.1, 80, 20), Assigned(0.1, 95, 5)]
    assert replay(same).log_evidence == pytest.approx(replay([Assigned(0.1, 175, 25)]).log_evidence)


def test_a_share_of_nothing_or_everything_is_left_out():
    state = replay([Assigned(0.1, 80, 20)])
    assert update(update(state, Assigned(0.0, 10, 3)), Assigned(1.0, 2, 10)) == state


def test_a_correct_split_raises_no_more_alarms_than_alpha():
    rng, runs = np.random.default_rng(31), 300
    alarms = sum(units_until_alarm(rng, 0.1, alpha=0.05, looks=100) < math.inf for _ in range(runs))
    assert at_most(alarms / runs, 0.05, runs)


@pytest.mark.parametrize(("true_share", "published"), [(0.08, 2400), (0.12, 2800), (0.15, 600), (0.05, 500)])
def test_mismatch_is_found_as_soon_as_reference_runs_did(true_share, published):
    """statistics.md 3.6, k = 100, alpha 0.01, look every 100 units: median units to detect."""
    rng = np.random.default_rng(32)
    median = np.median([units_until_alarm(rng, true_share) for _ in range(201)])
    assert published * 0.7 - 100 <= median <= published * 1.3 + 100


def test_state_survives_json():
    state = replay([Assigned(0.1, 80, 20), Assigned(0.5, 55, 45)])
    assert SrmProcess.from_json(json.loads(json.dumps(state.to_json()))) == state


@pytest.mark.parametrize("wrong", [(-0.1, 1, 1), (1.1, 1, 1), (0.5, -1, 1)])
def test_impossible_assignments_are_refused(wrong):
    with pytest.raises(ValueError, match=r"share|negative"):
        Assigned(*wrong)
