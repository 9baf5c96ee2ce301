"""Loads beside the one that every version is judged by: a set number of users, and the highest rate that holds."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import Any

from registry.qa.base import Check, Context, Outcome
from registry.qa.builtin.pressed import CATEGORY, answers_nothing, failures, measured, ms, nothing_answered
from registry.qa.catalogue import check
from registry.qa.parameters import Parameter
from registry.qa.policy import Load, Policy
from registry.qa.probe.knee import Holds, Knee, Pressed, find_knee
from registry.qa.probe.measured import MOST_AT_ONCE, REQUEST_SECONDS
from registry.qa.probe.report import ProbeReport

MOST_PRESSES = 14
KNEE_SECONDS = 90.0
LEAST_REQUESTS = 75
"""With fewer, nothing lies above the 95th percentile's interval; a press of a low rate lasts longer for it."""
LONGEST_PRESS = 10.0
PATIENCE = 4
"""Times the latency limit: waiting longer for a first token says no more about whether the limit holds."""


@check
class ClosedLoop(Check):
    name = "performance.closed_loop"
    label = "A set number of users at once"
    category = CATEGORY
    weight = 1.0
    required = False
    needs_server = True
    alone = True
    timeout = 120.0
    parameters = (
        Parameter("concurrency", int, 0, "Requests always under way; 0 leaves the check out.", "", 0, MOST_AT_ONCE),
        Parameter("seconds", float, 3.0, "How long it is pressed.", "s", 0.1, 60),
    )

    def run(self, context: Context) -> Outcome:
        users = context.parameter(self, "concurrency")
        if not users:
            return Outcome.not_applicable("The policy sets no concurrency for it.")
        if silent := answers_nothing(context):
            return Outcome.failed(nothing_answered(silent))
        load = replace(context.policy.load, concurrency=users, seconds=context.parameter(self, "seconds"))
        found = measured(context, load)
        if isinstance(found, Outcome):
            return found
        evidence = found.to_json()
        if found.gave_up:
            return Outcome.failed(nothing_answered(found), evidence=evidence)
        rate = found.tokens_per_second.value
        broken = [*_broken(context.policy, found), *_too_little(context.policy, rate)]
        reason = f"With {users} requests always under way, {_figures(found)}, and {rate:.0f} tokens/s came"
        facts: dict[str, Any] = {"value": rate, "limit": context.policy.min_throughput_tokens_sec, "unit": "tokens/s"}
        if broken:
            return Outcome.failed(f"{reason}: {'; '.join(broken)}.", **facts, evidence=evidence)
        return Outcome.passed(f"{reason}: all limits of the policy hold.", **facts, evidence=evidence)


@check
class HighestRate(Check):
    name = "performance.knee"
    label = "Highest rate that holds"
    category = CATEGORY
    weight = 1.0
    required = False
    needs_server = True
    alone = True
    timeout = 150.0
    parameters = (
        Parameter("find", bool, False, "Look for the highest rate at which the limits hold; takes up to 90 s."),
        Parameter("lowest_rate", float, 1.0, "Below that rate the check fails.", "requests/s", 0.05, 1000),
        Parameter("highest_rate", float, 200.0, "It looks no higher.", "requests/s", 0.1, 1000),
        Parameter("seconds", float, 2.0, "Of one press, at rates that are not very low.", "s", 0.2, 10),
    )

    def run(self, context: Context) -> Outcome:
        if not context.parameter(self, "find"):
            return Outcome.not_applicable("The policy does not ask for the highest rate.")
        lowest, highest = context.parameter(self, "lowest_rate"), context.parameter(self, "highest_rate")
        if lowest > highest:
            return Outcome.error(f"lowest_rate is {lowest:g} and highest_rate {highest:g}: set it above the lowest.")
        if silent := answers_nothing(context):
            return Outcome.failed(nothing_answered(silent))
        presser = _Presser(context, context.parameter(self, "seconds"), time.monotonic() + KNEE_SECONDS)
        start = context.policy.load.requests_per_second
        found = find_knee(presser.press, start=start, lowest=lowest, highest=highest, most=MOST_PRESSES)
        if presser.problem is not None:
            return presser.problem
        return _judge(found, lowest, context.policy)


