from __future__ import annotations

from django.contrib import admin

from deploypipe.core.admin import ReadOnly
from deploypipe.metrics.models import Feedback, FeedbackTotals
from rollouts.models import Analysis, Deployment, Environment, HealthSample, Rollout, RolloutArm, Route, Strategy


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


@admin.register(RolloutArm)
class RolloutArmAdmin(ReadOnly[RolloutArm]):
    list_display = ["rollout", "name", "version", "parts", "deployment", "dropped_at", "reason"]
    list_filter = ["cause"]


@admin.register(Deployment)
class DeploymentAdmin(ReadOnly[Deployment]):
    list_display = ["name", "desired", "phase", "healthy", "message", "address"]
    list_filter = ["desired", "phase", "environment"]


@admin.register(Route)
class RouteAdmin(ReadOnly[Route]):
    list_display = [
        "__str__",
        "stable",
        "candidate",
        "weight",
        "rollout",
        "period",
        "split_at",
        "generation",
        "changed_at",
    ]


@admin.register(Analysis)
class AnalysisAdmin(ReadOnly[Analysis]):
    list_display = ["rollout", "step_index", "at", "verdict", "sentence"]
    list_filter = ["verdict"]


@admin.register(HealthSample)
class HealthSampleAdmin(ReadOnly[HealthSample]):
    list_display = ["deployment", "at", "healthy", "layer", "message"]
    list_filter = ["healthy", "layer"]


# Of metrics, which know nothing of who may look.


@admin.register(FeedbackTotals)
class FeedbackTotalsAdmin(ReadOnly[FeedbackTotals]):
    list_display = ["environment", "model", "accepted", "duplicates", "rejected", "waiting", "matched", "unmatched"]


@admin.register(Feedback)
class FeedbackAdmin(ReadOnly[Feedback]):
    """Of the last day. Sessions and requests are digests."""

    list_display = ["received_at", "environment", "model", "state", "rating", "converted", "cost", "session", "request"]
    list_filter = ["state", "environment", "model"]
