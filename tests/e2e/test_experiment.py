"""An experiment on its own, on real traffic: it says which is better and gives the traffic back."""

from __future__ import annotations

import pytest
from playwright.sync_api import expect

from tests.e2e.test_journey import SignedIn
from tests.product import ENVIRONMENT, MODEL, Product, until

pytestmark = pytest.mark.e2e

SETTINGS = {
    "goals": [{"metric": "error_rate", "aim": "non_inferiority", "margin_points": 5.0}],
    "guardrails": [{"metric": "error_rate", "limit": 20.0}],
    "min_requests": 100,
}


def test_two_versions_are_compared_and_afterwards_the_live_one_has_all_traffic(
    product: Product, signed_in: SignedIn
) -> None:
    version = product.approved(kind="trigram")
    with product.traffic() as report:
        experiment = product.api.post(
            "experiments/",
            "ana",
            {
                "model": MODEL,
                "version": version["number"],
                "environment": ENVIRONMENT,
                "traffic_percent": 50,
                "settings": SETTINGS,
            },
        )
        path = f"experiments/{experiment['id']}/"
        ended = until(
            lambda: (seen := product.api.get(path))["status"] not in ("draft", "running") and seen,
            seconds=90,
            what="the answer of the experiment",
        )
        rollout = product.ended(ended["rollout"])
    assert ended["status"] == "promote", ended["sentence"]
    assert "rises by less than 5 points" in ended["sentence"]
    assert rollout["status"] == "succeeded"
    assert report["answered_ok"] == report["sent"]
    dee = signed_in("dee")
    dee.goto(f"/experiments/{experiment['id']}/")
    expect(dee.get_by_role("heading", level=1)).to_contain_text("Promote")
