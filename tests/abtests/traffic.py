"""Traffic of a live version, as forecasts read it: made by hand, or by a scenario that is then simulated."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from abtests.forecast import Traffic
from abtests.scenario import Scenario, Streams
from deploypipe.metrics.windows import STABLE, WHOLE, ArmWindow, Feedback, Units, add_arms
from deploypipe.stats.histogram import bin_of
from deploypipe.stats.samples import Moments

SECONDS = 3600.0


def traffic(
    requests_per_minute: int,
    error_percent: float = 1.0,
    *,
    each: int = 1,
    latency: Mapping[float, float] | None = None,
    ratings: Mapping[int, int] | None = None,
    converted: tuple[int, int] = (0, 0),
    cost: Moments | None = None,
    custom: Mapping[str, Moments] | None = None,
) -> Traffic:
    """An hour of sessions that each make as many requests; where one fails, all of its requests do. `latency`:
    milliseconds → share of requests."""
    sessions = 60 * requests_per_minute // each
    failed = round(sessions * error_percent / 100)
    shares = {200.0: 0.9, 400.0: 0.1} if latency is None else latency
    bins = {bin_of(ms): round((sessions - failed) * share) for ms, share in shares.items()}
    said = Feedback(dict(ratings or {}), converted, cost or Moments(), dict(custom or {}))
    arm = ArmWindow(
        requests=sessions * each,
        errors={"http_5xx": failed * each} if failed else {},
        latency={bin_: count * each for bin_, count in bins.items()},
        duration={bin_: count * each for bin_, count in bins.items()},
        fresh=Units(
            (sessions, failed),
            bins,
            {(each, 0): sessions - failed, (each, each): failed},
            {bin_: count * WHOLE for bin_, count in bins.items()},
            said,
        ),
        feedback=said,
    )
    return Traffic(SECONDS, arm)


def traffic_of(scenario: Scenario, *, hours: int = 24) -> Traffic:
    """What the live version would have been measured at, if all of the scenario's traffic had been with it."""
    alike = replace(scenario, candidate_error_percent=None, candidate_latency_percent=0.0)
    streams = Streams(alike, np.random.default_rng(7), windows=hours, seconds=SECONDS, share=1e-12)
    arm = ArmWindow()
    for _ in range(hours):
        arm = add_arms(arm, streams.next([0])[0].arm(STABLE))
    return Traffic(hours * SECONDS, arm)
