from __future__ import annotations

from typing import Any, Generic, TypeVar

from django.contrib import admin
from django.db.models import Model
from django.http import HttpRequest

from deploypipe.core.models import ApiToken, AuditEntry

M = TypeVar("M", bound=Model)


class ReadOnly(admin.ModelAdmin, Generic[M]):  # type: ignore[type-arg]
    """Rows that are evidence, or that change through verbs only: to be read and searched, never edited here."""

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False


@admin.register(AuditEntry)
class AuditEntryAdmin(ReadOnly[AuditEntry]):
    list_display = ["sequence", "at", "actor", "verb", "object_label", "reason"]
    list_filter = ["verb", "actor"]
    search_fields = ["object_label", "reason", "actor"]


@admin.register(ApiToken)
class ApiTokenAdmin(admin.ModelAdmin):  # type: ignore[type-arg]
    """Tokens are made by `manage.py issue_token`; here they can be looked through and taken away."""

    list_display = ["user", "name", "created_at"]

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False
