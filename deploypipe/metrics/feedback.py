"""What users say: taken in at once, and given to its session when the records have told of that."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from django.db import transaction
from django.db.models import F

from deploypipe.metrics import feedback_items
from deploypipe.metrics.feedback_items import Item, Rejected
from deploypipe.metrics.models import Epoch, Feedback, FeedbackState, FeedbackTotals, UnitRequest
from deploypipe.metrics.sources import sessions
from deploypipe.metrics.sources.trials import Key, Trials
from deploypipe.metrics.units import Counting, Session, Words
from deploypipe.stats.samples import Moments

PATIENCE = timedelta(minutes=10)
"""So long it waits for its session; the record of a request comes when its answer has ended."""
KEPT = timedelta(days=1)
"""So long the same item is known again."""
_MATCHED_AT_ONCE = 2_000
_FORGET_AT_ONCE = 5_000
_DELAYS = (1, 3, 10, 30)
"""Seconds until the next look: the longer it has waited in vain, the longer."""


@dataclass(frozen=True)
class Receipt:
    accepted: int
    duplicates: int
    rejected: list[Rejected]


@transaction.atomic
def accept(environment: str, model: str, said: Sequence[Any], now: datetime) -> Receipt:
    """Of each item whether it was taken, was here before, or is wrong and why."""
    parsed = feedback_items.parse(said, now)
    items = {item.key: item for item in reversed(parsed.items)}  # of two with one key the first holds
    route = Feedback.objects.filter(environment=environment, model=model)
    known: set[str] = set()
    for keys in sessions.pieces(list(items)):
        known |= set(route.filter(key__in=keys).values_list("key", flat=True))
    new = [_row(environment, model, item, now) for key, item in reversed(items.items()) if key not in known]
    Feedback.objects.bulk_create(new, ignore_conflicts=True)
    receipt = Receipt(len(new), len(parsed.items) - len(new), parsed.rejected)
    _add_up((environment, model), accepted=len(new), duplicates=receipt.duplicates, rejected=len(parsed.rejected))
    return receipt


def _row(environment: str, model: str, item: Item, now: datetime) -> Feedback:
    return Feedback(
        environment=environment,
        model=model,
        key=item.key,
        session=item.session,
        request=item.request,
        rating=item.rating,
        converted=item.converted,
        cost=item.cost,
        values=dict(item.values),
        said_at=item.said_at,
        received_at=now,
        look_at=now,
    )


def _add_up(route: Key, **counts: int) -> None:
    totals, _ = FeedbackTotals.objects.get_or_create(environment=route[0], model=route[1])
    FeedbackTotals.objects.filter(pk=totals.pk).update(**{name: F(name) + count for name, count in counts.items()})


# Matching


def match(trials: Trials) -> None:
    """Give what waits to its sessions, in the order in which it came; in the transaction that reads the records."""
    waiting = list(Feedback.objects.filter(look_at__lte=trials.now).order_by("pk")[:_MATCHED_AT_ONCE])
    if not waiting:
        return
    found = _sessions_of(waiting)
    sessions_of: dict[int, dict[str, Session]] = {}
    for epoch, names in _by_epoch(found.values()).items():
        sessions_of[epoch] = sessions.load(trials.of_epoch(epoch).row, names)
    matched, others = [], []
    for each in waiting:
        epoch, name = found.get(each.pk, (0, ""))
        session = sessions_of.get(epoch, {}).get(name)
        if session is None:
            others.append(each)
        else:
            hear(session, each, trials.of_epoch(epoch).counting)
            matched.append(each)
    for epoch, known in sessions_of.items():
        sessions.store(trials.of_epoch(epoch), known)
    _settle(matched, FeedbackState.MATCHED)
    _settle([each for each in others if each.received_at + PATIENCE <= trials.now], FeedbackState.UNMATCHED)
    _wait([each for each in others if each.received_at + PATIENCE > trials.now], trials.now)


def _sessions_of(waiting: Sequence[Feedback]) -> dict[int, tuple[int, str]]:
    """Feedback's id → epoch's id and session, where these may be the ones."""
    epochs: dict[Key, list[Epoch]] = {}
    for epoch in Epoch.objects.filter(model__in={each.model for each in waiting}, forgotten_at=None).order_by("-since"):
        epochs.setdefault((epoch.environment, epoch.model), []).append(epoch)
    requests = _requests({each.request for each in waiting if each.request})
    found: dict[int, tuple[int, str]] = {}
    for each in waiting:
        of_route = epochs.get((each.environment, each.model), [])
        if each.request:
            named = [(e.pk, requests[e.pk, each.request]) for e in of_route if (e.pk, each.request) in requests]
        else:
            # Never an older epoch's: with the new salt the session may have met another arm since.
            named = [(e.pk, each.session) for e in of_route if e.since <= each.said_at]
        if named:
            found[each.pk] = named[0]
    return found


def _requests(digests: set[str]) -> dict[tuple[int, str], str]:
    found: dict[tuple[int, str], str] = {}
    for some in sessions.pieces(sorted(digests)):
        rows = UnitRequest.objects.filter(digest__in=some).values_list("epoch_id", "digest", "session")
        found |= {(epoch, digest): session for epoch, digest, session in rows}
    return found


def _by_epoch(found: Any) -> dict[int, set[str]]:
    names: dict[int, set[str]] = {}
    for epoch, name in found:
        names.setdefault(epoch, set()).add(name)
    return names


def hear(session: Session, said: Feedback, counting: Counting) -> None:
    """Every word counts for charts; for decisions a session's first one of each kind in a period."""
    kinds = _kinds(said)
    _add(counting.of(session.backend, session.period).words, said, kinds)
    new = [kind for kind in kinds if kind not in session.said]
    if new and not session.moved:
        _add(counting.readings(session).words, said, new)
        session.said = [*session.said, *new]