@dataclass
class _Presser:
    context: Context
    seconds: float
    ends: float
    problem: Outcome | None = None

    def press(self, rate: float, number: int) -> Pressed:
        load = self._load(rate)
        patience = min(REQUEST_SECONDS, max(1.0, PATIENCE * self.context.policy.max_latency_ms / 1000))
        if time.monotonic() + load.seconds + 2 * patience > self.ends:
            return Pressed(rate, Holds.UNKNOWN, f"the {KNEE_SECONDS:g} s for it were used up")
        found = measured(self.context, load, seed=100 + number, request_timeout=patience)
        if isinstance(found, Outcome):
            self.problem = found
            return Pressed(rate, Holds.UNKNOWN, found.reason)
        if found.gave_up:
            return Pressed(rate, Holds.NO, nothing_answered(found))
        limit = self.context.policy.max_latency_ms
        if found.lag_ms and found.lag_ms.p95.value > limit / 2:
            return Pressed(rate, Holds.UNKNOWN, f"the probe itself was {ms(found.lag_ms.p95.value)} late")
        broken = _broken(self.context.policy, found)
        return Pressed(rate, Holds.NO if broken else Holds.YES, _figures(found))

    def _load(self, rate: float) -> Load:
        seconds = max(self.seconds, min(LONGEST_PRESS, LEAST_REQUESTS / rate))
        warm_up = min(self.context.policy.load.warm_up_requests, max(1, round(rate)))
        return replace(
            self.context.policy.load,
            requests_per_second=rate,
            seconds=seconds,
            warm_up_requests=warm_up,
            concurrency=0,
        )


def _judge(found: Knee, lowest: float, policy: Policy) -> Outcome:
    evidence = {
        "presses": [{"rate": round(p.rate, 2), "limits": p.holds.value, "figures": p.said} for p in found.pressed]
    }
    facts: dict[str, Any] = {"limit": lowest, "unit": "requests/s", "evidence": evidence}
    last = found.pressed[-1]
    limits = f"{policy.max_latency_ms:g} ms to the first token and {policy.max_error_rate_percent:g} % errors"
    if found.held is None:
        if last.holds is Holds.UNKNOWN:
            return Outcome.not_checked(f"No rate was measured at which the limits hold: {last.said}.", **facts)
        if last.rate > lowest:
            return Outcome.not_checked(
                f"At {last.rate:.3g} requests/s and above the limits ({limits}) do not hold, and {len(found.pressed)} "
                f"presses did not come down to {lowest:g}: give the policy's load a lower rate to begin with.",
                **facts,
            )
        return Outcome.failed(
            f"Even at {last.rate:g} requests/s the limits ({limits}) do not hold: {last.said}.", value=0.0, **facts
        )
    held = round(found.held, 2)
    if found.broke is not None:
        where = f"lies between {found.held:.3g} and {found.broke:.3g} requests/s"
    elif last.holds is Holds.UNKNOWN:
        where = f"is {found.held:.3g} requests/s at least; above that nothing could be measured ({last.said})"
    else:
        where = f"is {found.held:.3g} requests/s at least; nothing higher was tried"
    figures = next(press.said for press in reversed(found.pressed) if press.rate == found.held)
    reason = f"The highest rate at which the limits ({limits}) hold {where}, by {len(found.pressed)} short presses"
    return Outcome.passed(f"{reason}. At {found.held:.3g} requests/s {figures}.", value=held, **facts)


def _broken(policy: Policy, found: ProbeReport) -> list[str]:
    broken: list[str] = []
    first = found.first_token_ms
    if first is None or first.p95.value > policy.max_latency_ms:
        broken.append(f"the limit for the first token is {policy.max_latency_ms:g} ms")
    if found.error_rate_percent > policy.max_error_rate_percent:
        broken.append(f"at most {policy.max_error_rate_percent:g} % of the requests may fail ({failures(found)})")
    return broken


def _too_little(policy: Policy, rate: float) -> list[str]:
    least = policy.min_throughput_tokens_sec
    return [f"at least {least:g} tokens/s are demanded"] if rate < least else []


def _figures(found: ProbeReport) -> str:
    """A clause: "the first token took 12 ms at the 95th percentile and 0 of 40 requests failed"."""
    first = (
        f"took {ms(found.first_token_ms.p95.value)} at the 95th percentile" if found.first_token_ms else "never came"
    )
    return f"the first token {first} and {found.failed} of {found.requests} requests failed"
