"""The judge's sentences, and how much longer it will take. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence

from deploypipe.metrics.criteria import Kind, Row, State
from deploypipe.metrics.windows import MOST_REQUESTS
from deploypipe.stats import planning, words
from rollouts.analysis_questions import ERROR_RATE, LATENCY, Totals
from rollouts.analysis_settings import REQUEST, SESSION, AnalysisSettings

_MOST_FURTHER_REQUESTS = 100_000_000


def failed(broken: Row) -> str:
    return f"{capitalised(broken.measured)}: {broken.broken_words} ({evidence_against(broken)})."


def passed(needed: Sequence[Row], against: Sequence[Row]) -> str:
    proven = [row for row in needed if row.proves]
    parts = [f"{row.measured}: {row.name} (evidence {evidence_for(row)})" for row in proven]
    return f"{capitalised('; '.join(parts))}.{_watched(proven, against)}"


def _watched(proven: Sequence[Row], against: Sequence[Row]) -> str:
    """Of the latency that nobody asked to be proven: what was seen of it, and that it was no ground to fail."""
    if any(row.metric == LATENCY for row in proven):
        return ""
    row = next((row for row in against if row.metric == LATENCY), None)
    if row is None:
        return ""
    if row.state is State.MISSING:
        return " Latency is watched: nothing was measured of it."
    return f" Latency is watched, not proven: {row.measured}."


def undecided(
    step: Totals,
    settings: AnalysisSettings,
    needed: Sequence[Row],
    missing: int,
    further: int | None,
    further_seconds: float | None,
    seconds_in_step: float,
    timed_out: bool,
) -> str:
    start = "Not enough data yet"
    if timed_out:
        start = f"No decision after {words.duration(seconds_in_step)}, the longest allowed"
    if not step.candidate.requests:
        return f"{start}: no request has reached the candidate in this step."
    if not needed:
        return f"{start}: {_requests(step)}. Nothing can decide without stable traffic to compare with or a limit."
    # Sessions count when they are over; until the first one is, there are only requests to tell of.
    parts = [f"{start}: {needed[0].measured if needed[0].candidate_units else _requests(step)}"]
    if missing:
        parts.append(f"the candidate may pass after {settings.min_requests:,} requests in this step, {missing:,} more")
    for row in needed:
        if row.state is State.MET:
            continue
        if row.state is State.MISSING and row.metric == LATENCY:
            parts.append(f"nothing was measured yet of what must hold: {row.name}")
        elif not row.proves:
            parts.append(f"at the moment it does not hold that {row.name}")
        elif row.log_evidence < (row.log_threshold or 0.0):
            parts.append(f"evidence that {row.name}: {evidence_for(row)}")
    return f"{'; '.join(parts)}.{in_sight(further, further_seconds)}{_long_sessions(step, settings)}"


def _long_sessions(step: Totals, settings: AnalysisSettings) -> str:
    """What makes a decision slow where a few clients make all requests."""
    requests, sessions = step.requests, step.stable.sessions + step.candidate.sessions
    if settings.unit != SESSION or requests <= MOST_REQUESTS * sessions:
        return ""
    return (
        f" {requests:,} requests came from {sessions:,} sessions, and a session counts once:"
        f" with unit {REQUEST!r} each request counts."
    )


def _requests(seen: Totals) -> str:
    return (
        f"candidate {words.of(seen.candidate.failed, seen.candidate.requests)},"
        f" stable {words.of(seen.stable.failed, seen.stable.requests)}"
    )


def in_sight(further: int | None, seconds: float | None) -> str:
    """How much longer, as a sentence of its own."""
    if further is None:
        return " No decision is in sight at these rates."
    if further <= 0:
        return ""
    about = f" About {words.count(further)} more requests are needed"
    return f"{about}, {words.duration(seconds)} at this traffic." if seconds else f"{about}."


def capitalised(sentence: str) -> str:
    return sentence[:1].upper() + sentence[1:]


# How much longer


def further_requests(
    step: Totals, settings: AnalysisSettings, needed: Sequence[Row], against: Sequence[Row]
) -> int | None:
    """Until a decision, if the rates stay as estimated; a candidate with few sessions is taken to be like stable."""
    if not step.candidate.requests or not needed:
        return None
    share = step.candidate.requests / step.requests
    sessions = step.stable.sessions + step.candidate.sessions
    per_unit = step.requests / sessions if settings.unit == SESSION and sessions else 1.0
    most = max(settings.min_requests - step.candidate.requests, 0) / share
    for row in needed:
        if not row.proves or row.state is State.MET:
            continue
        if row.metric == ERROR_RATE:
            units = _further_of_errors(row, share, against)
        else:
            # Its growth cannot be foreseen: as much again as so far, once there is any.
            seen = row.log_evidence / (row.stable_units + row.candidate_units) if row.log_evidence > 0 else 0.0
            units = ((row.log_threshold or 0.0) - row.log_evidence) / seen if seen else 0.0
        most = max(most, units * per_unit)
    return math.ceil(most) if most <= _MOST_FURTHER_REQUESTS else None


def _further_of_errors(row: Row, share: float, against: Sequence[Row]) -> float:
    """Units of both arms."""
    stable_rate = ((row.stable_value or 0.0) / 100 * row.stable_units + 2.0) / (row.stable_units + 200.0)
    candidate = (row.candidate_value or 0.0) / 100 * row.candidate_units
    bound = row.margin / 100
    if row.kind is Kind.INCREASE:
        candidate_rate = (candidate + 20 * stable_rate) / (row.candidate_units + 20)
        growth = planning.growth_per_request(stable_rate, candidate_rate, bound, share)
        promising = candidate_rate - stable_rate < bound
    else:
        candidate_rate = (candidate + 0.5) / (row.candidate_units + 1)
        growth = planning.divergence(candidate_rate, bound) * share
        promising = candidate_rate < bound
    if promising:
        gap = (row.log_threshold or 0.0) - max(row.log_evidence, 0.0)
    else:
        worst = next(one for one in against if (one.metric, one.kind) == (row.metric, row.kind))
        gap = (worst.log_threshold_against or 0.0) - max(worst.log_evidence_against, 0.0)
    return max(gap, 0.0) / growth if growth > 0 else math.inf


def evidence_for(row: Row) -> str:
    return f"{words.odds(row.log_evidence)}, needed {words.odds(row.log_threshold or 0.0)}"


def evidence_against(row: Row) -> str:
    return f"evidence {words.odds(row.log_evidence_against)}, needed {words.odds(row.log_threshold_against or 0.0)}"
