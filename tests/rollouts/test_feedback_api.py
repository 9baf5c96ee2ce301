"""POST and GET /api/v1/feedback/."""

from __future__ import annotations

import logging
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.core.cache import cache
from django.test import Client
from django.utils import timezone

from deploypipe.core import tokens
from deploypipe.metrics.models import Feedback
from registry.models import RegisteredModel
from rollouts import feedback_api
from tests.conftest import Cast

URL = "/api/v1/feedback/"


@pytest.fixture(autouse=True)
def no_posts_yet() -> None:
    cache.clear()


def post(user: User, items: Any, **changes: Any) -> Any:
    key = tokens.issue(user, name="test")
    body = {"environment": "production", "model": "textgen", "items": items, **changes}
    return Client().post(URL, body, content_type="application/json", headers={"Authorization": f"Bearer {key}"})


def get(user: User, query: str = "?environment=production&model=textgen") -> Any:
    client = Client()
    client.force_login(user)
    return client.get(URL + query)


ITEM = {"session": "ann-the-user", "rating": 4}


@pytest.mark.parametrize("name", ["ana", "cy"])
def test_batch_is_taken(name: str, cast: Cast, model: RegisteredModel) -> None:
    answer = post(getattr(cast, name), [ITEM, ITEM, {**ITEM, "rating": 6}])
    assert answer.status_code == 202
    assert answer.json() == {
        "accepted": 1,
        "duplicates": 1,
        "rejected": [{"index": 2, "field": "rating", "value": "6", "right": "give a whole number from 1 to 5"}],
    }
    assert get(cast.dee).json() == {
        "environment": "production", "model": "textgen", "accepted": 1, "duplicates": 1, "rejected": 1,
        "waiting": 1, "matched": 0, "unmatched": 0,
    }  # fmt: skip


@pytest.mark.parametrize("name", ["bo", "dee", "eve"])
def test_others_may_not_post(name: str, cast: Cast, model: RegisteredModel) -> None:
    answer = post(getattr(cast, name), [ITEM])
    assert answer.status_code == 403
    assert answer.json()["code"] == "forbidden"
    assert not Feedback.objects.exists()


def test_nobody_posts_without_signing_in(cast: Cast, model: RegisteredModel) -> None:
    body = {"environment": "production", "model": "textgen", "items": [ITEM]}
    assert Client().post(URL, body, content_type="application/json").status_code == 401
    assert Client().get(URL).status_code == 401


WRONG: dict[str, tuple[dict[str, Any], str, str]] = {
    "no such environment": ({"environment": "moon"}, "environment", "'moon': use one of canary, production, staging"),
    "no such model": ({"model": "poems"}, "model", "'poems': use one of textgen"),
    "no items": ({"items": []}, "items", "may not be empty"),
    "no list": ({"items": {"session": "a"}}, "items", "list"),
    "too many": ({"items": [ITEM] * 1001}, "items", "no more than 1000"),
    "another field": ({"comment": "x"}, "comment", "is not a field here"),
    "zero character": ({"items": [{"session": "a\0", "rating": 1}]}, "items[0].session", "zero character"),
}


@pytest.mark.parametrize(("changes", "field", "right"), WRONG.values(), ids=WRONG.keys())
def test_wrong_batch_is_refused_whole(
    changes: dict[str, Any], field: str, right: str, cast: Cast, model: RegisteredModel
) -> None:
    answer = post(cast.ana, changes.pop("items", [ITEM]), **changes)
    assert answer.status_code == 422
    assert right in answer.json()["fields"][field]
    assert not Feedback.objects.exists()


def test_totals_need_a_route(cast: Cast, model: RegisteredModel) -> None:
    answer = get(cast.dee, "?environment=production")
    assert answer.status_code == 422
    assert answer.json()["fields"] == {"model": "say which"}
    assert get(cast.dee, "?environment=production&model=poems").status_code == 422
    assert get(cast.dee).json()["accepted"] == 0


def test_thousand_items_take_few_queries(
    cast: Cast, model: RegisteredModel, django_assert_max_num_queries: Any
) -> None:
    items = [{"session": f"s{number}", "rating": 1 + number % 5} for number in range(1000)]
    post(cast.ana, [ITEM])
    with django_assert_max_num_queries(45):
        answer = post(cast.ana, items)
    assert answer.json()["accepted"] == 1000


def test_posts_beyond_the_rate_are_told_to_wait(cast: Cast, model: RegisteredModel) -> None:
    rate = int(feedback_api.Posts.rate.partition("/")[0])
    history = [timezone.now().timestamp()] * rate
    cache.set(feedback_api.Posts.cache_format % {"scope": "feedback", "ident": cast.ana.pk}, history, 60)
    answer = post(cast.ana, [ITEM])
    assert answer.status_code == 429
    assert answer.json()["code"] == "throttled"
    assert 0 < int(answer.headers["Retry-After"]) <= 60
    assert post(cast.cy, [ITEM]).status_code == 202
    assert get(cast.ana).status_code == 200


def test_nothing_of_what_was_said_is_logged(
    cast: Cast, model: RegisteredModel, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    post(cast.ana, [ITEM, {"session": "ann-the-user", "rating": 9, "comment": "awful answer"}])
    post(cast.ana, [], comment="awful answer")
    assert "ann-the-user" not in caplog.text
    assert "awful" not in caplog.text


def test_administrators_see_what_came_of_it(admin_client: Client, cast: Cast, model: RegisteredModel) -> None:
    post(cast.ana, [ITEM])
    assert b"waiting" in admin_client.get("/admin/metrics/feedback/").content
    assert b"textgen" in admin_client.get("/admin/metrics/feedbacktotals/").content
