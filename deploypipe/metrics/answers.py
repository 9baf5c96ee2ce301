"""What an evaluation says of each criterion."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from deploypipe.metrics import spans, wording
from deploypipe.metrics.definitions import Family, Metric
from deploypipe.metrics.estimates import estimate, ratio_of_arrivals, total
from deploypipe.metrics.probes import Compiled, compiled
from deploypipe.metrics.questions import Criterion, Kind, Row, State

if TYPE_CHECKING:
    from deploypipe.metrics.criteria import Evaluation


def rows(evaluation: Evaluation) -> tuple[Row, ...]:
    """One for each criterion, in their order; with intervals where the evaluation was started with them."""
    found = compiled(evaluation.plan)
    return tuple(_row(evaluation, found, place, criterion) for place, criterion in enumerate(evaluation.plan.criteria))


def _row(evaluation: Evaluation, found: Compiled, place: int, criterion: Criterion) -> Row:
    plan = evaluation.plan
    evidence = [(found.probes[i], evaluation.states[i].max_log_evidence) for i in found.of_criterion[place]]
    speaking_for = [(value, probe.log_threshold) for probe, value in evidence if not probe.against]
    against = [(value, probe) for probe, value in evidence if probe.against]
    nearest = max(against, key=lambda item: item[0] - item[1].log_threshold, default=None)
    called = nearest is not None and nearest[0] >= nearest[1].log_threshold
    closing = found.closing[place]
    closing_p = None if evaluation.closed is None else evaluation.closed[place]
    closed_broken = closing is not None and closing_p is not None and closing_p <= closing[1]
    is_broken = called or closed_broken

    # What decided is what is told; beside it stands the estimate of the reading that is proven, once there is one.
    told = shown = found.shown[place]
    if is_broken:
        told = nearest[1].source if nearest is not None and called else closing[0] if closing is not None else shown
        if not _measured(criterion, *total(found.sources[shown], evaluation.seen[shown])):
            shown = told
    source = found.sources[shown]
    seen = evaluation.seen[shown]
    stable, candidate = total(source, seen)
    estimated = estimate(criterion, source, seen)
    if source.metric.family is Family.ARRIVALS:
        estimated = ratio_of_arrivals(evaluation.states[found.of_criterion[place][0]].counts)
    units = wording.units_of(stable), wording.units_of(candidate)
    if is_broken:
        state = State.BROKEN
    elif not _measured(criterion, stable, candidate):
        state = State.MISSING
    elif speaking_for:
        state = State.MET if all(value >= threshold for value, threshold in speaking_for) else State.OPEN
    else:
        of_stable = wording.value_of(source.metric, criterion, stable)
        state = State.MET if _holds(criterion, source.metric, estimated, of_stable) else State.OPEN

    low = high = None
    if evaluation.spans is not None and shown == found.shown[place]:
        low, high = spans.shown(criterion, place, found, evaluation.states, evaluation.spans[place], plan)
    return Row(
        name=wording.wanted(criterion),
        metric=criterion.metric,
        kind=criterion.kind,
        role=criterion.role,
        state=state,
        margin=criterion.margin,
        relative=criterion.relative,
        level=criterion.level,
        estimate=estimated,
        low=low,
        high=high,
        confidence=1 - 2 * plan.alpha / plan.arms,
        log_evidence=min((value for value, _ in speaking_for), default=0.0),
        log_threshold=speaking_for[0][1] if speaking_for else None,
        log_evidence_against=nearest[0] if nearest else 0.0,
        log_threshold_against=nearest[1].log_threshold if nearest else None,
        stable_units=units[0],
        candidate_units=units[1],
        unit=plan.unit,
        reading=source.reading,
        reading_against=found.sources[nearest[1].source].reading if nearest else source.reading,
        stable_value=wording.value_of(source.metric, criterion, stable),
        candidate_value=wording.value_of(source.metric, criterion, candidate),
        measured=wording.measured(
            criterion, found.sources[told].reading, *total(found.sources[told], evaluation.seen[told])
        ),
        broken_words=wording.broken(criterion),
        asymptotic=any(probe.question.core.asymptotic for probe, _ in evidence),
        closing_p=closing_p,
        closing_alpha=None if closing is None else closing[1],
    )


def _measured(criterion: Criterion, stable: Any, candidate: Any) -> bool:
    compares = criterion.kind is not Kind.LIMIT
    return bool(wording.units_of(candidate)) and (bool(wording.units_of(stable)) or not compares)


def _holds(criterion: Criterion, metric: Metric, estimated: float | None, of_stable: float | None) -> bool:
    """As measured, without proof."""
    if estimated is None:
        return False
    margin = criterion.margin
    if criterion.slack and of_stable:
        margin = max(margin, 100 * criterion.slack / of_stable)
    worse = estimated if metric.lower_is_better else -estimated
    match criterion.kind:
        case Kind.LIMIT:
            return estimated <= margin if metric.lower_is_better else estimated >= margin
        case Kind.INCREASE:
            return worse < margin
        case Kind.IMPROVEMENT:
            return worse < -margin
        case Kind.EQUIVALENCE:
            return abs(estimated) < margin
