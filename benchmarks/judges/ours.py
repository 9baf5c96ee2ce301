"""Our judge, many runs at once: the engine's own log-factors (`deploypipe.stats.two_arms`) on arrays.

Only what the product does window by window is done anew here: which windows form a block, and which latency threshold
is in force. `check` holds the result against `deploypipe.metrics.criteria` itself, on the same windows.

The plan is the mission's: the error rate rises by at most 0.5 points, P95 by at most 20 %, the rating is at least 4.0
and P95 at most 1,000 ms, with the default shares of alpha for an abort (errors .5, latency .3, ratings .1, limits .1).
A cell proves what it is about; nobody rates in it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.judges import exact, sessions
from benchmarks.judges.closing import NEVER, Closed, Closing
from benchmarks.judges.scenarios import LEVEL, MARGIN, RATIO, Scenario, Stream
from benchmarks.judges.verdicts import ABORT, OPEN, PROMOTE, Verdicts
from deploypipe.metrics.closing import usual_share
from deploypipe.metrics.cores import Core
from deploypipe.metrics.criteria import Criterion, Kind, Plan
from deploypipe.metrics.definitions import Reading
from deploypipe.metrics.probes import compiled
from deploypipe.stats.factors import sums
from deploypipe.stats.quantiles import QuantileTest, allowed_beyond
from deploypipe.stats.two_arms import Side, TwoArmTest, log_factors, log_sum, start

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[Any]

_BINARY = np.array([0.0, 1.0])
_STAGES = (0.0, 0.1, 0.25, 0.5, 1.0)


def plan(scenario: Scenario, alpha: float, *, alone: bool = False) -> Plan:
    """`alone`: the error rate is all that is asked and has all of alpha, as in a test that knows nothing else."""
    about_errors = scenario.latency is None
    asked = (
        Criterion("error_rate", Kind.INCREASE, 100 * MARGIN, proves=about_errors),
        Criterion("latency", Kind.INCREASE, 100 * (RATIO - 1), relative=True, level=LEVEL, proves=not about_errors),
        Criterion("rating", Kind.LIMIT, 4.0, proves=False),
        Criterion("latency", Kind.LIMIT, 1000.0, level=LEVEL, proves=False),
    )
    return Plan(
        asked[:1] if alone else asked,
        alpha=alpha,
        unit="session" if scenario.sessions else "request",  # type: ignore[arg-type]
        closing=usual_share(_units(scenario)),
    )


def _units(scenario: Scenario) -> float:
    """Of the candidate until the end, as they are expected when it begins: what the product settles it by."""
    requests = float((scenario.arrivals * scenario.shares).sum())
    return requests / sessions.MEAN_SIZE if scenario.sessions else requests


def judge(stream: Stream, alphas: Sequence[float], *, alone: bool = False) -> dict[float, Verdicts]:
    plans = [plan(stream.scenario, alpha, alone=alone) for alpha in alphas]
    # The same tests at every alpha, with other thresholds.
    tests = _tests(stream, plans)
    whens = [_reached(asked, thresholds) for asked, _, thresholds in tests]
    result = {}
    for place, alpha in enumerate(alphas):
        promote = np.zeros(stream.runs, dtype=np.int64)
        abort = np.full(stream.runs, NEVER)
        for (_, against, _), when in zip(tests, whens, strict=True):
            if against:
                abort = np.minimum(abort, when[place])
            else:
                promote = np.maximum(promote, when[place])
        still_open = np.nonzero(np.minimum(promote, abort) == NEVER)[0]
        abort[still_open] = _closing(stream, plans[place], still_open)
        look = np.minimum(promote, abort)
        kind = np.where(abort <= promote, ABORT, PROMOTE)
        result[alpha] = Verdicts(np.where(look == NEVER, OPEN, kind), np.minimum(look, stream.scenario.windows - 1))
    return result


def _closing(stream: Stream, asked: Plan, runs: Ints) -> Ints:
    """The last window where the closing look calls harm, else NEVER. One a scenario has: of its error rate."""
    kept = next((closing[1] for closing in compiled(asked).closing if closing), 0.0)
    if not kept or stream.scenario.ramp:
        return np.full(len(runs), NEVER)
    arms = [
        (arm.requests, arm.errors) if arm.sessions is None else (arm.sessions.first, arm.sessions.first_failed)
        for arm in (stream.stable, stream.candidate)
    ]
    (n_a, s_a), (n_b, s_b) = [(n[runs].sum(axis=1), s[runs].sum(axis=1)) for n, s in arms]
    p_values = exact.p_values(n_a, s_a, n_b, s_b, MARGIN, above=True, many=exact.EVERY)
    return np.where(p_values <= kept, stream.scenario.windows - 1, NEVER)


@dataclass(frozen=True, slots=True)
class Asked:
    test: TwoArmTest
    blocks: Closed


def _tests(stream: Stream, plans: Sequence[Plan]) -> list[tuple[Asked, bool, list[float]]]:
    """(test and its blocks, whether it speaks against the candidate, log threshold by each plan)."""
    found = compiled(plans[0])
    closed: dict[Any, Closed] = {}
    asked = []
    for same in zip(*(compiled(each).probes for each in plans), strict=True):
        probe, thresholds = same[0], [each.log_threshold for each in same]
        question, reading = probe.question, found.sources[probe.source].reading
        if question.core is Core.TWO_ARMS:
            test = TwoArmTest(question.side, question.difference, question.ratio, prior_mean=question.typical)
            if reading not in closed:
                closed[reading] = _joined(stream, *_errors(stream, reading), test.block_units)
            asked.append((Asked(test, closed[reading]), probe.against, thresholds))
        elif question.core is Core.QUANTILE and stream.scenario.latency is not None:
            latency = QuantileTest(question.side, question.level, question.ratio)
            if question not in closed:
                closed[question] = _slow(stream, latency)
            asked.append((Asked(latency.inner, closed[question]), probe.against, thresholds))
    return asked


def _errors(stream: Stream, reading: Reading) -> tuple[Floats, Ints, Ints]:
    """Values, and how many units of each arm had them."""
    counted = []
    values = _BINARY
    for arm in (stream.stable, stream.candidate):
        if reading is Reading.REQUEST:
            counted.append(np.stack([arm.requests - arm.errors, arm.errors], axis=-1))
            continue
        assert arm.sessions is not None
        if reading is Reading.FIRST:
            counted.append(
                np.stack([arm.sessions.first - arm.sessions.first_failed, arm.sessions.first_failed], axis=-1)
            )
        else:
            values = np.array(sessions.SHARES)
            counted.append(arm.sessions.shares)
    return values, counted[0], counted[1]


def _joined(stream: Stream, values: Floats, stable: Ints, candidate: Ints, units: int) -> Closed:
    closing = Closing(stream.runs, values, units)
    periods = stream.scenario.periods
    for window in range(stable.shape[1]):
        if window and periods[window] != periods[window - 1]:
            closing.new_period(window)
        closing.add(window, stable[:, window], candidate[:, window])
    return closing.done()


def _slow(stream: Stream, test: QuantileTest) -> Closed:
    """Units slower than the threshold in force and others, by the rules of `deploypipe.stats.quantiles`."""
    stable, candidate = stream.stable.latency, stream.candidate.latency
    assert stable is not None
    assert candidate is not None
    runs, windows, bins = stable.shape
    stable_beyond, candidate_beyond = _at_or_beyond(stable), _at_or_beyond(candidate)
    recent, earlier = np.zeros((2, runs, bins), dtype=np.int64)
    threshold = np.full(runs, -1)
    closing = Closing(runs, _BINARY, test.block_units)
    periods = stream.scenario.periods
    for window in range(windows):
        if window and periods[window] != periods[window - 1]:
            closing.new_period(window)
        threshold = np.where(closing.empty, _threshold(recent + earlier, test), threshold)
        known = (threshold >= 0)[:, None]
        closing.add(
            window,
            known * _halved(stable_beyond[:, window], threshold),
            known * _halved(candidate_beyond[:, window], threshold + test.shift),
        )
        recent += stable[:, window]
        full = recent.sum(axis=1) >= test.memory
        earlier[full] = recent[full]
        recent[full] = 0
    return closing.done()


def _threshold(past: Ints, test: QuantileTest) -> Ints:
    """First slow bin; -1 where too little is known."""
    at_or_beyond = _at_or_beyond(past)
    total = at_or_beyond[:, 0]
    allowed = allowed_beyond(total[:, None], test.level, test.side)
    slow = at_or_beyond > allowed if test.side is Side.ABOVE else at_or_beyond >= allowed
    last = past.shape[1] - 1 - slow[:, ::-1].argmax(axis=1)
    return np.where(total >= test.least_past, last + (test.side is Side.ABOVE), -1)


def _at_or_beyond(counts: Ints) -> Ints:
    """Units in each bin and the bins above it."""
    return np.cumsum(counts[..., ::-1], axis=-1, dtype=counts.dtype)[..., ::-1]


def _halved(at_or_beyond: Ints, threshold: Ints) -> Ints:
    """Quick and slow units; the threshold may lie beyond the last bin."""
    place = np.clip(threshold, 0, at_or_beyond.shape[1] - 1)
    slow = at_or_beyond[np.arange(len(place)), place] * (threshold < at_or_beyond.shape[1])
    return np.stack([at_or_beyond[:, 0] - slow, slow], axis=-1)


def _reached(asked: Asked, log_thresholds: Sequence[float]) -> list[Ints]:
    """For each threshold the look at which each run first reached it, or NEVER.

    What is decided at every alpha is followed no further: its later evidence changes no verdict of this test.
    """
    blocks = asked.blocks
    runs, count = blocks.look.shape
    result = [np.full(runs, NEVER) for _ in log_thresholds]
    going = np.arange(runs)
    components = np.tile(np.array(start(asked.test).log_components), (runs, 1, 1))
    past = np.zeros((runs, 1, 6))
    ends = sorted({math.ceil(count * stage) for stage in _STAGES})
    for first, last in pairwise(ends):
        part = blocks.part(going, first, last)
        factors = log_factors(part, asked.test, past=past)
        components = np.add.accumulate(np.concatenate([components, factors], axis=1), axis=1)[:, 1:]
        evidence = log_sum(components)
        for when, threshold in zip(result, log_thresholds, strict=True):
            over = evidence >= threshold
            hit = np.nonzero(over.any(axis=1) & (when[going] == NEVER))[0]
            when[going[hit]] = blocks.look[going[hit], first + over[hit].argmax(axis=1)]
        past = past + sums(part).sum(axis=1, keepdims=True)
        left = np.max([when[going] for when in result], axis=0) == NEVER
        going, components, past = going[left], components[left, -1:], past[left]
        if not len(going):
            break
    return result
