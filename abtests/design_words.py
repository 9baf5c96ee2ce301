"""A forecast as people read it: what each criterion takes, the answer in one paragraph, and what to be warned of."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from abtests.forecast import NOT_KEPT, Traffic
from abtests.sentences import capitalised
from abtests.split_forecast import CriterionForecast, Needs, SplitForecast
from deploypipe.metrics.definitions import Concern, Unit, metric_named
from deploypipe.metrics.questions import Kind
from deploypipe.metrics.wording import wanted
from deploypipe.stats import words

SURE_ENOUGH = 0.8
"""Chance of a decision in time with which an experiment is worth starting."""
FEW_SESSIONS = 100
BUSY_SESSION = 50
"""Requests of one session within the stretch that was measured: more, and they are hardly those of one user."""
FEW_FAILURES = 10
"""With fewer, the error rate may as well be half of what was measured, or twice that."""
LONG = 7 * 24 * 60.0
"""Minutes; "more than a week" is all that anybody need know."""


# --- Of one criterion -------------------------------------------------------------------------------------------------


def of_criterion(one: CriterionForecast, longest: float) -> str:
    said = []
    if one.problem:
        said.append(f"Can never be proven: {one.problem}." if one.criterion.proves else f"{capitalised(one.problem)}.")
    elif one.criterion.proves:
        what = "An identical version" if one.costs.passes == "identical" else "A version twice as much better as asked"
        said.append(f"{what} proves it after about {_needs(one.to_pass)}.")
    if one.criterion.aborts and one.costs.harm:
        said.append(_caught(one, longest))
    return " ".join(said)


def _caught(one: CriterionForecast, longest: float) -> str:
    harm, chance = capitalised(one.costs.harm), one.caught_in_time
    if not one.to_catch.known:
        return f"{harm} stays within what is allowed and is not called harm."
    in_time = f"in {_odds(chance)} of 100 such experiments"
    said, allowed = f"{harm} is caught after about {_needs(one.to_catch)}", f"the {duration(longest)} allowed"
    if one.costs.closing is not None:
        return f"{said}; with one exact test at the end of {allowed} it is caught by then {in_time}."
    if one.to_catch.minutes > longest:
        return f"{said}; within {allowed} it is caught {in_time}."
    return f"{said}." if chance >= SURE_ENOUGH else f"{said}; in time {in_time}."


def _needs(needs: Needs) -> str:
    return f"{words.count(needs.requests)} requests, {duration(needs.minutes)}"


def _odds(chance: float) -> str:
    return "hardly one" if chance < 0.01 else f"{100 * chance:.0f}"


# --- In one paragraph -------------------------------------------------------------------------------------------------


def told(
    here: SplitForecast, criteria: Sequence[CriterionForecast], suggested: SplitForecast | None, best: SplitForecast
) -> str:
    return " ".join(_told(here, criteria, suggested, best))


def _told(
    here: SplitForecast, criteria: Sequence[CriterionForecast], suggested: SplitForecast | None, best: SplitForecast
) -> Iterator[str]:
    longest = here.asked.max_minutes
    never = [one for one in criteria if one.problem]
    for one in never:
        who = "No version like the live one" if one.problem == NOT_KEPT else "No version"
        why = "it can never be proven" if one.criterion.proves else "it is asked"
        yield f"{who} can be promoted, for {why} that {wanted(one.criterion)}: {one.problem}."
    if not never:
        better = any(one.costs.passes == "better" for one in criteria)
        which = "A version better by twice what is asked" if better else "An identical version"
        yield f"{which} is promoted after about {_needs(here.to_promote)} at this traffic{_floor(here)}."
        if here.chance < SURE_ENOUGH:
            yield from _advice(here, suggested, best)
        if last := slowest(criteria):
            yield f"Slowest to prove: {wanted(last.criterion)}."
    yield from (_caught(one, longest) for one in _harms(criteria))


def _floor(here: SplitForecast) -> str:
    """What a promotion waits for, if it is not a proof."""
    asked = here.asked
    if not here.floor.requests or here.to_promote != here.floor:
        return ""
    if asked.min_minutes * here.rate >= here.floor.requests:
        return f", for it was asked to wait {duration(asked.min_minutes)}"
    return f", when each candidate has its {words.plural(asked.min_requests, 'request')}"


def slowest(criteria: Sequence[CriterionForecast]) -> CriterionForecast | None:
    """Of several that need proof, the one that a promotion waits for longest."""
    proving = [one for one in criteria if one.criterion.proves]
    return max(proving, key=lambda one: one.to_pass.requests) if len(proving) > 1 else None


def _harms(criteria: Sequence[CriterionForecast]) -> list[CriterionForecast]:
    """Of harm against stable; that of fixed limits stands in the table, unless there is no other. The same harm may
    break several criteria: it is said once, by the one that sees it first."""
    caught = [one for one in criteria if one.to_catch.known]
    compared = [one for one in caught if one.criterion.kind is not Kind.LIMIT]
    first: dict[str, CriterionForecast] = {}
    for one in sorted(caught, key=lambda one: one.to_catch.requests):
        first.setdefault(one.costs.harm, one)
    return [one for one in compared or caught if first[one.costs.harm] is one]


def _advice(here: SplitForecast, suggested: SplitForecast | None, best: SplitForecast) -> Iterator[str]:
    odds = f"Within the {duration(here.asked.max_minutes)} allowed that happens in {_odds(here.chance)} of 100 such"
    mine = words.percent(here.asked.share)
    if suggested is not None:
        share = words.percent(suggested.asked.share)
        yield f"{odds} experiments; with {share} instead of {mine} of the traffic it fits."
        return
    yield f"{odds} experiments, and no usual split is sure to decide in time."
    if best is not here:
        minutes = best.to_promote.minutes
        takes = duration(minutes) if minutes > LONG else f"about {duration(minutes)}"
        in_time = f", and ends in time in {_odds(best.chance)} of 100" if best.chance >= 0.01 else ""
        yield f"With {words.percent(best.asked.share)} of the traffic it takes {takes}{in_time}."
    yield "Allow more time or a wider margin; otherwise it may well end without a decision."


# --- Warnings ---------------------------------------------------------------------------------------------------------


def warnings(here: SplitForecast) -> Iterator[str]:
    plan, traffic = here.plan, here.traffic
    busy = traffic.sessions < FEW_SESSIONS or traffic.requests_per_session > BUSY_SESSION
    if plan.unit is Unit.SESSION and traffic.sessions and busy:
        rate, few = words.count(traffic.per_minute(traffic.requests)), words.plural(traffic.sessions, "session")
        yield (
            f"{rate} requests/min come from only {few}, and each session counts once:"
            " choose unit “request” only if they are independent, each routed on its own."
        )
    if plan.unit is Unit.REQUEST and traffic.requests_per_session > 1.5:
        yield (
            f"A session makes {traffic.requests_per_session:.1f} requests in the mean, and what happens to one user is"
            " not independent: with unit “request” there can be more false alarms than were asked for. Choose"
            " “session”, unless each request is routed on its own."
        )
    if traffic.arm.failed < FEW_FAILURES and _compares_errors(here):
        few = f"Only {words.plural(traffic.arm.failed, 'request')}" if traffic.arm.failed else "No request"
        yield (
            f"{few} failed in that time: how often the live version fails is"
            " known but roughly, and so is this forecast."
        )
    yield from _too_small_a_floor(here)
    if plan.arms > 1:
        share = words.percent(here.asked.share)
        yield f"{plan.arms} candidates have {share} of the traffic in all, and share alpha."


def _compares_errors(here: SplitForecast) -> bool:
    return any(
        criterion.kind is not Kind.LIMIT and metric_named(criterion.metric).concern is Concern.ERRORS
        for criterion in here.plan.criteria
    )


def _too_small_a_floor(here: SplitForecast) -> Iterator[str]:
    """The number of requests that was asked for decides nothing by itself: say how far it is from what is needed."""
    floor = here.asked.min_requests
    needs = [(here.needs(cost).requests * here.candidate, criterion) for criterion, cost in here.proofs]
    most, criterion = max(((n, c) for n, c in needs if math.isfinite(n)), key=lambda pair: pair[0], default=(0.0, None))
    if criterion is not None and floor and most > 1.5 * floor:
        yield (
            f"{words.plural(floor, 'request')} of the candidate cannot decide whether {wanted(criterion)}: about"
            f" {words.count(most)} are needed."
        )


# --- The traffic ------------------------------------------------------------------------------------------------------


def of_traffic(traffic: Traffic) -> str:
    counted = f"{words.plural(traffic.requests, 'request')} of {words.plural(traffic.sessions, 'session')}"
    p95 = traffic.latency_ms(0.95)
    return (
        f"The live version answered {counted} in the last {duration(traffic.seconds / 60)}"
        + (f", {words.percent(traffic.arm.failed / traffic.requests)} failed" if traffic.requests else "")
        + (f", P95 {p95:.0f} ms" if p95 is not None else "")
        + "."
    )


def duration(minutes: float) -> str:
    return "more than a week" if minutes > LONG else words.duration(minutes * 60)
