"""Windows of the gateway's records, append-only, and how far the records were read."""

from __future__ import annotations

from django.db import models


class RecordCursor(models.Model):
    """How far one record file was read. Moved in the transaction that adds the windows, so each line counts once."""

    name = models.CharField(max_length=100, unique=True)
    inode = models.BigIntegerField(default=0)
    device = models.BigIntegerField(default=0)
    offset = models.BigIntegerField(default=0)
    batch = models.PositiveBigIntegerField(default=0)
    records = models.PositiveBigIntegerField(default=0)
    garbage = models.PositiveBigIntegerField(default=0)
    """Lines that were no record; they are counted so that a broken log is seen."""
    read_at = models.DateTimeField(null=True)

    def __str__(self) -> str:
        return f"{self.name} at {self.offset}"


class Window(models.Model):
    """What one backend of one route did in one batch of records. Never changed after it is written."""

    batch = models.PositiveBigIntegerField()
    environment = models.CharField(max_length=40)
    model = models.CharField(max_length=40)
    backend = models.CharField(max_length=63)
    first_at = models.DateTimeField()
    """Start of the earliest request in it; a request is recorded when it ends."""
    last_at = models.DateTimeField()
    taken_at = models.DateTimeField()
    requests = models.PositiveIntegerField()
    """Answered by the model server, well or badly; requests that were the client's own fault are not in here."""
    errors = models.PositiveIntegerField()
    error_classes = models.JSONField(default=dict)
    client_errors = models.PositiveIntegerField(default=0)
    sessions = models.PositiveIntegerField(default=0)
    events = models.PositiveBigIntegerField(default=0)
    first_ms = models.JSONField(default=dict)
    """Log-spaced histogram of the time to the first event, `deploypipe.stats.histogram`."""
    duration_ms = models.JSONField(default=dict)

    class Meta:
        ordering = ["pk"]
        constraints = [
            models.UniqueConstraint(fields=["batch", "environment", "model", "backend"], name="one_window_per_batch"),
        ]
        indexes = [models.Index(fields=["environment", "model", "taken_at"])]

    def __str__(self) -> str:
        return f"{self.environment}/{self.model} {self.backend}: {self.requests} requests"
