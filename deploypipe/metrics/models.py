"""Windows of the gateway's records, append-only, how far the records were read, and the sessions that are under way."""

from __future__ import annotations

from django.db import models
from django.db.models import Q, Value

from deploypipe.stats.histogram import BINS_PER_DOUBLING


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
    clock = models.DateTimeField(null=True)
    """Up to when everything is known: when it was read, or while much is left to read the end of the last request."""

    def __str__(self) -> str:
        return f"{self.name} at {self.offset}"


class Window(models.Model):
    """What one backend of one route did in one batch of records. Never changed after it is written.

    Requests of several groups, or that began under several splits, are rows of their own.
    """

    batch = models.PositiveBigIntegerField()
    environment = models.CharField(max_length=40)
    model = models.CharField(max_length=40)
    backend = models.CharField(max_length=63)
    group = models.CharField(max_length=10, default="", db_default="")
    """Why the requests went there: empty where chance decided, "holdout" or "forced"."""
    epoch = models.CharField(max_length=40, default="", db_default="")
    """The route's salt; empty where no test was under way when the requests began."""
    period = models.PositiveBigIntegerField(default=0, db_default=0)
    share = models.FloatField(null=True)
    """Of new sessions, that this arm was promised; None where there was no such promise."""
    seconds = models.FloatField(default=0.0, db_default=0.0)
    """Length of the stretch of time. Those of one route's windows add up to the time that was watched."""
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
    bins = models.PositiveSmallIntegerField(default=BINS_PER_DOUBLING, db_default=8)
    """Of the histograms, for each doubling. What code of before this field writes has 8; read by `metrics.bins`."""
    first_ms = models.JSONField(default=dict)
    """Log-spaced histogram of the time to the first event, `deploypipe.stats.histogram`."""
    duration_ms = models.JSONField(default=dict)
    assigned = models.PositiveIntegerField(default=0, db_default=0)
    fresh = models.JSONField(default=dict, db_default=Value({}, models.JSONField()))
    """`metrics.windows.Units`, as its codec writes them."""
    returning = models.JSONField(default=dict, db_default=Value({}, models.JSONField()))
    feedback = models.JSONField(default=dict, db_default=Value({}, models.JSONField()))

    class Meta:
        ordering = ["pk"]
        constraints = [
            models.UniqueConstraint(
                fields=["batch", "environment", "model", "backend", "group", "epoch", "period"],
                name="one_window_per_batch_and_period",
            ),
        ]
        indexes = [
            models.Index(fields=["environment", "model", "taken_at"]),
            models.Index(fields=["environment", "model", "id"], name="windows_in_order"),
            models.Index(fields=["taken_at"], name="windows_of_no_test", condition=Q(epoch="")),
        ]

    def __str__(self) -> str:
        return f"{self.environment}/{self.model} {self.backend}: {self.requests} requests"


class Epoch(models.Model):
    """A stretch of time in which two arms or more of one route share its traffic by one salt."""

    environment = models.CharField(max_length=40)
    model = models.CharField(max_length=40)
    name = models.CharField(max_length=40)
    """The salt."""
    since = models.DateTimeField()
    ended_at = models.DateTimeField(null=True)
    """When it was first seen that the route has no such test any more. A while later its sessions are forgotten."""
    forgotten_at = models.DateTimeField(null=True)
    """When its sessions were. It stays, with its periods: they say to which question a window belongs."""
    measured_at = models.DateTimeField(null=True)
    """Up to where the seconds of its windows reach."""
    halvings = models.PositiveSmallIntegerField(default=0, db_default=0)
    """Of the sample of its sessions, `metrics.units.Sample`."""
    sampled = models.PositiveIntegerField(default=0, db_default=0)
    """About so many sessions are in it."""
    resumed = models.BooleanField(default=False, db_default=False)
    """It came back after its sessions were forgotten: who was counted before is not known any more."""

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["environment", "model", "name"], name="one_epoch_per_route_and_salt"),
        ]

    def __str__(self) -> str:
        return f"{self.environment}/{self.model} since {self.since:%Y-%m-%d %H:%M:%S}"


class Period(models.Model):
    """A stretch of an epoch in which the split did not change."""

    epoch = models.ForeignKey(Epoch, on_delete=models.CASCADE, related_name="periods")
    number = models.PositiveBigIntegerField()
    since = models.DateTimeField()
    until = models.DateTimeField(null=True)
    """Up to when it is known to have been in force; None while it is."""
    arms = models.JSONField()
    """Backend → arm."""
    shares = models.JSONField()
    """Arm → share of new sessions."""

    class Meta:
        ordering = ["number"]
        constraints = [models.UniqueConstraint(fields=["epoch", "number"], name="one_period_per_number")]

    def __str__(self) -> str:
        return f"period {self.number} of {self.epoch_id}"


