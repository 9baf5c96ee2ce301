"""Traffic that could be: what users would do to two versions, as windows that the gateway would have measured.

Users come at random (a Poisson process), each with a session of several requests whose outcomes may resemble each
other: `session_correlation` is the intraclass correlation of a session's errors (a Beta-distributed rate of its own).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from statistics import NormalDist
from typing import Any

import numpy as np
import numpy.typing as npt

from deploypipe.metrics.windows import (
    CANDIDATE,
    MOST_REQUESTS,
    STABLE,
    WHOLE,
    ArmWindow,
    Feedback,
    Measured,
    Units,
    add_counts,
)
from deploypipe.stats.histogram import BINS_PER_DOUBLING, SMALLEST
from rollouts.analysis_settings import SettingsError, number, read_fields

Numbers = npt.NDArray[np.int64]
Rng = np.random.Generator

LONGEST_SESSION = 60
"""Requests; of those after the tenth only the totals of a window tell."""
_SESSIONS_AT_ONCE = 100_000


@dataclass(frozen=True, slots=True)
class Scenario:
    requests_per_minute: float = 600.0
    """To both versions together."""
    base_error_percent: float = 1.0
    candidate_error_percent: float | None = None
    """None: the same as stable."""
    latency_p50_ms: float = 120.0
    latency_p95_ms: float = 300.0
    candidate_latency_percent: float = 0.0
    """Slower by so much, at every quantile; below zero quicker."""
    requests_per_session: float = 4.0
    """In the mean; 1 when every request stands alone."""
    session_seconds: float = 60.0
    """From a session's first request to its last, and until it is counted as a whole."""
    session_correlation: float = 0.0
    rating_percent: float = 5.0
    """Of sessions that leave a rating."""
    rating_mean: float = 4.4
    candidate_rating_mean: float | None = None
    conversion_percent: float = 0.0
    """Of sessions that buy; 0: nobody counts them."""
    candidate_conversion_percent: float | None = None

    @property
    def errors(self) -> tuple[float, float]:
        """Share of requests that fail: stable's, the candidate's."""
        mine = self.base_error_percent if self.candidate_error_percent is None else self.candidate_error_percent
        return self.base_error_percent / 100, mine / 100

    @property
    def ratings(self) -> tuple[float, float]:
        return self.rating_mean, self.rating_mean if self.candidate_rating_mean is None else self.candidate_rating_mean

    @property
    def conversions(self) -> tuple[float, float]:
        same = self.candidate_conversion_percent is None
        mine = self.conversion_percent if same else self.candidate_conversion_percent or 0.0
        return self.conversion_percent / 100, mine / 100

    def truth(self, metric: str, level: float | None) -> tuple[float, float] | None:
        """Stable's true value and the candidate's, in the metric's unit; None of a metric that is not drawn."""
        match metric:
            case "error_rate":
                return 100 * self.errors[0], 100 * self.errors[1]
            case "success_rate":
                return 100 - 100 * self.errors[0], 100 - 100 * self.errors[1]
            case "latency":
                stable = self.latency_p50_ms * math.exp(self._sigma * NormalDist().inv_cdf(level or 0.5))
                return stable, stable * (1 + self.candidate_latency_percent / 100)
            case "rating":
                return self.ratings if self.rating_percent else None
            case "conversion_rate":
                return (100 * self.conversions[0], 100 * self.conversions[1]) if self.conversion_percent else None
            case _:
                return None

    @property
    def _sigma(self) -> float:
        """Of the lognormal distribution that has these two quantiles."""
        return math.log(self.latency_p95_ms / self.latency_p50_ms) / NormalDist().inv_cdf(0.95)

    def bins(self, rng: Rng, candidate: npt.NDArray[np.bool_]) -> Numbers:
        """A latency of each request, as its bin of `deploypipe.stats.histogram`."""
        slower = np.where(candidate, math.log1p(self.candidate_latency_percent / 100), 0.0)
        logs = math.log(self.latency_p50_ms) + slower + self._sigma * rng.standard_normal(len(candidate))
        bins = np.floor(logs / math.log(2) * BINS_PER_DOUBLING).astype(np.int64)
        kept: Numbers = np.maximum(bins, SMALLEST)
        return kept

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def parse_scenario(given: Mapping[str, Any]) -> Scenario:
    """Raises `rollouts.analysis.SettingsError`."""
    scenario = Scenario(**read_fields(given, _READERS))
    if scenario.latency_p95_ms <= scenario.latency_p50_ms:
        wrong = f"{scenario.latency_p95_ms:g} is not above latency_p50_ms, {scenario.latency_p50_ms:g}."
        raise SettingsError({"latency_p95_ms": wrong})
    return scenario


