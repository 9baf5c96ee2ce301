"""What a check found stays readable after the app that it came from is removed."""

from __future__ import annotations

from typing import Any

import pytest
from django.test import Client

from deploypipe.core import tokens
from registry.models import ModelVersion, QAResult
from registry.qa.catalogue import find
from registry.scoring import Scored, Status, score
from tests.conftest import Cast
from tests.registry.steps import examined

REASON = "97 % of the answer to 'An object is' had been said before; 25 % are allowed."


@pytest.fixture
def stored(version: ModelVersion) -> QAResult:
    assert find("shop.repetition") is None
    return QAResult.objects.create(
        run=examined(version, 90),
        name="shop.repetition",
        label="Answers do not go round in circles",
        category="shop",
        status=Status.FAILED,
        weight=2.0,
        value=96.7,
        limit=25.0,
        unit="percent",
        reason=REASON,
        findings=[{"severity": "medium", "sentence": "It loops.", "action": "Look at the quantisation."}],
    )


def ask(cast: Cast, address: str) -> Any:
    headers = {"Authorization": f"Bearer {tokens.issue(cast.dee, name='test')}"}
    answer = Client(headers=headers).get(f"/api/v1/{address}")
    assert answer.status_code == 200
    return answer.json()


def test_api_shows_a_result_of_a_check_that_is_gone(cast: Cast, stored: QAResult) -> None:
    shown = ask(cast, f"versions/{stored.run.version_id}/report/")["results"][0]
    assert (shown["name"], shown["label"], shown["status"]) == ("shop.repetition", stored.label, "failed")
    assert (shown["value"], shown["limit"], shown["unit"]) == (96.7, 25.0, "percent")
    assert shown["reason"] == REASON


def test_result_of_a_check_that_is_gone_is_scored_from_what_is_stored(stored: QAResult) -> None:
    facts = {name: getattr(stored, name) for name in ("name", "label", "category", "weight", "required", "reason")}
    total = score([Scored(status=Status(stored.status), **facts)], {"shop": 10})
    assert (total.points, total.blocked) == (0, True)
    assert [(loss.label, loss.points) for loss in total.lost] == [("Answers do not go round in circles", 100)]
    assert "Points were lost on: Answers do not go round in circles (100.0)" in total.sentence
