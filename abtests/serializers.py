from __future__ import annotations

from typing import Any

from rest_framework import serializers

from abtests.models import Experiment


class ExperimentIn(serializers.Serializer[Any]):
    model = serializers.CharField(max_length=40)
    version = serializers.IntegerField(min_value=1)
    environment = serializers.CharField(max_length=40)
    name = serializers.CharField(required=False, default="", max_length=100, allow_blank=True)
    traffic_percent = serializers.FloatField(required=False, default=50.0)
    settings = serializers.DictField(required=False, default=dict)
    arms = serializers.ListField(child=serializers.IntegerField(min_value=1), required=False, default=list)
    """Numbers of more candidates."""
    arm_weights = serializers.ListField(child=serializers.IntegerField(), required=False, default=None)
    routing = serializers.DictField(required=False, default=None)
    holdout_percent = serializers.FloatField(required=False, default=0.0)


class ExperimentOut(serializers.ModelSerializer[Experiment]):
    environment = serializers.CharField(source="environment.name")
    stable = serializers.CharField(default=None)
    candidate = serializers.CharField()
    winner = serializers.CharField(default=None)
    arms = serializers.SerializerMethodField()
    routing = serializers.JSONField(source="rollout.routing")
    holdout_percent = serializers.FloatField(source="rollout.percent_held_out")
    latest = serializers.JSONField()

    class Meta:
        model = Experiment
        fields = [
            "id", "name", "environment", "stable", "candidate", "arms", "winner", "rollout", "step_index", "status",
            "sentence", "settings", "routing", "holdout_percent", "created_at", "started_at", "ended_at", "latest",
        ]  # fmt: skip

    def get_arms(self, experiment: Experiment) -> dict[str, str]:
        return {arm: str(version) for arm, version in experiment.versions.items()}
