"""Pages of policies: parse, call one action or one query, answer."""

from __future__ import annotations

from typing import Any

from django.contrib import messages
from django.http import HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.urls import reverse

from deploypipe.core import roles
from deploypipe.core.errors import DomainError, Forbidden
from deploypipe.core.pages import Request, Verb, Verbs, answer, curl, explain, form_page, page, paged, verb
from deploypipe.core.pages import history as history_of
from registry import policies, policy_actions, policy_files, policy_pages
from registry.forms import PolicyForm, PolicyRestoreForm, said
from registry.models import QAPolicy
from registry.policy_pages import Scope
from registry.qa.pipeline_config import Config, ConfigError, to_yaml

HISTORY = 20


@page
def policy_list(request: Request) -> HttpResponse:
    asked = policy_pages.scope(request.GET)
    found = policies.effective(asked.model, asked.environment)
    rows = paged(request, policy_pages.history(asked), HISTORY)
    steps = policy_pages.steps(list(rows.object_list))
    context = {
        "scope": asked,
        "groups": policy_pages.groups(found),
        "parameters": policy_pages.parameters(found),
        "rows": found.rows,
        "owners": policy_pages.owners(),
        "page_obj": rows,
        "steps": [(step, policy_pages.told(step.changes)) for step in steps],
        "may_not": roles.refusal(request.user, "registry.set_policy"),
        "edit_url": asked.address("policy-edit"),
        "export_url": asked.address("policy-export"),
        "command": curl(request, "/api/v1/policies/", {"values": {"max_latency_ms": 500}}),
        **policy_pages.choices(),
    }
    return answer(request, "registry/policies.html", "registry/_policies.html", context)


@form_page
def policy_edit(request: Request) -> HttpResponse:
    """The own values of a model and environment as a file: look at what would change, then set it."""
    asked = policy_pages.scope(request.GET)
    current = policy_pages.history(asked).first()
    if request.method == "POST":
        return _set(request, asked, current)
    text = policy_files.own_text(current) if current else ""
    form = PolicyForm(initial={"text": text, "seen": current.number if current else 0})
    return _edit_page(request, asked, current, form)


def _set(request: Request, asked: Scope, current: QAPolicy | None) -> HttpResponse:
    form = PolicyForm(request.POST, request.FILES)
    if not form.is_valid():
        return _edit_page(request, asked, current, form, status=422)
    text = form.whole_text
    # What came as a file is put into the field, where its lines can be seen beside what is wrong with them.
    shown = PolicyForm({**request.POST.dict(), "text": text.decode(errors="replace")})
    shown.is_valid()
    try:
        preview = policy_actions.preview(text, asked.model, asked.environment)
    except ConfigError as error:
        return _edit_page(request, asked, current, shown, problems=error.problems, status=422)
    if "preview" in request.POST:
        return _edit_page(request, asked, current, shown, preview=preview)
    try:
        saved = policy_actions.import_config(
            text,
            asked.model,
            asked.environment,
            actor=request.user,
            note=form.cleaned_data["note"],
            seen=form.cleaned_data["seen"],
        )
    except Forbidden:
        raise
    except DomainError as error:
        explain(shown, error)
        return _edit_page(request, asked, current, shown, status=error.status)
    name = str(saved.policy)
    outcome = f"{name[0].upper()}{name[1:]} holds now." if saved.is_new else "Nothing was changed: it says so already."
    messages.success(request, outcome)
    return redirect("policy-detail", saved.policy.pk)


def _edit_page(
    request: Request,
    asked: Scope,
    current: QAPolicy | None,
    form: PolicyForm,
    *,
    preview: policy_actions.Preview | None = None,
    problems: Any = (),
    status: int = 200,
) -> HttpResponse:
    below = policies.inherited(asked.model, asked.environment)
    context = {
        "scope": asked,
        "current": current,
        "form": form,
        "preview": preview,
        "changes": policy_pages.told(preview.effective) if preview else [],
        "pipeline_changes": policy_pages.told(preview.pipeline, "not said") if preview else [],
        "problems": problems,
        "inherited": policy_pages.everything(below),
        "inherited_rows": below.rows,
        "may_not": roles.refusal(request.user, "registry.set_policy"),
        "list_url": asked.address("policy-list"),
        "edit_url": asked.address("policy-edit"),
    }
    return render(request, "registry/policy_edit.html", context, status=status)


@page
def policy_detail(request: Request, pk: int) -> HttpResponse:
    policy = _policy(pk)
    asked = Scope(policy.model, policy.environment)
    newest = policy_pages.newest_number(asked)
    step = policy_pages.steps([policy])[0]
    context = {
        "policy": policy,
        "scope": asked,
        "is_newest": policy.number == newest,
        "newest": newest,
        "own": policy_pages.own_rows(policy),
        "changes": policy_pages.told(step.changes),
        "sections_changed": step.sections,
        "pipeline": to_yaml(Config({}, policy.pipeline)) if policy.pipeline else "",
        "verbs": _verbs(request, policy, newest),
        "list_url": asked.address("policy-list"),
        "history": history_of(policy),
        "history_id": f"policy-{policy.pk}-history",
    }
    return render(request, "registry/policy.html", context)


def _verbs(request: Request, policy: QAPolicy, newest: int) -> Verbs:
    if policy.number == newest:
        return Verbs()
    return Verbs(
        [
            Verb(
                reverse("policy-restore", args=[policy.pk]),
                "Restore",
                icon="rewind",
                title=f"Restore number {policy.number}",
                confirm=f"What number {policy.number} says becomes number {newest + 1}. "
                "Examinations that were made keep the policy that they judged by.",
                reason="optional",
                reason_name="note",
                reason_label="Note (optional)",
                seen=newest,
                disabled=roles.refusal(request.user, "registry.set_policy"),
            )
        ]
    )


@verb
def policy_restore(request: Request, pk: int) -> HttpResponse:
    saved = policy_actions.restore(_policy(pk), actor=request.user, **said(PolicyRestoreForm(request.POST)))
    messages.success(request, f"Number {saved.policy.number} holds now.")
    return redirect("policy-detail", saved.policy.pk)


@page
def policy_export(request: Request) -> HttpResponse:
    asked = policy_pages.scope(request.GET)
    return policy_files.file_of_effective(policies.effective(asked.model, asked.environment))


@page
def policy_own_export(request: Request, pk: int) -> HttpResponse:
    return policy_files.file_of(_policy(pk))


def _policy(pk: int) -> QAPolicy:
    return get_object_or_404(QAPolicy.objects.select_related("model", "created_by"), pk=pk)