class Streams:
    """What happens in many runs of the same scenario, drawn as far as it is asked for.

    `seconds`: length of a window; `share`: the candidate's of new sessions. `requests_too=False` leaves out what only a
    judge of single requests reads, and takes half of the time.
    """

    def __init__(
        self, scenario: Scenario, rng: Rng, *, windows: int, seconds: float, share: float, requests_too: bool = True
    ) -> None:
        self.scenario, self.rng, self.share = scenario, rng, share
        self.windows, self.seconds, self.requests_too = windows, seconds, requests_too
        self.number = 0
        self._drawn_to = 0
        self._drawn = _Drawn()

    def next(self, runs: Sequence[int]) -> list[Measured]:
        """The next window of each of these runs; one that is left out is never asked for again."""
        if self._drawn_to <= self.number:
            self._draw(np.asarray(runs, dtype=np.int64))
        self.number += 1
        return [self._measured(run, self.number - 1) for run in runs]

    def _measured(self, run: int, window: int) -> Measured:
        return Measured(
            number=window + 1,
            seconds=self.seconds,
            period=1,
            shares={STABLE: 1 - self.share, CANDIDATE: self.share},
            arms={
                name: self._drawn.arm((run * self.windows + window) * 2 + arm)
                for arm, name in enumerate((STABLE, CANDIDATE))
            },
        )

    def _draw(self, runs: Numbers) -> None:
        """The sessions that begin in the next windows, with all that comes of them."""
        per_window = self.scenario.requests_per_minute / 60 * self.seconds / self.scenario.requests_per_session
        slice_ = int(max(1, min(self.windows - self.number, _SESSIONS_AT_ONCE / (per_window * len(runs)))))
        self._drawn_to = self.number + slice_
        counts = self.rng.poisson(per_window, size=len(runs) * slice_)
        ends = np.cumsum(counts)
        for first in range(0, int(ends[-1]), _SESSIONS_AT_ONCE):
            sessions = np.arange(first, min(first + _SESSIONS_AT_ONCE, ends[-1]))
            place, window = np.divmod(np.searchsorted(ends, sessions, side="right"), slice_)
            self._happen(runs[place], self.number + window)

    def _happen(self, run: Numbers, window: Numbers) -> None:
        scenario, rng, drawn = self.scenario, self.rng, self._drawn
        sessions = len(run)
        candidate = rng.random(sessions) < self.share
        began = (window + rng.random(sessions)) * self.seconds
        length = np.minimum(rng.geometric(1 / scenario.requests_per_session, sessions), LONGEST_SESSION)
        rate = _rates(scenario, rng, candidate)

        def place(of: Numbers, at: npt.NDArray[np.float64]) -> tuple[Numbers, npt.NDArray[np.bool_]]:
            """Of sessions and moments; and which of them lie within the time looked at."""
            found = np.floor(at / self.seconds).astype(np.int64)
            return (run[of] * self.windows + found) * 2 + candidate[of], found < self.windows

        everyone = np.arange(sessions)
        failed_first = rng.random(sessions) < rate
        here, _ = place(everyone, began)
        drawn.firsts(here, failed_first, scenario.bins(rng, candidate))

        judged = np.minimum(length, MOST_REQUESTS)
        failed = failed_first + rng.binomial(judged - 1, rate)
        closed, seen = place(everyone, began + scenario.session_seconds)
        drawn.wholes(closed[seen], judged[seen], failed[seen])
        well = judged - failed
        owner = np.repeat(everyone, np.where(seen, well, 0))
        weights = WHOLE // np.maximum(well, 1)
        _fill(drawn.whole_latency, closed[owner], scenario.bins(rng, candidate[owner]), weights[owner])
        drawn.words(scenario, rng, closed[seen], candidate[seen])

        owner = np.repeat(everyone, length)
        first = np.cumsum(length) - length
        spread = scenario.session_seconds * rng.random(len(owner))
        spread[first] = 0.0
        at, within = place(owner, began[owner] + spread)
        wrong = rng.random(len(owner)) < rate[owner]
        wrong[first] = failed_first
        _count(drawn.requests, at[within])
        _count(drawn.failed, at[within & wrong])
        if self.requests_too:
            fine = within & ~wrong
            _fill(drawn.latency, at[fine], scenario.bins(rng, candidate[owner][fine]))


