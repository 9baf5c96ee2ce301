"""Pages of experiments: parse, call one action or one query, answer."""

from __future__ import annotations

from django.contrib import messages
from django.http import HttpResponse
from django.shortcuts import redirect, render

from abtests import actions, pages
from abtests.forms import FIELDS, ExperimentForm, ReasonForm
from abtests.models import Experiment
from deploypipe.core import roles
from deploypipe.core.errors import Invalid
from deploypipe.core.pages import Request, answer, attempt, curl, form_page, page, paged, verb


@form_page
def experiment_list(request: Request) -> HttpResponse:
    form = ExperimentForm(request.POST or None)
    asked = attempt(request, form, lambda: _start(form, request), FIELDS)
    if started := asked.result:
        messages.success(request, f"The experiment {started} is on its way.")
        return redirect("experiment-detail", started.pk)
    return answer(request, "abtests/list.html", "abtests/_list.html", _listed(request, form), status=asked.status)


def _start(form: ExperimentForm, request: Request) -> Experiment:
    given = form.cleaned_data
    return actions.start(
        given["version"],
        given["environment"],
        actor=request.user,
        name=given["name"],
        traffic_percent=given["traffic_percent"],
        settings=form.settings,
    )


def _listed(request: Request, form: ExperimentForm) -> dict[str, object]:
    body = {"model": "textgen", "version": 2, "environment": "production", "traffic_percent": 50}
    return {
        "form": form,
        "page_obj": paged(request, pages.experiments(), 30),
        "may_not": roles.refusal(request.user, "abtests.run"),
        "command": curl(request, "/api/v1/experiments/", body),
    }


@page
def experiment_detail(request: Request, pk: int) -> HttpResponse:
    return render(request, "abtests/detail.html", pages.of_experiment(pages.experiment(pk), request))


@page
def experiment_results(request: Request, pk: int) -> HttpResponse:
    return render(request, "abtests/_results.html", pages.of_experiment(pages.experiment(pk), request))


@verb
def experiment_stop(request: Request, pk: int) -> HttpResponse:
    form = ReasonForm(request.POST)
    if not form.is_valid():
        raise Invalid("The reason was not understood.", fields={k: str(v[0]) for k, v in form.errors.items()})
    actions.stop(pages.experiment(pk), actor=request.user, reason=form.cleaned_data["reason"])
    messages.success(request, f"Experiment {pk} is stopped.")
    return redirect("experiment-detail", pk)


@page
def rollout_experiments(request: Request, pk: int) -> HttpResponse:
    """The experiments that run in a rollout's steps, for the page of that rollout."""
    return render(request, "abtests/_of_rollout.html", {"experiments": pages.experiments().filter(rollout=pk)})
