"""The audit chain: an entry for each verb, written in the verb's own transaction, linked by SHA-256."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from django.db import models, transaction
from django.utils import timezone

from deploypipe.core.models import AuditEntry, AuditHead

if TYPE_CHECKING:
    from django.contrib.auth.models import User

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
    """Add an entry. Must be called inside the transaction that makes the change it speaks of."""
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
        object_label=str(subject)[:200],
        before=dict(before or {}),
        after=dict(after or {}),
        reason=reason,
        previous_hash=head.hash,
    )
    entry.hash = digest(entry)
    entry.save(force_insert=True)
    AuditHead.objects.filter(pk=1).update(sequence=entry.sequence, hash=entry.hash)
    return entry


def digest(entry: AuditEntry) -> str:
    said = {
        "sequence": entry.sequence,
        "at": entry.at.isoformat(),
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
    """Walk the whole chain and yield each place where it is broken: changed, missing, or cut off at the end."""
    expected_sequence, previous = 1, "0" * 64
    for entry in AuditEntry.objects.order_by("sequence").iterator(chunk_size=1000):
        if entry.sequence != expected_sequence:
            missing = f"{expected_sequence}" + (
                f" to {entry.sequence - 1}" if entry.sequence - 1 > expected_sequence else ""
            )
            yield Fault(expected_sequence, f"Entry {missing} is missing.")
        elif entry.previous_hash != previous:
            yield Fault(entry.sequence, f"Entry {entry.sequence} does not continue the entry before it.")
        if digest(entry) != entry.hash:
            yield Fault(entry.sequence, f"Entry {entry.sequence} was changed after it was written.")
        expected_sequence, previous = entry.sequence + 1, entry.hash
    head = AuditHead.objects.filter(pk=1).first()
    if head is None:
        if expected_sequence > 1:
            yield Fault(0, "The end of the chain is not recorded any more.")
    elif head.sequence != expected_sequence - 1:
        yield Fault(expected_sequence, f"The chain ends at {expected_sequence - 1} but {head.sequence} were written.")
    elif head.hash != previous:
        yield Fault(head.sequence, "The last entry is not the one that was written last.")
