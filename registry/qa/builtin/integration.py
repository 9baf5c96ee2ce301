"""Deep Tree Echo over HTTP, where the engine has it: one real operation each. Status words are no evidence, the
original's are literals. `integration_imports.py` looks at the same components where they can be imported.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from registry.qa.base import Context, Finding, Outcome, Severity
from registry.qa.builtin.exchange import ABSENT, Exchange, VisitingCheck, Visitor
from registry.qa.catalogue import check
from registry.qa.rooted_trees import FEWEST_LEVELS, SEQUENCE, shown, topology_problem

CATEGORY = "integration"
OFF = "The policy does not ask for Deep Tree Echo."
DTESN_CHAT = "/v1/chat/completions/dtesn"
PROCESS = "/deep_tree_echo/process"
MEMBRANES = "/deep_tree_echo/membrane_info"
MONITORING = "/deep_tree_echo/monitoring"
NO_ROUTE = "/deploypipe-no-such-route"
TOO_MANY = 429
INPUTS = ("one two three", "a longer line of quite other words")
DEPTH = 4
ANSWER_WITHIN = 3.0
TITLES = {"dtesn": "DTESN", "aar_core": "AAR Core", "echo_self": "Echo-Self"}


def off(context: Context, component: str) -> str:
    """Why the policy does not ask for this component; empty where it does."""
    if not context.policy.deep_tree_echo:
        return OFF
    if component not in context.policy.deep_tree_echo_components:
        return f"The policy does not ask for {TITLES[component]}."
    return ""


def _is_absent(visitor: Visitor, answer: Exchange) -> bool:
    """Some servers have a page for every address, and some proxies refuse all that they do not know."""
    if answer.status in ABSENT or (answer.status == 200 and "html" in answer.headers.get("content-type", "")):
        return True
    refused = 400 <= answer.status < 500 and answer.status != TOO_MANY
    return refused and _look(visitor, NO_ROUTE).status == answer.status


def _evidence(exchanges: Sequence[Exchange], **more: Any) -> dict[str, Any]:
    return {"exchanges": [answer.evidence() for answer in exchanges], **more}


def _unknown(title: str, exchanges: Sequence[Exchange]) -> Outcome | None:
    """Where the server says nothing at all, nothing is known of the component either."""
    silent = [answer for answer in exchanges if not answer.status]
    if not silent:
        return None
    return Outcome.not_checked(
        f"It is not known whether the engine has {title}: {silent[0].route} {silent[0].said}.",
        evidence=_evidence(exchanges),
    )


@check
class Dtesn(VisitingCheck):
    name = "integration.dtesn"
    label = "DTESN processes"
    category = CATEGORY
    weight = 2.0
    required = False
    timeout = 40.0

    def off(self, context: Context) -> str:
        return off(context, "dtesn")

    def ask(self, context: Context, visitor: Visitor) -> Outcome:
        exchanges: list[Exchange] = []
        for path in ("/v1/dtesn/status", "/deep_tree_echo/status"):
            exchanges.append(_look(visitor, path))
            if unknown := _unknown("DTESN", exchanges):
                return unknown
        openai, tree = exchanges
        has_openai, has_tree = not _is_absent(visitor, openai), not _is_absent(visitor, tree)
        if not has_openai and not has_tree:
            return Outcome.not_applicable(
                "The engine has no DTESN routes (/v1/dtesn/status and /deep_tree_echo/status are not there).",
                evidence=_evidence(exchanges),
            )
        problems: list[str] = []
        if has_openai:
            problems += _openai_problems(visitor, openai, exchanges)
        if has_tree:
            problems += _tree_problems(visitor, tree, exchanges) or _health_problems(visitor, exchanges)
        findings = _engine_findings(tree)
        evidence = _evidence(exchanges)
        if problems:
            reason = f"DTESN does not process: {'; '.join(problems)}."
            return Outcome.failed(reason, evidence=evidence, findings=findings)
        done = dict.fromkeys(answer.route for answer in exchanges if answer.method == "POST")
        reason = f"DTESN processed a request: {' and '.join(done)}."
        return Outcome.passed(reason, evidence=evidence, findings=findings)


def _look(visitor: Visitor, path: str) -> Exchange:
    headers = {"Accept": "application/json"}  # some of these routes have a page for browsers
    return visitor.ask("GET", path, key=visitor.server.api_key, headers=headers, timeout=ANSWER_WITHIN)


def _openai_problems(visitor: Visitor, status: Exchange, exchanges: list[Exchange]) -> list[str]:
    if status.status != 200:
        return [f"GET /v1/dtesn/status {status.said}"]
    if status.json().get("dtesn_available") is not True:
        return ["GET /v1/dtesn/status does not say dtesn_available"]
    answer = visitor.ask(
        "POST",
        DTESN_CHAT,
        key=visitor.server.api_key,
        body=visitor.body(DTESN_CHAT),
        headers={"X-DTESN-Enable": "true", "X-DTESN-Membrane-Depth": str(DEPTH)},
        sent=f"X-DTESN-Enable: true, X-DTESN-Membrane-Depth: {DEPTH}",
    )
    exchanges.append(answer)
    if answer.status != 200:
        return [f"POST {DTESN_CHAT} {answer.said}"]
    if not _content(answer):  # a failure is answered 200 with an error as its body
        return [f"POST {DTESN_CHAT} answered 200 without a choice that has text"]
    processed = answer.headers.get("x-dtesn-processed", "absent")
    if processed.lower() != "true":
        return [f"POST {DTESN_CHAT} answered with X-DTESN-Processed {processed[:40]}"]
    return []


def _content(answer: Exchange) -> str:
    choices = answer.json().get("choices")
    first = choices[0] if isinstance(choices, list) and choices else None
    message = first.get("message") if isinstance(first, dict) else None
    content = message.get("content") if isinstance(message, dict) else None
    return content if isinstance(content, str) else ""


def _tree_problems(visitor: Visitor, status: Exchange, exchanges: list[Exchange]) -> list[str]:
    if status.status != 200:
        return [f"GET /deep_tree_echo/status {status.said}"]
    outputs: list[object] = []
    for text in INPUTS:
        answer = _process(visitor, text)
        exchanges.append(answer)
        if problems := _process_problems(answer):
            return problems
        outputs.append(answer.json()["result"]["output"])
    if outputs[0] == outputs[1]:
        return [f"POST {PROCESS} answered two different inputs with the same output"]
    return []


def _health_problems(visitor: Visitor, exchanges: list[Exchange]) -> list[str]:
    """What it measures of itself after it was used; its word for its health is not looked at."""
    answer = _look(visitor, MONITORING)
    exchanges.append(answer)
    metrics = answer.json().get("metrics") if answer.status == 200 else None
    if isinstance(metrics, dict) and metrics.get("circuit_breaker_open") is True:
        return [f"GET {MONITORING} reports that its circuit breaker is open"]
    return []


def _engine_findings(status: Exchange) -> tuple[Finding, ...]:
    """The one thing in the status answer that is looked up and not a literal."""
    engine = status.json().get("engine_integration") if status.status == 200 else None
    seen = engine.get("engine_status") if isinstance(engine, dict) else None
    if seen in (None, "available"):
        return ()
    return (
        Finding(
            Severity.MEDIUM,
            f"DTESN works without the engine: GET /deep_tree_echo/status calls it {str(seen)[:40]!r}.",
            "Give its application the engine when it is created.",
        ),
    )


def _process(visitor: Visitor, text: str) -> Exchange:
    body = {"input_data": text, "membrane_depth": DEPTH, "esn_size": 512, "processing_mode": "server_side"}
    return visitor.ask(
        "POST",
        PROCESS,
        key=visitor.server.api_key,
        body=body,
        headers={"Accept": "application/json"},
        sent=f"{text!r}, membrane_depth {DEPTH}, esn_size 512",
    )


def _process_problems(answer: Exchange) -> list[str]:
    if answer.status != 200:
        return [f"POST {PROCESS} {answer.said}"]
    said = answer.json()
    problems = [
        f"POST {PROCESS} answered 200 with {name} {str(said.get(name, 'absent')).lower()[:40]}"
        for name in ("degraded_mode", "fallback_used")
        if said.get(name) is not False
    ]
    layers = said.get("membrane_layers")
    if not isinstance(layers, int) or isinstance(layers, bool) or layers < 1:
        problems.append(f"POST {PROCESS} used {str(layers)[:40]} membrane layers, at least 1 is expected")
    result = said.get("result")
    if not isinstance(result, dict) or not result.get("output"):
        problems.append(f"POST {PROCESS} answered 200 without an output")
    return problems


@check
class MembraneTopology(VisitingCheck):
    name = "integration.membrane_topology"
    label = f"Membranes follow {SEQUENCE}"
    category = CATEGORY
    weight = 1.0
    required = False
    timeout = 15.0

    def off(self, context: Context) -> str:
        return off(context, "dtesn")

    def ask(self, context: Context, visitor: Visitor) -> Outcome:
        answer = _look(visitor, MEMBRANES)
        evidence = _evidence([answer])
        if unknown := _unknown("membranes", [answer]):
            return unknown
        if _is_absent(visitor, answer):
            return Outcome.not_applicable(
                f"The engine does not report membranes ({MEMBRANES} is not there).", evidence=evidence
            )
        if answer.status != 200:
            return Outcome.failed(f"The membranes cannot be read: GET {MEMBRANES} {answer.said}.", evidence=evidence)
        named = answer.json().get("oeis_sequence")
        if named is not None and named != SEQUENCE:
            return Outcome.failed(
                f"GET {MEMBRANES} names the sequence {str(named)[:40]}; {SEQUENCE} is expected.", evidence=evidence
            )
        return _compared(_levels(answer.json()), evidence)


def _compared(levels: Sequence[int], evidence: dict[str, Any]) -> Outcome:
    if len(levels) < FEWEST_LEVELS:
        found = f"reports {len(levels)} levels" if levels else "does not report how many membranes each level has"
        reason = f"GET {MEMBRANES} {found}, so there is nothing to hold to {SEQUENCE}; the name alone is no evidence."
        action = f"Report membranes_per_level, with {FEWEST_LEVELS} levels or more, in {MEMBRANES}."
        return Outcome.not_checked(reason, evidence=evidence, findings=(Finding(Severity.LOW, reason, action),))
    if problem := topology_problem(levels):
        return Outcome.failed(f"The membranes are not laid out as rooted trees: {problem}.", evidence=evidence)
    return Outcome.passed(
        f"The {len(levels)} levels of membranes ({shown(levels)}) are as {SEQUENCE} has them.",
        value=float(sum(levels)),
        unit="membranes",
        evidence=evidence,
    )


def _levels(said: Mapping[str, Any], depth: int = 0) -> list[int]:
    """The membranes per level, wherever the answer has them: as counts, or as a tree of `children`."""
    for name, value in said.items():
        if name.endswith("per_level") and (counts := _counts(value)):
            return counts
    if isinstance(said.get("children"), list):
        return _tree_levels(said)
    inner = [value for value in said.values() if isinstance(value, Mapping)] if depth < 3 else []
    return next((found for value in inner if (found := _levels(value, depth + 1))), [])


def _counts(value: object) -> list[int]:
    """Of a list, or of a mapping by the level's number."""
    if isinstance(value, Mapping):
        if not all(str(level).isdecimal() for level in value):
            return []
        value = [value[level] for level in sorted(value, key=int)]
    if not isinstance(value, list) or not all(isinstance(n, int) and not isinstance(n, bool) for n in value):
        return []
    return value


