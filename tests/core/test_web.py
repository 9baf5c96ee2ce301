from __future__ import annotations

import json
from typing import Any

import pytest
from django.http import HttpRequest, HttpResponse
from django.test import Client, RequestFactory, override_settings
from django.urls import include, path

from deploypipe.core.errors import Invalid
from deploypipe.core.web import LONGEST_TOAST, POLICY, product
from tests.conftest import Cast

SENTENCE = "This version is <retired>."


def refused(request: HttpRequest) -> HttpResponse:
    raise Invalid(SENTENCE + " And more." * int(request.GET.get("more", 0)), fields={"note": "say why"})


def broken(request: HttpRequest) -> HttpResponse:
    raise RuntimeError("a mistake of ours")


urlpatterns = [path("refused/", refused), path("broken/", broken), path("", include("deploypipe.urls"))]
pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def _addresses() -> Any:
    with override_settings(ROOT_URLCONF=__name__, ALLOWED_HOSTS=["testserver", "deploypipe.example"]):
        yield


@pytest.mark.parametrize(
    "address", ["/sign-in/", "/nothing", "/api/v1/models/", "/refused/", "/healthz", "/admin/login/"]
)
def test_every_answer_has_the_content_security_policy(address: str) -> None:
    answer = Client().get(address)
    assert answer.headers["Content-Security-Policy"] == POLICY
    assert answer.headers["X-Frame-Options"] == "DENY"


def test_policy_lets_no_script_of_another_run() -> None:
    rules = dict(rule.strip().split(" ", 1) for rule in POLICY.split(";"))
    assert rules["script-src"] == "'self'"
    assert rules["object-src"] == rules["frame-ancestors"] == rules["base-uri"] == "'none'"


def test_refused_page_is_a_page_with_the_sentence() -> None:
    answer = Client().get("/refused/")
    assert answer.status_code == 422
    assert "This version is &lt;retired&gt;." in answer.content.decode()
    assert "say why" in answer.content.decode()


def test_refused_form_goes_back_to_its_page_with_the_sentence(cast: Cast) -> None:
    client = Client()
    client.force_login(cast.dee)
    answer = client.post("/refused/", headers={"Referer": "http://testserver/models/?page=1"})
    assert (answer.status_code, answer.headers["Location"]) == (302, "http://testserver/models/?page=1")
    assert "This version is &lt;retired&gt;. say why" in client.get("/models/").content.decode()


@pytest.mark.parametrize(
    "referer",
    [
        "",
        "https://evil.example/",
        "http://testserver.evil.example/",
        "http://testserver@evil.example/",
        "//evil.example/",
        "http:///evil.example/",
        "\\\\evil.example/",
        "javascript:alert(1)",
        "http://deploypipe.example/",
    ],
)
def test_refused_form_never_leads_to_another_site(referer: str) -> None:
    answer = Client().post("/refused/", headers={"Referer": referer})
    assert answer.status_code == 422
    assert "Location" not in answer.headers
    assert "This version is" in answer.content.decode()


def test_secure_page_is_never_left_for_an_insecure_one() -> None:
    answer = Client().post("/refused/", secure=True, headers={"Referer": "http://testserver/sign-in/"})
    assert answer.status_code == 422


def test_htmx_gets_the_sentence_as_json_and_as_an_event() -> None:
    answer = Client().post("/refused/", headers={"HX-Request": "true", "Referer": "http://testserver/"})
    assert answer.status_code == 422
    assert answer.json() == {"code": "invalid", "message": SENTENCE, "fields": {"note": "say why"}}
    assert json.loads(answer.headers["HX-Trigger"])["refused"]["message"] == SENTENCE


def test_event_of_a_long_sentence_is_short() -> None:
    answer = Client().post("/refused/?more=1000", headers={"HX-Request": "true"})
    assert len(answer.json()["message"]) > 5000
    assert len(json.loads(answer.headers["HX-Trigger"])["refused"]["message"]) == LONGEST_TOAST


def test_our_own_mistake_stays_one() -> None:
    with pytest.raises(RuntimeError, match="a mistake of ours"):
        Client().get("/broken/")


def test_sign_in_leads_to_no_other_site(cast: Cast) -> None:
    sent = {"username": "dee", "password": "correct horse battery staple"}
    answer = Client().post("/sign-in/?next=https://evil.example/", {**sent, "next": "https://evil.example/"})
    assert (answer.status_code, answer.headers["Location"]) == (302, "/")


def test_sign_out_takes_a_post() -> None:
    assert Client().get("/sign-out/").status_code == 405


def test_address_of_the_gateway_is_on_every_page(rf: RequestFactory) -> None:
    assert product(rf.get("/")) == {"GATEWAY": "http://127.0.0.1:8080"}
