"""Against savvi, which implements Lindon and Malek, "Anytime-valid inference for multinomial count data"."""

from __future__ import annotations

import math

import numpy as np
import pytest

from deploypipe.stats.arrivals import ArrivalTest, Arrived, interval, log_evidence, start, update
from deploypipe.stats.srm import Assignment, SrmProcess
from deploypipe.stats.srm import update as assign
from deploypipe.stats.two_arms import Side
from tests.stats.peer.asking import ask, installed

pytestmark = installed

ALPHA = 0.05


@pytest.mark.parametrize(
    ("shares", "real"),
    [([0.1, 0.9], [0.1, 0.9]), ([0.1, 0.9], [0.15, 0.85]), ([0.1, 0.4, 0.5], [0.1, 0.3, 0.6])],
)
def test_evidence_of_a_wrong_split_is_theirs(shares, real):
    counts = np.random.default_rng(1).multinomial(40, real, 60).tolist()
    (theirs,) = ask(("split_test", {"shares": shares, "counts": counts}))
    state, ours = SrmProcess(), []
    for row in counts:
        state = assign(state, Assignment(dict(zip("abc", shares, strict=False)), dict(zip("abc", row, strict=False))))
        ours.append(state.log_evidence)
    assert ours == pytest.approx(theirs, abs=1e-6)


COUNTS = [(148, 62), (160, 90), (900, 300), (80, 40), (5000, 1500), (30, 25)]
SHARES = [0.8, 0.2]


def test_one_sided_evidence_of_more_events_is_like_theirs():
    """The same null, "no more than its share". Their prior lies around it as if a hundred events had been seen, ours
    reaches to fifty times and lies on the one side: never much less, and more where few events say much."""
    theirs = ask(*(("one_sided_rates", {"shares": SHARES, "counts": list(counts)}) for counts in COUNTS))
    ours = [log_evidence([Arrived(SHARES[1], *counts)], ArrivalTest(Side.ABOVE)) for counts in COUNTS]
    differences = np.array(ours) - np.array(theirs)
    assert ((differences > -0.5) & (differences < 4)).all()
    assert np.median(differences) > 0


def test_intervals_of_the_ratio_of_rates_are_like_theirs():
    """Both of the same 95 %: each of our ends at half of alpha."""
    theirs = ask(*(("poisson_test", {"shares": SHARES, "counts": list(c), "alpha": ALPHA}) for c in COUNTS))
    for counts, answer in zip(COUNTS, theirs, strict=True):
        ours = interval([Arrived(SHARES[1], *counts)], ALPHA / 2)
        low, high = answer["interval"]
        estimate = math.log(counts[1] / counts[0] * SHARES[0] / SHARES[1])
        assert math.log(ours.low) < estimate < math.log(ours.high)
        for end, their_end in ((math.log(ours.low), low), (math.log(ours.high), high)):
            assert abs(end - estimate) == pytest.approx(abs(their_end - estimate), rel=0.25)


@pytest.mark.parametrize("ratio", [1.6, 2.5])
def test_more_events_are_called_as_soon_as_by_them(ratio):
    """With both sides tested, as theirs: half of alpha each."""
    rng, runs = np.random.default_rng(2), 40
    chance = SHARES[1] * ratio / (SHARES[0] + SHARES[1] * ratio)
    streams = [rng.multinomial(1, [1 - chance, chance], 600).tolist() for _ in range(runs)]
    theirs = ask(*(("poisson_stop", {"shares": SHARES, "events": events, "alpha": ALPHA}) for events in streams))
    ours = []
    for events in streams:
        state, number = start(ArrivalTest(Side.ABOVE)), 0
        while not state.reached(ALPHA / 2) and number < len(events):
            state, number = update(state, Arrived(SHARES[1], *events[number])), number + 1
        ours.append(number)
    assert np.median(ours) <= 1.1 * np.median([math.inf if stop is None else stop for stop in theirs])
