"""Models, versions, examinations and approvals."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from django.conf import settings
from django.core.validators import RegexValidator
from django.db import models
from django.db.models import Q
from django.utils import timezone

from deploypipe.core.errors import DomainError
from deploypipe.core.models import Stateful
from registry.lifecycle import DECIDED, RUNS, STAGES, RunStatus, Stage
from registry.scoring import Band, Status

NAME = RegexValidator(
    r"\A[a-z0-9]([a-z0-9-]{0,38}[a-z0-9])?\Z",
    "Use 1 to 40 lower-case letters, digits and dashes, beginning and ending with a letter or digit.",
)


def states(enum: Any, field: str, name: str) -> models.CheckConstraint:
    """A database constraint that holds a column to the values of its enum."""
    return models.CheckConstraint(condition=Q(**{f"{field}__in": [member.value for member in enum]}), name=name)


class RegisteredModel(models.Model):
    name = models.CharField(max_length=40, unique=True, validators=[NAME])
    description = models.TextField(blank=True)
    created_by = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.PROTECT, related_name="+")
    created_at = models.DateTimeField(default=timezone.now, editable=False)

    class Meta:
        ordering = ["name"]
        verbose_name = "model"

    def __str__(self) -> str:
        return self.name


class ModelVersionQuerySet(models.QuerySet["ModelVersion"]):
    def deployable(self) -> ModelVersionQuerySet:
        return self.filter(stage=Stage.APPROVED)


class Immutable(DomainError):
    code = "immutable"
    status = 409


class ModelVersion(Stateful):
    """One version, immutable once registered: to change anything, register the next one."""

    LIFECYCLE = STAGES
    STATE = "stage"

    model = models.ForeignKey(RegisteredModel, on_delete=models.PROTECT, related_name="versions")
    number = models.PositiveIntegerField()
    stage = models.CharField(max_length=20, default=Stage.REGISTERED)

    artifact_uri = models.CharField(max_length=1000)
    manifest = models.JSONField()
    digest = models.CharField(max_length=64, db_index=True)
    engine = models.CharField(max_length=40)
    engine_arguments = models.JSONField(default=list, blank=True)
    git_commit = models.CharField(max_length=64, blank=True)
    parameters = models.JSONField(default=dict, blank=True)
    description = models.TextField(blank=True)
    registered_by = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.PROTECT, related_name="+")
    registered_at = models.DateTimeField(default=timezone.now, editable=False)
    request_key = models.CharField(max_length=100, null=True, blank=True, editable=False)  # noqa: DJ001 -- unique or none
    """The caller's Idempotency-Key: the same request sent twice registers one version."""

    score = models.FloatField(null=True, blank=True)
    band = models.CharField(max_length=20, blank=True)
    needs_override = models.BooleanField(default=False)
    """The score is below the policy's threshold: only a named approver's override with a reason lets it through."""
    qa_sentence = models.TextField(blank=True)
    changed_at = models.DateTimeField(default=timezone.now, editable=False)

    objects = ModelVersionQuerySet.as_manager()

    class Meta:
        ordering = ["-pk"]
        constraints = [
            models.UniqueConstraint(fields=["model", "number"], name="one_version_per_number"),
            models.UniqueConstraint(fields=["model", "request_key"], name="one_version_per_request_key"),
            states(Stage, "stage", "known_stage"),
        ]

    def __str__(self) -> str:
        return f"{self.model.name} v{self.number}"

    def save(self, *args: Any, **kwargs: Any) -> None:
        if self.pk is not None and not self._state.adding:
            raise Immutable(f"{self} is registered and does not change; register the next version instead.")
        super().save(*args, **kwargs)

    @property
    def is_decided(self) -> bool:
        return self.stage in DECIDED

    @property
    def must_be_watched(self) -> bool:
        """The score allows the version only with analysis steps in its rollout."""
        return self.band in (Band.GOOD, Band.CAUTION)

    def advance(self, verb: str, *, where: Mapping[str, Any] | None = None, **changes: Any) -> None:
        """Where it is as we read it: the same stage again, with a new score, is another thing to decide on."""
        unchanged = {"changed_at": self.changed_at, **(where or {})}
        super().advance(verb, where=unchanged, changed_at=timezone.now(), **changes)


class VersionTag(models.Model):
    version = models.ForeignKey(ModelVersion, on_delete=models.CASCADE, related_name="tags")
    key = models.CharField(max_length=100)
    value = models.CharField(max_length=500, blank=True)

    class Meta:
        ordering = ["key"]
        constraints = [models.UniqueConstraint(fields=["version", "key"], name="one_value_per_tag")]

    def __str__(self) -> str:
        return f"{self.key}={self.value}"


