"""Shapes of the REST API; no logic."""

from __future__ import annotations

from typing import Any

from rest_framework import serializers

from registry import examinations
from registry.models import Approval, ModelVersion, QAPolicy, QAResult, QARun, RegisteredModel


class ModelIn(serializers.Serializer[Any]):
    name = serializers.CharField(max_length=40)
    description = serializers.CharField(required=False, allow_blank=True, default="")


class ModelOut(serializers.ModelSerializer[RegisteredModel]):
    created_by = serializers.CharField(source="created_by.username")

    class Meta:
        model = RegisteredModel
        fields = ["id", "name", "description", "created_by", "created_at"]


class VersionIn(serializers.Serializer[Any]):
    artifact_uri = serializers.CharField(max_length=1000)
    engine = serializers.CharField(max_length=40)
    manifest = serializers.JSONField(required=False)
    engine_arguments = serializers.ListField(child=serializers.CharField(max_length=1000), required=False, default=list)
    git_commit = serializers.RegexField(r"\A[0-9a-f]{7,64}\Z", required=False, default="")
    parameters = serializers.DictField(required=False, default=dict)
    tags = serializers.DictField(child=serializers.CharField(max_length=500), required=False, default=dict)
    description = serializers.CharField(required=False, allow_blank=True, default="")


class QAResultOut(serializers.ModelSerializer[QAResult]):
    class Meta:
        model = QAResult
        fields = [
            "name", "label", "category", "status", "required", "weight", "value", "limit", "unit", "reason",
            "evidence", "findings", "seconds",
        ]  # fmt: skip


class QARunOut(serializers.ModelSerializer[QARun]):
    results = QAResultOut(many=True)
    progress = serializers.SerializerMethodField()

    class Meta:
        model = QARun
        fields = [
            "id", "version", "status", "score", "band", "blocked", "sentence", "categories", "digest", "policy",
            "environment", "policy_sources", "queued_at", "started_at", "finished_at", "progress", "results",
        ]  # fmt: skip

    def get_progress(self, run: QARun) -> dict[str, Any] | None:
        """None when it has ended."""
        found = examinations.progress_of(run)
        return found.to_json() if found else None


class ApprovalOut(serializers.ModelSerializer[Approval]):
    by = serializers.CharField(source="by.username")

    class Meta:
        model = Approval
        fields = ["id", "decision", "by", "note", "override", "digest", "qa_run", "at"]


class VersionOut(serializers.ModelSerializer[ModelVersion]):
    model = serializers.CharField(source="model.name")
    registered_by = serializers.CharField(source="registered_by.username")
    tags = serializers.SerializerMethodField()

    class Meta:
        model = ModelVersion
        fields = [
            "id", "model", "number", "stage", "score", "band", "needs_override", "qa_sentence", "digest",
            "artifact_uri", "manifest", "engine", "engine_arguments", "git_commit", "parameters", "tags", "description",
            "registered_by", "registered_at",
        ]  # fmt: skip

    def get_tags(self, version: ModelVersion) -> dict[str, str]:
        return {tag.key: tag.value for tag in version.tags.all()}


class ExamineIn(serializers.Serializer[Any]):
    environment = serializers.CharField(required=False, allow_blank=True, default="", max_length=40)


class DecisionIn(serializers.Serializer[Any]):
    note = serializers.CharField(required=False, allow_blank=True, default="", max_length=5000)
    override = serializers.BooleanField(required=False, default=False)
    seen_run = serializers.IntegerField(required=False, allow_null=True, default=None)


class ReasonIn(serializers.Serializer[Any]):
    reason = serializers.CharField(required=False, allow_blank=True, default="", max_length=5000)


class TagIn(serializers.Serializer[Any]):
    key = serializers.CharField()
    value = serializers.CharField(required=False, allow_blank=True, default="")


class PolicyIn(serializers.Serializer[Any]):
    model = serializers.CharField(required=False, allow_blank=True, default="", max_length=40)
    environment = serializers.CharField(required=False, allow_blank=True, default="", max_length=40)
    values = serializers.DictField()
    note = serializers.CharField(required=False, allow_blank=True, default="", max_length=5000)
    seen = serializers.IntegerField(required=False, allow_null=True, default=None, min_value=0)


class PolicyRestoreIn(serializers.Serializer[Any]):
    note = serializers.CharField(required=False, allow_blank=True, default="", max_length=5000)
    seen = serializers.IntegerField(required=False, allow_null=True, default=None, min_value=0)


class PolicyImportIn(serializers.Serializer[Any]):
    model = serializers.CharField(required=False, allow_blank=True, default="", max_length=40)
    environment = serializers.CharField(required=False, allow_blank=True, default="", max_length=40)
    note = serializers.CharField(required=False, allow_blank=True, default="", max_length=5000)
    seen = serializers.IntegerField(required=False, allow_null=True, default=None, min_value=0)
    dry_run = serializers.BooleanField(required=False, default=False)


class PolicyOut(serializers.ModelSerializer[QAPolicy]):
    model = serializers.CharField(source="model.name", default="")
    created_by = serializers.CharField(source="created_by.username")

    class Meta:
        model = QAPolicy
        fields = ["id", "model", "environment", "number", "values", "pipeline", "note", "created_by", "created_at"]