class Unit(models.Model):
    """One session of one epoch: `metrics.units.Session`, between two batches of records. Times in milliseconds."""

    epoch = models.ForeignKey(Epoch, on_delete=models.CASCADE, related_name="units", db_index=False)
    session = models.CharField(max_length=32)
    """The gateway's digest."""
    backend = models.CharField(max_length=63)
    period = models.PositiveBigIntegerField()
    """In which it is counted now."""
    first_backend = models.CharField(max_length=63)
    first_period = models.PositiveBigIntegerField()
    began_ms = models.BigIntegerField()
    opened_ms = models.BigIntegerField(null=True)
    due_ms = models.BigIntegerField(null=True)
    """When there is something to do even if nothing more is heard of it; None where there is not."""
    requests = models.PositiveSmallIntegerField(default=0)
    failed = models.PositiveSmallIntegerField(default=0)
    latencies = models.JSONField(default=list)
    """Bins."""
    named = models.PositiveSmallIntegerField(default=0)
    """Of its requests, how many are kept by their own digest."""
    assigned = models.BooleanField(default=False)
    counted = models.BooleanField(default=False)
    returning = models.BooleanField(default=False)
    moved = models.BooleanField(default=False)
    closed = models.BooleanField(default=False)
    said = models.JSONField(default=list)
    """Kinds of feedback of which the first word was counted."""

    class Meta:
        constraints = [models.UniqueConstraint(fields=["epoch", "session"], name="one_unit_per_session")]
        indexes = [models.Index(fields=["due_ms"], name="units_due", condition=Q(due_ms__isnull=False))]

    def __str__(self) -> str:
        return f"session {self.session}"


class UnitRequest(models.Model):
    """Which session a request was of, so that feedback on it finds its unit."""

    epoch = models.ForeignKey(Epoch, on_delete=models.CASCADE, related_name="requests", db_index=False)
    digest = models.CharField(max_length=16)
    session = models.CharField(max_length=32)

    class Meta:
        constraints = [models.UniqueConstraint(fields=["epoch", "digest"], name="one_session_per_request")]
        indexes = [models.Index(fields=["epoch", "session"], name="requests_of_session")]

    def __str__(self) -> str:
        return f"request {self.digest}"


class FeedbackState(models.TextChoices):
    WAITING = "waiting"
    """Its session has not been seen yet."""
    MATCHED = "matched"
    UNMATCHED = "unmatched"
    """No session of a test came in time."""


class Feedback(models.Model):
    """What was said of one session. Kept for a day, so that what is sent twice counts once."""

    environment = models.CharField(max_length=40)
    model = models.CharField(max_length=40)
    key = models.CharField(max_length=32)
    """Digest of the sender's own id, or of all that was said."""
    session = models.CharField(max_length=32, blank=True)
    """A digest, like `request`; one of the two is empty."""
    request = models.CharField(max_length=16, blank=True)
    rating = models.PositiveSmallIntegerField(null=True)
    converted = models.BooleanField(null=True)
    cost = models.FloatField(null=True)
    values = models.JSONField(default=dict)
    said_at = models.DateTimeField()
    received_at = models.DateTimeField()
    state = models.CharField(max_length=10, choices=FeedbackState.choices, default=FeedbackState.WAITING)
    look_at = models.DateTimeField(null=True)
    """When it is worth looking for its session again; None once that is settled."""

    class Meta:
        verbose_name_plural = "feedback"
        constraints = [models.UniqueConstraint(fields=["environment", "model", "key"], name="feedback_counts_once")]
        indexes = [
            models.Index(fields=["look_at"], name="feedback_waiting", condition=Q(look_at__isnull=False)),
            models.Index(fields=["received_at"], name="feedback_by_age"),
        ]

    def __str__(self) -> str:
        return f"feedback on {self.environment}/{self.model}, {self.state}"


class FeedbackTotals(models.Model):
    """Of one route, since ever."""

    environment = models.CharField(max_length=40)
    model = models.CharField(max_length=40)
    accepted = models.PositiveBigIntegerField(default=0)
    duplicates = models.PositiveBigIntegerField(default=0)
    rejected = models.PositiveBigIntegerField(default=0)
    matched = models.PositiveBigIntegerField(default=0)
    unmatched = models.PositiveBigIntegerField(default=0)

    class Meta:
        verbose_name_plural = "feedback totals"
        constraints = [models.UniqueConstraint(fields=["environment", "model"], name="one_total_per_route")]

    def __str__(self) -> str:
        return f"feedback on {self.environment}/{self.model}"

    @property
    def waiting(self) -> int:
        return self.accepted - self.matched - self.unmatched
