"""Deep Tree Echo, where the engine has it: one real operation each. Status words are no evidence, they are literals."""

from __future__ import annotations

from registry.qa.base import Check, Context, Outcome
from registry.qa.builtin.exchange import ABSENT, Exchange, VisitingCheck, Visitor
from registry.qa.catalogue import check

CATEGORY = "integration"
OFF = "The policy does not ask for Deep Tree Echo."
DTESN_CHAT = "/v1/chat/completions/dtesn"
PROCESS = "/deep_tree_echo/process"


@check
class Dtesn(VisitingCheck):
    name = "integration.dtesn"
    label = "DTESN processes"
    category = CATEGORY
    weight = 2.0
    required = False
    timeout = 40.0

    def off(self, context: Context) -> str:
        return "" if context.policy.deep_tree_echo else OFF

    def ask(self, context: Context, visitor: Visitor) -> Outcome:
        key = visitor.server.api_key
        openai = visitor.ask("GET", "/v1/dtesn/status", key=key)
        tree = visitor.ask("GET", "/deep_tree_echo/status", key=key)
        exchanges = [openai, tree]
        if all(answer.status in ABSENT for answer in exchanges):
            return Outcome.not_applicable(
                "The engine has no DTESN routes (404 on /v1/dtesn/status and /deep_tree_echo/status).",
                evidence={"exchanges": [answer.evidence() for answer in exchanges]},
            )
        problems: list[str] = []
        if openai.status not in ABSENT:
            problems += _openai_problems(visitor, openai, exchanges)
        if tree.status not in ABSENT:
            problems += _tree_problems(visitor, tree, exchanges)
        evidence = {"exchanges": [answer.evidence() for answer in exchanges]}
        if problems:
            return Outcome.failed(f"DTESN does not process: {'; '.join(problems)}.", evidence=evidence)
        done = [answer.route for answer in exchanges if answer.method == "POST"]
        return Outcome.passed(f"DTESN processed a request: {' and '.join(done)}.", evidence=evidence)


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
        headers={"X-DTESN-Enable": "true"},
        sent="X-DTESN-Enable: true",
    )
    exchanges.append(answer)
    if answer.status != 200:
        return [f"POST {DTESN_CHAT} {answer.said}"]
    if not answer.json().get("choices"):  # a failure is answered 200 with an error as its body
        return [f"POST {DTESN_CHAT} answered 200 without a choice"]
    processed = answer.headers.get("x-dtesn-processed", "absent")
    if processed.lower() != "true":
        return [f"POST {DTESN_CHAT} answered with X-DTESN-Processed {processed}"]
    return []


def _tree_problems(visitor: Visitor, status: Exchange, exchanges: list[Exchange]) -> list[str]:
    if status.status != 200:
        return [f"GET /deep_tree_echo/status {status.said}"]
    body = {"input_data": "one two three", "membrane_depth": 4, "esn_size": 512, "processing_mode": "server_side"}
    answer = visitor.ask("POST", PROCESS, key=visitor.server.api_key, body=body, sent="membrane_depth 4, esn_size 512")
    exchanges.append(answer)
    if answer.status != 200:
        return [f"POST {PROCESS} {answer.said}"]
    said = answer.json()
    problems = [
        f"POST {PROCESS} answered 200 with {name} {str(said.get(name, 'absent')).lower()}"
        for name in ("degraded_mode", "fallback_used")
        if said.get(name) is not False
    ]
    layers = said.get("membrane_layers")
    if not isinstance(layers, int) or layers < 1:
        problems.append(f"POST {PROCESS} used {layers!r} membrane layers, at least 1 is expected")
    return problems


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
        return "" if context.policy.deep_tree_echo else OFF

    def ask(self, context: Context, visitor: Visitor) -> Outcome:
        key = visitor.server.api_key
        agents = visitor.ask("GET", "/agents", key=key)
        functions = visitor.ask("GET", "/functions", key=key)
        exchanges = [agents, functions]
        if all(answer.status in ABSENT for answer in exchanges):
            return Outcome.not_applicable(
                "The engine has no AAR Core routes (404 on /agents and /functions).",
                evidence={"exchanges": [answer.evidence() for answer in exchanges]},
            )
        # Looking up a function by name is the one operation without an effect.
        absent = visitor.ask("POST", "/functions/invoke/deploypipe-no-such-function", key=key, body={})
        exchanges.append(absent)
        evidence = {"exchanges": [answer.evidence() for answer in exchanges]}
        problems = [f"{answer.route} {answer.said}" for answer in (agents, functions) if answer.status != 200]
        if not problems and absent.status != 404:
            problems = [f"a function that does not exist was invoked: {absent.route} {absent.said}"]
        if problems:
            return Outcome.failed(f"AAR Core does not work: {'; '.join(problems)}.", evidence=evidence)
        return Outcome.passed(
            "AAR Core lists its agents and functions, and looks up functions by name.", evidence=evidence
        )


@check
class EchoSelf(Check):
    name = "integration.echo_self"
    label = "Echo-Self evolves"
    category = CATEGORY
    weight = 1.0
    required = False
    needs_server = False
    alone = False
    timeout = 5.0

    def run(self, context: Context) -> Outcome:
        if not context.policy.deep_tree_echo:
            return Outcome.not_applicable(OFF)
        return Outcome.not_applicable("No engine serves Echo-Self over HTTP, so there is nothing to ask.")
