"""Shapes of the REST API; no logic."""

from __future__ import annotations

from typing import Any

from rest_framework import serializers

from registry.models import Approval, ModelVersion, QAResult, QARun, RegisteredModel


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
            "evidence", "seconds",
        ]  # fmt: skip


class QARunOut(serializers.ModelSerializer[QARun]):
    results = QAResultOut(many=True)

    class Meta:
        model = QARun
        fields = [
            "id", "status", "score", "band", "blocked", "sentence", "categories", "digest", "policy",
            "queued_at", "started_at", "finished_at", "results",
        ]  # fmt: skip


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
    pass


class DecisionIn(serializers.Serializer[Any]):
    note = serializers.CharField(required=False, allow_blank=True, default="", max_length=5000)
    override = serializers.BooleanField(required=False, default=False)
    seen_run = serializers.IntegerField(required=False, allow_null=True, default=None)
