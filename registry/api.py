"""REST of the registry: parse, call one action or one query, answer."""

from __future__ import annotations

from django.db.models import QuerySet
from django.shortcuts import get_object_or_404
from rest_framework import generics
from rest_framework.exceptions import NotFound
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from deploypipe.core.api import MayView, person, read, request_key
from deploypipe.core.errors import Invalid
from registry import actions
from registry.lifecycle import Stage
from registry.models import ModelVersion, RegisteredModel
from registry.serializers import (
    ApprovalOut,
    DecisionIn,
    ExamineIn,
    ModelIn,
    ModelOut,
    QARunOut,
    ReasonIn,
    TagIn,
    VersionIn,
    VersionOut,
)


def versions() -> QuerySet[ModelVersion]:
    return ModelVersion.objects.select_related("model", "registered_by").prefetch_related("tags")


class ModelList(generics.ListAPIView[RegisteredModel]):
    permission_classes = [MayView]
    serializer_class = ModelOut
    queryset = RegisteredModel.objects.select_related("created_by")

    def post(self, request: Request) -> Response:
        values = read(ModelIn, request)
        model = actions.create_model(values["name"], actor=person(request), description=values["description"])
        return Response(ModelOut(model).data, status=201)


class ModelDetail(generics.RetrieveAPIView[RegisteredModel]):
    permission_classes = [MayView]
    serializer_class = ModelOut
    queryset = RegisteredModel.objects.select_related("created_by")
    lookup_field = "name"


class VersionList(generics.ListAPIView[ModelVersion]):
    """`?stage=` narrows the list. A POST repeated with its Idempotency-Key answers with the first one's version."""

    permission_classes = [MayView]
    serializer_class = VersionOut

    def get_queryset(self) -> QuerySet[ModelVersion]:
        model = get_object_or_404(RegisteredModel, name=self.kwargs["name"])
        found = versions().filter(model=model)
        stage = self.request.query_params.get("stage")
        if stage and stage not in list(Stage):
            raise Invalid("There is no such stage.", fields={"stage": f"{stage!r}: use one of {', '.join(Stage)}"})
        return found.filter(stage=stage) if stage else found

    def post(self, request: Request, name: str) -> Response:
        model = get_object_or_404(RegisteredModel, name=name)
        values = read(VersionIn, request)
        version = actions.register(model, actor=person(request), request_key=request_key(request), **values)
        return Response(VersionOut(version).data, status=201)


class VersionDetail(generics.RetrieveAPIView[ModelVersion]):
    permission_classes = [MayView]
    serializer_class = VersionOut

    def get_queryset(self) -> QuerySet[ModelVersion]:
        return versions()


class VersionReport(APIView):
    """The newest examination with every result."""

    permission_classes = [MayView]

    def get(self, request: Request, pk: int) -> Response:
        version = get_object_or_404(ModelVersion, pk=pk)
        run = version.qa_runs.prefetch_related("results").order_by("-pk").first()
        if run is None:
            raise NotFound("This version has not been examined yet.")
        return Response(QARunOut(run).data)


class Examine(APIView):
    permission_classes = [MayView]

    def post(self, request: Request, pk: int) -> Response:
        version = get_object_or_404(versions(), pk=pk)
        run = actions.examine(version, actor=person(request), **read(ExamineIn, request))
        return Response(QARunOut(run).data, status=202)


class Approve(APIView):
    permission_classes = [MayView]

    def post(self, request: Request, pk: int) -> Response:
        approval = actions.approve(
            get_object_or_404(versions(), pk=pk), actor=person(request), **read(DecisionIn, request)
        )
        return Response(ApprovalOut(approval).data, status=201)


class Refuse(APIView):
    permission_classes = [MayView]

    def post(self, request: Request, pk: int) -> Response:
        values = read(DecisionIn, request)
        approval = actions.refuse(
            get_object_or_404(versions(), pk=pk),
            actor=person(request),
            note=values["note"],
            seen_run=values["seen_run"],
        )
        return Response(ApprovalOut(approval).data, status=201)


class Suspend(APIView):
    permission_classes = [MayView]

    def post(self, request: Request, pk: int) -> Response:
        version = get_object_or_404(versions(), pk=pk)
        actions.suspend(version, actor=person(request), **read(ReasonIn, request))
        return Response(VersionOut(version).data)


class Retire(APIView):
    permission_classes = [MayView]

    def post(self, request: Request, pk: int) -> Response:
        version = get_object_or_404(versions(), pk=pk)
        actions.retire(version, actor=person(request), **read(ReasonIn, request))
        return Response(VersionOut(version).data)


class Tags(APIView):
    """Sets one tag; the others stay."""

    permission_classes = [MayView]

    def post(self, request: Request, pk: int) -> Response:
        actions.tag(get_object_or_404(versions(), pk=pk), actor=person(request), **read(TagIn, request))
        return Response(VersionOut(get_object_or_404(versions(), pk=pk)).data)
