"""What the model writes, as far as a machine can judge it: held-out texts through the API, beside the live version."""

from __future__ import annotations

from dataclasses import replace

from registry.qa.base import Check, Context, Outcome
from registry.qa.builtin.exchange import VisitingCheck, Visitor, visit
from registry.qa.builtin.quality_compare import compared
from registry.qa.builtin.quality_measure import Measured, TooSlow, Unmeasured, measure
from registry.qa.catalogue import check
from registry.qa.held_out import HeldOut, load
from registry.qa.own_files import OwnFileError
from registry.qa.parameters import Parameter

CATEGORY = "quality"
SCRATCH = "quality.held_out"
HOW = (
    "No held-out texts are given. Set the parameter file of quality.held_out to a JSONL file with "
    '{"text": …} or {"prompt": …, "completion": …} a line, in the folder for such files.'
)


@check
class HeldOutTexts(VisitingCheck):
    name = "quality.held_out"
    label = "Held-out texts"
    category = CATEGORY
    weight = 2.0
    required = False
    timeout = 120.0
    parameters = (
        Parameter("file", str, "", "JSONL file of held-out texts, relative to the folder for such files."),
        Parameter("most_lines", int, 200, "How many of its lines are asked at most.", "lines", 1, 5000),
        Parameter("least_exact_match_percent", float, 0.0, "Prompts continued word for word.", "%", 0, 100),
        Parameter("most_perplexity", float, 0.0, "Highest perplexity per token; 0 for no limit.", "", 0),
    )

    def off(self, context: Context) -> str:
        return "" if context.parameter(self, "file") else HOW

    def ask(self, context: Context, visitor: Visitor) -> Outcome:
        try:
            held_out = _held_out(context)
            found = _of_the_candidate(context, visitor, held_out)
        except OwnFileError as error:
            return Outcome.error(str(error))
        except TooSlow as error:
            return Outcome.not_checked(str(error))
        except Unmeasured as error:
            return Outcome.failed(str(error), evidence=error.evidence)
        return self._judged(context, held_out, found)

    def _judged(self, context: Context, held_out: HeldOut, found: Measured) -> Outcome:
        least: float = context.parameter(self, "least_exact_match_percent")
        most: float = context.parameter(self, "most_perplexity")
        for limit, there, what in (
            (least, held_out.tasks, "prompts with completions"),
            (most, held_out.texts, "texts"),
        ):
            if limit and not there:
                return Outcome.error(f"The policy sets a limit for {what}, and the file has none.")
        if found.no_probabilities and (most or not found.matches):
            return Outcome.not_checked(found.no_probabilities, evidence=found.to_json())
        sentences: list[str] = []
        fails = False
        value, bound, unit = 0.0, 0.0, ""
        if found.matches:
            value, bound, unit = found.exact_match_percent, least, "%"
            fails |= value < least
            limit_said = f"at least {least:g} % are demanded" if least else "no limit is set"
            sentences.append(
                f"{found.right} of {len(found.matches)} prompts ({value:.1f} %) were continued word for word; "
                f"{limit_said}."
            )
        if found.losses:
            value, bound, unit = found.perplexity, most, "perplexity"
            fails |= bool(most) and value > most
            limit_said = f"at most {most:g} is allowed" if most else "no limit is set"
            sentences.append(
                f"The perplexity of {len(found.losses)} held-out texts is {value:.2f} per token "
                f"({found.bits_per_byte:.3f} bits per byte); {limit_said}."
            )
        elif found.no_probabilities:
            sentences.append(found.no_probabilities)
        if held_out.left_out:
            sentences.append(f"{held_out.left_out} more lines were not asked.")
        outcome = Outcome.failed if fails else Outcome.passed
        return outcome(
            " ".join(sentences), value=round(value, 3), limit=bound or None, unit=unit, evidence=found.to_json()
        )


@check
class AgainstLive(Check):
    name = "quality.against_live"
    label = "Not worse than the live version"
    category = CATEGORY
    weight = 2.0
    required = False
    timeout = 180.0
    needs_server = True
    needs_live = True
    parameters = (
        Parameter("most_worse_percent", float, 2.0, "How much larger the loss per text may be.", "%", 0, 100),
        Parameter("most_worse_points", float, 2.0, "How many percentage points fewer prompts may match.", "", 0, 100),
    )

    def run(self, context: Context) -> Outcome:
        if not context.parameter(HeldOutTexts, "file"):
            return Outcome.not_applicable(HOW)
        try:
            held_out = _held_out(context)
            with visit(context) as visitor:
                mine = _of_the_candidate(context, visitor, held_out)
            with visit(replace(context, server=context.live)) as visitor:
                live = measure(visitor, held_out)
        except OwnFileError as error:
            return Outcome.error(str(error))
        except Unmeasured as error:
            return Outcome.not_checked(f"There is nothing to compare: {error}", evidence=error.evidence)
        return compared(
            mine,
            live,
            most_worse_percent=context.parameter(self, "most_worse_percent"),
            most_worse_points=context.parameter(self, "most_worse_points"),
        )


def _held_out(context: Context) -> HeldOut:
    name, most_lines = (context.parameter(HeldOutTexts, parameter) for parameter in ("file", "most_lines"))
    return load(context.files, name, most_lines)


def _of_the_candidate(context: Context, visitor: Visitor, held_out: HeldOut) -> Measured:
    """Asked once, for the limits and for the comparison."""
    if SCRATCH not in context.scratch:
        context.scratch[SCRATCH] = measure(visitor, held_out)
    found: Measured = context.scratch[SCRATCH]
    return found