@dataclass
class _Drawn:
    """Everything that happens in all runs, by place: (run * windows + window) * 2 + arm."""

    first: dict[int, list[int]] = field(default_factory=dict)
    first_latency: dict[int, dict[int, int]] = field(default_factory=dict)
    whole: dict[int, dict[tuple[int, int], int]] = field(default_factory=dict)
    whole_latency: dict[int, dict[int, int]] = field(default_factory=dict)
    requests: dict[int, int] = field(default_factory=dict)
    failed: dict[int, int] = field(default_factory=dict)
    latency: dict[int, dict[int, int]] = field(default_factory=dict)
    ratings: dict[int, dict[int, int]] = field(default_factory=dict)
    known: dict[int, int] = field(default_factory=dict)
    converted: dict[int, int] = field(default_factory=dict)

    def firsts(self, here: Numbers, failed: npt.NDArray[np.bool_], bins: Numbers) -> None:
        for reading, places in enumerate((here, here[failed])):
            for place, count in _counted(places):
                self.first.setdefault(place, [0, 0])[reading] += count
        _fill(self.first_latency, here[~failed], bins[~failed])

    def wholes(self, here: Numbers, judged: Numbers, failed: Numbers) -> None:
        coded: dict[int, dict[int, int]] = {}
        _fill(coded, here, judged * (MOST_REQUESTS + 1) + failed)
        for place, found in coded.items():
            whole = {divmod(code, MOST_REQUESTS + 1): count for code, count in found.items()}
            self.whole[place] = add_counts(self.whole[place], whole) if place in self.whole else whole

    def words(self, scenario: Scenario, rng: Rng, here: Numbers, candidate: npt.NDArray[np.bool_]) -> None:
        rated = rng.random(len(here)) < scenario.rating_percent / 100
        mean = np.where(candidate, scenario.ratings[1], scenario.ratings[0])
        stars = 1 + rng.binomial(4, (mean[rated] - 1) / 4)
        _fill(self.ratings, here[rated], stars)
        if scenario.conversion_percent:
            share = np.where(candidate, scenario.conversions[1], scenario.conversions[0])
            _count(self.known, here)
            _count(self.converted, here[rng.random(len(here)) < share])

    def arm(self, place: int) -> ArmWindow:
        """Taken out: each is asked for once."""
        first = self.first.pop(place, (0, 0))
        failed = self.failed.pop(place, 0)
        feedback = Feedback(
            ratings=self.ratings.pop(place, {}),
            conversions=(self.known.pop(place, 0), self.converted.pop(place, 0)),
        )
        units = Units(
            first=(first[0], first[1]),
            first_latency=self.first_latency.pop(place, {}),
            whole=self.whole.pop(place, {}),
            whole_latency=self.whole_latency.pop(place, {}),
            feedback=feedback,
        )
        return ArmWindow(
            requests=self.requests.pop(place, 0),
            errors={"http_5xx": failed} if failed else {},
            latency=self.latency.pop(place, {}),
            assigned=first[0],
            fresh=units,
            feedback=feedback,
        )


def _rates(scenario: Scenario, rng: Rng, candidate: npt.NDArray[np.bool_]) -> npt.NDArray[np.float64]:
    """Of each session, the share of its requests that fail, in the long run."""
    means = np.where(candidate, scenario.errors[1], scenario.errors[0])
    if not scenario.session_correlation:
        return means
    spread = 1 / scenario.session_correlation - 1  # Beta(mean * spread, (1 - mean) * spread)
    certain = (means <= 0) | (means >= 1)
    inside = np.where(certain, 0.5, means)
    drawn = rng.beta(inside * spread, (1 - inside) * spread)
    rates: npt.NDArray[np.float64] = np.where(certain, means, drawn)
    return rates


def _counted(places: Numbers) -> Iterator[tuple[int, int]]:
    found, counts = np.unique(places, return_counts=True)
    return zip(found.tolist(), counts.tolist(), strict=True)


def _count(into: dict[int, int], places: Numbers) -> None:
    for place, count in _counted(places):
        into[place] = into.get(place, 0) + count


def _fill(into: dict[int, dict[int, int]], places: Numbers, values: Numbers, weights: Numbers | None = None) -> None:
    """`into[place][value]` becomes the number, or the sum of weights, of its pairs."""
    if not len(places):
        return
    least = int(values.min())
    width = int(values.max()) - least + 1
    coded, inverse = np.unique(places * width + (values - least), return_inverse=True)
    sums = np.bincount(inverse, weights=weights).astype(np.int64)
    for code, count in zip(coded.tolist(), sums.tolist(), strict=True):
        place, value = divmod(code, width)
        mine = into.setdefault(place, {})
        mine[value + least] = mine.get(value + least, 0) + count


_PERCENT = number("a percentage from 0 to 100", lambda v: 0 <= v <= 100)
_PERCENT_OR_SAME = number("a percentage from 0 to 100, or nothing for the same", lambda v: 0 <= v <= 100, optional=True)
_MILLISECONDS = number("a number of milliseconds above 0", lambda v: 0 < v <= 1e7)
_STARS = "a mean of stars from 1 to 5"
_READERS = {
    "requests_per_minute": number("a number of requests per minute above 0, at most 1,000,000", lambda v: 0 < v <= 1e6),
    "base_error_percent": _PERCENT,
    "candidate_error_percent": _PERCENT_OR_SAME,
    "latency_p50_ms": _MILLISECONDS,
    "latency_p95_ms": _MILLISECONDS,
    "candidate_latency_percent": number("a change in percent above -100, at most 10,000", lambda v: -100 < v <= 10_000),
    "requests_per_session": number("a mean number of requests from 1 to 30", lambda v: 1 <= v <= 30),
    "session_seconds": number("a number of seconds from 0 to 3,600", lambda v: 0 <= v <= 3600),
    "session_correlation": number("a correlation from 0 to 0.9", lambda v: 0 <= v <= 0.9),
    "rating_percent": _PERCENT,
    "rating_mean": number(_STARS, lambda v: 1 <= v <= 5),
    "candidate_rating_mean": number(f"{_STARS}, or nothing for the same", lambda v: 1 <= v <= 5, optional=True),
    "conversion_percent": _PERCENT,
    "candidate_conversion_percent": _PERCENT_OR_SAME,
}
