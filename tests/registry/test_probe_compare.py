"""Slower than the live version: seen when it is so, and not called when it is not."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from registry.qa.probe.compare import QUANTITIES, Side, Verdict, compare, pairs_of, verdict
from registry.qa.probe.measured import Alternated, Failure, Request, Slice

PAIRS, REQUESTS = 10, 5
Pair = tuple[Side, Side]


def turn(rng: np.random.Generator, *, slowness: float, disturbance: float) -> Side:
    firsts = rng.lognormal(math.log(0.005), 0.25, REQUESTS) * slowness * disturbance
    pauses = rng.lognormal(math.log(0.002), 0.05, REQUESTS) * slowness * disturbance
    return Side(tuple(firsts), tuple(pauses), 24 * REQUESTS, 0.3 + float(pauses.max()) * 23)


def pressed(rng: np.random.Generator, slowness: float) -> list[Pair]:
    """The machine drifts, and disturbs one turn in six by up to three times: both alike, but not at the same time."""
    pairs: list[Pair] = []
    drift = 1.0
    for _ in range(PAIRS):
        drift *= rng.lognormal(0, 0.1)
        hiccups = np.where(rng.random(2) < 1 / 6, rng.uniform(1, 3, 2), 1.0) * drift
        candidate = turn(rng, slowness=slowness, disturbance=float(hiccups[0]))
        pairs.append((candidate, turn(rng, slowness=1.0, disturbance=float(hiccups[1]))))
    return pairs


def share_called_slower(slowness: float, most_percent: float, runs: int) -> float:
    rng = np.random.default_rng(11)
    called = 0
    for _ in range(runs):
        pairs = pressed(rng, slowness)
        called += any(verdict(one.name, pairs, most_percent) is Verdict.SLOWER for one in QUANTITIES)
    return called / runs


def highest(share: float, runs: int) -> float:
    """What so many runs show of a true share, by three sigma."""
    return share + 3 * math.sqrt(share * (1 - share) / runs)


def test_identical_versions_are_called_slower_no_more_often_than_alpha() -> None:
    """At a margin of nothing at all, where it is hardest."""
    assert share_called_slower(1.0, most_percent=0, runs=600) <= highest(0.05, 600)


def test_a_version_exactly_at_the_margin_is_called_slower_no_more_often_than_alpha() -> None:
    assert share_called_slower(1.2, most_percent=20, runs=600) <= highest(0.05, 600)


def test_identical_versions_are_practically_never_called_slower_by_a_fifth() -> None:
    assert share_called_slower(1.0, most_percent=20, runs=300) <= 0.01


def test_a_version_twice_as_slow_is_nearly_always_seen() -> None:
    assert share_called_slower(2.0, most_percent=20, runs=200) >= 0.93


def test_every_quantity_is_compared_and_its_interval_holds_what_was_seen() -> None:
    found = compare(pressed(np.random.default_rng(2), 1.5), 20)
    assert [one.name for one in found.compared] == [
        "median time to first token",
        "95th percentile of the time to first token",
        "median pause between tokens",
        "throughput",
    ]
    for one in found.compared:
        assert one.low_percent is not None
        assert one.high_percent is not None
        assert one.low_percent <= one.change_percent <= one.high_percent


def test_intervals_hold_the_true_ratio() -> None:
    """All of them at once, both ends: at least 90 % of 40 comparisons."""
    rng = np.random.default_rng(5)
    held = 0
    for _ in range(40):
        found = compare(pressed(rng, 1.3), 20)
        times = [one for one in found.compared if one.unit == "ms"]
        held += all((one.low_percent or -1e9) <= 30 <= (one.high_percent or 1e9) for one in times)
    assert held >= 40 * 0.9 - 3 * math.sqrt(40 * 0.9 * 0.1)


def test_less_tokens_in_the_same_time_are_slower() -> None:
    rng = np.random.default_rng(3)
    pairs = [(replace(candidate, tokens=live.tokens // 2), live) for candidate, live in pressed(rng, 1.0)]
    slower = compare(pairs, 20).of(Verdict.SLOWER)
    assert [one.name for one in slower] == ["throughput"]
    assert slower[0].change_percent == pytest.approx(100, rel=0.2)


def test_too_few_pairs_cannot_tell() -> None:
    found = compare(pressed(np.random.default_rng(2), 3.0)[:4], 20)
    assert {one.verdict for one in found.compared} == {Verdict.UNCLEAR}
    assert {one.low_percent for one in found.compared} == {None}


def test_what_neither_side_has_is_left_out() -> None:
    pairs = [(replace(a, pauses=()), replace(b, pauses=())) for a, b in pressed(np.random.default_rng(2), 1.0)]
    assert "median pause between tokens" not in [one.name for one in compare(pairs, 20).compared]


def test_only_whole_pairs_are_compared() -> None:
    answered = Request(due=0, ended=0.1, lag=0, first=0.01, whole=0.1, gaps=(0.01, 0.03), pieces=3, tokens=4)
    failed = Request(due=0, ended=0.1, lag=0, failure=Failure.HTTP)
    turns = (
        Slice(True, 0, 0.3, (answered, failed)),
        Slice(False, 0, 0.4, (answered, answered)),
        Slice(False, 1, 0.4, (answered, answered)),
    )
    assert pairs_of(Alternated(turns, True)) == [
        (Side((0.01,), (0.02,), 4, 0.3), Side((0.01, 0.01), (0.02, 0.02), 8, 0.4)),
    ]