class QAPolicy(models.Model):
    """One version of what a model's versions are judged by in an environment; the newest number holds.

    Only what differs is kept: the rest comes from the next more general one. From general to particular: the
    product's defaults, all models and environments, one environment, one model, one model in one environment.
    """

    model = models.ForeignKey(
        RegisteredModel, on_delete=models.CASCADE, related_name="qa_policies", null=True, blank=True
    )
    environment = models.CharField(max_length=40, blank=True)
    number = models.PositiveIntegerField()
    values = models.JSONField(default=dict, blank=True)
    """Part of `registry.qa.policy.Policy.to_json`, by the same names."""
    pipeline = models.JSONField(default=dict, blank=True)
    """The other sections of the pipeline-config.yaml that it came from, so that an export gives them back."""
    note = models.TextField(blank=True)
    created_by = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.PROTECT, related_name="+")
    created_at = models.DateTimeField(default=timezone.now, editable=False)

    class Meta:
        ordering = ["-pk"]
        verbose_name = "QA policy"
        verbose_name_plural = "QA policies"
        constraints = [
            models.UniqueConstraint(fields=["model", "environment", "number"], name="one_policy_per_number"),
            models.UniqueConstraint(
                fields=["environment", "number"], condition=Q(model=None), name="one_general_policy_per_number"
            ),
        ]

    def __str__(self) -> str:
        return f"policy {self.number} of {self.model or 'all models'} in {self.environment or 'all environments'}"


class QARun(Stateful):
    """One examination. It keeps the policy that it judged by."""

    LIFECYCLE = RUNS

    version = models.ForeignKey(ModelVersion, on_delete=models.CASCADE, related_name="qa_runs")
    status = models.CharField(max_length=20, default=RunStatus.QUEUED)
    digest = models.CharField(max_length=64)
    policy = models.JSONField()
    environment = models.CharField(max_length=40, blank=True)
    """Whose policy it was judged by; empty for the one that holds wherever no environment has its own."""
    policy_sources = models.JSONField(default=list, blank=True)
    """The QAPolicy rows that the policy was put together from, most general first."""
    requested_by = models.ForeignKey(
        settings.AUTH_USER_MODEL, on_delete=models.PROTECT, related_name="+", null=True, blank=True
    )
    queued_at = models.DateTimeField(default=timezone.now)
    started_at = models.DateTimeField(null=True, blank=True)
    finished_at = models.DateTimeField(null=True, blank=True)
    lease_until = models.DateTimeField(null=True, blank=True)
    attempt = models.PositiveIntegerField(default=0)
    """Counts the starts; each write names it, so that a worker that was given up cannot write any more."""
    planned_checks = models.PositiveIntegerField(default=0)
    under_way = models.JSONField(default=list, blank=True)
    """The checks that run now: name, label, and since when."""
    score = models.FloatField(null=True, blank=True)
    band = models.CharField(max_length=20, blank=True)
    blocked = models.BooleanField(default=False)
    sentence = models.TextField(blank=True)
    categories = models.JSONField(default=dict, blank=True)

    class Meta:
        ordering = ["-pk"]
        verbose_name = "QA run"
        constraints = [
            models.UniqueConstraint(
                fields=["version"],
                condition=Q(status__in=[RunStatus.QUEUED.value, RunStatus.RUNNING.value]),
                name="one_active_qa_run_per_version",
            ),
            states(RunStatus, "status", "known_qa_status"),
        ]

    def __str__(self) -> str:
        return f"examination {self.pk} of {self.version}"

    @property
    def seconds(self) -> float | None:
        if self.started_at is None:
            return None
        return ((self.finished_at or timezone.now()) - self.started_at).total_seconds()


class QAResult(models.Model):
    run = models.ForeignKey(QARun, on_delete=models.CASCADE, related_name="results")
    attempt = models.PositiveIntegerField(default=1)
    name = models.CharField(max_length=80)
    label = models.CharField(max_length=120)
    category = models.CharField(max_length=40)
    status = models.CharField(max_length=20)
    required = models.BooleanField(default=False)
    weight = models.FloatField(default=1)
    value = models.FloatField(null=True, blank=True)
    limit = models.FloatField(null=True, blank=True)
    unit = models.CharField(max_length=40, blank=True)
    reason = models.TextField(blank=True)
    evidence = models.JSONField(default=dict, blank=True)
    findings = models.JSONField(default=list, blank=True)
    """What is wrong, one by one: severity, sentence, action."""
    seconds = models.FloatField(default=0)

    class Meta:
        ordering = ["pk"]
        verbose_name = "QA result"
        constraints = [
            models.UniqueConstraint(fields=["run", "name"], name="one_result_per_check"),
            states(Status, "status", "known_result_status"),
        ]

    def __str__(self) -> str:
        return f"{self.label}: {self.status}"


class Decision(models.TextChoices):
    APPROVE = "approve", "approved"
    REFUSE = "refuse", "refused"


class Approval(models.Model):
    """A person's word on a version, bound to the exact bytes and to the examination that they saw."""

    version = models.ForeignKey(ModelVersion, on_delete=models.CASCADE, related_name="approvals")
    decision = models.CharField(max_length=10, choices=Decision.choices)
    digest = models.CharField(max_length=64)
    qa_run = models.ForeignKey(QARun, on_delete=models.PROTECT, related_name="approvals", null=True, blank=True)
    by = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.PROTECT, related_name="+")
    note = models.TextField(blank=True)
    override = models.BooleanField(default=False)
    at = models.DateTimeField(default=timezone.now)

    class Meta:
        ordering = ["-pk"]

    def __str__(self) -> str:
        return f"{self.version} {self.get_decision_display()} by {self.by}"
