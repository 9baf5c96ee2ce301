"""Sign-in and the audit page."""

from __future__ import annotations

from typing import Any

from django.conf import settings
from django.contrib.auth.views import LoginView
from django.db.models import Q, QuerySet
from django.http import HttpResponse
from django.shortcuts import render

from deploypipe.core import audit, told
from deploypipe.core.models import AuditEntry, AuditHead
from deploypipe.core.pages import Request, curl, page, paged

VERIFY_MOST = 20_000
"""Entries that a page verifies while somebody waits; more is for `manage.py verify_audit`."""

DEMO_ROLES = {
    "ana": "registers (engineer)",
    "bo": "approves (approver)",
    "cy": "operates (operator)",
    "dee": "only looks (viewer)",
    "eve": "has no role",
}


class SignIn(LoginView):
    def get_context_data(self, **kwargs: Any) -> dict[str, Any]:
        context = super().get_context_data(**kwargs)
        if settings.DEMO:
            context["DEMO_ACCOUNTS"] = [
                {"username": name, "password": settings.DEMO_PASSWORD, "role": role}
                for name, role in DEMO_ROLES.items()
            ]
        return context


@page
def audit_list(request: Request) -> HttpResponse:
    entries = AuditEntry.objects.all()
    found = paged(request, _narrowed(entries, request))
    head = AuditHead.objects.filter(pk=1).first()
    context = {
        "page_obj": found,
        "told": told.tell(found),
        "actors": entries.order_by("actor").values_list("actor", flat=True).distinct(),
        "verbs": entries.order_by("verb").values_list("verb", flat=True).distinct(),
        "asked": request.GET,
        "narrowed": any(request.GET.get(name) for name in ("actor", "verb", "object", "object_type")),
        "head": head,
        "verified": _verified(head) if request.GET.get("verify") else None,
        "command": curl(request, "/api/v1/audit/"),
    }
    return render(request, "core/audit.html", context)


def _narrowed(entries: QuerySet[AuditEntry], request: Request) -> QuerySet[AuditEntry]:
    asked = request.GET
    for field in ("actor", "verb", "object_type", "object_id"):
        if value := asked.get(field):
            entries = entries.filter(**{field: value})
    if wanted := asked.get("object", "").strip():
        entries = entries.filter(Q(object_label__icontains=wanted) | Q(object_id=wanted))
    return entries


def _verified(head: AuditHead | None) -> dict[str, Any]:
    """What a walk over the whole chain found."""
    if head is not None and head.sequence > VERIFY_MOST:
        return {"too_long": True}
    return {"faults": [fault.sentence for fault, _ in zip(audit.verify(), range(20), strict=False)]}