def _kinds(said: Feedback) -> list[str]:
    known = {"rating": said.rating, "converted": said.converted, "cost": said.cost}
    return [*(name for name, value in known.items() if value is not None), *(f"values.{name}" for name in said.values)]


def _add(words: Words, said: Feedback, kinds: Sequence[str]) -> None:
    if "rating" in kinds and said.rating is not None:
        words.ratings[said.rating] = words.ratings.get(said.rating, 0) + 1
    if "converted" in kinds and said.converted is not None:
        words.known += 1
        words.converted += said.converted
    if "cost" in kinds and said.cost is not None:
        words.cost += _one(said.cost)
    for name, value in said.values.items():
        if f"values.{name}" in kinds:
            words.custom[name] = words.custom.get(name, Moments()) + _one(value)


def _one(value: float) -> Moments:
    return Moments(1, value, value * value)


def _settle(those: Sequence[Feedback], state: FeedbackState) -> None:
    for some in sessions.pieces(those):
        Feedback.objects.filter(pk__in=[each.pk for each in some]).update(state=state, look_at=None)
    routes: dict[Key, int] = {}
    for each in those:
        key = (each.environment, each.model)
        routes[key] = routes.get(key, 0) + 1
    for key, count in routes.items():
        _add_up(key, **{state.value: count})


def _wait(those: Sequence[Feedback], now: datetime) -> None:
    later: dict[int, list[int]] = {}
    for each in those:
        age = (now - each.received_at).total_seconds()
        delay = next((delay for delay in reversed(_DELAYS) if age >= delay), _DELAYS[0])
        later.setdefault(delay, []).append(each.pk)
    for delay, pks in later.items():
        for some in sessions.pieces(pks):
            Feedback.objects.filter(pk__in=some).update(look_at=now + timedelta(seconds=delay))


def forget(now: datetime) -> None:
    """A piece of what is too old to be sent again."""
    old = Feedback.objects.filter(received_at__lt=now - KEPT, look_at=None).order_by("received_at")
    Feedback.objects.filter(pk__in=list(old.values_list("pk", flat=True)[:_FORGET_AT_ONCE])).delete()
