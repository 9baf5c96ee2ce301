"""What every REST endpoint shares: one error shape {code, message, fields}, pages, and reading of input."""

from __future__ import annotations

from typing import Any

from django.contrib.auth.models import User
from django.http import Http404
from rest_framework import exceptions, serializers
from rest_framework.pagination import CursorPagination
from rest_framework.permissions import BasePermission
from rest_framework.renderers import JSONRenderer
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView, set_rollback
from rest_framework.views import exception_handler as drf_exception_handler

from deploypipe.core import plain, roles
from deploypipe.core.errors import BackendError, DomainError, Forbidden, Invalid

LONGEST_KEY = 100
NOTHING = "There is nothing at this address. Addresses of the API end with a slash."


class Pages(CursorPagination):
    page_size = 50
    page_size_query_param = "limit"
    max_page_size = 500
    ordering = "-pk"

    def paginate_queryset(self, queryset: Any, request: Request, view: Any = None) -> list[Any] | None:
        try:
            return super().paginate_queryset(queryset, request, view)
        except ValueError:  # a cursor that somebody wrote by hand
            raise exceptions.NotFound("Invalid cursor") from None


class MayView(BasePermission):
    message = "This needs a role; ask an administrator to put you into a group."

    def has_permission(self, request: Request, view: APIView) -> bool:
        return request.user.is_authenticated and roles.refusal(request.user, "view") is None


def person(request: Request) -> User:
    """Who asks; `MayView` has let in nobody who is not signed in."""
    if not isinstance(request.user, User):
        raise Forbidden("Sign in first.")
    return request.user


def read(serializer: type[serializers.Serializer[Any]], request: Request) -> dict[str, Any]:
    """The request's body, checked; raises Invalid naming each wrong field. Unknown fields are refused too."""
    if not isinstance(request.data, dict):
        raise Invalid("The body must be a JSON object.")
    shape = serializer(data=request.data)
    unknown = sorted(set(request.data) - set(shape.fields))
    if unknown:
        known = ", ".join(sorted(shape.fields))
        raise Invalid("Unknown field.", fields=dict.fromkeys(unknown, f"is not a field here; there are: {known}"))
    if wrong := dict(plain.faults(request.data)):
        raise Invalid("Some values cannot be kept.", fields=wrong)
    if not shape.is_valid():
        raise Invalid("Some fields are wrong.", fields=_flatten(shape.errors))
    values: dict[str, Any] = shape.validated_data
    return values


def request_key(request: Request) -> str | None:
    """The caller's Idempotency-Key, by which a repeated request is known."""
    key = request.headers.get("Idempotency-Key", "").strip()
    if len(key) > LONGEST_KEY or not key.isprintable():
        right = f"give at most {LONGEST_KEY} printable characters"
        raise Invalid("The Idempotency-Key is not usable.", fields={"Idempotency-Key": right})
    return key or None


def _flatten(errors: Any, prefix: str = "") -> dict[str, str]:
    if isinstance(errors, dict):
        flat: dict[str, str] = {}
        for name, below in errors.items():
            here = f"[{name}]" if isinstance(name, int) else f".{name}"
            flat |= _flatten(below, f"{prefix}{here}" if prefix else str(name))
        return flat
    if isinstance(errors, list) and any(isinstance(item, dict) for item in errors):
        flat = {}
        for index, item in enumerate(errors):
            flat |= _flatten(item, f"{prefix}[{index}]")
        return flat
    return {prefix or "body": " ".join(str(item) for item in errors)}


def exception_handler(error: Exception, context: dict[str, Any]) -> Response | None:
    if isinstance(error, DomainError):
        set_rollback()
        return Response(error.to_json(), status=error.status)
    if isinstance(error, BackendError):
        set_rollback()
        return _answer(503, "backend", error.message)
    if isinstance(error, Http404):
        return _answer(404, "not_found", NOTHING)
    response = drf_exception_handler(error, context)
    if response is None:
        return None
    api_error = error if isinstance(error, exceptions.APIException) else exceptions.PermissionDenied()
    shaped = _answer(response.status_code, _code(api_error), _sentence(api_error))
    for header in ("WWW-Authenticate", "Retry-After", "Allow"):
        if header in response.headers:
            shaped[header] = response.headers[header]
    return shaped


def _code(error: exceptions.APIException) -> str:
    return Forbidden.code if isinstance(error, exceptions.PermissionDenied) else error.default_code


def _sentence(error: exceptions.APIException) -> str:
    return str(error.detail) if isinstance(error.detail, str) else "; ".join(_flatten(error.detail).values())


def _answer(status: int, code: str, message: str) -> Response:
    return Response({"code": code, "message": message, "fields": {}}, status=status)


class FileView(APIView):
    """Answers with a file: the address says of which kind, whatever is asked for. Refusals are JSON all the same."""

    permission_classes = [MayView]

    def perform_content_negotiation(self, request: Request, force: bool = False) -> tuple[JSONRenderer, str]:
        return JSONRenderer(), JSONRenderer.media_type


class Nothing(APIView):
    """Answers at every address of the API that is none, in the API's own shape."""

    permission_classes = []
    authentication_classes = []

    def initial(self, request: Request, *args: Any, **kwargs: Any) -> None:
        raise Http404
