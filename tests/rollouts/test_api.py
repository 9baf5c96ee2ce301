"""Rollouts over REST: each verb, one shape of error, filters, pages, and a bound on queries."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from django.contrib.auth.models import User
from rest_framework.test import APIClient

from rollouts.lifecycle import Status
from rollouts.models import Rollout, Strategy
from tests.rollouts.conftest import CANARY, World

ROLLOUTS = "/api/v1/rollouts/"
As = Callable[[User | None], APIClient]


@pytest.fixture
def signed_in() -> As:
    def sign_in(user: User | None) -> APIClient:
        client = APIClient()
        if user is not None:
            client.force_authenticate(user)
        return client

    return sign_in


@pytest.fixture
def cy(world: World, signed_in: As) -> APIClient:
    return signed_in(world.cast.cy)


def asked(version: Any, **more: Any) -> dict[str, Any]:
    return {"model": "textgen", "version": version.number, "environment": "production", "steps": CANARY} | more


def assert_refused(answer: Any, status: int, code: str, *fields: str) -> dict[str, Any]:
    assert answer.status_code == status, answer.json()
    said: dict[str, Any] = answer.json()
    assert set(said) == {"code", "message", "fields"}
    assert said["code"] == code
    assert said["message"]
    assert set(said["fields"]) >= set(fields)
    return said


# Asking


def test_request_and_look(world: World, cy: APIClient) -> None:
    answer = cy.post(ROLLOUTS, asked(world.approved(), note="Faster.", options={"traffic_split": 10}), format="json")
    assert answer.status_code == 201, answer.json()
    made = answer.json()
    assert (made["status"], made["requested_by"], made["trigger"], made["note"]) == (
        "waiting_qa", "cy", "api", "Faster.",
    )  # fmt: skip
    assert made["paused"] is False
    assert made["steps"][0]["title"] == "Send 10 % of traffic"
    assert cy.get(f"{ROLLOUTS}{made['id']}/").json() == made


def test_request_uses_the_canary_strategy_where_none_is_named(world: World, cy: APIClient) -> None:
    body = asked(world.approved())
    del body["steps"]
    made = cy.post(ROLLOUTS, body, format="json").json()
    assert made["strategy"] == "canary"
    assert [step["kind"] for step in made["steps"]] == [
        next(iter(step)) for step in Strategy.objects.get(name="canary").steps
    ]


def test_request_sent_twice_with_its_key_is_one_rollout(world: World, cy: APIClient) -> None:
    body = asked(world.approved())
    first, second = (cy.post(ROLLOUTS, body, format="json", headers={"Idempotency-Key": "k"}) for _ in range(2))
    assert first.json()["id"] == second.json()["id"]
    too_long = cy.post(ROLLOUTS, body, format="json", headers={"Idempotency-Key": "k" * 101})
    assert_refused(too_long, 422, "invalid", "Idempotency-Key")


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"version": 99}, "version"),
        ({"model": "nothing"}, "version"),
        ({"version": "two"}, "version"),
        ({"version": 0}, "version"),
        ({"environment": "moon"}, "environment"),
        ({"strategy": "canary"}, "steps"),
        ({"steps": [{"setWeight": 300}]}, "steps[0].setWeight"),
        ({"steps": [{"setWeight": 10}, {"analysis": {"alpha": 7}}]}, "steps[1].analysis.alpha"),
        ({"steps": []}, "steps"),
        ({"steps": "canary"}, "steps"),
        ({"surprise": 1}, "surprise"),
        ({"options": []}, "options"),
    ],
)
def test_wrong_field_is_named(world: World, cy: APIClient, changes: dict[str, Any], field: str) -> None:
    answer = cy.post(ROLLOUTS, asked(world.approved()) | changes, format="json")
    assert_refused(answer, 422, "invalid", field)
    assert not Rollout.objects.exists()


def test_unknown_strategy_names_those_there_are(world: World, cy: APIClient) -> None:
    body = asked(world.approved(), strategy="canry")
    del body["steps"]
    said = assert_refused(cy.post(ROLLOUTS, body, format="json"), 422, "invalid", "strategy")
    assert "canary" in said["fields"]["strategy"]


def test_missing_fields_are_all_named(cy: APIClient) -> None:
    assert_refused(cy.post(ROLLOUTS, {}, format="json"), 422, "invalid", "model", "version", "environment")


def test_second_rollout_meanwhile_is_a_conflict(world: World, cy: APIClient) -> None:
    world.request(world.approved())
    said = assert_refused(cy.post(ROLLOUTS, asked(world.approved()), format="json"), 409, "conflict")
    assert "under way" in said["message"]


# Verbs


@pytest.fixture
def waiting(world: World) -> Rollout:
    """It waits for a person."""
    return world.canary([{"setWeight": 10}, {"pause": {}}, {"approval": {}}, {"setWeight": 100}])


def test_pause_resume_and_promote(world: World, cy: APIClient, waiting: Rollout) -> None:
    place = f"{ROLLOUTS}{waiting.pk}"
    assert cy.post(f"{place}/pause/", {"reason": "Let me look."}, format="json").json()["paused"] is True
    assert_refused(cy.post(f"{place}/pause/", {}, format="json"), 409, "illegal_transition")
    assert cy.post(f"{place}/resume/", {}, format="json").json()["paused"] is False
    assert_refused(cy.post(f"{place}/resume/", {}, format="json"), 409, "illegal_transition")
    assert cy.post(f"{place}/promote/", {}, format="json").status_code == 200
    assert world.run(waiting).step_index == 2


def test_approve_a_step(world: World, signed_in: As, waiting: Rollout) -> None:
    place = f"{ROLLOUTS}{waiting.pk}/approve/"
    bo = signed_in(world.cast.bo)
    assert_refused(bo.post(place, {}, format="json"), 409, "illegal_transition")
    Rollout.objects.filter(pk=waiting.pk).update(step_index=2)
    step = bo.post(place, {"reason": "Good."}, format="json").json()["steps"][2]
    assert step["approved_by"] == "bo"
    Rollout.objects.filter(pk=waiting.pk).update(requested_by=world.cast.bo)
    assert_refused(bo.post(place, {}, format="json"), 403, "four_eyes")


def test_abort_and_rollback(world: World, cy: APIClient, waiting: Rollout) -> None:
    place = f"{ROLLOUTS}{waiting.pk}"
    assert_refused(cy.post(f"{place}/abort/", {}, format="json"), 422, "invalid", "reason")
    assert cy.post(f"{place}/abort/", {"reason": "Bad."}, format="json").json()["status"] == "rolling_back"
    assert_refused(cy.post(f"{place}/abort/", {"reason": "Bad."}, format="json"), 409, "illegal_transition")
    world.run(waiting)
    again = world.run(world.request(world.approved(), [{"setWeight": 100}]))
    assert again.status == Status.SUCCEEDED
    answer = cy.post(f"{ROLLOUTS}{again.pk}/rollback/", {"reason": "Bad."}, format="json")
    assert answer.json()["status"] == "rolling_back"
    assert answer.json()["previous_version"] == 1


VERBS = ("pause", "resume", "promote", "abort", "rollback", "approve")


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("who", ["ana", "dee", "eve", None])
def test_verbs_need_their_role(world: World, signed_in: As, verb: str, who: str | None) -> None:
    rollout = world.request(world.registered())
    client = signed_in(getattr(world.cast, who) if who else None)
    answer = client.post(f"{ROLLOUTS}{rollout.pk}/{verb}/", {"reason": "Because."}, format="json")
    if who:
        assert_refused(answer, 403, "forbidden")
    else:
        assert_refused(answer, 401, "not_authenticated")


@pytest.mark.parametrize("verb", VERBS)
def test_verb_on_what_is_not_there_is_not_found(cy: APIClient, verb: str) -> None:
    assert_refused(cy.post(f"{ROLLOUTS}4711/{verb}/", {"reason": "Because."}, format="json"), 404, "not_found")


@pytest.mark.parametrize("verb", VERBS)
def test_verb_refuses_unknown_fields_and_other_methods(cy: APIClient, waiting: Rollout, verb: str) -> None:
    place = f"{ROLLOUTS}{waiting.pk}/{verb}/"
    assert_refused(cy.post(place, {"because": "x"}, format="json"), 422, "invalid", "because")
    assert_refused(cy.get(place), 405, "method_not_allowed")
    assert_refused(cy.post(place, "[1]", content_type="application/json"), 422, "invalid")
    assert_refused(cy.post(place, "{", content_type="application/json"), 400, "parse_error")


# Lists


def test_list_is_narrowed_and_paged(world: World, cy: APIClient) -> None:
    first = world.run(world.request(world.approved()))
    second = world.request(world.registered())
    third = world.request(world.registered(), environment=world.staging)

    def found(query: str) -> list[int]:
        return [one["id"] for one in cy.get(f"{ROLLOUTS}?{query}").json()["results"]]

    assert found("") == [third.pk, second.pk, first.pk]
    assert found("environment=production") == [second.pk, first.pk]
    assert found("status=succeeded") == [first.pk]
    assert found("model=textgen&status=waiting_qa&environment=staging") == [third.pk]
    assert found("model=nothing") == []
    assert cy.get(f"{ROLLOUTS}?status=nonsense").status_code == 422
    page = cy.get(f"{ROLLOUTS}?limit=2").json()
    assert [one["id"] for one in page["results"]] == [third.pk, second.pk]
    assert [one["id"] for one in cy.get(page["next"]).json()["results"]] == [first.pk]


@pytest.mark.parametrize("who", ["eve", None])
@pytest.mark.parametrize("place", [ROLLOUTS, f"{ROLLOUTS}1/", "/api/v1/environments/", "/api/v1/strategies/"])
def test_outsiders_see_nothing(world: World, signed_in: As, place: str, who: str | None) -> None:
    answer = signed_in(getattr(world.cast, who) if who else None).get(place)
    assert answer.status_code == (403 if who else 401)


def test_list_costs_the_same_number_of_queries_however_long(
    world: World, cy: APIClient, django_assert_num_queries: Any
) -> None:
    def queries() -> int:
        with django_assert_num_queries(5, exact=False) as counted:
            assert cy.get(ROLLOUTS).status_code == 200
        return len(counted)

    world.run(world.request(world.approved()))
    few = queries()
    for _ in range(4):
        rollout = world.run(world.request(world.approved()))
        Rollout.objects.filter(pk=rollout.pk).update(status=Status.ROLLED_BACK)
    assert queries() == few


# Environments and strategies


def test_environments_are_listed(cy: APIClient) -> None:
    assert [one["name"] for one in cy.get("/api/v1/environments/").json()["results"]][::-1] == [
        "staging", "canary", "production",
    ]  # fmt: skip


def test_strategy_is_saved_and_listed(world: World, cy: APIClient, signed_in: As) -> None:
    body = {"name": "slow", "steps": [{"setWeight": 1}, {"pause": {}}]}
    answer = cy.post("/api/v1/strategies/", body, format="json")
    assert answer.status_code == 201
    assert answer.json()["steps"] == [{"setWeight": 1.0}, {"pause": {}}]
    assert "slow" in [one["name"] for one in cy.get("/api/v1/strategies/").json()["results"]]
    assert_refused(cy.post("/api/v1/strategies/", {**body, "name": "Slow!"}, format="json"), 422, "invalid", "name")
    wrong = cy.post("/api/v1/strategies/", {**body, "steps": [{"setwait": 1}]}, format="json")
    assert_refused(wrong, 422, "invalid", "steps[0].setwait")
    ana = signed_in(world.cast.ana)
    assert_refused(ana.post("/api/v1/strategies/", body, format="json"), 403, "forbidden")


# Several candidates


def compared(world: World, **more: Any) -> dict[str, Any]:
    world.live()
    own, second, third = (world.approved() for _ in range(3))
    steps = [{"setWeight": 30}, {"pause": {}}]
    arms = [second.number, third.number]
    return asked(own, steps=steps, purpose="experiment", arms=arms, **more)


def test_experiment_of_several_versions_is_asked_for_and_shown(world: World, cy: APIClient) -> None:
    rule = {"header": "x-beta", "value": "1", "arm": "candidate-3"}
    routing = {"by": "header", "name": "x-user-id", "forced": [rule]}
    body = compared(world, arm_weights=[2, 1, 1], routing=routing, holdout_percent=2.5)
    answer = cy.post(ROLLOUTS, body, format="json")
    assert answer.status_code == 201, answer.json()
    made = answer.json()
    assert (made["purpose"], made["routing"], made["holdout_percent"]) == ("experiment", routing, 2.5)
    shown = [(arm["name"], arm["version"], arm["parts"], arm["on"], arm["deployment"]) for arm in made["arms"]]
    assert shown == [
        ("candidate", 2, 2, True, None),
        ("candidate-2", 3, 1, True, None),
        ("candidate-3", 4, 1, True, None),
    ]


def test_arm_is_dropped_over_rest(world: World, cy: APIClient) -> None:
    made = cy.post(ROLLOUTS, compared(world), format="json").json()
    world.run(Rollout.objects.get(pk=made["id"]))
    verb = f"{ROLLOUTS}{made['id']}/drop-arm/"
    answer = cy.post(verb, {"arm": "candidate-2", "reason": "Rude."}, format="json")
    assert answer.status_code == 200, answer.json()
    second = answer.json()["arms"][1]
    assert (second["on"], second["cause"], second["reason"]) == (False, "person", "Rude.")
    assert_refused(cy.post(verb, {"arm": "x", "reason": "Rude."}, format="json"), 422, "invalid", "arm")
    assert_refused(cy.post(verb, {"arm": "candidate"}, format="json"), 422, "invalid", "reason")
    assert_refused(cy.post(verb, {"reason": "Rude."}, format="json"), 422, "invalid", "arm")
    cy.post(verb, {"arm": "candidate", "reason": "Rude."}, format="json")
    assert_refused(cy.post(verb, {"arm": "candidate-3", "reason": "Rude."}, format="json"), 409, "illegal_transition")


def test_who_may_only_look_drops_no_arm(world: World, cy: APIClient, signed_in: As) -> None:
    made = cy.post(ROLLOUTS, compared(world), format="json").json()
    answer = signed_in(world.cast.dee).post(
        f"{ROLLOUTS}{made['id']}/drop-arm/", {"arm": "candidate-2", "reason": "Rude."}, format="json"
    )
    assert_refused(answer, 403, "forbidden")


@pytest.mark.parametrize(
    ("wrong", "field"),
    [
        ({"arms": [99]}, "arms[0]"),
        ({"arms": ["x"]}, "arms[0]"),
        ({"purpose": "fun"}, "purpose"),
        ({"purpose": "promote"}, "arms"),
        ({"arm_weights": [1]}, "arm_weights"),
        ({"routing": {"by": "weather"}}, "routing.by"),
        ({"routing": "header"}, "routing"),
        ({"holdout_percent": 99}, "holdout_percent"),
        ({"holdout_percent": "many"}, "holdout_percent"),
    ],
)
def test_comparison_that_cannot_be_is_refused_with_its_field(
    world: World, cy: APIClient, wrong: dict[str, Any], field: str
) -> None:
    answer = cy.post(ROLLOUTS, compared(world) | wrong, format="json")
    assert_refused(answer, 422, "invalid", field)
