from __future__ import annotations

from django.contrib import admin

from deploypipe.core.admin import ReadOnly
from rollouts.models import Analysis, Deployment, Environment, HealthSample, Rollout, Route, Strategy


@admin.register(Environment)
class EnvironmentAdmin(ReadOnly[Environment]):
    list_display = ["name", "protected", "target", "router", "description"]


@admin.register(Strategy)
class StrategyAdmin(ReadOnly[Strategy]):
    list_display = ["name", "description"]


@admin.register(Rollout)
class RolloutAdmin(ReadOnly[Rollout]):
    list_display = ["__str__", "status", "sentence", "requested_by", "created_at", "ended_at"]
    list_filter = ["status", "environment", "model"]


@admin.register(Deployment)
class DeploymentAdmin(ReadOnly[Deployment]):
    list_display = ["name", "desired", "phase", "healthy", "message", "address"]
    list_filter = ["desired", "phase", "environment"]


@admin.register(Route)
class RouteAdmin(ReadOnly[Route]):
    list_display = ["__str__", "stable", "candidate", "weight", "generation", "changed_at"]


@admin.register(Analysis)
class AnalysisAdmin(ReadOnly[Analysis]):
    list_display = ["rollout", "step_index", "at", "verdict", "sentence"]
    list_filter = ["verdict"]


@admin.register(HealthSample)
class HealthSampleAdmin(ReadOnly[HealthSample]):
    list_display = ["deployment", "at", "healthy", "layer", "message"]
    list_filter = ["healthy", "layer"]
