"""Pages of policies: what holds and where it comes from, setting it anew by a file, and going back."""

from __future__ import annotations

import re
from typing import Any

import pytest
from django.core.files.uploadedfile import SimpleUploadedFile
from django.test import Client
from django.urls import reverse
from pytest_django import DjangoAssertNumQueries

from registry import actions, policy_actions
from registry.models import QAPolicy
from registry.qa.catalogue import all_checks
from tests.conftest import Cast
from tests.registry.test_pipeline_config import MISSION
from tests.web.conftest import SignedIn

PRODUCTION = "?model=textgen&environment=production"
HTMX = {"HX-Request": "true"}


@pytest.fixture
def policy(cast: Cast) -> QAPolicy:
    """Number 2 of textgen in production, over one for all models."""
    model = actions.create_model("textgen", actor=cast.ana)
    policy_actions.save_policy(None, "", {"max_latency_ms": 500}, actor=cast.bo)
    policy_actions.import_config(
        MISSION.read_text(), model, "production", actor=cast.bo, note="<script>alert(1)</script>"
    )
    return policy_actions.save_policy(
        model, "production", {"minimum_score": 91, "load": {"prompt_words": [[8, 0.7]]}}, actor=cast.bo, note="Strict."
    ).policy


def pages(policy: QAPolicy) -> dict[str, str]:
    return {
        "list": reverse("policy-list") + PRODUCTION,
        "edit": reverse("policy-edit") + PRODUCTION,
        "detail": reverse("policy-detail", args=[policy.pk]),
        "first": reverse("policy-detail", args=[policy.pk - 1]),
    }


@pytest.mark.parametrize("name", ["list", "edit", "detail", "first"])
def test_page_is_for_every_role_and_has_no_inline_script_or_style(
    name: str, policy: QAPolicy, signed_in: SignedIn
) -> None:
    address = pages(policy)[name]
    for person in ("ana", "bo", "cy", "dee"):
        html = signed_in(person).get(address).content.decode()
        assert "<h1" in html
        scripts = re.findall(r"<script\b([^>]*)>(.*?)</script>", html, re.DOTALL)
        assert all("src=" in attributes for attributes, _ in scripts)
        assert not re.search(r"\son[a-z]+=|\sstyle=|javascript:|<style\b", html)
    assert signed_in("eve").get(address).status_code == 403
    assert Client().get(address).headers["Location"].startswith(reverse("login"))


@pytest.mark.parametrize(("name", "most"), [("list", 14), ("edit", 10), ("detail", 12)])
def test_page_asks_the_database_a_bounded_number_of_times(
    name: str, most: int, policy: QAPolicy, signed_in: SignedIn, django_assert_max_num_queries: DjangoAssertNumQueries
) -> None:
    client = signed_in("bo")
    with django_assert_max_num_queries(most):
        assert client.get(pages(policy)[name]).status_code == 200


def test_list_shows_what_holds_and_where_each_value_comes_from(policy: QAPolicy, signed_in: SignedIn) -> None:
    html = signed_in("dee").get(pages(policy)["list"]).content.decode()
    assert _row(html, "minimum_score") == "91 points policy 2 of textgen in production"
    assert _row(html, "max_latency_ms") == "500 ms policy 1 of all models in all environments"
    assert _row(html, "require_authentication") == "yes the product's default"
    assert _row(html, "load.prompt_words") == "[[8, 0.7]] policy 2 of textgen in production"
    assert "Number 2" in html
    assert "Strict." in html
    for check in all_checks():
        assert not check.parameters or f"({check.name})</h3>" in html
        for one in check.parameters:
            assert f'<code class="text-break">{one.name}</code>' in html


def _row(html: str, name: str) -> str:
    cells = re.search(rf"<code[^>]*>{re.escape(name)}</code>.*?</th>(.*?)</tr>", html, re.DOTALL)
    assert cells is not None, name
    return " ".join(re.sub(r"<[^>]+>", " ", cells[1]).replace("&#x27;", "'").split())


def test_list_says_how_to_begin_where_there_is_none(signed_in: SignedIn) -> None:
    html = signed_in("dee").get(reverse("policy-list")).content.decode()
    assert "No policy yet" in html
    assert "curl -H" in html
    assert re.search(r'<a href="/policies/"[^>]*aria-current', html)


