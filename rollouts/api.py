"""REST of rollouts: parse, call one action or one query, answer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from django.db.models import QuerySet
from django.shortcuts import get_object_or_404
from rest_framework import generics
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from deploypipe.core.api import MayView, person, read, request_key
from deploypipe.core.errors import Invalid
from registry.models import ModelVersion
from rollouts import actions
from rollouts.lifecycle import Purpose, Status
from rollouts.models import Environment, Rollout, Strategy
from rollouts.serializers import (
    DropArmIn,
    EnvironmentOut,
    PromoteIn,
    ReasonIn,
    RolloutIn,
    RolloutOut,
    StrategyIn,
    StrategyOut,
)

DEFAULT_STRATEGY = "canary"


def version_named(model: str, number: int) -> ModelVersion:
    version = ModelVersion.objects.select_related("model").filter(model__name=model, number=number).first()
    if version is None:
        raise Invalid("There is no such version.", fields={"version": f"{model} has no version {number}"})
    return version


def arms_named(model: str, numbers: Sequence[int]) -> list[ModelVersion]:
    found = {v.number: v for v in ModelVersion.objects.filter(model__name=model, number__in=numbers)}
    if missing := {f"arms[{i}]": f"{model} has no version {n}" for i, n in enumerate(numbers) if n not in found}:
        raise Invalid("There is no such version.", fields=missing)
    return [found[number] for number in numbers]


def environment_named(name: str) -> Environment:
    environment = Environment.objects.filter(name=name).first()
    if environment is None:
        known = ", ".join(Environment.objects.values_list("name", flat=True))
        raise Invalid("There is no such environment.", fields={"environment": f"{name!r}: use one of {known}"})
    return environment


def strategy_named(name: str) -> Strategy:
    strategy = Strategy.objects.filter(name=name).first()
    if strategy is None:
        known = ", ".join(Strategy.objects.values_list("name", flat=True))
        raise Invalid("There is no such strategy.", fields={"strategy": f"{name!r}: use one of {known}"})
    return strategy


def rollouts() -> QuerySet[Rollout]:
    return Rollout.objects.select_related(
        "environment", "model", "version__model", "requested_by", "previous__version"
    ).prefetch_related("steps__approved_by", "arms__version", "arms__deployment")


class RolloutList(generics.ListAPIView[Rollout]):
    """`?environment=`, `?model=` and `?status=` narrow the list. POST takes an Idempotency-Key header."""

    permission_classes = [MayView]
    serializer_class = RolloutOut
    filters: ClassVar[dict[str, str]] = {"environment": "environment__name", "model": "model__name", "status": "status"}

    def get_queryset(self) -> QuerySet[Rollout]:
        asked = self.request.query_params
        status = asked.get("status")
        if status and status not in list(Status):
            raise Invalid("There is no such status.", fields={"status": f"{status!r}: use one of {', '.join(Status)}"})
        return rollouts().filter(**{field: asked[name] for name, field in self.filters.items() if name in asked})

    def post(self, request: Request) -> Response:
        values = read(RolloutIn, request)
        if "steps" in values and "strategy" in values:
            raise Invalid("Give one of both.", fields={"steps": "leave it out to use the strategy"})
        rollout = actions.request(
            version_named(values["model"], values["version"]),
            environment_named(values["environment"]),
            actor=person(request),
            strategy=None if "steps" in values else strategy_named(values.get("strategy", DEFAULT_STRATEGY)),
            steps=values.get("steps"),
            purpose=Purpose(values["purpose"]),
            arms=arms_named(values["model"], values["arms"]),
            arm_weights=values["arm_weights"],
            routing=values["routing"],
            holdout_percent=values["holdout_percent"],
            options=values["options"],
            rollback_on_failure=values["rollback_on_failure"],
            trigger="api",
            note=values["note"],
            request_key=request_key(request),
        )
        return Response(RolloutOut(rollout).data, status=201)


class RolloutDetail(generics.RetrieveAPIView[Rollout]):
    permission_classes = [MayView]
    serializer_class = RolloutOut

    def get_queryset(self) -> QuerySet[Rollout]:
        return rollouts()


class RolloutVerb(APIView):
    """POST /rollouts/{id}/{verb}/ for each verb that takes a reason."""

    permission_classes = [MayView]
    verb: ClassVar[str] = ""

    def post(self, request: Request, pk: int, verb: str) -> Response:
        rollout = get_object_or_404(rollouts(), pk=pk)
        values: dict[str, Any] = read(_SHAPES.get(verb, ReasonIn), request)
        if verb == "approve":
            actions.approve_step(rollout, actor=person(request), note=values["reason"])
        elif verb == "drop-arm":
            actions.drop_arm(rollout, values["arm"], values["reason"], actor=person(request))
        else:
            getattr(actions, verb)(rollout, actor=person(request), **values)
        return Response(RolloutOut(get_object_or_404(rollouts(), pk=pk)).data)


_SHAPES: dict[str, type[ReasonIn]] = {"promote": PromoteIn, "drop-arm": DropArmIn}


class EnvironmentList(generics.ListAPIView[Environment]):
    permission_classes = [MayView]
    serializer_class = EnvironmentOut
    queryset = Environment.objects.all()


class StrategyList(generics.ListAPIView[Strategy]):
    permission_classes = [MayView]
    serializer_class = StrategyOut
    queryset = Strategy.objects.all()

    def post(self, request: Request) -> Response:
        values = read(StrategyIn, request)
        strategy = actions.save_strategy(
            values["name"], values["steps"], actor=person(request), description=values["description"]
        )
        return Response(StrategyOut(strategy).data, status=201)
