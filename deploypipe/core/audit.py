"""The audit chain: an entry for each verb, written in the verb's own transaction, linked by SHA-256."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC
from typing import TYPE_CHECKING, Any

from django.db import models, transaction
from django.utils import timezone

from deploypipe.core.models import AuditEntry, AuditHead
from deploypipe.core.plain import plain, text
from deploypipe.core.secrets import hide

if TYPE_CHECKING:
    from django.contrib.auth.models import User

START = "0" * 64
SYSTEM = "deploypipe"
"""The actor's name where no person decided: a verdict, a health check, a deadline."""


def record(
    actor: User | None,
    verb: str,
    subject: models.Model,
    *,
    before: Mapping[str, Any] | None = None,
    after: Mapping[str, Any] | None = None,
    reason: str = "",
) -> AuditEntry:
    """Add an entry. Must be called inside the transaction that makes the change it speaks of.

    What is kept is what every database gives back unchanged, without our secrets: a reason may end with a server's log.
    """
    connection = transaction.get_connection()
    if not connection.in_atomic_block:
        raise RuntimeError("audit.record outside of a transaction: the change and its entry could part ways")
    head, _ = AuditHead.objects.select_for_update().get_or_create(pk=1)
    entry = AuditEntry(
        sequence=head.sequence + 1,
        at=timezone.now(),
        actor=actor.get_username() if actor else SYSTEM,
        verb=verb,
        object_type=subject._meta.label_lower,
        object_id=str(subject.pk),
        object_label=text(str(subject))[:200],
        before=plain(hide(before or {})),
        after=plain(hide(after or {})),
        reason=text(hide(reason)),
        previous_hash=head.hash,
    )
    entry.hash = digest(entry)
    entry.save(force_insert=True)
    AuditHead.objects.filter(pk=1).update(sequence=entry.sequence, hash=entry.hash)
    return entry


def digest(entry: AuditEntry) -> str:
    said = {
        "sequence": entry.sequence,
        "at": entry.at.astimezone(UTC).isoformat(timespec="microseconds"),
        "actor": entry.actor,
        "verb": entry.verb,
        "object": [entry.object_type, entry.object_id, entry.object_label],
        "before": entry.before,
        "after": entry.after,
        "reason": entry.reason,
        "previous": entry.previous_hash,
    }
    canonical = json.dumps(said, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(canonical.encode()).hexdigest()


@dataclass(frozen=True)
class Fault:
    sequence: int
    sentence: str


def verify() -> Iterator[Fault]:
    """Walk the whole chain and yield each place where it is broken: changed, missing, or cut off at the end.

    It may go on growing meanwhile: the end is read after the walk, and what is new by then is walked too.
    """
    end, previous, head = 0, START, _head()
    while True:
        known = head.sequence if head else 0
        for entry in AuditEntry.objects.filter(sequence__gt=end).order_by("sequence").iterator(chunk_size=1000):
            yield from _faults(entry, end + 1, previous)
            end, previous = entry.sequence, entry.hash
        head = _head()
        if head is None or head.sequence in (end, known):
            yield from _faults_at_end(head, end, previous)
            return


def _head() -> AuditHead | None:
    return AuditHead.objects.filter(pk=1).first()


def _faults(entry: AuditEntry, expected: int, previous: str) -> Iterator[Fault]:
    if entry.sequence != expected:
        upto = f" to {entry.sequence - 1}" if entry.sequence - 1 > expected else ""
        yield Fault(expected, f"Entry {expected}{upto} is missing.")
    elif entry.previous_hash != previous:
        yield Fault(entry.sequence, f"Entry {entry.sequence} does not continue the entry before it.")
    if digest(entry) != entry.hash:
        yield Fault(entry.sequence, f"Entry {entry.sequence} was changed after it was written.")


def _faults_at_end(head: AuditHead | None, end: int, last: str) -> Iterator[Fault]:
    if head is None:
        if end:
            yield Fault(0, "The end of the chain is not recorded any more.")
    elif head.sequence != end:
        yield Fault(end + 1, f"The chain ends at {end} but {head.sequence} were written.")
    elif head.hash != last:
        yield Fault(end, "The last entry is not the one that was written last.")