def test_htmx_gets_the_panels_alone(policy: QAPolicy, signed_in: SignedIn) -> None:
    html = signed_in("dee").get(pages(policy)["list"], headers=HTMX).content.decode()
    assert "<html" not in html
    assert "hx-get=" in html


@pytest.mark.parametrize(
    ("query", "said"), [("?model=none", "There is no such model"), ("?environment=x", "no such env")]
)
def test_page_of_what_does_not_exist_says_so(query: str, said: str, cast: Cast, signed_in: SignedIn) -> None:
    response = signed_in("dee").get(reverse("policy-list") + query)
    assert response.status_code == 422
    assert said in response.content.decode()


def test_long_history_has_pages_and_each_number_its_changes(cast: Cast, signed_in: SignedIn) -> None:
    for score in range(25):
        policy_actions.save_policy(None, "", {"minimum_score": score}, actor=cast.bo)
    first = signed_in("dee").get(reverse("policy-list")).content.decode()
    assert "Number 6<" in first
    assert "Number 5<" not in first
    assert "Least score without an override: 4 → <strong>5</strong>" in first
    assert "Number 5<" in signed_in("dee").get(reverse("policy-list") + "?page=2").content.decode()


def test_parameter_of_a_check_that_a_policy_sets_has_its_origin(cast: Cast, signed_in: SignedIn) -> None:
    check, one = next((c, p) for c in all_checks() for p in c.parameters if p.kind is bool)
    values = {"parameters": {check.name: {one.name: not one.default}}}
    policy_actions.save_policy(None, "", values, actor=cast.bo)
    html = signed_in("dee").get(reverse("policy-list")).content.decode()
    found = _row(html[html.index(f"({check.name})</h3>") :], one.name)
    assert found == f"{'no' if one.default else 'yes'} policy 1 of all models in all environments"


# Setting it


def _edit(signed_in: SignedIn, who: str = "bo", query: str = PRODUCTION, **data: Any) -> Any:
    return signed_in(who).post(reverse("policy-edit") + query, data, follow=True)


def test_form_begins_with_what_is_said_now(policy: QAPolicy, signed_in: SignedIn) -> None:
    html = signed_in("bo").get(pages(policy)["edit"]).content.decode()
    assert "minimum_score: 91" in html
    assert "scrape_interval: 15s" in html
    assert "max_latency_ms: 500" in html  # what is inherited
    for check in all_checks():
        assert all(f"{one.name}: " in html for one in check.parameters), check.name


def test_pasted_file_becomes_the_next_number(policy: QAPolicy, signed_in: SignedIn) -> None:
    response = _edit(signed_in, text="quality_thresholds:\r\n  minimum_score: 85\r\n", note="Less.", seen=2)
    assert "Policy 3 of textgen in production holds now." in response.content.decode()
    saved = QAPolicy.objects.latest("pk")
    assert (saved.number, saved.values, saved.pipeline, saved.note) == (3, {"minimum_score": 85}, {}, "Less.")


def test_uploaded_file_is_taken_instead_of_the_text(policy: QAPolicy, signed_in: SignedIn) -> None:
    _edit(signed_in, text="{}", file=SimpleUploadedFile("pipeline-config.yaml", MISSION.read_bytes()))
    assert QAPolicy.objects.latest("pk").values["max_memory_gb"] == 16


def test_all_problems_are_shown_by_line_beside_the_text(policy: QAPolicy, signed_in: SignedIn) -> None:
    text = "quality_thresholds:\n  performance:\n    max_latency_s: 1\nmonitoring: {prometheus: {scrape_interval: 15}}"
    for given in ({"text": text}, {"file": SimpleUploadedFile("x.yaml", text.encode())}):
        response = _edit(signed_in, **given)
        html = response.content.decode()
        assert response.status_code == 422
        assert "2 problems; nothing was changed" in html
        assert "the nearest is max_latency_ms (milliseconds)" in html
        assert "max_latency_s: 1" in html
        lines = re.findall(r"Line (\d+), column (\d+)<", html)
        assert lines == [("3", "5"), ("4", "27")]
    assert QAPolicy.objects.count() == 3


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "is empty: give its sections"),
        (b"\xff\xfe", "is not UTF-8"),
        (b"#" * 300_000, "is longer than 262,144 bytes"),
        (b"a: *b", "alias"),
    ],
)
def test_hostile_file_is_explained(content: bytes, said: str, policy: QAPolicy, signed_in: SignedIn) -> None:
    response = _edit(signed_in, file=SimpleUploadedFile("x.yaml", content))
    assert response.status_code == 422
    assert said in response.content.decode()
    assert QAPolicy.objects.count() == 3


