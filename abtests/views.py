"""Pages of experiments: parse, call one action or one query, answer."""

from __future__ import annotations

from typing import Any

from django.contrib import messages
from django.http import HttpResponse, JsonResponse
from django.shortcuts import redirect, render

from abtests import actions, pages
from abtests.designs import designed
from abtests.form_criteria import filled
from abtests.forms import FIELDS, ExperimentForm, ReasonForm
from abtests.models import Experiment
from deploypipe.core import roles
from deploypipe.core.errors import Conflict, Invalid
from deploypipe.core.pages import Request, answer, attempt, curl, explain, form_page, page, paged, verb
from rollouts import actions as rollout_actions

FORECAST, TAKE = "forecast", "take_percent"
"""Names of the buttons that ask for the forecast alone, and that take over the share of traffic which it suggests."""


@page
def experiment_list(request: Request) -> HttpResponse:
    body = {"model": "textgen", "version": 2, "environment": "production", "traffic_percent": 50}
    found = paged(request, pages.listed(), 30)
    context = {
        "page_obj": found,
        "lines": pages.lines(found),
        "may_not": roles.refusal(request.user, "abtests.run"),
        "command": curl(request, "/api/v1/experiments/", body),
    }
    return answer(request, "abtests/list.html", "abtests/_list.html", context)


@form_page
def experiment_new(request: Request) -> HttpResponse:
    may_not = {"may_not": roles.refusal(request.user, "abtests.run")}
    if FORECAST in request.POST or TAKE in request.POST:
        form = _filled_form(request)
        return render(request, "abtests/new.html", {"form": form, **may_not, **forecast(form)})
    form = ExperimentForm(request.POST or None, initial=_asked_for(request))
    asked = attempt(request, form, lambda: _start(form, request), FIELDS)
    if started := asked.result:
        messages.success(request, f"The experiment {started} is on its way.")
        return redirect("experiment-detail", started.pk)
    told = forecast(form) if asked.status == Conflict.status else {}
    return render(request, "abtests/new.html", {"form": form, **may_not, **told}, status=asked.status)


def _asked_for(request: Request) -> dict[str, Any]:
    return {name: request.GET[name] for name in ("version", "environment") if request.GET.get(name, "").isdigit()}


def _start(form: ExperimentForm, request: Request) -> Experiment:
    given = form.cleaned_data
    return actions.start(
        given["version"],
        given["environment"],
        actor=request.user,
        name=given["name"],
        traffic_percent=given["traffic_percent"],
        settings=form.settings,
        arms=form.arms,
        routing=form.routing,
        holdout_percent=given["holdout_percent"] or 0.0,
    )


def _filled_form(request: Request) -> ExperimentForm:
    data = request.POST.copy()
    for name, value in (filled(data) or {}).items():
        data[name] = value
    if TAKE in data:
        data["traffic_percent"] = str(data[TAKE])
    return ExperimentForm(data)


def forecast(form: ExperimentForm) -> dict[str, Any]:
    """What the panel beside the form shows: the forecast, or what is missing for it."""
    if not form.is_valid():
        shown = [(form[name].label, str(said[0])) for name, said in form.errors.items() if name in form.fields]
        return {"missing": [said if said.startswith("Choose") else f"{label}: {said}" for label, said in shown]}
    given = form.cleaned_data
    try:
        found = designed(
            given["version"].model,
            given["environment"],
            form.settings,
            traffic_percent=given["traffic_percent"],
            candidates=1 + len(form.arms),
            holdout_percent=given["holdout_percent"] or 0.0,
        )
    except Invalid as error:
        explain(form, error, FIELDS)
        return {"missing": [_sentence(right) for right in error.fields.values()]}
    suggested = found.suggested_share
    return {"design": found, "suggested": None if suggested is None else f"{100 * suggested:g}"}


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:].rstrip(".") + "."


@verb
def experiment_forecast(request: Request) -> HttpResponse:
    """The panel alone; and the fields that were filled: the criteria by a preset, the traffic by a suggestion."""
    form = _filled_form(request)
    context = {"form": form, "refilled": filled(request.POST) is not None, "taken": TAKE in request.POST}
    return render(request, "abtests/_forecast.html", context | forecast(form))


@page
def experiment_detail(request: Request, pk: int) -> HttpResponse:
    one = pages.experiment(pk)
    return render(request, "abtests/detail.html", pages.of_experiment(one, request) | pages.charts_of(one))


@page
def experiment_results(request: Request, pk: int) -> HttpResponse:
    return render(request, "abtests/_results.html", pages.of_experiment(pages.experiment(pk), request))


@page
def experiment_looks(request: Request, pk: int) -> HttpResponse:
    return render(request, "abtests/_looks.html", pages.looks_of(pages.experiment(pk), request))


@page
def experiment_charts(request: Request, pk: int) -> HttpResponse:
    return render(request, "abtests/_charts.html", pages.charts_of(pages.experiment(pk)))


@page
def experiment_chart(request: Request, pk: int, name: str) -> HttpResponse:
    return JsonResponse(pages.chart_of(pages.experiment(pk), name))


@verb
def experiment_stop(request: Request, pk: int) -> HttpResponse:
    actions.stop(pages.experiment(pk), actor=request.user, reason=_reason(request))
    messages.success(request, f"Experiment {pk} is stopped.")
    return redirect("experiment-detail", pk)


@verb
def experiment_agree(request: Request, pk: int, verdict: str) -> HttpResponse:
    actions.agree(pages.experiment(pk), verdict, actor=request.user, reason=_reason(request))
    messages.success(request, f"Experiment {pk} ended as it was found: {verdict}.")
    return redirect("experiment-detail", pk)


@verb
def experiment_drop(request: Request, pk: int, arm: str) -> HttpResponse:
    one = pages.experiment(pk)
    rollout_actions.drop_arm(one.rollout, arm, _reason(request), actor=request.user)
    messages.success(request, f"{one.versions.get(arm, arm)} is taken off; the others go on.")
    return redirect("experiment-detail", pk)


def _reason(request: Request) -> str:
    form = ReasonForm(request.POST)
    if not form.is_valid():
        raise Invalid("The reason was not understood.", fields={k: str(v[0]) for k, v in form.errors.items()})
    reason: str = form.cleaned_data["reason"]
    return reason


@page
def rollout_experiments(request: Request, pk: int) -> HttpResponse:
    """The experiments that run in a rollout's steps, for the page of that rollout."""
    return render(request, "abtests/_of_rollout.html", {"experiments": pages.experiments().filter(rollout=pk)})
