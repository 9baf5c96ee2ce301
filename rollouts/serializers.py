from __future__ import annotations

from typing import Any

from rest_framework import serializers

from rollouts.lifecycle import Purpose
from rollouts.models import Environment, Rollout, RolloutArm, RolloutStep, Strategy


class RolloutIn(serializers.Serializer[Any]):
    model = serializers.CharField(max_length=40)
    version = serializers.IntegerField(min_value=1)
    environment = serializers.CharField(max_length=40)
    strategy = serializers.CharField(required=False, max_length=40)
    steps = serializers.ListField(required=False)
    rollback_on_failure = serializers.BooleanField(required=False, default=True)
    options = serializers.DictField(required=False, default=dict)
    note = serializers.CharField(required=False, allow_blank=True, default="", max_length=5000)
    purpose = serializers.ChoiceField(choices=[purpose.value for purpose in Purpose], default=Purpose.PROMOTE.value)
    arms = serializers.ListField(child=serializers.IntegerField(min_value=1), required=False, default=list)
    """Numbers of the other versions that an experiment compares."""
    arm_weights = serializers.ListField(child=serializers.IntegerField(), required=False, default=None)
    routing = serializers.DictField(required=False, default=None)
    holdout_percent = serializers.FloatField(required=False, default=0.0)


class ReasonIn(serializers.Serializer[Any]):
    reason = serializers.CharField(required=False, allow_blank=True, default="", max_length=5000)


class PromoteIn(ReasonIn):
    full = serializers.BooleanField(required=False, default=False)


class DropArmIn(ReasonIn):
    arm = serializers.CharField(max_length=40)


class ArmOut(serializers.ModelSerializer[RolloutArm]):
    name = serializers.CharField()
    version = serializers.IntegerField(source="version.number")
    deployment = serializers.CharField(source="deployment.name", default=None)
    on = serializers.BooleanField(source="is_on")

    class Meta:
        model = RolloutArm
        fields = ["name", "version", "digest", "parts", "deployment", "on", "dropped_at", "cause", "reason"]


class StepOut(serializers.ModelSerializer[RolloutStep]):
    approved_by = serializers.CharField(source="approved_by.username", default=None)

    class Meta:
        model = RolloutStep
        fields = ["index", "kind", "settings", "title", "status", "sentence", "began_at", "ended_at", "approved_by"]


class RolloutOut(serializers.ModelSerializer[Rollout]):
    model = serializers.CharField(source="model.name")
    version = serializers.IntegerField(source="version.number")
    environment = serializers.CharField(source="environment.name")
    requested_by = serializers.CharField(source="requested_by.username", default=None)
    previous_version = serializers.IntegerField(source="previous.version.number", default=None)
    steps = StepOut(many=True)
    paused = serializers.BooleanField(source="is_paused")
    arms = ArmOut(many=True)
    holdout_percent = serializers.FloatField(source="percent_held_out")

    class Meta:
        model = Rollout
        fields = [
            "id", "model", "version", "environment", "purpose", "status", "paused", "step_index", "steps", "sentence",
            "problem", "cause", "reason", "digest", "strategy", "options", "arms", "routing",
            "holdout_percent", "rollback_on_failure", "previous_version",
            "requested_by", "trigger", "note", "created_at", "traffic_from", "ended_at",
        ]  # fmt: skip


class EnvironmentOut(serializers.ModelSerializer[Environment]):
    class Meta:
        model = Environment
        fields = ["name", "description", "protected", "target", "router"]


class StrategyOut(serializers.ModelSerializer[Strategy]):
    class Meta:
        model = Strategy
        fields = ["name", "description", "steps"]


class StrategyIn(serializers.Serializer[Any]):
    name = serializers.RegexField(r"\A[a-z0-9]([a-z0-9-]{0,38}[a-z0-9])?\Z")
    description = serializers.CharField(required=False, allow_blank=True, default="")
    steps = serializers.ListField()
