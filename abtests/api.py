from __future__ import annotations

from typing import Any

from django.db.models import OuterRef, QuerySet, Subquery
from django.http import StreamingHttpResponse
from django.shortcuts import get_object_or_404
from rest_framework import generics, serializers
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from abtests import actions, evidence_file
from abtests.models import Experiment, Snapshot
from abtests.serializers import ExperimentIn, ExperimentOut
from abtests.streaming import streamed
from deploypipe.core.api import MayView, person, read
from rollouts.api import arms_named, environment_named, version_named
from rollouts.serializers import ReasonIn


def experiments() -> QuerySet[Experiment]:
    """With the newest look of each, not all of them: there is one every second."""
    newest = Snapshot.objects.filter(experiment=OuterRef("pk")).order_by("-pk")
    rows = Experiment.objects.select_related(
        "environment", "rollout", "stable__model", "candidate__model", "winner__model"
    ).defer("progress")
    rows = rows.prefetch_related("rollout__arms__version__model")
    return rows.annotate(latest=Subquery(newest.values("detail")[:1]))


class ExperimentList(generics.ListAPIView[Experiment]):
    permission_classes = [MayView]
    serializer_class = ExperimentOut

    def get_queryset(self) -> QuerySet[Experiment]:
        return experiments()

    def post(self, request: Request) -> Response:
        values = read(ExperimentIn, request)
        experiment = actions.start(
            version_named(values["model"], values["version"]),
            environment_named(values["environment"]),
            actor=person(request),
            name=values["name"],
            traffic_percent=values["traffic_percent"],
            settings=values["settings"],
            arms=arms_named(values["model"], values["arms"]),
            arm_weights=values["arm_weights"],
            routing=values["routing"],
            holdout_percent=values["holdout_percent"],
            trigger="api",
        )
        return Response(ExperimentOut(experiments().get(pk=experiment.pk)).data, status=201)


class ExperimentDetail(generics.RetrieveAPIView[Experiment]):
    permission_classes = [MayView]
    serializer_class = ExperimentOut

    def get_queryset(self) -> QuerySet[Experiment]:
        return experiments()


class ExperimentStop(APIView):
    permission_classes = [MayView]

    def post(self, request: Request, pk: int) -> Response:
        experiment = get_object_or_404(experiments(), pk=pk)
        actions.stop(experiment, actor=person(request), reason=read(ReasonIn, request)["reason"])
        return Response(ExperimentOut(experiment).data)


class AgreeIn(serializers.Serializer[Any]):
    verdict = serializers.ChoiceField(["promote", "abort"])
    reason = serializers.CharField(required=False, default="", allow_blank=True, max_length=5000)


class ExperimentAgree(APIView):
    """Carry out a verdict that waits for a person."""

    permission_classes = [MayView]

    def post(self, request: Request, pk: int) -> Response:
        experiment, values = get_object_or_404(experiments(), pk=pk), read(AgreeIn, request)
        actions.agree(experiment, values["verdict"], actor=person(request), reason=values["reason"])
        return Response(ExperimentOut(experiment).data)


class ExperimentEvidence(APIView):
    """All that its verdicts were computed from, as one file: `abtests.evidence`."""

    permission_classes = [MayView]

    def get(self, request: Request, pk: int) -> StreamingHttpResponse:
        experiment = get_object_or_404(experiments(), pk=pk)
        lines = evidence_file.lines(experiment)
        answer = streamed(request._request, lines, content_type="application/json")
        answer["Content-Disposition"] = f'attachment; filename="experiment-{experiment.pk}-evidence.json"'
        return answer
