"""Experiments and every look that was taken at them."""

from __future__ import annotations

from django.conf import settings
from django.db import models
from django.utils import timezone

from abtests.lifecycle import EXPERIMENTS, Status
from deploypipe.core.models import Stateful
from registry.models import ModelVersion, states
from rollouts.models import Environment, Rollout

USER = settings.AUTH_USER_MODEL


class Experiment(Stateful):
    """The stable version against a candidate, on the traffic of one rollout step. Its settings are frozen."""

    LIFECYCLE = EXPERIMENTS

    name = models.CharField(max_length=100)
    environment = models.ForeignKey(Environment, on_delete=models.PROTECT, related_name="experiments")
    stable = models.ForeignKey(ModelVersion, on_delete=models.PROTECT, related_name="+", null=True, blank=True)
    candidate = models.ForeignKey(ModelVersion, on_delete=models.PROTECT, related_name="experiments")
    rollout = models.ForeignKey(Rollout, on_delete=models.PROTECT, related_name="experiments")
    step_index = models.PositiveIntegerField()
    settings = models.JSONField(default=dict)
    status = models.CharField(max_length=20, default=Status.DRAFT)
    sentence = models.TextField(blank=True)
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
        return self.rollout.purpose == "experiment"


class Snapshot(models.Model):
    """One look: what was decided from which windows. Never changed."""

    experiment = models.ForeignKey(Experiment, on_delete=models.CASCADE, related_name="snapshots")
    last_window = models.PositiveBigIntegerField()
    at = models.DateTimeField(default=timezone.now)
    verdict = models.CharField(max_length=20)
    sentence = models.TextField()
    detail = models.JSONField(default=dict)

    class Meta:
        ordering = ["-pk"]
        constraints = [
            models.UniqueConstraint(fields=["experiment", "last_window"], name="one_snapshot_per_window"),
        ]

    def __str__(self) -> str:
        return f"{self.verdict}: {self.sentence}"
