"""Environments, what runs in them, where traffic goes, and the rollouts that change that."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Any

from django.conf import settings
from django.db import models
from django.db.models import Q
from django.utils import timezone

from deploypipe.core.models import Stateful
from deploypipe.metrics.windows import CANDIDATE, STABLE
from registry.models import NAME, ModelVersion, RegisteredModel, states
from rollouts.bucketing import Lane, arm_name
from rollouts.lifecycle import ACTIVE, ENDED, ROLLOUTS, Purpose, Status, StepStatus
from rollouts.plan import ServerView
from rollouts.strategy import Step
from rollouts.targets.base import Phase
from rollouts.traffic.base import TOTAL_WEIGHT

USER = settings.AUTH_USER_MODEL


class Environment(models.Model):
    name = models.CharField(max_length=40, unique=True, validators=[NAME])
    description = models.TextField(blank=True)
    position = models.PositiveSmallIntegerField(default=0)
    target = models.CharField(max_length=40, default="local")
    """Alias in settings.TARGETS."""
    router = models.CharField(max_length=40, default="envoy")
    """Alias in settings.ROUTERS."""
    protected = models.BooleanField(default=True)
    """Only a version that a person approved may enter."""

    class Meta:
        ordering = ["position", "name"]

    def __str__(self) -> str:
        return self.name


class Strategy(models.Model):
    name = models.CharField(max_length=40, unique=True, validators=[NAME])
    description = models.TextField(blank=True)
    steps = models.JSONField()

    class Meta:
        ordering = ["name"]
        verbose_name_plural = "strategies"

    def __str__(self) -> str:
        return self.name


class Desired(models.TextChoices):
    RUNNING = "running"
    STOPPED = "stopped"


class DeploymentQuerySet(models.QuerySet["Deployment"]):
    def kept(self) -> DeploymentQuerySet:
        """Those that somebody still has to look after: wanted, or not yet gone."""
        return self.filter(Q(desired=Desired.RUNNING) | ~Q(phase=Phase.ABSENT.value))


class Deployment(models.Model):
    """One version running in one environment. What is wanted, and what was last observed."""

    environment = models.ForeignKey(Environment, on_delete=models.PROTECT, related_name="deployments")
    version = models.ForeignKey(ModelVersion, on_delete=models.PROTECT, related_name="deployments")
    name = models.CharField(max_length=63, unique=True)
    desired = models.CharField(max_length=10, choices=Desired.choices, default=Desired.RUNNING)
    created_at = models.DateTimeField(default=timezone.now)
    stop_after = models.DateTimeField(null=True, blank=True)
    """When it may be stopped, once it has no traffic and its streams are done; None: it is needed."""
    start_wanted = models.BooleanField(default=False)
    """Start it anew, also where an earlier start failed. Set first, cleared once the target was told."""
    restarts = models.PositiveIntegerField(default=0)
    restart_after = models.DateTimeField(null=True, blank=True)

    phase = models.CharField(max_length=10, default=Phase.ABSENT)
    message = models.TextField(blank=True)
    address = models.CharField(max_length=100, blank=True)
    observed_at = models.DateTimeField(null=True, blank=True)

    healthy = models.BooleanField(null=True, blank=True)
    health_message = models.TextField(blank=True)
    health_failures = models.PositiveIntegerField(default=0)
    checked_at = models.DateTimeField(null=True, blank=True)

    objects = DeploymentQuerySet.as_manager()

    class Meta:
        ordering = ["-pk"]
        constraints = [
            models.UniqueConstraint(fields=["environment", "version"], name="one_deployment_per_version"),
        ]

    def __str__(self) -> str:
        return f"{self.version} in {self.environment}"

    @property
    def view(self) -> ServerView:
        failed = self.phase == Phase.FAILED
        message = self.message if failed or self.phase != Phase.READY else (self.health_message or self.message)
        return ServerView(
            ready=self.phase == Phase.READY and bool(self.address),
            failed=failed,
            healthy=None if self.phase != Phase.READY else self.healthy,
            message=message,
            name=str(self.version),
        )


class Route(models.Model):
    """Where the traffic of one model in one environment goes: the wanted state that the router makes true."""

    environment = models.ForeignKey(Environment, on_delete=models.PROTECT, related_name="routes")
    model = models.ForeignKey(RegisteredModel, on_delete=models.PROTECT, related_name="routes")
    stable = models.ForeignKey(Deployment, on_delete=models.PROTECT, related_name="+", null=True, blank=True)
    candidate = models.ForeignKey(Deployment, on_delete=models.PROTECT, related_name="+", null=True, blank=True)
    weight = models.PositiveIntegerField(default=0)
    """The candidate's share in hundredths of a percent, or that of all arms together; the stable version has the
    rest."""
    rollout = models.ForeignKey("Rollout", on_delete=models.PROTECT, related_name="+", null=True, blank=True)
    """Whose candidate it is: its arms share the weight, and its routing says who is not drawn."""
    salt = models.CharField(max_length=32, default="0")
    salt_at = models.DateTimeField(default=timezone.now)
    """Since when it holds: who was seen before may come back as another arm's session."""
    generation = models.PositiveBigIntegerField(default=0)
    """Counts the changes; each UPDATE names the one it has read."""
    changed_at = models.DateTimeField(default=timezone.now)

    split = models.CharField(max_length=16, blank=True, editable=False)
    """Digest of the split that was last given to the router: also a server that died changes it."""
    period = models.PositiveBigIntegerField(default=0, editable=False)
    """Counts the splits. It rises before a new one is written and again once it is in force, so that what is measured
    between the two belongs to neither."""
    split_at = models.DateTimeField(null=True, blank=True, editable=False)
    """Since when the split is in force; None while one is being written."""

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["environment", "model"], name="one_route_per_model_and_environment"),
            models.CheckConstraint(condition=Q(weight__gte=0, weight__lte=TOTAL_WEIGHT), name="weight_is_a_share"),
        ]

    def __str__(self) -> str:
        return f"{self.environment}/{self.model}"

    @property
    def key(self) -> str:
        return f"{self.environment.name}/{self.model.name}"

    @property
    def lanes(self) -> tuple[Lane, ...]:
        """One for each candidate that it names, in order."""
        if self.candidate_id is None:
            return ()
        return self.rollout.lanes if self.rollout else (Lane(CANDIDATE),)

    @property
    def arms(self) -> dict[str, int]:
        """Arm → deployment of each that may have a share; those that were taken off are not among them."""
        named = {CANDIDATE: self.candidate_id, STABLE: self.stable_id}
        if self.candidate_id is not None and self.rollout:
            others = {arm.name: arm.deployment_id for arm in self.rollout.arms.all() if arm.position > 1}
            named = {CANDIDATE: self.candidate_id, **others, STABLE: self.stable_id}
        off = {lane.arm for lane in self.lanes if not lane.on}
        return {arm: pk for arm, pk in named.items() if pk is not None and arm not in off}


