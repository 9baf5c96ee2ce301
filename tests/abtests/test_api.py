from __future__ import annotations

from typing import Any

import pytest
from django.test import Client

from abtests import gates
from abtests.models import Experiment, Snapshot
from deploypipe.core import tokens
from rollouts.lifecycle import Status
from rollouts.models import Rollout
from tests.abtests.world import NOW, World

BODY = {"model": "textgen", "version": 2, "environment": "production"}


@pytest.fixture
def ask(world: World) -> Any:
    def asked(who: str, address: str, body: Any = None) -> tuple[int, Any]:
        client = Client(headers={"Authorization": f"Bearer {tokens.issue(getattr(world.cast, who), name='test')}"})
        address = f"/api/v1/experiments/{address}"
        answer = client.get(address) if body is None else client.post(address, body, content_type="application/json")
        return answer.status_code, answer.json()

    return asked


def test_experiment_is_started_read_and_stopped(ask: Any) -> None:
    status, said = ask("ana", "", {**BODY, "traffic_percent": 20, "settings": {"min_requests": 500}, "name": "Better?"})
    assert status == 201
    assert (said["name"], said["status"], said["candidate"], said["environment"]) == (
        "Better?", "draft", "textgen v2", "production",
    )  # fmt: skip
    assert (said["stable"], said["latest"]) == (None, None)
    assert ask("dee", f"{said['id']}/") == (200, said)
    assert ask("dee", "")[1]["results"] == [said]
    status, stopped = ask("ana", f"{said['id']}/stop/", {"reason": "Changed my mind."})
    assert (status, stopped["status"], stopped["sentence"]) == (200, "stopped", "Changed my mind.")
    assert stopped["ended_at"]


@pytest.mark.parametrize(
    ("wrong", "field"),
    [
        ({"model": "nothing"}, "version"),
        ({"version": 9}, "version"),
        ({"version": "two"}, "version"),
        ({"version": 10**30}, "version"),
        ({"environment": "moon"}, "environment"),
        ({"traffic_percent": 100}, "traffic_percent"),
        ({"traffic_percent": "half"}, "traffic_percent"),
        ({"settings": {"alpha": 2}}, "settings.alpha"),
        ({"settings": [1]}, "settings"),
        ({"name": "x" * 101}, "name"),
        ({"goals": []}, "goals"),
    ],
)
def test_wrong_field_is_named(wrong: dict[str, Any], field: str, ask: Any) -> None:
    status, said = ask("ana", "", {**BODY, **wrong})
    assert (status, said["code"], set(said["fields"])) == (422, "invalid", {field})
    assert not Experiment.objects.exists()


def test_roles_and_states_by_the_api(ask: Any) -> None:
    assert ask("dee", "", BODY)[1]["code"] == "forbidden"
    assert ask("eve", "")[0] == 403
    pk = ask("ana", "", BODY)[1]["id"]
    assert ask("ana", "", BODY)[1]["code"] == "conflict"
    assert ask("dee", f"{pk}/stop/", {"reason": "x"})[0] == 403
    assert set(ask("ana", f"{pk}/stop/", {})[1]["fields"]) == {"reason"}
    assert ask("ana", f"{pk}/stop/", {"reason": "x"})[0] == 200
    assert ask("ana", f"{pk}/stop/", {"reason": "x"})[1]["code"] == "illegal_transition"
    assert ask("ana", "999/stop/", {"reason": "x"})[0] == 404


def test_newest_look_is_shown(ask: Any, world: World) -> None:
    rollout = world.rollout({})
    for measured in (1, 2):
        world.measure(stable=(10, 0), candidate=(10, 0))
        gates.ExperimentGate().judge(rollout, 1, now=NOW, seconds=measured)
    assert Snapshot.objects.count() == 2
    [said] = ask("dee", "")[1]["results"]
    assert said["latest"]["totals"]["candidate"]["requests"] == 20
    assert (said["stable"], said["status"]) == ("textgen v1", "running")


def test_length_of_the_list_does_not_change_its_number_of_queries(
    ask: Any, world: World, django_assert_max_num_queries: Any
) -> None:
    for number in range(12):
        pk = ask("ana", "", {**BODY, "name": f"number {number}"})[1]["id"]
        Snapshot.objects.create(experiment_id=pk, last_window=number, verdict="continue")
        Rollout.objects.update(status=Status.CANCELLED)
    token = tokens.issue(world.cast.dee, name="test")
    with django_assert_max_num_queries(5):
        answer = Client(headers={"Authorization": f"Bearer {token}"}).get("/api/v1/experiments/")
    assert len(answer.json()["results"]) == 12
