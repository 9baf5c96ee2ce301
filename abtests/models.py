"""Experiments and every look that was taken at them."""

from __future__ import annotations

from django.conf import settings
from django.db import models
from django.utils import timezone

from abtests.lifecycle import EXPERIMENTS, Status
from deploypipe.core.models import Stateful
from deploypipe.metrics.windows import CANDIDATE
from registry.models import ModelVersion, states
from rollouts.lifecycle import Purpose
from rollouts.models import Environment, Rollout

USER = settings.AUTH_USER_MODEL


class Experiment(Stateful):
    """The stable version against one or several candidates, on the traffic of a rollout's step. Settings are frozen."""

    LIFECYCLE = EXPERIMENTS

    name = models.CharField(max_length=100)
    environment = models.ForeignKey(Environment, on_delete=models.PROTECT, related_name="experiments")
    stable = models.ForeignKey(ModelVersion, on_delete=models.PROTECT, related_name="+", null=True, blank=True)
    candidate = models.ForeignKey(ModelVersion, on_delete=models.PROTECT, related_name="experiments")
    """The first of several; the others are the rollout's arms."""
    winner = models.ForeignKey(ModelVersion, on_delete=models.PROTECT, related_name="+", null=True, blank=True)
    rollout = models.ForeignKey(Rollout, on_delete=models.PROTECT, related_name="experiments")
    step_index = models.PositiveIntegerField()
    settings = models.JSONField(default=dict)
    status = models.CharField(max_length=20, default=Status.DRAFT)
    sentence = models.TextField(blank=True)
    progress = models.JSONField(
        default=dict, db_default=models.Value({}, models.JSONField()), blank=True, editable=False
    )
    """`decision.Progress` up to the newest window, so that a look reads only what is new. A cache."""
    created_by = models.ForeignKey(USER, on_delete=models.PROTECT, related_name="+", null=True, blank=True)
    created_at = models.DateTimeField(default=timezone.now)
    started_at = models.DateTimeField(null=True, blank=True)
    ended_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        ordering = ["-pk"]
        constraints = [
            models.UniqueConstraint(fields=["rollout", "step_index"], name="one_experiment_per_step"),
            states(Status, "status", "known_experiment_status"),
        ]

    def __str__(self) -> str:
        return self.name

    @property
    def stands_alone(self) -> bool:
        return self.rollout.purpose == Purpose.EXPERIMENT

    @property
    def versions(self) -> dict[str, ModelVersion]:
        """Arm → version, of all candidates; also of those that were taken off."""
        return {arm.name: arm.version for arm in self.rollout.arms.all()} or {CANDIDATE: self.candidate}


class Snapshot(models.Model):
    """One look: what was decided from which windows. Never changed; `replay` computes it again from the windows."""

    experiment = models.ForeignKey(Experiment, on_delete=models.CASCADE, related_name="snapshots")
    last_window = models.PositiveBigIntegerField()
    """0 before the first."""
    at = models.DateTimeField(default=timezone.now)
    verdict = models.CharField(max_length=20)
    sentence = models.TextField()
    detail = models.JSONField(default=dict)
    digest = models.CharField(max_length=64, default="", db_default="")
    """Of all windows that were judged, see `evidence.chain`."""
    code_version = models.CharField(max_length=40, default="", db_default="")

    class Meta:
        ordering = ["-pk"]
        constraints = [
            # Time alone may change a verdict: that is another look at the same windows.
            models.UniqueConstraint(fields=["experiment", "last_window", "verdict"], name="one_snapshot_per_verdict"),
        ]

    def __str__(self) -> str:
        return f"{self.verdict}: {self.sentence}"
