from __future__ import annotations

from django.db.models import QuerySet
from rest_framework import generics, serializers

from deploypipe.core.api import MayView
from deploypipe.core.models import AuditEntry


class AuditEntryOut(serializers.ModelSerializer[AuditEntry]):
    class Meta:
        model = AuditEntry
        fields = [
            "sequence", "at", "actor", "verb", "object_type", "object_id", "object_label", "before", "after", "reason",
            "previous_hash", "hash",
        ]  # fmt: skip


class AuditList(generics.ListAPIView[AuditEntry]):
    """Newest first; `?actor=`, `?verb=`, `?object_type=` and `?object_id=` narrow it."""

    permission_classes = [MayView]
    serializer_class = AuditEntryOut

    def get_queryset(self) -> QuerySet[AuditEntry]:
        asked = self.request.query_params
        fields = ("actor", "verb", "object_type", "object_id")
        return AuditEntry.objects.filter(**{field: asked[field] for field in fields if field in asked})
