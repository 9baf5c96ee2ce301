"""Slower than today? The version and a copy of the live one are pressed in turns with the same requests."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from registry.qa.base import Check, Context, Outcome
from registry.qa.builtin.exchange import server_of
from registry.qa.builtin.pressed import CATEGORY, answers_nothing, own_questions
from registry.qa.catalogue import check
from registry.qa.own_files import OwnFileError
from registry.qa.parameters import Parameter
from registry.qa.policy import Load
from registry.qa.probe.compare import ALPHA, Compared, Comparison, Verdict, compare, pairs_of
from registry.qa.probe.measured import Alternated
from registry.qa.probe.run import ProbeError, run_alternating

PAIRS = 10
"""With 2^10 exchanges a slower version is still seen where two of the pairs were disturbed."""
LEAST_PAIRS = 7
"""The smallest p is 1 in 128 then: just enough for four quantities at 0.05 together."""
TURN_SECONDS = 0.25
LEAST_REQUESTS = 4
SLOWEST_RATE = 1.0
MOST_SECONDS = 60.0
UNIT = "% slower at least"


@check
class NotSlowerThanLive(Check):
    name = "performance.baseline"
    label = "Not slower than the live version"
    category = CATEGORY
    weight = 2.0
    required = False
    needs_server = True
    needs_live = True
    alone = True
    timeout = 200.0
    parameters = (
        Parameter("most_percent", float, 20.0, "It may be that much slower than the live version.", "%", 0, 1000),
    )

    def run(self, context: Context) -> Outcome:
        load, most = context.policy.load, context.parameter(self, "most_percent")
        if context.live is None:
            return Outcome.not_applicable("There is no live version to compare with.")
        if answers_nothing(context):
            return Outcome.not_checked("This version answered no request of the load: there is nothing to compare.")
        if load.requests_per_second < SLOWEST_RATE and not load.concurrency:
            return Outcome.not_checked(
                f"At {load.requests_per_second:g} requests/s the comparison would take too long: give the policy's "
                f"load {SLOWEST_RATE:g} request/s or more, or do without the comparison (compare_with_live)."
            )
        try:
            found = run_alternating(
                server_of(context),
                context.live,
                load,
                pairs=PAIRS,
                requests=_requests(load),
                most_seconds=MOST_SECONDS,
                questions=own_questions(context),
                given_up=context.given_up,
            )
        except ProbeError as error:
            return Outcome.error(str(error))
        except OwnFileError as error:
            return Outcome.error(f"The policy's own prompts cannot be used: {error}")
        return _judge(found, most)


def _requests(load: Load) -> int:
    """Of one turn."""
    if load.concurrency:
        return max(LEAST_REQUESTS, 2 * load.concurrency)
    return max(LEAST_REQUESTS, round(load.requests_per_second * TURN_SECONDS))


def _judge(found: Alternated, most: float) -> Outcome:
    pairs = pairs_of(found)
    evidence: dict[str, Any] = {"turns": len(found.slices), "pairs": len(pairs), "failed": _failures(found)}
    if found.problem:
        evidence["problem"] = found.problem
    if found.silent == "candidate":
        return Outcome.failed(f"{found.problem} The live one answers.", limit=most, unit=UNIT, evidence=evidence)
    if len(pairs) < LEAST_PAIRS:
        why = found.problem or "Nothing was measured."
        return Outcome.not_checked(f"{why} So the two could not be compared.", evidence=evidence)
    compared = compare(pairs, most)
    evidence |= {"alpha": ALPHA, "compared": [asdict(one) for one in compared.compared]}
    if not compared.compared:
        return Outcome.not_checked(f"No answers of both could be compared.{_said(found)}", evidence=evidence)
    return _outcome(compared, most, evidence, _said(found))


def _outcome(compared: Comparison, most: float, evidence: dict[str, Any], failed: str) -> Outcome:
    lows = [one.low_percent for one in compared.compared if one.low_percent is not None]
    facts: dict[str, Any] = {
        "value": max(0.0, *lows) if lows else None,  # what is shown, not what was met by chance
        "limit": most,
        "unit": UNIT,
        "evidence": evidence,
    }
    if slower := compared.of(Verdict.SLOWER):
        return Outcome.failed(
            f"This version is slower than the live one by more than {most:g} %: {_named(slower)}.{failed}", **facts
        )
    said: list[str] = []
    if fine := compared.of(Verdict.NOT_SLOWER):
        said.append(f"This version is not slower than the live one by more than {most:g} %: {_named(fine)}.")
    if unclear := compared.of(Verdict.UNCLEAR):
        whether = f"this version is slower than the live one by more than {most:g} %"
        said.append(f"So short a comparison cannot tell whether {whether}: {_named(unclear)}.")
    return Outcome.passed(f"{' '.join(said)}{failed}", **facts)


def _named(several: Sequence[Compared]) -> str:
    return "; ".join(
        f"{one.name} {one.candidate:g} against {one.live:g} {one.unit} ({_change(one)})" for one in several
    )


def _change(one: Compared) -> str:
    seen = f"{abs(one.change_percent):g} % {'slower' if one.change_percent > 0 else 'faster'}"
    if one.low_percent is None or one.high_percent is None:
        return seen
    return f"{seen}; between {one.low_percent:+g} and {one.high_percent:+g} %"


def _failures(found: Alternated) -> dict[str, int]:
    def count(candidate: bool) -> int:
        turns = [turn for turn in found.slices if turn.candidate is candidate]
        return sum(request.failure is not None for turn in turns for request in turn.requests)

    return {"candidate": count(True), "live": count(False)}


def _said(found: Alternated) -> str:
    """A sentence more, with the space before it, where requests failed."""
    failed = _failures(found)
    if not any(failed.values()):
        return ""
    each = sum(len(turn.requests) for turn in found.slices if turn.candidate)
    return (
        f" Of {each} requests each, {failed['candidate']} of this version and {failed['live']} of the live one failed."
    )
