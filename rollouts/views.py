"""Pages of rollouts: parse, call one action or one query, answer."""

from __future__ import annotations

from django.contrib import messages
from django.http import Http404, HttpResponse, JsonResponse
from django.shortcuts import get_object_or_404, redirect, render

from deploypipe.core import roles
from deploypipe.core.errors import Invalid
from deploypipe.core.pages import Request, answer, attempt, curl, form_page, page, paged, verb
from registry.models import ModelVersion, RegisteredModel
from rollouts import actions, chart_data, charts, pages
from rollouts.forms import ReasonForm, RolloutForm
from rollouts.models import Rollout

DONE = {
    "pause": "Rollout {} is paused.",
    "resume": "Rollout {} goes on.",
    "promote": "Rollout {} goes on past where it was.",
    "approve": "The step of rollout {} is approved.",
    "abort": "Rollout {} turns back.",
    "rollback": "Rollout {} is being taken back.",
}


@page
def rollout_list(request: Request) -> HttpResponse:
    asked = request.GET.dict()
    found = paged(request, pages.narrowed(asked), 30)
    body = {"model": "textgen", "version": 1, "environment": "staging"}
    context = {
        "page_obj": found,
        "lines": pages.lines(found),
        "asked": asked,
        "environments": pages.environments(),
        "models": RegisteredModel.objects.values_list("name", flat=True),
        "may_not_request": roles.refusal(request.user, "rollouts.request"),
        "command": curl(request, "/api/v1/rollouts/", body),
    }
    return answer(request, "rollouts/list.html", "rollouts/_list.html", context)


@form_page
def rollout_new(request: Request) -> HttpResponse:
    form = RolloutForm(request.POST or None, initial={"version": request.GET.get("version")})
    asked = attempt(
        request, form, lambda: actions.request(actor=request.user, **form.cleaned_data), {"steps": "strategy"}
    )
    if rollout := asked.result:
        messages.success(request, f"{rollout.version} is on its way to {rollout.environment}.")
        return redirect("rollout-detail", rollout.pk)
    context = {"form": form, "strategies": pages.strategies(), "chosen": form["strategy"].value()}
    context["may_not"] = roles.refusal(request.user, "rollouts.request")
    return render(request, "rollouts/new.html", context, status=asked.status)


@page
def rollout_detail(request: Request, pk: int) -> HttpResponse:
    rollout = pages.rollout(pk)
    return render(request, "rollouts/detail.html", pages.of_rollout(rollout, request) | chart_data.charts_of(rollout))


@page
def rollout_status(request: Request, pk: int) -> HttpResponse:
    return render(request, "rollouts/_status.html", pages.of_rollout(pages.rollout(pk), request))


@page
def rollout_charts(request: Request, pk: int) -> HttpResponse:
    rollout = pages.rollout(pk)
    return render(request, "rollouts/_charts.html", {"rollout": rollout} | chart_data.charts_of(rollout))


@page
def rollout_chart(request: Request, pk: int, name: str) -> HttpResponse:
    if name not in charts.NAMES:
        raise Http404(f"There are the charts {', '.join(charts.NAMES)}.")
    return JsonResponse(chart_data.figures(pages.rollout(pk)).get(name, {"data": [], "layout": {}}))


@verb
def rollout_verb(request: Request, pk: int, verb: str) -> HttpResponse:
    if verb not in DONE:
        raise Http404(f"There are the verbs {', '.join(DONE)}.")
    rollout, form = pages.rollout(pk), ReasonForm(request.POST)
    if not form.is_valid():
        raise Invalid("The reason was not understood.", fields={k: str(v[0]) for k, v in form.errors.items()})
    _carry_out(rollout, verb, request, form.cleaned_data["reason"], full=form.cleaned_data["full"])
    messages.success(request, DONE[verb].format(pk))
    return redirect("rollout-detail", pk)


def _carry_out(rollout: Rollout, verb: str, request: Request, reason: str, *, full: bool) -> None:
    match verb:
        case "approve":
            actions.approve_step(rollout, actor=request.user, note=reason)
        case "promote":
            actions.promote(rollout, actor=request.user, full=full, reason=reason)
        case _:
            getattr(actions, verb)(rollout, actor=request.user, reason=reason)


@page
def version_rollouts(request: Request, pk: int) -> HttpResponse:
    """Where a version is deployed, for the page of that version."""
    version = get_object_or_404(ModelVersion.objects.select_related("model"), pk=pk)
    context = pages.of_version(version) | {"may_not_request": roles.refusal(request.user, "rollouts.request")}
    return render(request, "rollouts/_of_version.html", context)


@page
def model_live(request: Request, name: str) -> HttpResponse:
    """Who has the traffic of a model, for the page of that model."""
    model = get_object_or_404(RegisteredModel, name=name)
    return render(request, "rollouts/_of_model.html", {"model": model, "serving": pages.serving(model=model)})
