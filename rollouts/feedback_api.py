"""REST of feedback: what users say of answers. Here, where routes are known; what is said goes down to metrics."""

from __future__ import annotations

from typing import Any

from django.utils import timezone
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.throttling import BaseThrottle, UserRateThrottle
from rest_framework.views import APIView

from deploypipe.core import roles
from deploypipe.core.api import MayView, person, read
from deploypipe.core.errors import Invalid
from deploypipe.metrics import feedback
from deploypipe.metrics.feedback_items import MOST_ITEMS
from deploypipe.metrics.models import FeedbackTotals
from registry.models import RegisteredModel
from rollouts.models import Environment


class Posts(UserRateThrottle):
    """Twenty thousand items a second at most from one account: a loop gone wrong cannot fill the disk."""

    scope = "feedback"
    rate = "1200/min"


class FeedbackIn(serializers.Serializer[Any]):
    environment = serializers.CharField(max_length=40)
    model = serializers.CharField(max_length=40)
    items = serializers.ListField(
        child=serializers.JSONField(allow_null=True), allow_empty=False, max_length=MOST_ITEMS
    )


class FeedbackView(APIView):
    """POST a batch of what was said; GET `?environment=&model=` how much came and what became of it."""

    permission_classes = [MayView]

    def get_throttles(self) -> list[BaseThrottle]:
        return [Posts()] if self.request.method == "POST" else []

    def post(self, request: Request) -> Response:
        roles.require(person(request), "metrics.post_feedback")
        values = read(FeedbackIn, request)
        environment, model = _route(values["environment"], values["model"])
        receipt = feedback.accept(environment, model, values["items"], timezone.now())
        return Response(
            {
                "accepted": receipt.accepted,
                "duplicates": receipt.duplicates,
                "rejected": [each.to_json() for each in receipt.rejected],
            },
            status=202,
        )

    def get(self, request: Request) -> Response:
        asked = {name: request.query_params.get(name, "") for name in ("environment", "model")}
        if missing := {name: "say which" for name, value in asked.items() if not value}:
            raise Invalid("Say of which route.", fields=missing)
        environment, model = _route(asked["environment"], asked["model"])
        totals = FeedbackTotals.objects.filter(environment=environment, model=model).first() or FeedbackTotals()
        names = ("accepted", "duplicates", "rejected", "waiting", "matched", "unmatched")
        return Response({"environment": environment, "model": model, **{name: getattr(totals, name) for name in names}})


def _route(environment: str, model: str) -> tuple[str, str]:
    fields = {}
    for name, value, known in (
        ("environment", environment, Environment.objects.all()),
        ("model", model, RegisteredModel.objects.all()),
    ):
        if not known.filter(name=value).exists():
            there = ", ".join(known.order_by("name").values_list("name", flat=True)[:20])
            fields[name] = f"{value!r}: use one of {there}" if there else f"{value!r}: there is none yet"
    if fields:
        raise Invalid("There is no such route.", fields=fields)
    return environment, model
