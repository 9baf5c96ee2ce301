"""From stored windows to what decisions read."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from itertools import groupby

from deploypipe.metrics.bins import duration_ms, first_ms
from deploypipe.metrics.models import Period, Window
from deploypipe.metrics.windows import ArmWindow, Measured, feedback_from_json, units_from_json

_FIELDS = (
    "pk", "batch", "backend", "epoch", "period", "share", "seconds", "first_at", "requests", "error_classes",
    "client_errors", "events", "bins", "first_ms", "duration_ms", "assigned", "fresh", "returning", "feedback",
)  # fmt: skip
_CHUNK = 500


def measured(
    environment: str,
    model: str,
    arms: Mapping[str, str],
    since: datetime,
    *,
    epoch: str | None = None,
    after: int | None = None,
    until: int | None = None,
) -> list[Measured]:
    """Windows whose requests all began after `since`, oldest first; `arms` is backend → arm.

    `after` is the number of the newest window that was seen already: only later ones are read; `until` that of the last
    one that is wanted. Without `epoch` those of any, and those of no test. Of periods that were over before `since`
    there is nothing: their sessions may be counted later, but belong to an earlier question.
    """
    rows = Window.objects.filter(environment=environment, model=model, backend__in=arms, group="")
    if epoch is not None:
        rows = rows.filter(epoch=epoch)
    first = _first(environment, model, since)
    if first is None:
        return []
    rows = rows.filter(pk__gte=first) if after is None else rows.filter(pk__gte=first, pk__gt=after)
    if until is not None:
        rows = rows.filter(pk__lte=until)
    over = _over(environment, model, since)
    found = rows.order_by("pk").only(*_FIELDS).iterator(chunk_size=_CHUNK)
    return [
        _measured(window, arms) for place, window in _together(found) if place not in over and _counts(window, since)
    ]


def _first(environment: str, model: str, since: datetime) -> int | None:
    """Rows are written in the order of time, so from there on by their ids: an index gives them in that order."""
    rows = Window.objects.filter(environment=environment, model=model, taken_at__gte=since)
    return rows.order_by("taken_at", "pk").values_list("pk", flat=True).first()


def _over(environment: str, model: str, since: datetime) -> set[tuple[str, int]]:
    rows = Period.objects.filter(epoch__environment=environment, epoch__model=model, until__lte=since)
    return set(rows.values_list("epoch__name", "number"))


def _together(rows: Iterable[Window]) -> Iterator[tuple[tuple[str, int], list[Window]]]:
    """All arms of one batch and period; they were written one after the other."""
    for (_, epoch, period), window in groupby(rows, key=lambda row: (row.batch, row.epoch, row.period)):
        yield (epoch, period), list(window)


def _counts(window: Sequence[Window], since: datetime) -> bool:
    # Both arms or neither: to drop the slower arm alone would compare two different stretches of time.
    if any(row.first_at < since for row in window):
        return False
    # Within a test, what no known split was in force for may have met either arm.
    return not window[0].epoch or any(row.share is not None for row in window)


def _measured(window: Sequence[Window], arms: Mapping[str, str]) -> Measured:
    return Measured(
        number=window[-1].pk,
        seconds=max(row.seconds for row in window),
        period=window[0].period,
        shares={arms[row.backend]: row.share for row in window if row.share is not None},
        arms={arms[row.backend]: _arm(row) for row in window},
    )


def _arm(row: Window) -> ArmWindow:
    return ArmWindow(
        requests=row.requests,
        errors=row.error_classes,
        client_errors=row.client_errors,
        latency=first_ms(row).counts,
        duration=duration_ms(row).counts,
        events=row.events,
        assigned=row.assigned,
        fresh=units_from_json(row.fresh),
        returning=units_from_json(row.returning),
        feedback=feedback_from_json(row.feedback),
    )
