"""Tables of the foundation: the audit chain, access tokens, and the base of everything that has a state."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from django.conf import settings
from django.db import models
from django.utils import timezone

from deploypipe.core.errors import ConcurrentChange
from deploypipe.core.lifecycle import Lifecycle


class Stateful(models.Model):
    """A row with a state that changes only through `advance`."""

    LIFECYCLE: ClassVar[Lifecycle[Any]]
    STATE: ClassVar[str] = "status"

    class Meta:
        abstract = True

    def refusal(self, verb: str) -> str | None:
        return self.LIFECYCLE.refusal(self.state, verb)

    @property
    def state(self) -> Any:
        return type(next(iter(self.LIFECYCLE.table)))(getattr(self, self.STATE))

    def advance(self, verb: str, *, where: Mapping[str, Any] | None = None, **changes: Any) -> None:
        """Apply the table's transition where the row still is as we read it, with `changes` in the same UPDATE.

        `where` adds conditions, such as the fencing token. Raises IllegalTransition, or ConcurrentChange when somebody
        else was first.
        """
        old = self.state
        new = self.LIFECYCLE.next(old, verb)
        matching = type(self)._default_manager.filter(pk=self.pk, **{self.STATE: old}, **(where or {}))
        if not matching.update(**{self.STATE: new}, **changes):
            raise ConcurrentChange(f"Somebody else changed this {self.LIFECYCLE.noun} at the same moment. Look again.")
        for name, value in {self.STATE: new, **changes}.items():
            setattr(self, name, value)


class AuditHead(models.Model):
    """One row: the end of the chain. Locked while an entry is added, so that entries have one order."""

    sequence = models.PositiveBigIntegerField(default=0)
    hash = models.CharField(max_length=64, default="0" * 64)

    def __str__(self) -> str:
        return f"the chain ends at #{self.sequence}"


class AuditEntry(models.Model):
    """Who did what to what, when, why, and what changed. Never edited; each carries the hash of the one before."""

    sequence = models.PositiveBigIntegerField(unique=True)
    at = models.DateTimeField()
    actor = models.CharField(max_length=150, db_index=True)
    verb = models.CharField(max_length=64, db_index=True)
    object_type = models.CharField(max_length=64)
    object_id = models.CharField(max_length=64)
    object_label = models.CharField(max_length=200)
    before = models.JSONField(default=dict, blank=True)
    after = models.JSONField(default=dict, blank=True)
    reason = models.TextField(blank=True)
    previous_hash = models.CharField(max_length=64)
    hash = models.CharField(max_length=64)

    class Meta:
        ordering = ["-sequence"]
        indexes = [models.Index(fields=["object_type", "object_id"])]
        verbose_name_plural = "audit entries"

    def __str__(self) -> str:
        return f"#{self.sequence} {self.actor} {self.verb} {self.object_label}"


class ApiToken(models.Model):
    """A program's key. Only its digest is kept; the key itself is shown once, when it is made."""

    user = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.CASCADE, related_name="api_tokens")
    name = models.CharField(max_length=100)
    digest = models.CharField(max_length=64, unique=True, editable=False)
    created_at = models.DateTimeField(default=timezone.now, editable=False)

    def __str__(self) -> str:
        return f"{self.user}: {self.name}"
