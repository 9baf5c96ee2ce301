"""Pages of models and versions: parse, call one action or one query, answer."""

from __future__ import annotations

from typing import Any

from django.contrib import messages
from django.http import HttpResponse
from django.shortcuts import get_object_or_404, redirect, render

from deploypipe.core.errors import Invalid
from deploypipe.core.pages import Request, answer, curl, page, paged, verb
from registry import actions, charts, examinations, pages
from registry.forms import DecisionForm
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
    version = pages.version(pk)
    actions.examine(version, actor=request.user)
    messages.success(request, f"The examination of {version} is asked for.")
    return redirect("version-detail", pk)


@verb
def approve(request: Request, pk: int) -> HttpResponse:
    version, said = pages.version(pk), _decision(request)
    actions.approve(
        version, actor=request.user, note=said["note"], override=said["override"], seen_run=said["seen_run"]
    )
    messages.success(request, f"{version} is approved.")
    return redirect("version-detail", pk)


@verb
def refuse(request: Request, pk: int) -> HttpResponse:
    version, said = pages.version(pk), _decision(request)
    actions.refuse(version, actor=request.user, note=said["note"], seen_run=said["seen_run"])
    messages.success(request, f"{version} is refused.")
    return redirect("version-detail", pk)


def _decision(request: Request) -> dict[str, Any]:
    form = DecisionForm(request.POST)
    if not form.is_valid():
        raise Invalid("The decision was not understood.", fields={k: str(v[0]) for k, v in form.errors.items()})
    return form.cleaned_data
