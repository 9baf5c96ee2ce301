"""The closing look: one exact test at the planned end, for what the tests that may be looked at all the time miss.

With few requests those pay dearly for being looked at: of a version that fails five times as often they see, in an hour
at 20 requests a minute and a tenth of the traffic, about half of what one test would that knew its end. A plan may keep
a part of an abort's alpha for that test (union bound). Its numbers must have been settled by the clock alone, so there
is none where the split has changed on the way: what changed it may have been the data.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from deploypipe.metrics.probes import Compiled
from deploypipe.stats import exact
from deploypipe.stats.samples import Sample
from deploypipe.stats.two_arms import Side

if TYPE_CHECKING:
    from deploypipe.metrics.criteria import Evaluation

ENOUGH = 300.0
"""Units of a candidate from which on the tests at every look see nearly as much."""
KEPT = 0.8


def usual_share(candidate_units: float) -> float:
    """Part of an abort's alpha to keep, with so many units of the candidate expected until the end."""
    return KEPT if candidate_units < ENOUGH else 0.0


def p_values(found: Compiled, evaluation: Evaluation) -> tuple[float | None, ...]:
    """For each criterion; None where it has no closing look, the split has changed, or values lie between 0 and 1."""
    return tuple(
        None if closing is None else _p_value(found, place, closing[0], evaluation)
        for place, closing in enumerate(found.closing)
    )


def _p_value(found: Compiled, criterion: int, source: int, evaluation: Evaluation) -> float | None:
    seen = [
        (stable, candidate)
        for _, stable, candidate in evaluation.seen[source]
        if isinstance(stable, Sample) and isinstance(candidate, Sample) and (stable.units or candidate.units)
    ]
    if len(seen) != 1 or not all(_only_happens_or_not(sample) for sample in seen[0]):
        return None
    question = next(
        found.probes[i].question
        for i in found.of_criterion[criterion]
        if found.probes[i].against and found.probes[i].source == source
    )
    (n_a, s_a), (n_b, s_b) = ((round(sample.units), round(sample.total)) for sample in seen[0])
    return exact.p_value(n_a, s_a, n_b, s_b, question.difference, above=question.side is Side.ABOVE)


def _only_happens_or_not(sample: Sample) -> bool:
    """A metric of your own may say otherwise; then counts are not all, and the test would be of something else."""
    return all(value in (0.0, 1.0) for value, _ in sample.frequencies)