class RolloutQuerySet(models.QuerySet["Rollout"]):
    def active(self) -> RolloutQuerySet:
        return self.filter(status__in=ACTIVE)

    def of_version(self, version: ModelVersion) -> RolloutQuerySet:
        """Also those that compare it with others."""
        return self.filter(Q(version=version) | Q(arms__version=version, arms__dropped_at=None)).distinct()


class Rollout(Stateful):
    """One row from request to done."""

    LIFECYCLE = ROLLOUTS

    environment = models.ForeignKey(Environment, on_delete=models.PROTECT, related_name="rollouts")
    model = models.ForeignKey(RegisteredModel, on_delete=models.PROTECT, related_name="rollouts")
    version = models.ForeignKey(ModelVersion, on_delete=models.PROTECT, related_name="rollouts")
    digest = models.CharField(max_length=64)
    purpose = models.CharField(max_length=20, default=Purpose.PROMOTE)
    status = models.CharField(max_length=20, default=Status.WAITING_QA)
    strategy = models.CharField(max_length=40, blank=True)
    options = models.JSONField(default=dict, blank=True)
    """traffic_split, ab_testing, deep_tree_echo, as they were asked for."""
    routing = models.JSONField(default=dict, blank=True)
    """How sessions are made and who is not drawn, as `rollouts.assignment` reads it; empty where all is as usual."""
    holdout = models.PositiveIntegerField(default=0)
    """Hundredths of a percent of all sessions that meet the stable version whatever is rolled out."""
    rollback_on_failure = models.BooleanField(default=True)
    requested_by = models.ForeignKey(USER, on_delete=models.PROTECT, related_name="+", null=True, blank=True)
    trigger = models.CharField(max_length=40, default="page")
    note = models.TextField(blank=True)
    request_key = models.CharField(max_length=100, null=True, blank=True, editable=False, unique=True)

    candidate = models.ForeignKey(Deployment, on_delete=models.PROTECT, related_name="+", null=True, blank=True)
    previous = models.ForeignKey(Deployment, on_delete=models.PROTECT, related_name="+", null=True, blank=True)
    """What was stable when it began to move traffic, and what a rollback goes back to."""
    step_index = models.PositiveIntegerField(default=0)
    sentence = models.TextField(blank=True)
    """What it is doing or waiting for, in words."""
    problem = models.BooleanField(default=False)
    cause = models.CharField(max_length=20, blank=True)
    reason = models.TextField(blank=True)
    """Why it turned back, or what the last verdict said."""

    paused_at = models.DateTimeField(null=True, blank=True)
    paused_by = models.ForeignKey(USER, on_delete=models.PROTECT, related_name="+", null=True, blank=True)
    promote = models.CharField(max_length=10, blank=True)
    """What a person asked for and was not yet done: step, full."""

    created_at = models.DateTimeField(default=timezone.now)
    phase_at = models.DateTimeField(default=timezone.now)
    step_at = models.DateTimeField(default=timezone.now)
    traffic_from = models.DateTimeField(null=True, blank=True)
    """When the candidate first got a share: measurements count from here."""
    paused_seconds = models.FloatField(default=0)
    """Time paused since the step or phase began; deadlines do not count it."""
    ended_at = models.DateTimeField(null=True, blank=True)

    lease_owner = models.CharField(max_length=100, blank=True)
    lease_until = models.DateTimeField(null=True, blank=True)
    fence = models.PositiveBigIntegerField(default=0)
    """Grows with each lease; every write of a reconciler names the one it holds."""

    objects = RolloutQuerySet.as_manager()

    class Meta:
        ordering = ["-pk"]
        constraints = [
            models.UniqueConstraint(
                fields=["environment", "model"],
                condition=Q(status__in=[status.value for status in ACTIVE]),
                name="one_active_rollout_per_model_and_environment",
            ),
            states(Status, "status", "known_rollout_status"),
        ]

    def __str__(self) -> str:
        return f"rollout {self.pk} of {self.version} in {self.environment}"

    @property
    def is_active(self) -> bool:
        return self.state not in ENDED

    @property
    def is_paused(self) -> bool:
        return self.paused_at is not None

    @property
    def shown_status(self) -> str:
        return "paused" if self.is_paused and self.is_active else self.status

    @property
    def plan(self) -> tuple[Step, ...]:
        return tuple(Step(row.kind, row.settings) for row in self.steps.all())

    @property
    def percent_held_out(self) -> float:
        return self.holdout * 100 / TOTAL_WEIGHT

    @property
    def lanes(self) -> tuple[Lane, ...]:
        """One for each candidate, in order."""
        return tuple(Lane(arm.name, arm.parts, arm.is_on) for arm in self.arms.all()) or (Lane(CANDIDATE),)

    @property
    def deployments(self) -> list[Deployment]:
        """Of every candidate that is there already, in order; also of those that were taken off."""
        others = [arm.deployment for arm in self.arms.all() if arm.position > 1]
        return [deployment for deployment in (self.candidate, *others) if deployment is not None]

    def lay_out(self, steps: Iterable[Step]) -> None:
        """Write its steps, in this order."""
        RolloutStep.objects.bulk_create(
            RolloutStep(rollout=self, index=index, kind=step.kind, settings=dict(step.settings))
            for index, step in enumerate(steps)
        )

    def seconds_since(self, moment: datetime, now: datetime) -> float:
        """Without the time paused."""
        paused = self.paused_seconds + ((now - self.paused_at).total_seconds() if self.paused_at else 0.0)
        return max(0.0, (now - moment).total_seconds() - paused)


