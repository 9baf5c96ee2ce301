from __future__ import annotations

from django.test import Client
from pytest_django import Settings

from tests.conftest import Cast


def test_demo_accounts_are_shown_only_in_the_demo(db: None, settings: Settings) -> None:
    settings.DEMO = False
    assert "registers (engineer)" not in Client().get("/sign-in/").content.decode()
    settings.DEMO = True
    assert "registers (engineer)" in Client().get("/sign-in/").content.decode()


def test_person_signs_in_and_out(cast: Cast) -> None:
    cast.dee.set_password("a-long-password")
    cast.dee.save()
    client = Client()
    answered = client.post("/sign-in/", {"username": "dee", "password": "a-long-password", "next": "/models/"})
    assert answered.headers["Location"] == "/models/"
    assert client.get("/models/").status_code == 200
    client.post("/sign-out/")
    assert client.get("/models/").status_code == 302


def test_wrong_password_is_said(cast: Cast) -> None:
    html = Client().post("/sign-in/", {"username": "dee", "password": "no"}).content.decode()
    assert "You are not signed in." in html
