"""One shape for every error, whoever raises it; and what every endpoint reads alike."""

from __future__ import annotations

import json
from typing import Any

import pytest
from django.test import Client, override_settings
from django.urls import path
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from deploypipe.core import api, body
from deploypipe.core.errors import Conflict, FourEyes, IllegalTransition, Invalid, TargetError
from tests.conftest import Cast


class Part(serializers.Serializer[Any]):
    count = serializers.IntegerField(min_value=1)


class Shape(serializers.Serializer[Any]):
    name = serializers.CharField(max_length=5)
    part = Part(required=False)
    parts = Part(required=False, many=True)
    free = serializers.DictField(required=False)


class Echo(APIView):
    permission_classes = [api.MayView]

    def post(self, request: Request) -> Response:
        return Response({**api.read(Shape, request), "key": api.request_key(request)})


RAISED = {
    "conflict": Conflict("Taken.", fields={"name": "choose another one"}),
    "state": IllegalTransition("It has ended."),
    "eyes": FourEyes("Somebody else must."),
    "invalid": Invalid("Wrong.", fields={"a": "b"}),
    "backend": TargetError("The target is away."),
}


class Raises(APIView):
    permission_classes = [api.MayView]

    def get(self, request: Request, what: str) -> Response:
        raise RAISED[what]


urlpatterns = [path("echo/", Echo.as_view()), path("raises/<str:what>/", Raises.as_view())]


@pytest.fixture
def client(cast: Cast) -> Client:
    client = Client()
    client.force_login(cast.dee)
    return client


def echo(client: Client, sent: str | bytes, content_type: str = "application/json", **headers: str) -> Any:
    with override_settings(ROOT_URLCONF=__name__):
        return client.post("/echo/", sent, content_type=content_type, headers=headers)


def shape(answer: Any) -> tuple[int, str, str, dict[str, str]]:
    said = answer.json()
    assert set(said) == {"code", "message", "fields"}
    assert answer.headers["Content-Type"] == "application/json"
    return answer.status_code, said["code"], said["message"], said["fields"]


def test_good_body_is_read(client: Client) -> None:
    sent = {"name": "a", "part": {"count": 1}, "free": {"x": [1.5, "ü", None, 10**30]}}
    assert echo(client, json.dumps(sent)).json() == {**sent, "key": None}


@pytest.mark.parametrize(
    ("sent", "sentence"),
    [
        ("{", "not JSON"),
        ("", "not JSON"),
        (b"\xff\xfe", "not JSON"),
        ('{"name": NaN}', "NaN is not a number of JSON"),
        ('{"name": "a", "name": "b"}', "'name' is given twice"),
        ('{"free": {"deep": {"x": 1, "x": 2}}}', "'x' is given twice"),
        ('{"name": ' + "9" * 5000 + "}", "not JSON"),
        ("[" * 100_000, "nested too deeply"),
        ('{"free": {"x": ' + "[" * 60 + "]" * 60 + "}}", "nested too deeply"),
    ],
)
def test_malformed_body_is_400(sent: str | bytes, sentence: str, client: Client) -> None:
    status, code, message, fields = shape(echo(client, sent if sent else b" "))
    assert (status, code, fields) == (400, "parse_error", {})
    assert sentence in message


def test_too_long_body_is_413(client: Client) -> None:
    assert shape(echo(client, b" " * (body.LARGEST_BODY + 1)))[:2] == (413, "too_large")


def test_body_that_is_no_json_is_415(client: Client) -> None:
    assert shape(echo(client, "name=a", "application/x-www-form-urlencoded"))[:2] == (415, "unsupported_media_type")


@pytest.mark.parametrize("sent", ["[]", '"text"', "1", "null"])
def test_body_that_is_no_object_is_422(sent: str, client: Client) -> None:
    assert shape(echo(client, sent))[:3] == (422, "invalid", "The body must be a JSON object.")


@pytest.mark.parametrize(
    ("sent", "fields"),
    [
        ({}, {"name"}),
        ({"name": "too long"}, {"name"}),
        ({"name": None}, {"name"}),
        ({"name": {"a": 1}}, {"name"}),
        ({"name": "a", "part": {"count": 0}}, {"part.count"}),
        ({"name": "a", "part": 3}, {"part.non_field_errors"}),
        ({"name": "a", "parts": [{"count": 1}, {"count": "x"}, {}]}, {"parts[1].count", "parts[2].count"}),
        ({"name": "a", "free": [1]}, {"free"}),
        ({"name": "a", "colour": 1, "size": 2}, {"colour", "size"}),
        ({"name": "a", "free": {"x": [{"y": "\0"}]}}, {"free.x[0].y"}),
        ({"name": "a", "free": {"x": "\ud800"}}, {"free.x"}),
        ({"name": "a\0"}, {"name"}),
    ],
)
def test_each_wrong_field_is_named(sent: dict[str, Any], fields: set[str], client: Client) -> None:
    status, code, _, found = shape(echo(client, json.dumps(sent)))
    assert (status, code) == (422, "invalid")
    assert set(found) == fields
    assert all(found.values())