class RolloutArm(models.Model):
    """One candidate of an experiment that compares several; the first is the rollout's own version.

    A rollout of one version has none of these rows.
    """

    rollout = models.ForeignKey(Rollout, on_delete=models.CASCADE, related_name="arms")
    position = models.PositiveSmallIntegerField()
    """From 1."""
    version = models.ForeignKey(ModelVersion, on_delete=models.PROTECT, related_name="+")
    digest = models.CharField(max_length=64)
    parts = models.PositiveIntegerField(default=1)
    """Of the experiment's share, against those of the other arms."""
    deployment = models.ForeignKey(Deployment, on_delete=models.PROTECT, related_name="+", null=True, blank=True)
    dropped_at = models.DateTimeField(null=True, blank=True)
    """When it was taken off alone: its share went to the stable version."""
    cause = models.CharField(max_length=20, blank=True)
    reason = models.TextField(blank=True)

    class Meta:
        ordering = ["position"]
        constraints = [
            models.UniqueConstraint(fields=["rollout", "position"], name="one_arm_per_position"),
            models.UniqueConstraint(fields=["rollout", "version"], name="one_arm_per_version"),
            models.CheckConstraint(condition=Q(parts__gte=1), name="arm_has_a_part"),
        ]

    def __str__(self) -> str:
        return f"{self.name}: {self.version}"

    @property
    def name(self) -> str:
        return arm_name(self.position)

    @property
    def is_on(self) -> bool:
        return self.dropped_at is None


