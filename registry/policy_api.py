"""REST of policies: parse, call one action or one query, answer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import IO, Any

from django.db.models import QuerySet
from django.http import HttpResponse
from django.shortcuts import get_object_or_404
from rest_framework import generics
from rest_framework.parsers import BaseParser, MultiPartParser
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from deploypipe.core.api import FileView, MayView, person, read
from deploypipe.core.errors import Invalid
from registry import policies, policy_actions
from registry.models import QAPolicy, RegisteredModel
from registry.policies import Effective
from registry.policy_actions import Saved
from registry.policy_files import YAML, file_of, file_of_effective
from registry.qa.pipeline_config import ConfigError
from registry.qa.places import LARGEST
from registry.serializers import PolicyImportIn, PolicyIn, PolicyOut, PolicyRestoreIn


class Yaml(BaseParser):
    """The bytes as they are: the reader of the file tells all that is wrong with them."""

    media_type = YAML

    def parse(
        self, stream: IO[Any], media_type: str | None = None, parser_context: Mapping[str, Any] | None = None
    ) -> Any:
        return bytes(stream.read(LARGEST + 1))


class OtherYaml(Yaml):
    media_type = "application/x-yaml"


class TextYaml(Yaml):
    media_type = "text/yaml"


class PolicyList(APIView):
    """What holds for `?model=` in `?environment=`, with the origin of each value; POST makes the next number."""

    permission_classes = [MayView]

    def get(self, request: Request) -> Response:
        return Response(effective_json(policies.effective(*policies.asked_for(request.query_params))))

    def post(self, request: Request) -> Response:
        given = read(PolicyIn, request)
        model, environment = policies.asked_for(given)
        saved = policy_actions.save_policy(
            model,
            environment,
            given["values"],
            actor=person(request),
            note=given["note"],
            seen=given["seen"],
        )
        return answered(saved)


class PolicyHistory(generics.ListAPIView[QAPolicy]):
    """Every number, newest first. `?model=` and `?environment=` narrow it; given without a value: those of all."""

    permission_classes = [MayView]
    serializer_class = PolicyOut

    def get_queryset(self) -> QuerySet[QAPolicy]:
        asked = self.request.query_params
        found = QAPolicy.objects.select_related("model", "created_by")
        model, environment = policies.asked_for(asked)
        if "model" in asked:
            found = found.filter(model=model)
        return found.filter(environment=environment) if "environment" in asked else found


class PolicyDetail(generics.RetrieveAPIView[QAPolicy]):
    permission_classes = [MayView]
    serializer_class = PolicyOut
    queryset = QAPolicy.objects.select_related("model", "created_by")


class PolicyRestore(APIView):
    permission_classes = [MayView]

    def post(self, request: Request, pk: int) -> Response:
        given = read(PolicyRestoreIn, request)
        policy = get_object_or_404(QAPolicy.objects.select_related("model"), pk=pk)
        return answered(policy_actions.restore(policy, actor=person(request), **given))


class PolicyExport(FileView):
    """All that holds for `?model=` in `?environment=`, as one file."""

    def get(self, request: Request) -> HttpResponse:
        return file_of_effective(policies.effective(*policies.asked_for(request.query_params)))


class PolicyOwnExport(FileView):
    """What one number says itself, as it was imported."""

    def get(self, request: Request, pk: int) -> HttpResponse:
        return file_of(get_object_or_404(QAPolicy.objects.select_related("model"), pk=pk))


class PolicyImport(APIView):
    """`?model=&environment=&note=&seen=`; with `?dry_run=true` it says what would change, and changes nothing."""

    permission_classes = [MayView]
    parser_classes = [Yaml, OtherYaml, TextYaml, MultiPartParser]

    def post(self, request: Request) -> Response:
        asked = PolicyImportIn(data=request.query_params.dict())
        if unknown := sorted(set(request.query_params) - set(asked.fields)):
            known = ", ".join(sorted(asked.fields))
            raise Invalid("Unknown field.", fields=dict.fromkeys(unknown, f"is not a field here; there are: {known}"))
        if not asked.is_valid():
            raise Invalid("Some fields are wrong.", fields={k: " ".join(map(str, v)) for k, v in asked.errors.items()})
        given = asked.validated_data
        model, environment = policies.asked_for(given)
        text = _file(request)
        if given["dry_run"]:
            return Response(_preview(text, model, environment))
        saved = policy_actions.import_config(
            text, model, environment, actor=person(request), note=given["note"], seen=given["seen"]
        )
        return answered(saved)


def _preview(text: bytes, model: RegisteredModel | None, environment: str) -> dict[str, Any]:
    try:
        found = policy_actions.preview(text, model, environment)
    except ConfigError as error:
        raise policy_actions.unusable(error) from None
    return {
        "model": model.name if model else "",
        "environment": environment,
        "values": found.config.values,
        "pipeline": found.config.pipeline,
        "changes": [change.to_json() for change in found.effective],
        "own_changes": [change.to_json() for change in found.own],
        "pipeline_changes": [change.to_json() for change in found.pipeline],
        "changes_nothing": found.is_empty,
    }


def _file(request: Request) -> bytes:
    body: object = request.data
    if isinstance(body, bytes):
        return body
    # A part like dry_run that is passed over would set what was only to be looked at.
    if others := sorted(set(request.data) - {"file"}):
        raise Invalid("Unknown part.", fields=dict.fromkeys(others, "give it in the address: ?model=&dry_run=true"))
    file = request.FILES.get("file")
    if file is None:
        raise Invalid("There is no file.", fields={"file": "send the YAML as the body, or as a part named file"})
    return bytes(file.read(LARGEST + 1))


def answered(saved: Saved) -> Response:
    return Response(PolicyOut(saved.policy).data, status=201 if saved.is_new else 200)


def effective_json(found: Effective) -> dict[str, Any]:
    origins = {name: found.origin(name) for name in found.resolved.origins}
    return {
        "model": found.model.name if found.model else "",
        "environment": found.environment,
        "values": found.policy.to_json(),
        "origins": {name: origin.pk if origin else None for name, origin in origins.items()},
        "sources": found.sources,
    }
