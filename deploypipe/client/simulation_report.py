"""What a simulation says: the mission's file, lines for the screen, a picture. All of it is labelled as simulated."""

from __future__ import annotations

import math
from collections.abc import Iterator
from datetime import datetime
from typing import Any

from abtests.decision import Outcome
from abtests.scenario import Scenario
from abtests.simulation import CONFIDENCE, Result, Share
from deploypipe.client.picture import Band, draw
from deploypipe.metrics.windows import CANDIDATE, STABLE
from deploypipe.stats import words

DECISIONS = {
    Outcome.PROMOTE: "promote_b",
    Outcome.ABORT: "rollback",
    Outcome.INCONCLUSIVE: "inconclusive",
    Outcome.INVALID: "inconclusive",
}
"""Our verdict → the mission's. Where nothing rolls back by itself, what loses is not rolled back: `keep_a`."""
WORDS = {
    Outcome.PROMOTE: "promoted",
    Outcome.ABORT: "aborted",
    Outcome.INCONCLUSIVE: "inconclusive",
    Outcome.INVALID: "invalid (sample ratio)",
}


def results(found: Result, at: datetime) -> dict[str, Any]:
    """The mission's ab_test_results.json, labelled as simulated; all that is behind it under `simulation`."""
    decision = DECISIONS[found.usual]
    if decision == "rollback" and not found.settings.auto_rollback:
        decision = "keep_a"
    arms = dict(found.arms)
    return {
        "simulated": True,
        "test_execution": {
            "test_id": f"abtest-simulated-{int(at.timestamp())}-{found.asked.seed}",
            "status": "completed",
            "decision": decision,
            "traffic_split_percent": round(100 * found.asked.share, 6),
            "timestamp": at.isoformat(timespec="seconds"),
        },
        "metrics_summary": {
            name: {
                "error_rate": _rounded(arms[arm].error_rate_percent),
                "avg_latency_ms": _rounded(arms[arm].mean_latency_ms),
            }
            for name, arm in (("stable_version", STABLE), ("canary_version", CANDIDATE))
        },
        "simulation": found.to_json(),
    }


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 3)


def told(found: Result, written: list[str]) -> Iterator[str]:
    scenario, settings, asked = found.scenario, found.settings, found.asked
    yield f"Simulated: {asked.runs:,} experiments of at most {words.duration(settings.max_seconds)}, {_traffic(found)}."
    yield _candidate(scenario)
    yield f"By this policy {_deserves(found)}."
    yield ""
    for verdict, word in WORDS.items():
        share = found.share(verdict)
        if not share.runs and verdict is Outcome.INVALID:
            continue
        line = f"  {word:<24}{_percent(share):<34}"
        minutes, requests = found.median_minutes(verdict), found.median_requests(verdict)
        if minutes is not None and requests is not None and verdict is not Outcome.INCONCLUSIVE:
            line += f"median {words.duration(60 * minutes)}, {requests:,} requests"
        yield line.rstrip()
    yield ""
    yield _errors(found)
    yield f"Intervals: {100 * CONFIDENCE:.0f} %, of the simulation alone. These figures are of no real model."
    if written:
        yield f"Written: {', '.join(written)}."


def _traffic(found: Result) -> str:
    rate, percent = found.scenario.requests_per_minute, 100 * found.asked.share
    return f"{rate:,.6g} requests/min, {percent:.6g} % of them to the candidate"


def _candidate(scenario: Scenario) -> str:
    base, mine = scenario.errors
    slower = scenario.candidate_latency_percent
    speed = "as quick" if not slower else f"{abs(slower):g} % {'slower' if slower > 0 else 'quicker'}"
    return f"Stable fails in {100 * base:g} % of requests, the candidate in {100 * mine:g} %, and is {speed}."


def _deserves(found: Result) -> str:
    if found.deserves:
        return "the candidate should be promoted, for it keeps every criterion"
    if found.broken:
        return f"the candidate must not be promoted, for it is not true that {found.broken[0]}"
    return "nobody knows what the candidate deserves: the scenario does not draw every metric that is asked for"


def _errors(found: Result) -> str:
    allowed = f"at most {words.percent(found.settings.alpha)} allowed"
    if found.deserves:
        missed = found.share(Outcome.INCONCLUSIVE)
        return (
            f"False aborts: {_percent(found.share(Outcome.ABORT))}, {allowed}. Without a decision: {_percent(missed)}."
        )
    if found.broken:
        missed = found.share(Outcome.INCONCLUSIVE)
        wrong = found.share(Outcome.PROMOTE)
        return f"False promotions: {_percent(wrong)}, {allowed}. Not called in time: {_percent(missed)}."
    return "False verdicts cannot be counted."


def _percent(share: Share) -> str:
    low, high = (f"{100 * value:.1f}" for value in (share.interval.low, share.interval.high))
    return f"{100 * share.value:.1f} % ({low} to {high} %)"


def plot(found: Result) -> str:
    asked = found.asked
    looks = math.ceil(found.settings.max_seconds / asked.look_seconds)
    minutes = [look * asked.look_seconds / 60 for look in range(looks + 1)]
    promoted, aborted = (found.by_minute(verdict, minutes) for verdict in (Outcome.PROMOTE, Outcome.ABORT))
    rest = [max(0.0, 1 - a - b) for a, b in zip(promoted, aborted, strict=True)]
    bands = [
        Band("Promoted", "promoted", _notes(found, Outcome.PROMOTE), promoted),
        Band("Not decided", "open", [f"{_percent(found.share(Outcome.INCONCLUSIVE))} at the end"], rest),
        Band("Aborted", "aborted", _notes(found, Outcome.ABORT), aborted),
    ]
    title = f"Simulated: what becomes of {asked.runs:,} experiments"
    return draw(title, [_candidate(found.scenario), f"{_traffic(found)}."], minutes, bands)


def _notes(found: Result, verdict: Outcome) -> list[str]:
    minutes = found.median_minutes(verdict)
    after = [] if minutes is None else [f"median {words.duration(60 * minutes)}"]
    return [_percent(found.share(verdict)), *after]
