"""Deep Tree Echo's components where they can be imported: in a process of its own, each made to do something once."""

from __future__ import annotations

import math
from pathlib import Path, PurePosixPath
from typing import Any, ClassVar

from registry.qa.base import Check, Context, Finding, Outcome, Severity
from registry.qa.builtin.exchange import listed
from registry.qa.builtin.integration import CATEGORY, off
from registry.qa.catalogue import check
from registry.qa.imports.components import POPULATION
from registry.qa.imports.look import MODULES, Place, Seen, find, look
from registry.qa.parameters import Parameter
from registry.qa.rooted_trees import FEWEST_LEVELS, SEQUENCE, shown, topology_problem

PATH = Parameter(
    "path",
    str,
    "",
    "A checkout to import it from, in the folder for the policy's files; without one, what is installed beside this "
    "product is looked at.",
)
SECONDS = Parameter(
    "seconds", float, 15.0, "How long importing and using it may take.", unit="seconds", lowest=1, highest=40
)
A000081_WORDS = ("oeis", SEQUENCE.lower())


class ImportedCheck(Check):
    """One component. The subclass judges what was seen of it."""

    category = CATEGORY
    weight = 1.0
    required = False
    timeout = 50.0
    parameters: ClassVar[tuple[Parameter, ...]] = (PATH, SECONDS)
    component: ClassVar[str]
    title: ClassVar[str]

    def run(self, context: Context) -> Outcome:
        if reason := off(context, self.component):
            return Outcome.not_applicable(reason)
        named = str(context.parameter(self, "path"))
        folder = _folder(named, context.files) if named else None
        if named and folder is None:
            return Outcome.failed(
                f"{self.title} is not imported from {named!r}: put the checkout, or a link to it, into the folder for "
                "the policy's files, and give its name there."
            )
        place = find(self.component, folder)
        if place is None:
            return self._absent(named)
        return self._judged(place, look(place, float(context.parameter(self, "seconds"))), context)

    def judge(self, seen: Seen, context: Context) -> Outcome:
        raise NotImplementedError

    def _absent(self, named: str) -> Outcome:
        module = MODULES[self.component]
        if named:  # somebody said that it is there
            return Outcome.failed(f"{self.title} cannot be imported: there is no {module} in {named}.")
        return Outcome.not_applicable(
            f"{self.title} is not installed here (no module {module}), and the policy names no folder with it."
        )

    def _judged(self, place: Place, seen: Seen, context: Context) -> Outcome:
        evidence = _evidence(place, seen)
        if _foreign(seen, place):
            return Outcome.not_checked(
                f"{self.title} could not be looked at: it needs the module {seen.missing}, which is not installed "
                f"here.",
                evidence=evidence,
            )
        if seen.problem:
            return Outcome.failed(f"{self.title} does not work: {seen.problem}.", evidence=evidence)
        try:
            found = self.judge(seen, context)
        except (LookupError, TypeError, ValueError) as error:
            return Outcome.failed(
                f"{self.title} answers in a way that is not known ({type(error).__name__}: {error}).", evidence=evidence
            )
        return Outcome(
            found.status, found.reason, found.value, found.limit, found.unit, evidence, findings=found.findings
        )


def _folder(named: str, files: Path | None) -> Path | None:
    """Below the folder for such files only: else whoever may set a policy could run any code on the worker. A link in
    it was put there by somebody who has the machine."""
    wanted = PurePosixPath(named)
    if files is None or wanted.is_absolute() or ".." in wanted.parts:
        return None
    return files / wanted


def _evidence(place: Place, seen: Seen) -> dict[str, Any]:
    return {
        "from": list(place.folders) or ["installed"],
        "facts": seen.facts,
        "seconds_of_steps": seen.steps,
        "seconds": seen.seconds,
        **({"problem": seen.problem} if seen.problem else {}),
    }


def _foreign(seen: Seen, place: Place) -> bool:
    """What it misses is somebody else's package, not a part of its own."""
    top = seen.missing.partition(".")[0]
    if not top or top == MODULES[place.component]:
        return False
    return not any((Path(folder) / name).exists() for folder in place.folders for name in (top, f"{top}.py"))


