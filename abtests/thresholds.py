"""The usual rule: once there are enough requests, compare the numbers with what is allowed, at each look.

For comparison alone. Chance is taken for truth as soon as a number lies beyond its limit, and so the rule is wrong far
more often than its numbers suggest (docs/decision_quality.md).
"""

from __future__ import annotations

from collections.abc import Sequence

from abtests.decision import Outcome
from abtests.retrospect import Judge
from abtests.settings import ExperimentSettings
from deploypipe.metrics.definitions import Family, Unit, metric_named
from deploypipe.metrics.questions import Criterion, Kind
from deploypipe.metrics.windows import CANDIDATE, STABLE, ArmWindow, Measured, add_arms, add_units
from deploypipe.metrics.wording import amount, units_of, value_of, wanted

_EXACTLY = 1e-9


def thresholds(settings: ExperimentSettings, arms: Sequence[str] = (CANDIDATE,)) -> Judge:
    """Of all requests together, whatever sessions they belong to. A candidate that misses what may abort is out; one
    that keeps everything is promoted. ValueError names a criterion that is no comparison of two numbers."""
    for criterion in settings.criteria:
        if metric_named(criterion.metric).family is Family.ARRIVALS:
            raise ValueError(f"{criterion.metric} has no number of its own that could be compared")
    seen = dict.fromkeys((STABLE, *arms), ArmWindow())

    def judge(window: Measured | None, seconds: float) -> tuple[str, str]:
        if window is not None:
            for name, before in seen.items():
                seen[name] = add_arms(before, window.arm(name))
        words = [_of_arm(settings, seen[STABLE], seen[name]) for name in arms]
        said = [
            (verdict, text if len(arms) == 1 else f"{arm}: {text}")
            for arm, (verdict, text) in zip(arms, words, strict=True)
        ]
        for verdict, text in said:
            if verdict is Outcome.PROMOTE:
                return verdict.value, text
        text = " ".join(text for _, text in said)
        if all(verdict is Outcome.ABORT for verdict, _ in said):
            return Outcome.ABORT.value, text
        return (Outcome.INCONCLUSIVE if seconds >= settings.max_seconds else Outcome.CONTINUE).value, text

    return judge


def _of_arm(settings: ExperimentSettings, stable: ArmWindow, candidate: ArmWindow) -> tuple[Outcome, str]:
    if candidate.requests < settings.min_requests:
        return Outcome.CONTINUE, f"{candidate.requests:,} of {settings.min_requests:,} requests."
    said: list[str] = []
    waits = False
    for criterion in settings.criteria:
        mine, theirs = _value(criterion, candidate), _value(criterion, stable)
        if mine is None or (theirs is None and criterion.kind is not Kind.LIMIT):
            said.append(f"Nothing was measured of it whether {wanted(criterion)}.")
            waits = True
        elif not kept(criterion, theirs or 0.0, mine):
            text = f"{_measured(criterion, theirs, mine)}: it is not so that {wanted(criterion)}."
            if criterion.aborts:
                return Outcome.ABORT, text
            said.append(text)
            waits = True
        else:
            said.append(f"{_measured(criterion, theirs, mine)}: {wanted(criterion)}.")
    return (Outcome.CONTINUE if waits else Outcome.PROMOTE), " ".join(said)


def _value(criterion: Criterion, arm: ArmWindow) -> float | None:
    metric = metric_named(criterion.metric)
    if metric.of_requests:
        value = metric.requests(arm)
    else:
        value = metric.sessions(add_units(arm.fresh, arm.returning), metric.readings(Unit.SESSION)[-1])
    return value_of(metric, criterion, value) if units_of(value) else None


def _measured(criterion: Criterion, stable: float | None, candidate: float) -> str:
    metric = metric_named(criterion.metric)
    own = amount(metric.name, Kind.LIMIT, False, candidate)
    if criterion.kind is Kind.LIMIT or stable is None:
        return own
    return f"{own} against {amount(metric.name, Kind.LIMIT, False, stable)}"


def kept(criterion: Criterion, stable: float, candidate: float) -> bool:
    """Whether these two values, in the metric's unit, keep the criterion; on its edge a limit is kept and a margin is
    not."""
    sign = 1.0 if metric_named(criterion.metric).lower_is_better else -1.0
    if criterion.kind is Kind.LIMIT:
        return sign * candidate <= sign * criterion.margin + _EXACTLY
    change = 100 * (candidate / stable - 1) if criterion.relative and stable else candidate - stable
    margin = criterion.margin
    if criterion.slack and stable:
        margin = max(margin, 100 * criterion.slack / stable)
    match criterion.kind:
        case Kind.INCREASE:
            return sign * change < margin - _EXACTLY
        case Kind.IMPROVEMENT:
            return sign * change < -margin - _EXACTLY
        case Kind.EQUIVALENCE:
            return abs(change) < margin - _EXACTLY
