"""What the checks of speed share: the one load that most of them judge by, and how its figures are said."""

from __future__ import annotations

from registry.qa.base import Context, Outcome
from registry.qa.builtin.exchange import server_of
from registry.qa.own_files import OwnFileError
from registry.qa.policy import Load
from registry.qa.probe.figures import Estimate, Figure
from registry.qa.probe.measured import REQUEST_SECONDS, Failure, Question
from registry.qa.probe.prompts import read_questions
from registry.qa.probe.report import ProbeReport
from registry.qa.probe.run import ProbeError, run_probe

CATEGORY = "performance"
SCRATCH = "performance.probe"

WORDS = {
    Failure.HTTP: "answered with another status than 200",
    Failure.TRANSPORT: "broke off",
    Failure.TIMEOUT: "timed out",
    Failure.STREAM_ERROR: "ended with an error event inside a 200 answer",
    Failure.EMPTY: "brought no text",
    Failure.INCOMPLETE: "ended without [DONE]",
}


def probed(context: Context) -> ProbeReport | Outcome:
    """What the probe measured, or the outcome that says why it did not. The first check to ask runs it."""
    if SCRATCH not in context.scratch:
        context.scratch[SCRATCH] = measured(context, context.policy.load)
    found: ProbeReport | Outcome = context.scratch[SCRATCH]
    return found


def answers_nothing(context: Context) -> ProbeReport | None:
    """The load's report where nothing was answered: other loads need not try then."""
    found = context.scratch.get(SCRATCH)
    return found if isinstance(found, ProbeReport) and found.silent else None


def measured(
    context: Context, load: Load, *, seed: int = 1, request_timeout: float = REQUEST_SECONDS
) -> ProbeReport | Outcome:
    try:
        questions = own_questions(context)
        return run_probe(
            server_of(context),
            load,
            seed=seed,
            questions=questions,
            request_timeout=request_timeout,
            given_up=context.given_up,
        )
    except ProbeError as error:
        return Outcome.error(str(error))
    except OwnFileError as error:
        return Outcome.error(f"The policy's own prompts cannot be used: {error}")


def own_questions(context: Context) -> tuple[Question, ...]:
    """Raises OwnFileError."""
    name = context.policy.load.prompts_file
    return read_questions(context.files, name) if name else ()


def nothing_answered(found: ProbeReport) -> str:
    """Sentences for a report that is silent."""
    which, so = ("warm-up requests", ", so the load was not begun") if found.gave_up else ("requests", "")
    first = next(iter(found.examples.values()), "nothing was said")
    return (
        f"None of the {found.requests} {which} was answered within {REQUEST_SECONDS:g} s ({failures(found)}){so}. "
        f"The first one: {first}."
    )


def failures(found: ProbeReport) -> str:
    """ "3 timed out, 1 brought no text" """
    return ", ".join(f"{count} {WORDS[Failure(name)]}" for name, count in found.failures.items())


def load_of(load: Load) -> str:
    """ "at 20 requests/s" """
    if load.concurrency:
        return f"with {load.concurrency} requests always under way"
    return f"at {load.requests_per_second:g} requests/s"


def ms(value: float) -> str:
    """Two digits at least: 1.4 ms and 1.6 ms are not the same."""
    return f"{value:.0f} ms" if value >= 20 else f"{value:.1f} ms"


def interval(estimate: Estimate, figure: Figure) -> str:
    """To stand after the value, with its bracket and the space before it."""
    low, high = estimate.low, estimate.high
    if low is None and high is None:
        return f" ({figure.n} values are too few for an interval)"
    if high is None:
        return f" (95 % confidence: above {ms(low or 0.0)}; {figure.n} values are too few to say more)"
    if low is None:
        return f" (95 % confidence: below {ms(high)})"
    return f" (95 % confidence: {ms(low)} to {ms(high)})"


def per_second(estimate: Estimate) -> str:
    if estimate.low is None or estimate.high is None:
        return ""
    return f" (95 % confidence: {estimate.low:.0f} to {estimate.high:.0f})"