def _title(title: str, seen: Seen) -> str:
    version = seen.facts.get("version")
    return f"{title} {version}" if version else title


@check
class DtesnImport(ImportedCheck):
    name = "integration.dtesn_import"
    label = "DTESN works when it is imported"
    component = "dtesn"
    title = "DTESN"

    def judge(self, seen: Seen, context: Context) -> Outcome:
        problems = _reservoir_problems(seen.facts)
        levels = seen.facts["levels"]
        topology = _membrane_problem(levels)
        if topology:
            problems.append(topology)
        issues = seen.facts["issues"]
        # Its own count compares with the wrong terms of the sequence (those from 0 on), so ours decides.
        disproved = [issue for issue in issues if not topology and _is_about_topology(issue)]
        problems += [f"validate_integration() says: {issue}" for issue in issues if issue not in disproved]
        if not seen.facts["valid"] and not issues:
            problems.append("validate_integration() says that it is not valid, without a reason")
        findings = [*_claims(seen.facts, topology, disproved), *_orphans(seen.facts)]
        took = 1000 * min(second for name, second in seen.steps.items() if name.startswith("update_system"))
        facts: dict[str, Any] = {"value": round(took, 3), "unit": "ms", "findings": tuple(findings)}
        title = _title(self.title, seen)
        if problems:
            return Outcome.failed(f"{title} does not work: {'; '.join(problems)}.", **facts)
        return Outcome.passed(
            f"{title} moved all {seen.facts['reservoirs']} reservoirs with two inputs, one in {took:.1f} ms; its "
            f"membranes ({shown(levels)}) are as {SEQUENCE} has them; validate_integration() has nothing against it.",
            **facts,
        )


def _reservoir_problems(facts: dict[str, Any]) -> list[str]:
    problems = []
    if not facts["reservoirs"]:
        problems.append("update_system() moved no reservoir")
    if not facts["finite"]:
        problems.append("update_system() brought states that are no finite numbers")
    if lost := facts["lost"]:
        problems.append(f"update_system() showed {listed(lost, 3)} with only one of two inputs")
    if still := facts["still"]:
        problems.append(
            f"{len(still)} of {facts['reservoirs']} reservoirs have the same state after opposite inputs "
            f"({listed(still, 3)})"
        )
    return problems


def _membrane_problem(levels: list[object]) -> str:
    if not levels:
        return "it has no membranes"
    if problem := topology_problem(levels):
        return problem
    return "" if len(levels) >= FEWEST_LEVELS else f"its membranes have only {len(levels)} levels"


def _is_about_topology(issue: str) -> bool:
    return any(word in issue.lower() for word in A000081_WORDS)


def _claims(facts: dict[str, Any], topology: str, disproved: list[str]) -> list[Finding]:
    found = [
        Finding(
            Severity.LOW,
            f'validate_integration() says "{issue}", but the membranes counted here are as {SEQUENCE} has them.',
            f"Compare with the terms of {SEQUENCE} from n = 1 on: 1, 1, 2, 4, 9.",
        )
        for issue in disproved
    ]
    compliance = facts.get("compliance")
    if topology and isinstance(compliance, dict) and compliance.get("oeis_a000081_compliant") is True:
        found.append(
            Finding(
                Severity.MEDIUM,
                f"get_system_summary() calls the membranes compliant with {SEQUENCE}, but {topology}.",
                "Let the summary count the membranes that there are.",
            )
        )
    return found


def _orphans(facts: dict[str, Any]) -> list[Finding]:
    loose, all_of_them = facts["without_parent"], facts["membranes"]
    if loose <= 1:
        return []
    return [
        Finding(
            Severity.LOW,
            f"{loose} of {all_of_them} membranes have no parent, so they form no tree; one root is expected.",
            "Give each membrane its parent when it is created.",
        )
    ]