def test_preview_says_what_would_change_and_changes_nothing(policy: QAPolicy, signed_in: SignedIn) -> None:
    html = _edit(signed_in, "dee", text="quality_thresholds: {minimum_score: 85}", preview="1", seen=2).content.decode()
    assert "What would change" in html
    assert "Least score without an override: 91 → <strong>85</strong>" in html
    assert "in sections that are not about the gate" in html
    assert QAPolicy.objects.count() == 3


def test_change_says_which_of_a_categorys_settings_it_is(cast: Cast, signed_in: SignedIn) -> None:
    text = "test_categories: {security: {weight: 40, required: false}}"
    html = _edit(signed_in, query="", text=text, preview="1").content.decode()
    assert "Weight of security: 25 → <strong>40</strong>" in html
    assert "Security never blocks: no → <strong>yes</strong>" in html
    assert not QAPolicy.objects.exists()


def test_stale_form_is_refused_and_keeps_what_was_typed(policy: QAPolicy, signed_in: SignedIn) -> None:
    response = _edit(signed_in, text="quality_thresholds: {minimum_score: 12}", seen=1)
    assert response.status_code == 409
    assert "Somebody else set this policy since: it is at number 2 now." in response.content.decode()
    assert "minimum_score: 12" in response.content.decode()


def test_engineer_sees_why_not_and_cannot_set_by_posting(policy: QAPolicy, signed_in: SignedIn) -> None:
    html = signed_in("ana").get(pages(policy)["edit"]).content.decode()
    assert "This needs the role approver or admin; you do not have it." in html
    assert _edit(signed_in, "ana", text="{}").status_code == 403
    assert QAPolicy.objects.count() == 3


def test_earlier_number_is_restored_as_a_new_one(policy: QAPolicy, signed_in: SignedIn) -> None:
    first = QAPolicy.objects.get(model__name="textgen", number=1)
    html = signed_in("bo").post(reverse("policy-restore", args=[first.pk]), {"note": "Back."}, follow=True).content
    assert b"Number 3 holds now." in html
    restored = QAPolicy.objects.latest("pk")
    assert (restored.values, restored.pipeline, restored.note) == (first.values, first.pipeline, "Back.")


def test_restoring_is_refused_where_somebody_set_another_number_since(policy: QAPolicy, signed_in: SignedIn) -> None:
    first = QAPolicy.objects.get(model__name="textgen", number=1)
    html = signed_in("bo").get(pages(policy)["first"]).content.decode()
    assert '<input type="hidden" name="seen" value="2">' in html
    response = signed_in("bo").post(reverse("policy-restore", args=[first.pk]), {"seen": 1}, follow=True)
    assert "it is at number 2 now" in response.content.decode()
    assert QAPolicy.objects.count() == 3


def test_note_that_is_too_long_is_refused_and_not_dropped(policy: QAPolicy, signed_in: SignedIn) -> None:
    response = signed_in("bo").post(reverse("policy-restore", args=[policy.pk - 1]), {"note": "x" * 5001}, follow=True)
    assert "at most 5000 characters" in response.content.decode()
    assert QAPolicy.objects.count() == 3


def test_newest_number_offers_no_restore(policy: QAPolicy, signed_in: SignedIn) -> None:
    assert (
        reverse("policy-restore", args=[policy.pk]) not in signed_in("bo").get(pages(policy)["detail"]).content.decode()
    )
    assert (
        reverse("policy-restore", args=[policy.pk - 1]) in signed_in("bo").get(pages(policy)["first"]).content.decode()
    )


def test_policy_is_taken_away_as_a_file(policy: QAPolicy, signed_in: SignedIn) -> None:
    own = signed_in("dee").get(reverse("policy-own-export", args=[policy.pk]))
    assert own.headers["Content-Type"] == "application/yaml"
    assert b"minimum_score: 91" in own.content
    whole = signed_in("dee").get(reverse("policy-export") + PRODUCTION)
    assert b"max_latency_ms: 500" in whole.content


def test_own_policy_of_a_model_is_listed(policy: QAPolicy, signed_in: SignedIn) -> None:
    html = signed_in("dee").get(reverse("policy-list")).content.decode()
    assert "textgen in production" in html
    assert "All models everywhere" in html
