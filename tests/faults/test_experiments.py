"""Experiments from end to end: real traffic, what users say of it, verdicts, and processes that die in between."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from typing import Any

import httpx
import pytest

from examples.story.client import Json
from tests.product import ENVIRONMENT, MODEL, Product, until

pytestmark = pytest.mark.faults

ERRORS: Json = {"metric": "error_rate", "aim": "non_inferiority", "margin_points": 5}
USUAL: Json = {
    "goals": [ERRORS],
    "guardrails": [{"metric": "error_rate", "limit": 20}],
    "min_requests": 60,
    "max_seconds": 300,
    "auto_promote": True,
    "auto_rollback": True,
}
FAULTY = ("--fault", "long-prompt-error")
"""One request in twelve is long."""


class Shop:
    """Customers with sessions of their own: each asks once, some buy, and the shop posts it by the request's id."""

    def __init__(self, product: Product) -> None:
        self.product = product
        self.receipts: list[Json] = []
        self.problems: list[str] = []

    @contextmanager
    def opened(self) -> Iterator[Shop]:
        closed = threading.Event()
        thread = threading.Thread(target=self._serve, args=(closed,))
        thread.start()
        try:
            yield self
        finally:
            closed.set()
            thread.join(30)

    def _serve(self, closed: threading.Event) -> None:
        rng = random.Random(1)
        key = {"authorization": f"Bearer {self.product.key}"}
        url = f"{self.product.stage.gateway}/{ENVIRONMENT}/{MODEL}/v1/completions"
        with httpx.Client(headers=key, timeout=10) as http:
            for batch in count():
                items = []
                for customer in range(20):
                    said = {"x-session-id": f"customer-{batch}-{customer}"}
                    answer = http.post(url, json={"model": MODEL, "prompt": "The value", "max_tokens": 2}, headers=said)
                    if answer.status_code != 200:
                        self.problems.append(answer.text)
                    bought = {"converted": rng.random() < 0.5, "cost": round(rng.uniform(1, 2), 3)}
                    items.append({"request_id": answer.headers["x-request-id"], **bought, "id": f"{batch}-{customer}"})
                self._post(items)
                if closed.is_set():
                    return

    def _post(self, items: list[Json]) -> None:
        """As a shop does that is not sure whether the first time was heard."""
        for _ in range(2):
            body = {"environment": ENVIRONMENT, "model": MODEL, "items": items}
            self.receipts.append(self.product.api.post("feedback/", "ana", body))


def assert_replayed(product: Product, experiment: int) -> None:
    again = product.replayed(experiment)
    assert again.returncode == 0, again.stdout + again.stderr
    assert "Every verdict came out as it was stored, to the last bit" in again.stdout


def row(seen: Json, metric: str, arm: str = "candidate") -> Json:
    found: Json = next(row for row in seen["latest"]["rows"] if (row["arm"], row["metric"]) == (arm, metric))
    return found


def words(product: Product) -> Json:
    found: Json = product.api.get("feedback/", environment=ENVIRONMENT, model=MODEL)
    return found


def test_users_ratings_purchases_and_costs_decide_on_real_traffic_and_every_verdict_comes_out_again(
    product: Product,
) -> None:
    before = words(product)
    goals = [
        ERRORS,
        {"metric": "rating", "limit": 3.5},
        {"metric": "conversion_rate", "margin_points": 30},
        {"metric": "cost", "margin_percent": 50},
    ]
    experiment = product.experiment(product.approved(kind="trigram"), {**USUAL, "goals": goals})
    ratings = ("--feedback-url", product.api.url("feedback/"), "--rating-share", "0.6")
    with product.traffic(*ratings) as report, Shop(product).opened() as shop:
        seen = product.decided(experiment)
    assert seen["status"] == "promote", seen["sentence"]
    assert {metric: row(seen, metric)["state"] for metric in ("error_rate", "rating", "conversion_rate", "cost")} == (
        dict.fromkeys(("error_rate", "rating", "conversion_rate", "cost"), "met")
    )
    assert row(seen, "cost")["asymptotic"]
    assert (shop.problems, report["ratings_lost"], report["ratings_problem"]) == ([], 0, "")
    taken, doubled = shop.receipts[::2], shop.receipts[1::2]
    assert {(receipt["accepted"], receipt["duplicates"]) for receipt in taken} == {(20, 0)}
    assert {(receipt["accepted"], receipt["duplicates"]) for receipt in doubled} == {(0, 20)}
    after = words(product)
    assert after["matched"] - before["matched"] > row(seen, "rating")["candidate_units"]
    assert after["duplicates"] - before["duplicates"] == 20 * len(doubled)
    assert_replayed(product, experiment)