@check
class AarCoreImport(ImportedCheck):
    name = "integration.aar_core_import"
    label = "AAR Core works when it is imported"
    component = "aar_core"
    title = "AAR Core"
    parameters = (
        PATH,
        SECONDS,
        Parameter(
            "least_health", float, 0.8, "The health score that it must report at least.", "of 1", lowest=0, highest=1
        ),
    )

    def judge(self, seen: Seen, context: Context) -> Outcome:
        facts, least = seen.facts, float(context.parameter(self, "least_health"))
        score = facts["overall_score"]
        problems = _orchestration_problems(facts)
        if not _is_number(score) or not 0 <= score <= 1:
            problems.append(f"its health score is {score!r}, a number from 0 to 1 is expected")
        elif score < least:
            problems.append(f"its health score is {score:g}, at least {least:g} is demanded")
        took = seen.steps["orchestrate_inference()"]
        more: dict[str, Any] = {
            "value": float(score) if _is_number(score) else None,
            "limit": least,
            "unit": "of 1",
            "findings": _unconnected(self.title, facts.get("integration_status")),
        }
        title = _title(self.title, seen)
        if problems:
            return Outcome.failed(f"{title} does not work: {'; '.join(problems)}.", **more)
        return Outcome.passed(
            f"{title} orchestrated and counted one request in {took:.2f} s; its health score is {score:g}, "
            f"at least {least:g} is demanded.",
            **more,
        )


def _orchestration_problems(facts: dict[str, Any]) -> list[str]:
    problems = []
    if error := facts["answer_error"]:
        problems.append(f"orchestrate_inference() answered with an error: {str(error)[:200]}")
    elif not facts["answer"]:
        problems.append("orchestrate_inference() answered nothing")
    before, after = facts["requests"]
    if not (_is_number(before) and _is_number(after) and after == before + 1):
        problems.append(f"its own count of requests went from {before!r} to {after!r} with one request")
    healthy = facts.get("components_healthy")
    ill = sorted(name for name, well in healthy.items() if well is not True) if isinstance(healthy, dict) else []
    if ill:
        problems.append(f"it reports as not healthy: {', '.join(ill)}")
    return problems


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _unconnected(title: str, status: object) -> tuple[Finding, ...]:
    """Only the engine is named: that nothing else is connected is no news where a component is looked at alone."""
    if not isinstance(status, dict) or status.get("aphrodite_engine") is not False:
        return ()
    return (
        Finding(
            Severity.LOW,
            f"{title} is not connected to the engine: what it did here is its own simulation, no text was generated.",
            "Connect it to the engine where it is to serve, and look at it over HTTP there.",
        ),
    )


@check
class EchoSelf(ImportedCheck):
    """No engine serves Echo-Self over HTTP, so importing it is the only way to look at it."""

    name = "integration.echo_self"
    label = "Echo-Self evolves"
    component = "echo_self"
    title = "Echo-Self"

    def judge(self, seen: Seen, context: Context) -> Outcome:
        facts, title = seen.facts, _title(self.title, seen)
        findings = _unconnected(self.title, facts.get("integration_status"))
        if not facts["can_evolve"]:
            return Outcome.not_checked(
                f"{title} shows its statistics but has no evolve_step(), so it could not be seen to evolve.",
                findings=findings,
            )
        problems = _evolution_problems(facts)
        if problems:
            return Outcome.failed(f"{title} does not evolve: {'; '.join(problems)}.", findings=findings)
        took = 1000 * seen.steps["evolve_step()"]
        return Outcome.passed(
            f"{title} evolved one generation of {facts['population']} in {took:.1f} ms; the best fitness that it "
            f"reports, {facts['best_reported']:.3f}, is the best that it was given.",
            value=round(took, 3),
            unit="ms",
            findings=findings,
        )


def _evolution_problems(facts: dict[str, Any]) -> list[str]:
    before, after = facts["generation"]
    problems = []
    if after != before + 1:
        problems.append(f"evolve_step() took the generation from {before!r} to {after!r}")
    if facts["evaluated"] < POPULATION:
        problems.append(f"{facts['evaluated']} of {POPULATION} individuals were evaluated")
    if facts["population"] != POPULATION:
        problems.append(f"{POPULATION} individuals became {facts['population']!r}")
    best, given = facts["best_reported"], facts["best_given"]
    if given is not None and not (_is_number(best) and math.isclose(best, given, rel_tol=1e-9)):
        problems.append(f"it reports {best!r} as the best fitness, {given!r} was the best that it was given")
    return problems
