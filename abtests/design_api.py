"""What an experiment would cost, as the form says it."""

from __future__ import annotations

from django.shortcuts import get_object_or_404
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from abtests.designs import designed
from abtests.serializers import ExperimentIn
from deploypipe.core.api import MayView, read
from registry.models import RegisteredModel
from rollouts.api import environment_named


class DesignIn(ExperimentIn):
    """The body that would start it; of the versions only their number counts."""

    version = serializers.IntegerField(min_value=1, required=False)


class ExperimentDesign(APIView):
    permission_classes = [MayView]

    def post(self, request: Request) -> Response:
        values = read(DesignIn, request)
        found = designed(
            get_object_or_404(RegisteredModel, name=values["model"]),
            environment_named(values["environment"]),
            values["settings"],
            traffic_percent=values["traffic_percent"],
            candidates=1 + len(values["arms"]),
            holdout_percent=values["holdout_percent"],
        )
        return Response(found.to_json())
