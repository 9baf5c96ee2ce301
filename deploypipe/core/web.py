"""What every page shares: the content security policy, and domain errors as clear answers."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from django.conf import settings
from django.contrib import messages
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.shortcuts import redirect, render
from django.utils.http import url_has_allowed_host_and_scheme

from deploypipe.core.errors import DomainError

POLICY = (
    # Plotly inserts its styles at run time; scripts come from our own files only.
    "default-src 'self'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; "
    "connect-src 'self'; object-src 'none'; base-uri 'none'; frame-ancestors 'none'; form-action 'self'"
)

LONGEST_TOAST = 500
Answer = Callable[[HttpRequest], HttpResponse]


class ContentSecurityPolicy:
    def __init__(self, get_response: Answer) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        response = self.get_response(request)
        response.headers.setdefault("Content-Security-Policy", POLICY)
        return response


class NoZeroCharacters:
    """No address of ours holds one, and PostgreSQL fails on them where SQLite does not: refused in one place."""

    def __init__(self, get_response: Answer) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        if "\0" in request.path or "%00" in request.META.get("QUERY_STRING", ""):
            answer = {"code": "invalid", "message": "The address holds a zero character.", "fields": {}}
            return JsonResponse(answer, status=400)
        return self.get_response(request)


class DomainErrors:
    """A verb that was refused: back to the page with the sentence; a page that was refused: an error page with it."""

    def __init__(self, get_response: Answer) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        return self.get_response(request)

    def process_exception(self, request: HttpRequest, error: Exception) -> HttpResponse | None:
        if not isinstance(error, DomainError):
            return None
        if request.headers.get("HX-Request"):
            answer = error.to_json()
            # A sentence may end with a server's log, and proxies take a few kilobytes of headers.
            short = json.dumps({"refused": {**answer, "message": error.message[:LONGEST_TOAST], "fields": {}}})
            return JsonResponse(answer, status=error.status, headers={"HX-Trigger": short})
        back = request.headers.get("Referer", "")
        ours = url_has_allowed_host_and_scheme(back, {request.get_host()}, require_https=request.is_secure())
        if request.method == "POST" and ours:
            messages.error(request, " ".join([error.message, *error.fields.values()]))
            return redirect(back)
        return render(request, "refused.html", {"error": error}, status=error.status)


def product(request: HttpRequest) -> dict[str, Any]:
    return {"GATEWAY": f"http://{settings.GATEWAY_HOST}:{settings.GATEWAY_PORT}"}
