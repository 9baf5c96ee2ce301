from __future__ import annotations

from django.contrib import admin

from deploypipe.core.admin import ReadOnly
from registry.models import Approval, ModelVersion, QAPolicy, QAResult, QARun, RegisteredModel


@admin.register(RegisteredModel)
class RegisteredModelAdmin(ReadOnly[RegisteredModel]):
    list_display = ["name", "created_by", "created_at"]
    search_fields = ["name"]


@admin.register(ModelVersion)
class ModelVersionAdmin(ReadOnly[ModelVersion]):
    list_display = ["__str__", "stage", "score", "registered_by", "registered_at"]
    list_filter = ["stage", "engine", "model"]
    search_fields = ["model__name", "digest", "git_commit"]


@admin.register(QAPolicy)
class QAPolicyAdmin(ReadOnly[QAPolicy]):
    list_display = ["__str__", "created_by", "created_at", "note"]
    list_filter = ["environment", "model"]
    search_fields = ["note", "model__name"]


@admin.register(QARun)
class QARunAdmin(ReadOnly[QARun]):
    list_display = ["__str__", "status", "score", "band", "blocked", "queued_at"]
    list_filter = ["status", "band"]


@admin.register(QAResult)
class QAResultAdmin(ReadOnly[QAResult]):
    list_display = ["run", "name", "status", "value", "limit", "unit"]
    list_filter = ["status", "category"]


@admin.register(Approval)
class ApprovalAdmin(ReadOnly[Approval]):
    list_display = ["version", "decision", "by", "override", "at"]
    list_filter = ["decision"]