class RolloutStep(models.Model):
    rollout = models.ForeignKey(Rollout, on_delete=models.CASCADE, related_name="steps")
    index = models.PositiveIntegerField()
    kind = models.CharField(max_length=40)
    settings = models.JSONField(default=dict, blank=True)
    status = models.CharField(max_length=10, default=StepStatus.PENDING)
    sentence = models.TextField(blank=True)
    began_at = models.DateTimeField(null=True, blank=True)
    ended_at = models.DateTimeField(null=True, blank=True)
    approved_by = models.ForeignKey(USER, on_delete=models.PROTECT, related_name="+", null=True, blank=True)

    class Meta:
        ordering = ["index"]
        constraints = [
            models.UniqueConstraint(fields=["rollout", "index"], name="one_step_per_index"),
            states(StepStatus, "status", "known_step_status"),
        ]

    def __str__(self) -> str:
        return self.title

    @property
    def title(self) -> str:
        return Step(self.kind, self.settings).title

    def to_json(self) -> dict[str, Any]:
        return Step(self.kind, self.settings).to_json()


class Analysis(models.Model):
    """One look of the judge: what it saw and what it said. Never changed; it can be computed again from its windows."""

    rollout = models.ForeignKey(Rollout, on_delete=models.CASCADE, related_name="analyses")
    step_index = models.PositiveIntegerField()
    last_window = models.PositiveBigIntegerField()
    """The newest window it has counted: the same windows are not judged twice."""
    at = models.DateTimeField(default=timezone.now)
    verdict = models.CharField(max_length=20)
    sentence = models.TextField()
    detail = models.JSONField(default=dict)

    class Meta:
        ordering = ["-pk"]
        verbose_name_plural = "analyses"
        constraints = [
            models.UniqueConstraint(fields=["rollout", "step_index", "last_window"], name="one_look_per_window"),
        ]

    def __str__(self) -> str:
        return f"{self.verdict}: {self.sentence}"


class JudgeProgress(models.Model):
    """How far one question of the judge was answered, so that a look reads only the windows that are new.

    A cache: without it the answer is computed again from all windows, and is the same to the last bit.
    """

    rollout = models.ForeignKey(Rollout, on_delete=models.CASCADE, related_name="judge_progress")
    question = models.CharField(max_length=20)
    """`rollout`, or `step` and its index."""
    since = models.DateTimeField()
    """Its windows begin here."""
    last_window = models.PositiveBigIntegerField(default=0)
    state = models.JSONField(default=dict)

    class Meta:
        constraints = [models.UniqueConstraint(fields=["rollout", "question"], name="one_progress_per_question")]

    def __str__(self) -> str:
        return f"{self.question} of {self.rollout_id}, up to window {self.last_window}"


class HealthSample(models.Model):
    """A change of a deployment's health."""

    deployment = models.ForeignKey(Deployment, on_delete=models.CASCADE, related_name="health_samples")
    at = models.DateTimeField(default=timezone.now)
    healthy = models.BooleanField()
    layer = models.CharField(max_length=40)
    message = models.TextField()

    class Meta:
        ordering = ["-pk"]

    def __str__(self) -> str:
        return f"{self.deployment}: {self.message}"


def warm_until(now: datetime) -> datetime:
    """How long a replaced version stays warm for an instant rollback."""
    return now + timedelta(seconds=settings.ROLLBACK_WINDOW)
