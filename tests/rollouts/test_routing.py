"""From the rows to the data plane: who gets which share, and who writes last."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from deploypipe.core.errors import RouterError
from registry.models import ModelVersion
from rollouts import routing
from rollouts.backends import routers
from rollouts.models import Deployment, Desired, Environment, Route
from rollouts.targets.base import Phase
from rollouts.traffic.base import Backend
from rollouts.traffic.memory import MemoryRouter
from tests.rollouts.conftest import World, all_on


@pytest.fixture
def pair(world: World) -> tuple[Deployment, Deployment]:
    """The candidate and the stable version of a canary at 10 %."""
    rollout = world.canary([{"setWeight": 10}, {"pause": {}}])
    assert rollout.candidate is not None
    assert rollout.previous is not None
    return rollout.candidate, rollout.previous


def change(deployment: Deployment, **changes: Any) -> None:
    Deployment.objects.filter(pk=deployment.pk).update(**changes)


def test_candidate_comes_first_and_what_is_only_warm_last(world: World, pair: tuple[Deployment, Deployment]) -> None:
    candidate, stable = pair
    warm = Deployment.objects.create(
        environment=stable.environment, version=world.registered(), name="warm", phase=Phase.READY, address="h:1"
    )
    (table,) = routing.tables("envoy")
    assert table.backends == (
        Backend(candidate.name, world.deployment(candidate.version).address, 1000),
        Backend(stable.name, world.deployment(stable.version).address, 9000),
        Backend(warm.name, "h:1", 0),
    )


@pytest.mark.parametrize(("engine", "keeps"), [("llamacpp", False), ("vllm", True), ("of yesterday", True)])
def test_connections_are_kept_as_the_engine_keeps_them(
    world: World, pair: tuple[Deployment, Deployment], engine: str, keeps: bool
) -> None:
    candidate, _ = pair
    ModelVersion.objects.filter(pk=candidate.version_id).update(engine=engine)
    (table,) = routing.tables("envoy")
    assert [backend.keeps_connections for backend in table.backends] == [keeps, True]


@pytest.mark.parametrize("gone", [{"phase": Phase.FAILED, "address": ""}, {"phase": Phase.STARTING}])
def test_share_of_a_server_that_cannot_answer_goes_to_the_other(
    world: World, pair: tuple[Deployment, Deployment], gone: dict[str, Any]
) -> None:
    candidate, stable = pair
    change(candidate, **gone)
    routing.write_all()
    assert world.wire() == all_on(stable)
    change(candidate, phase=Phase.READY, address="127.0.0.1:9")
    change(stable, **gone)
    routing.write_all()
    assert world.wire() == all_on(candidate)


def test_server_that_starts_is_better_than_none(world: World, pair: tuple[Deployment, Deployment]) -> None:
    candidate, stable = pair
    change(candidate, phase=Phase.FAILED, address="")
    change(stable, phase=Phase.STARTING)
    routing.write_all()
    assert world.wire() == all_on(stable)


def test_where_nothing_can_answer_there_is_no_backend(world: World, pair: tuple[Deployment, Deployment]) -> None:
    Deployment.objects.update(phase=Phase.FAILED, address="")
    assert [table.backends for table in routing.tables("envoy")] == [()]
    routing.write_all()
    assert world.wire() == {}


def test_candidate_that_was_not_let_in_yet_does_not_stand_in(world: World, pair: tuple[Deployment, Deployment]) -> None:
    _, stable = pair
    Route.objects.update(weight=0)
    change(stable, phase=Phase.FAILED, address="")
    routing.write_all()
    assert world.wire() == {}


def test_stopped_servers_are_not_named(world: World, pair: tuple[Deployment, Deployment]) -> None:
    candidate, stable = pair
    Route.objects.update(candidate=None, weight=0)
    change(candidate, desired=Desired.STOPPED)
    assert [[b.name for b in table.backends] for table in routing.tables("envoy")] == [[stable.name]]


def test_each_router_is_written_although_another_one_fails(world: World, settings: Any) -> None:
    world.live()
    settings.ROUTERS = {**settings.ROUTERS, "another": {}}
    another = MemoryRouter()
    routers.replace("another", another)
    Environment.objects.filter(name="staging").update(router="another")
    world.run(world.request(world.approved(), environment=world.staging))
    another.tamper(())
    world.router.tamper(())
    another.fail_next(RouterError("Disk full."))
    with pytest.raises(RouterError, match="Disk full"):
        routing.write_all()
    assert len(world.wire()) == 1
    routing.write_all()
    assert len(another.tables) == 1


def test_lock_that_cannot_be_taken_is_a_sentence(world: World, settings: Any, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    settings.VAR_DIR = tmp_path / "file"
    with pytest.raises(RouterError, match="The routes could not be written"):
        routing.write("envoy")