def test_number_beyond_all_numbers_is_named(client: Client) -> None:
    assert shape(echo(client, '{"name": "a", "free": {"x": 1e999}}'))[3] == {"free.x": "is too large for a number"}


def test_unknown_field_is_told_what_there_is(client: Client) -> None:
    assert shape(echo(client, '{"nmae": "a"}'))[3] == {
        "nmae": "is not a field here; there are: free, name, part, parts"
    }


@pytest.mark.parametrize(
    ("what", "answer"),
    [
        ("conflict", (409, "conflict", "Taken.", {"name": "choose another one"})),
        ("state", (409, "illegal_transition", "It has ended.", {})),
        ("eyes", (403, "four_eyes", "Somebody else must.", {})),
        ("invalid", (422, "invalid", "Wrong.", {"a": "b"})),
        ("backend", (503, "backend", "The target is away.", {})),
    ],
)
def test_every_error_on_purpose_has_the_shape(what: str, answer: tuple[Any, ...], client: Client) -> None:
    with override_settings(ROOT_URLCONF=__name__):
        assert shape(client.get(f"/raises/{what}/")) == answer


def test_who_has_no_role_is_403(cast: Cast) -> None:
    client = Client()
    client.force_login(cast.eve)
    assert shape(client.get("/api/v1/models/"))[:2] == (403, "forbidden")


def test_forged_form_of_another_site_is_403(cast: Cast) -> None:
    client = Client(enforce_csrf_checks=True)
    client.force_login(cast.ana)
    answer = client.post("/api/v1/models/", {"name": "x"}, content_type="application/json")
    assert shape(answer)[:2] == (403, "forbidden")


@pytest.mark.parametrize(
    "address",
    ["models/nothing/", "versions/999999/", f"versions/{10**30}/", "nothing/at/all/", "models", "", "versions/x/"],
)
def test_address_of_nothing_is_404(address: str, client: Client) -> None:
    assert shape(client.get(f"/api/v1/{address}"))[:2] == (404, "not_found")


def test_wrong_method_is_405_and_names_the_right_ones(client: Client) -> None:
    answer = client.delete("/api/v1/models/")
    assert shape(answer)[:2] == (405, "method_not_allowed")
    assert answer.headers["Allow"] == "GET, POST, HEAD, OPTIONS"


def test_json_is_answered_whatever_is_accepted(client: Client) -> None:
    answer = client.get("/api/v1/models/", headers={"Accept": "text/html"})
    assert shape(answer)[:2] == (406, "not_acceptable")


@pytest.mark.parametrize(
    "cursor", ["x", "cD1hYmM=", "cD0xJTAw", "bz05OTk5OTk5OTk5", "cD05OTk5OTk5OTk5OTk5OTk5OTk5OTk5OTk="]
)
def test_cursor_written_by_hand_breaks_nothing(cursor: str, client: Client) -> None:
    answer = client.get("/api/v1/models/", {"cursor": cursor})
    if answer.status_code != 200:
        assert shape(answer)[:2] == (404, "not_found")


@pytest.mark.parametrize("address", ["/api/v1/audit/?actor=a%00b", "/api/v1/models/a%00b/"])
def test_zero_character_in_an_address_is_400(address: str, client: Client) -> None:
    assert shape(client.get(address))[:2] == (400, "invalid")


@pytest.mark.parametrize(("sent", "kept"), [("", None), ("  ", None), (" build-7 ", "build-7"), ("k" * 100, "k" * 100)])
def test_idempotency_key_is_read(sent: str, kept: str | None, client: Client) -> None:
    assert echo(client, '{"name": "a"}', **{"Idempotency-Key": sent}).json()["key"] == kept


@pytest.mark.parametrize("sent", ["k" * 101, "a\tb"])
def test_idempotency_key_is_never_cut_short(sent: str, client: Client) -> None:
    assert shape(echo(client, '{"name": "a"}', **{"Idempotency-Key": sent}))[0] == 422
