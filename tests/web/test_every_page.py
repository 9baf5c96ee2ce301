"""What holds for every page: who may see it, no inline script, a bound on queries, the fragment alone for htmx."""

from __future__ import annotations

import re

import pytest
from django.test import Client
from django.urls import reverse
from pytest_django import DjangoAssertNumQueries

from tests.web.conftest import SignedIn, World

HTMX = {"HX-Request": "true"}
PAGES = [
    ("overview", 30),
    ("model-list", 12),
    ("model-detail", 14),
    ("version-detail", 18),
    ("examination-detail", 12),
    ("rollout-list", 16),
    ("rollout-new", 14),
    ("rollout-detail", 22),
    ("experiment-list", 14),
    ("experiment-detail", 16),
    ("audit-list", 14),
]
FRAGMENTS = [
    ("version-report", 16),
    ("version-rollouts", 16),
    ("model-live", 12),
    ("rollout-status", 20),
    ("rollout-charts", 14),
    ("rollout-experiments", 12),
    ("experiment-results", 16),
    ("experiment-charts", 12),
]
NAMES = [name for name, _ in PAGES]
BOTH_ENTRANCES = ["overview", "model-list", "model-detail", "rollout-list", "experiment-list"]


def address(name: str, world: World) -> str:
    arguments: dict[str, str | int] = {
        "model-detail": world.model.name,
        "model-live": world.model.name,
        "version-detail": world.caution.pk,
        "version-report": world.caution.pk,
        "examination-detail": world.caution.qa_runs.latest("pk").pk,
        "version-rollouts": world.canary.pk,
        "rollout-detail": world.rollout.pk,
        "rollout-status": world.rollout.pk,
        "rollout-charts": world.rollout.pk,
        "rollout-experiments": world.experiment.rollout_id,
        "experiment-detail": world.experiment.pk,
        "experiment-results": world.experiment.pk,
        "experiment-charts": world.experiment.pk,
    }
    return reverse(name, args=[arguments[name]] if name in arguments else [])


@pytest.mark.parametrize("name", NAMES)
def test_page_is_shown_to_every_role(name: str, world: World, signed_in: SignedIn) -> None:
    for person in ("ana", "bo", "cy", "dee"):
        response = signed_in(person).get(address(name, world))
        assert response.status_code == 200, person
        assert b"<h1" in response.content


@pytest.mark.parametrize("name", NAMES)
def test_page_asks_to_sign_in(name: str, world: World) -> None:
    response = Client().get(address(name, world))
    assert response.status_code == 302
    assert response.headers["Location"].startswith(reverse("login"))


@pytest.mark.parametrize("name", [*NAMES, *(name for name, _ in FRAGMENTS)])
def test_page_is_refused_without_a_role(name: str, world: World, signed_in: SignedIn) -> None:
    response = signed_in("eve").get(address(name, world))
    assert response.status_code == 403
    assert b"needs the role viewer" in response.content


@pytest.mark.parametrize("name", [*NAMES, *(name for name, _ in FRAGMENTS)])
def test_page_has_no_inline_script_or_style(name: str, world: World, signed_in: SignedIn) -> None:
    for person in ("ana", "bo", "cy", "dee"):
        html = signed_in(person).get(address(name, world)).content.decode()
        scripts = re.findall(r"<script\b([^>]*)>(.*?)</script>", html, re.DOTALL)
        assert all("src=" in attributes or "application/json" in attributes for attributes, _ in scripts)
        assert not re.search(r"\son[a-z]+=|\sstyle=|javascript:|<style\b", html)
        assert "alert(1)</script>" not in html


@pytest.mark.parametrize(("name", "most"), [*PAGES, *FRAGMENTS])
def test_page_asks_the_database_a_bounded_number_of_times(
    name: str, most: int, world: World, signed_in: SignedIn, django_assert_max_num_queries: DjangoAssertNumQueries
) -> None:
    client = signed_in("cy")
    with django_assert_max_num_queries(most):
        assert client.get(address(name, world)).status_code == 200


@pytest.mark.parametrize("name", BOTH_ENTRANCES)
def test_htmx_gets_the_panel_alone(name: str, world: World, signed_in: SignedIn) -> None:
    html = signed_in("dee").get(address(name, world), headers=HTMX).content.decode()
    assert "<html" not in html
    assert "hx-get=" in html


@pytest.mark.parametrize("name", [name for name, _ in FRAGMENTS])
def test_fragment_is_no_page(name: str, world: World, signed_in: SignedIn) -> None:
    html = signed_in("dee").get(address(name, world), headers=HTMX).content.decode()
    assert html.strip()
    assert "<html" not in html


@pytest.mark.parametrize("name", ["version-report", "rollout-status", "experiment-results"])
def test_head_is_sent_again_only_when_it_changed(name: str, world: World, signed_in: SignedIn) -> None:
    client = signed_in("dee")
    first = client.get(address(name, world), headers=HTMX).content.decode()
    assert "hx-swap-oob" in first
    following = re.search(r'hx-get="([^"]+)"', first)
    assert following is not None
    assert "hx-swap-oob" not in client.get(following[1], headers=HTMX).content.decode()


def test_htmx_of_a_signed_out_browser_gets_no_sign_in_page(world: World) -> None:
    response = Client().get(address("rollout-status", world), headers=HTMX)
    assert response.status_code == 403
    assert "signed out" in response.json()["message"]


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("overview", "Nothing is live yet"),
        ("model-list", "No model yet"),
        ("rollout-list", "No rollout yet"),
        ("experiment-list", "No experiment yet"),
        ("audit-list", "Nothing has been done yet"),
    ],
)
def test_empty_page_says_how_to_begin(name: str, sentence: str, signed_in: SignedIn) -> None:
    html = signed_in("dee").get(reverse(name)).content.decode()
    assert sentence in html
    assert "curl -H" in html


def test_unknown_things_are_not_found(world: World, signed_in: SignedIn) -> None:
    client = signed_in("cy")
    for path in ("/models/none/", "/versions/9999/", "/rollouts/9999/", "/experiments/9999/", "/rollouts/1/charts/x/"):
        assert client.get(path).status_code == 404, path
    assert client.post(f"/rollouts/{world.rollout.pk}/explode/").status_code == 404
    assert client.get(f"/rollouts/{world.rollout.pk}/abort/").status_code == 405
