"""What every page shares: who may see it, one template with two entrances, verbs, forms, and the history of a thing."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import wraps
from typing import TYPE_CHECKING, Any, Concatenate, Generic, ParamSpec, TypeVar, cast

from django.contrib.auth.views import redirect_to_login
from django.core.paginator import Page, Paginator
from django.db.models import Model, QuerySet
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.views.decorators.http import require_POST, require_safe
from django_htmx.middleware import HtmxDetails

from deploypipe.core import roles, told
from deploypipe.core.errors import DomainError, Forbidden
from deploypipe.core.models import AuditEntry

if TYPE_CHECKING:
    from django import forms
    from django.contrib.auth.models import User

P = ParamSpec("P")
T = TypeVar("T")
M = TypeVar("M", bound=Model)

PAGE_SIZE = 50
HISTORY = 30
"""Entries that a thing's page shows; the audit page has the rest."""


class Request(HttpRequest):
    """After `page` or `verb`: somebody is signed in and may look."""

    user: User
    htmx: HtmxDetails


View = Callable[Concatenate[Request, P], HttpResponse]
Answered = Callable[Concatenate[HttpRequest, P], HttpResponse]


def page(view: View[P]) -> Answered[P]:
    """Something to look at: signed in, with any role."""
    return require_safe(_guarded(view))


def verb(view: View[P]) -> Answered[P]:
    """Something that changes the world. Which role it needs is asked by the action."""
    return require_POST(_guarded(view))


def form_page(view: View[P]) -> Answered[P]:
    return _guarded(view)


def _guarded(view: View[P]) -> Answered[P]:
    @wraps(view)
    def guarded(request: HttpRequest, *args: P.args, **kwargs: P.kwargs) -> HttpResponse:
        if not request.user.is_authenticated:
            if request.headers.get("HX-Request"):
                raise Forbidden("You were signed out. Sign in again to see what is new.")
            return redirect_to_login(request.get_full_path())
        roles.require(request.user, "view")
        return view(cast(Request, request), *args, **kwargs)

    return cast(Answered[P], guarded)


def answer(
    request: Request, page: str, fragment: str, context: Mapping[str, Any], *, status: int = 200
) -> HttpResponse:
    """The whole page, or the fragment that it includes anyway where htmx asks for that alone."""
    alone = request.htmx and not request.htmx.boosted and not request.htmx.history_restore_request
    return render(request, fragment if alone else page, dict(context), status=status)


def paged(request: HttpRequest, rows: QuerySet[M], size: int = PAGE_SIZE) -> Page[M]:
    return Paginator(rows, size).get_page(request.GET.get("page"))


def curl(request: HttpRequest, path: str, body: Mapping[str, Any] | None = None, *, post: bool = False) -> str:
    """The command that does the same by the API, for pages that have nothing to show yet."""
    words = ["curl", '-H "Authorization: Bearer $TOKEN"']
    if body is not None:
        words += ['-H "Content-Type: application/json"', f"-d '{json.dumps(body)}'"]
    elif post:
        words.append("-X POST")
    return " ".join([*words, request.build_absolute_uri(path)])


# --- Verbs ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Choice:
    """What is chosen in a verb's form."""

    name: str
    label: str
    options: Sequence[tuple[str, str]]
    """Value and words."""
    chosen: str = ""


@dataclass(frozen=True)
class Verb:
    """A button of a page, as `{% verb_button %}` takes it. `disabled` is the reason why it cannot be pressed."""

    url: str
    label: str
    tone: str = "plain"
    icon: str = ""
    title: str = ""
    confirm: str = ""
    reason: str = ""
    reason_name: str = "reason"
    reason_label: str = ""
    disabled: str | None = None
    full: str | None = None
    seen_run: int | None = None
    seen: int | None = None
    choice: Choice | None = None


@dataclass(frozen=True)
class Verbs:
    items: Sequence[Verb] = ()

    @property
    def reasons(self) -> list[tuple[str, str]]:
        """Why some cannot be pressed, each reason once; with their labels, unless it is all of them."""
        found: dict[str, list[str]] = {}
        for item in self.items:
            if item.disabled:
                found.setdefault(item.disabled, []).append(item.label)
        return [
            ("" if len(labels) == len(self.items) else ", ".join(labels), reason) for reason, labels in found.items()
        ]


# --- Forms ------------------------------------------------------------------------------------------------------------


def explain(form: forms.Form, error: DomainError, names: Mapping[str, str] | None = None) -> None:
    """Put a refused action's sentence on the form, beside the fields that it names. `names`: its field → the form's."""
    form.add_error(None, error.message)
    for given, right in error.fields.items():
        name = (names or {}).get(given, given)
        form.add_error(name if name in form.fields else None, right if name in form.fields else f"{given}: {right}")


@dataclass(frozen=True)
class Attempt(Generic[T]):
    result: T | None = None
    status: int = 200


def attempt(
    request: Request, form: forms.Form, act: Callable[[], T], names: Mapping[str, str] | None = None
) -> Attempt[T]:
    """Do what a posted form asks for; where it is refused, the form says why."""
    if request.method != "POST":
        return Attempt()
    if not form.is_valid():
        return Attempt(status=422)
    try:
        return Attempt(act())
    except Forbidden:
        raise
    except DomainError as error:
        explain(form, error, names)
        return Attempt(status=error.status)


# --- History ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class History:
    entries: Sequence[told.Told] = ()
    more: bool = False
    object_type: str = ""
    object_id: str = ""
    newest: int = 0
    """Sequence number of the newest entry: changes whenever there is something new to tell."""


def history(subject: Model, limit: int = HISTORY) -> History:
    kind, pk = subject._meta.label_lower, str(subject.pk)
    found = list(AuditEntry.objects.filter(object_type=kind, object_id=pk)[: limit + 1])
    newest = found[0].sequence if found else 0
    return History(told.tell(found[:limit]), len(found) > limit, kind, pk, newest)


def recent(limit: int) -> list[told.Told]:
    return told.tell(AuditEntry.objects.all()[:limit])