def _tree_levels(root: Mapping[str, Any]) -> list[int]:
    levels: list[int] = []
    level: list[Mapping[str, Any]] = [root]
    while level:
        levels.append(len(level))
        children = [node.get("children") for node in level]
        level = [child for some in children if isinstance(some, list) for child in some if isinstance(child, Mapping)]
    return levels


@check
class AarCore(VisitingCheck):
    """Its gateway, `/agents` and `/functions`, is mounted by no engine that is known; some deployment may."""

    name = "integration.aar_core"
    label = "AAR Core answers"
    category = CATEGORY
    weight = 1.0
    required = False
    timeout = 20.0

    def off(self, context: Context) -> str:
        return off(context, "aar_core")

    def ask(self, context: Context, visitor: Visitor) -> Outcome:
        exchanges: list[Exchange] = []
        for path in ("/agents", "/functions"):
            exchanges.append(_look(visitor, path))
            if unknown := _unknown("AAR Core", exchanges):
                return unknown
        if all(_is_absent(visitor, answer) for answer in exchanges):
            return Outcome.not_applicable(
                "The engine has no AAR Core routes (/agents and /functions are not there).",
                evidence=_evidence(exchanges),
            )
        problems = [_listing_problem(answer) for answer in exchanges if _listing_problem(answer)]
        if not problems:
            # Looking up a function by name is the one operation without an effect.
            path = "/functions/invoke/deploypipe-no-such-function"
            absent = visitor.ask("POST", path, key=visitor.server.api_key, body={})
            exchanges.append(absent)
            if absent.status != 404:
                problems = [f"a function that does not exist was invoked: {absent.route} {absent.said}"]
        if problems:
            return Outcome.failed(f"AAR Core does not work: {'; '.join(problems)}.", evidence=_evidence(exchanges))
        return Outcome.passed(
            "AAR Core lists its agents and functions, and looks up functions by name.", evidence=_evidence(exchanges)
        )


def _listing_problem(answer: Exchange) -> str:
    if answer.status != 200:
        return f"{answer.route} {answer.said}"
    try:
        listing = json.loads(answer.body)
    except (ValueError, RecursionError):
        listing = None
    return "" if isinstance(listing, list | dict) else f"{answer.route} answered 200 without a JSON list"
