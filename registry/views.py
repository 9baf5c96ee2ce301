"""Pages of models and versions: parse, call one action or one query, answer."""

from __future__ import annotations

from django.contrib import messages
from django.http import HttpResponse
from django.shortcuts import get_object_or_404, redirect, render

from deploypipe.core.pages import Request, answer, curl, page, paged, verb
from registry import actions, charts, examinations, pages
from registry.forms import DecisionForm, ExamineForm, SuspendForm, said
from registry.models import RegisteredModel


@page
def model_list(request: Request) -> HttpResponse:
    command = curl(request, "/api/v1/models/", {"name": "textgen"})
    context = {"page_obj": paged(request, pages.models()), "command": command}
    return answer(request, "registry/models.html", "registry/_models.html", context)


@page
def model_detail(request: Request, name: str) -> HttpResponse:
    model = get_object_or_404(RegisteredModel.objects.select_related("created_by"), name=name)
    versions = model.versions.select_related("registered_by").order_by("-number")
    command = curl(request, f"/api/v1/models/{name}/versions/", {"artifact_uri": "/models/one", "engine": "vllm"})
    context = {"model": model, "page_obj": paged(request, versions, 30), "command": command}
    context["scores"] = charts.scores(versions, examinations.least_score(model))
    return answer(request, "registry/model.html", "registry/_versions.html", context)


@page
def version_detail(request: Request, pk: int) -> HttpResponse:
    version = pages.version(pk)
    return render(
        request, "registry/version.html", pages.of_version(version, request) | {"facts": pages.facts(version)}
    )


@page
def version_report(request: Request, pk: int) -> HttpResponse:
    return render(request, "registry/_version_status.html", pages.of_version(pages.version(pk), request))


@page
def examination(request: Request, pk: int) -> HttpResponse:
    context = pages.of_run(pages.run(pk), request)
    return answer(request, "registry/examination.html", "registry/_examination.html", context)


@verb
def examine(request: Request, pk: int) -> HttpResponse:
    version, environment = pages.version(pk), said(ExamineForm(request.POST))["environment"]
    actions.examine(version, actor=request.user, environment=environment)
    messages.success(request, f"The examination of {version}{f' for {environment}' * bool(environment)} is asked for.")
    return redirect("version-detail", pk)


@verb
def approve(request: Request, pk: int) -> HttpResponse:
    version = pages.version(pk)
    actions.approve(version, actor=request.user, **said(DecisionForm(request.POST)))
    messages.success(request, f"{version} is approved.")
    return redirect("version-detail", pk)


@verb
def refuse(request: Request, pk: int) -> HttpResponse:
    version, decision = pages.version(pk), said(DecisionForm(request.POST))
    actions.refuse(version, actor=request.user, note=decision["note"], seen_run=decision["seen_run"])
    messages.success(request, f"{version} is refused.")
    return redirect("version-detail", pk)


@verb
def suspend(request: Request, pk: int) -> HttpResponse:
    version = pages.version(pk)
    actions.suspend(version, actor=request.user, **said(SuspendForm(request.POST)))
    messages.success(request, f"{version} is suspended.")
    return redirect("version-detail", pk)
