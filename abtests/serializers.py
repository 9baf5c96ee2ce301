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


class ExperimentOut(serializers.ModelSerializer[Experiment]):
    environment = serializers.CharField(source="environment.name")
    stable = serializers.CharField(default=None)
    candidate = serializers.CharField()
    latest = serializers.JSONField()

    class Meta:
        model = Experiment
        fields = [
            "id", "name", "environment", "stable", "candidate", "rollout", "step_index", "status", "sentence",
            "settings", "created_at", "started_at", "ended_at", "latest",
        ]  # fmt: skip