def test_of_three_candidates_the_one_that_fails_is_dropped_and_one_of_the_others_wins(product: Product) -> None:
    own, other, bad = (product.approved(*fault, kind="trigram") for fault in ((), (), FAULTY))
    settings = {**USUAL, "goals": [{**ERRORS, "margin_points": 3}], "guardrails": []}
    arms = [other["number"], bad["number"]]
    experiment = product.experiment(own, settings, arms=arms, traffic_percent=75)
    rollout = product.experiment_seen(experiment)["rollout"]
    with product.traffic("--rate", "60"):
        product.looks_at(experiment)  # three servers take their time to start
        dropped = until(
            lambda: next((arm for arm in product.seen(rollout)["arms"] if not arm["on"]), None),
            seconds=120,
            what="the leaving of an arm",
        )
        seen = product.decided(experiment, seconds=180)
    assert (dropped["name"], dropped["cause"]) == ("candidate-3", "verdict")
    assert "worse by more than 3 points" in dropped["reason"]
    assert seen["status"] == "promote", seen["sentence"]
    assert seen["winner"] in (f"{MODEL} v{own['number']}", f"{MODEL} v{other['number']}")
    assert row(seen, "error_rate", "candidate-3")["state"] == "broken"
    assert product.ended(rollout)["status"] == "succeeded"
    assert_replayed(product, experiment)


def test_gates_experiment_holds_while_gateway_and_product_are_killed_and_decides_by_what_was_recorded(
    product: Product,
) -> None:
    steps: list[Json] = [{"setWeight": 50}, {"experiment": {**USUAL, "min_requests": 400}}, {"setWeight": 100}]
    version = product.approved(kind="trigram")
    with product.traffic("--retry-transport") as report:
        rollout = product.rollout(version, steps)
        experiment = product.experiment_of(rollout)
        looks = product.looks_at(experiment)["latest"]["looks"]
        envoy = product.envoy
        assert envoy is not None
        envoy.kill()
        until(lambda: (new := product.envoy) and new != envoy, seconds=30, what="a new gateway")
        looks = product.looks_at(experiment, more_than=looks)["latest"]["looks"]
        product.kill_main()
        recorded = product.recorded
        until(lambda: product.recorded > recorded + 60, seconds=30, what="requests that nobody looks at")
        product.stage.start()
        seen = product.decided(experiment)
        ended = product.ended(rollout)
    assert seen["status"] == "promote", seen["sentence"]
    assert ended["status"] == "succeeded", ended["reason"]
    assert seen["latest"]["looks"] > looks
    assert row(seen, "error_rate")["candidate_units"] > 100
    assert report["http_errors"] == {}
    assert_replayed(product, experiment)


def test_candidate_that_is_killed_is_taken_back_with_its_experiment(product: Product) -> None:
    """By what its users met, or by its health: whichever is seen first."""
    version = product.approved(kind="trigram")
    experiment = product.experiment(version, {**USUAL, "min_requests": 100_000})
    with product.traffic():
        product.looks_at(experiment)
        product.server(version).kill()
        seen = product.decided(experiment, seconds=60)
    rollout = product.ended(seen["rollout"])
    assert rollout["status"] == "rolled_back"
    assert (seen["status"], rollout["cause"]) in (("stopped", "health"), ("abort", "verdict"))
    assert_replayed(product, experiment)


def test_stable_version_that_is_killed_decides_nothing_while_it_is_away(product: Product) -> None:
    live, version = product.live, product.approved(kind="trigram")
    experiment = product.experiment(version, {**USUAL, "min_requests": 300})
    with product.traffic("--retry-transport"):
        product.looks_at(experiment)
        before = product.record(live)["identity"]
        product.server(live).kill()
        held = until(
            lambda: (
                (seen := product.experiment_seen(experiment))["sentence"].startswith("On hold: the stable") and seen
            ),
            seconds=30,
            what="its holding",
        )
        assert held["status"] == "running"
        until(lambda: product.record(live)["identity"] != before, seconds=30, what="a new process of the live version")
        seen = product.decided(experiment)
    assert seen["status"] == "promote", seen["sentence"]
    assert_replayed(product, experiment)


@pytest.mark.parametrize(
    ("given", "place", "right"),
    [
        ({"settings": {"goals": [{"metric": "error"}]}}, "settings.goals", "error_rate"),
        ({"settings": {"max_seconds": 1e308}}, "settings.max_seconds", "at most a year"),
        ({"traffic_percent": 100}, "traffic_percent", "less than 100"),
        ({"arms": [999]}, "arms[0]", "has no version 999"),
        ({"environment": "prod"}, "environment", "use one of"),
    ],
)
def test_what_is_wrong_is_said_by_its_field_and_nothing_is_begun(
    product: Product, given: dict[str, Any], place: str, right: str
) -> None:
    version = product.api.get(f"models/{MODEL}/versions/")["results"][0]
    before = product.api.get("experiments/")["results"]
    body = {"model": MODEL, "version": version["number"], "environment": ENVIRONMENT, **given}
    key = {"authorization": f"Bearer {product.api.key_of('cy')}"}
    answer = httpx.post(product.api.url("experiments/"), json=body, headers=key)
    assert answer.status_code == 422
    assert right in answer.json()["fields"][place]
    assert product.api.get("experiments/")["results"] == before
