from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any, cast

import pytest
from asgiref.sync import async_to_sync
from django.test import AsyncClient, Client

from abtests import gates
from abtests.evidence import from_file
from abtests.models import Experiment, Snapshot
from abtests.replay import replay
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


def test_several_candidates_are_asked_for_and_shown(ask: Any, world: World) -> None:
    world.another()
    routing = {"by": "header", "name": "x-user"}
    body = {**BODY, "arms": [3], "arm_weights": [2, 1], "holdout_percent": 5, "routing": routing}
    status, said = ask("ana", "", body)
    assert status == 201, said
    assert said["arms"] == {"candidate": "textgen v2", "candidate-2": "textgen v3"}
    assert (said["winner"], said["holdout_percent"]) == (None, 5)
    assert said["routing"] == routing
    status, said = ask("ana", "", {**BODY, "arms": [9]})
    assert (status, set(said["fields"])) == (422, {"arms[0]"})


def test_evidence_is_one_file_that_gives_every_verdict_again(ask: Any, world: World) -> None:
    rollout = world.rollout({"min_requests": 10})
    for _ in range(3):
        world.measure(stable=(200, 2), candidate=(200, 2), batches=2)
        gates.ExperimentGate().judge(rollout, 1, now=NOW, seconds=60)
    pk = Experiment.objects.get().pk
    client = Client(headers={"Authorization": f"Bearer {tokens.issue(world.cast.dee, name='test')}"})
    answer = client.get(f"/api/v1/experiments/{pk}/evidence/")
    assert answer.headers["Content-Disposition"] == f'attachment; filename="experiment-{pk}-evidence.json"'
    evidence = from_file(json.loads(b"".join(cast(Iterable[bytes], answer.streaming_content))))  # type: ignore[attr-defined]
    assert (len(evidence.windows), len(evidence.looks)) == (6, 3)
    for one in replay(evidence):
        assert one.equal, one.differences
    assert ask("eve", f"{pk}/evidence/")[0] == 403
    assert ask("dee", "999/evidence/")[0] == 404


def test_evidence_is_streamed_by_the_asynchronous_server_too(world: World, ask: Any) -> None:
    world.rollout({})
    pk = Experiment.objects.get().pk
    token = tokens.issue(world.cast.dee, name="test")

    async def read() -> bytes:
        answer = await AsyncClient().get(
            f"/api/v1/experiments/{pk}/evidence/", headers={"Authorization": f"Bearer {token}"}
        )
        assert answer.status_code == 200, answer.content
        return b"".join([piece async for piece in answer])  # type: ignore[attr-defined]

    assert from_file(json.loads(async_to_sync(read)())).windows == ()
