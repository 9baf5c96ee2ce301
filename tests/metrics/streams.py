"""Windows for the decision's tests, made by hand or drawn."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
from hypothesis import strategies as st

from deploypipe.metrics.windows import (
    CANDIDATE,
    MOST_REQUESTS,
    STABLE,
    WHOLE,
    ArmWindow,
    Feedback,
    Measured,
    Units,
)
from deploypipe.stats.histogram import bin_of
from deploypipe.stats.samples import Moments


def arm(
    sessions: int = 0,
    failed: int = 0,
    *,
    ms: float | None = 100.0,
    ratings: Mapping[int, int] | None = None,
    converted: int | None = None,
    cost: float | None = None,
    requests_each: int = 1,
) -> ArmWindow:
    """Sessions that each made the same number of requests, of which all failed or none; all as slow as `ms`."""
    well = sessions - failed
    latency = {} if ms is None or not well else {bin_of(ms): well}
    whole = {(requests_each, 0): well, (requests_each, requests_each): failed}
    feedback = Feedback(
        dict(ratings or {}),
        (0, 0) if converted is None else (sessions, converted),
        Moments() if cost is None else Moments(sessions, cost * sessions, (cost * cost + 1) * sessions),
    )
    return ArmWindow(
        requests=sessions * requests_each,
        errors={"server_error": failed * requests_each} if failed else {},
        latency={bin_: count * requests_each for bin_, count in latency.items()},
        duration={bin_: count * requests_each for bin_, count in latency.items()},
        assigned=sessions,
        fresh=Units(
            (sessions, failed),
            latency,
            {key: count for key, count in whole.items() if count},
            {bin_: count * WHOLE for bin_, count in latency.items()},
            feedback,
        ),
        feedback=feedback,
    )


def window(
    number: int,
    stable: ArmWindow,
    candidate: ArmWindow,
    *,
    period: int = 1,
    share: float = 0.1,
    others: Mapping[str, ArmWindow] | None = None,
) -> Measured:
    more = dict(others or {})
    shares = {STABLE: 1 - share * (1 + len(more)), CANDIDATE: share, **dict.fromkeys(more, share)}
    return Measured(number, 10.0, period, shares, {STABLE: stable, CANDIDATE: candidate, **more})


def repeated(count: int, stable: ArmWindow, candidate: ArmWindow, **said: object) -> list[Measured]:
    return [window(number, stable, candidate, **said) for number in range(count)]  # type: ignore[arg-type]


def renumbered(windows: list[Measured], first: int = 0) -> list[Measured]:
    return [replace(each, number=first + place) for place, each in enumerate(windows)]


def drawn(
    rng: np.random.Generator,
    count: int,
    stable_sessions: float,
    candidate_sessions: float,
    stable_rate: float,
    candidate_rate: float,
    *,
    slower: float = 1.0,
    correlated: bool = False,
) -> list[Measured]:
    """Poisson numbers of sessions, of 1 to 5 requests. Correlated: each session has a rate of its own, mostly 0."""
    share = candidate_sessions / (stable_sessions + candidate_sessions)
    return [
        window(
            number,
            _drawn_arm(rng, rng.poisson(stable_sessions), stable_rate, 1.0, correlated),
            _drawn_arm(rng, rng.poisson(candidate_sessions), candidate_rate, slower, correlated),
            share=share,
        )
        for number in range(count)
    ]


def _drawn_arm(rng: np.random.Generator, sessions: int, rate: float, slower: float, correlated: bool) -> ArmWindow:
    lengths = rng.integers(1, 6, size=sessions)
    rates = rng.beta(rate, 1 - rate, size=sessions) if correlated else np.full(sessions, rate)
    whole: dict[tuple[int, int], int] = {}
    firsts = 0
    for length, own in zip(lengths.tolist(), rates.tolist(), strict=True):
        outcomes = rng.random(length) < own
        firsts += int(outcomes[0])
        key = (length, int(outcomes.sum()))
        whole[key] = whole.get(key, 0) + 1
    latency: dict[int, int] = {}
    for value in rng.lognormal(5, 0.5, size=sessions - firsts).tolist():
        bin_ = bin_of(value * slower)
        latency[bin_] = latency.get(bin_, 0) + 1
    return ArmWindow(
        requests=int(lengths.sum()),
        errors={"server_error": sum(failed * count for (_, failed), count in whole.items())},
        assigned=sessions,
        fresh=Units((sessions, firsts), latency, whole, {bin_: WHOLE * count for bin_, count in latency.items()}),
    )


def arms() -> st.SearchStrategy[ArmWindow]:
    """Small ones, of every kind."""
    counts = st.integers(0, 6)
    whole = st.dictionaries(
        st.integers(1, MOST_REQUESTS).flatmap(lambda n: st.tuples(st.just(n), st.integers(0, n))),
        st.integers(1, 4),
        max_size=3,
    )
    bins = st.dictionaries(st.integers(300, 700), st.integers(1, 5), max_size=4)
    units = st.builds(
        lambda n, bad, first_latency, whole, latency, ratings, known, converted: Units(
            (n + bad, bad),
            first_latency,
            whole,
            {bin_: count * WHOLE for bin_, count in latency.items()},
            Feedback(ratings, (known + converted, converted), Moments(known, 2.0 * known, 5.0 * known)),
        ),
        counts, counts, bins, whole, bins, st.dictionaries(st.integers(1, 5), st.integers(1, 3)), counts, counts,
    )  # fmt: skip
    return st.builds(
        lambda requests, failed, fresh, returning, assigned: ArmWindow(
            requests=requests + failed,
            errors={"timeout": failed} if failed else {},
            latency=fresh.first_latency,
            duration=fresh.first_latency,
            assigned=assigned,
            fresh=fresh,
            returning=returning,
            feedback=fresh.feedback,
        ),
        counts, counts, units, units, counts,
    )  # fmt: skip


@st.composite
def streams(draw: st.DrawFn, most: int = 8) -> list[Measured]:
    """Numbered windows whose period rises now and then."""
    found: list[Measured] = []
    period = 1
    for number in range(draw(st.integers(0, most))):
        period += draw(st.integers(0, 4)) == 0
        share = draw(st.sampled_from([0.1, 0.5]))
        found.append(window(number, draw(arms()), draw(arms()), period=period, share=share))
    return found
