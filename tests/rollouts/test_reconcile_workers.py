"""Several workers, and workers that die: one writer at a time, and a crash after any side effect is made good."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.db import connection, connections, transaction
from django.utils import timezone

from deploypipe.core import audit
from deploypipe.core.errors import IllegalTransition
from rollouts import actions, reconcile, routing, servers
from rollouts.backends import targets
from rollouts.lifecycle import Status
from rollouts.models import Analysis, Deployment, Environment, Rollout, Route
from rollouts.targets.memory import MemoryTarget
from rollouts.traffic.base import TOTAL_WEIGHT
from rollouts.traffic.memory import MemoryRouter
from tests.rollouts.conftest import Replace, World, all_on, candidate_of, make_world, previous_of, verbs_of

STEPS = [{"setWeight": 10}, {"analysis": {}}, {"setWeight": 100}]
FORWARD = [
    "rollout.requested", "rollout.qa_passed", "rollout.approved", "rollout.provisioned", "rollout.weight",
    "rollout.step_done", "rollout.step_done", "rollout.weight", "rollout.step_done", "rollout.steps_done",
    "rollout.promoted",
]  # fmt: skip
BACK = [*FORWARD[:6], "rollout.aborted", "rollout.restore", "rollout.rolled_back"]


# A crash after every side effect


class Killed(BaseException):
    """As kill -9: nobody catches it."""


class Fuse:
    """Kills at the n-th call to the outside world, before it has happened or after."""

    def __init__(self) -> None:
        self.calls = 0
        self.at: int | None = None
        self.after = False

    def set(self, at: int | None, *, after: bool = False) -> None:
        self.calls, self.at, self.after = 0, at, after

    def around(self, effect: Callable[[], Any], *, changes: bool = True) -> Any:
        if self.after and not changes:
            return effect()  # to die after having looked is to die before what comes next
        self.calls += 1
        mine = self.calls - 1 == self.at
        if mine and not self.after:
            raise Killed
        result = effect()
        if mine:
            raise Killed
        return result


class FusedTarget(MemoryTarget):
    def __init__(self, fuse: Fuse) -> None:
        super().__init__()
        self.fuse = fuse

    def restart(self, spec: Any) -> None:
        self.fuse.around(lambda: super(FusedTarget, self).restart(spec))

    def observe(self, name: str) -> Any:
        return self.fuse.around(lambda: super(FusedTarget, self).observe(name), changes=False)

    def stop(self, name: str, *, grace: float = 10.0) -> None:
        self.fuse.around(lambda: super(FusedTarget, self).stop(name, grace=grace))


class FusedRouter(MemoryRouter):
    def __init__(self, fuse: Fuse) -> None:
        super().__init__()
        self.fuse = fuse

    def write(self, routes: Any) -> str:
        written: str = self.fuse.around(lambda: super(FusedRouter, self).write(routes))
        return written

    def installed(self) -> Any:
        return self.fuse.around(lambda: super(FusedRouter, self).installed(), changes=False)


@pytest.fixture
def fuse() -> Fuse:
    return Fuse()


@pytest.fixture
def fused(db: None, artifact: Path, backend: Replace, fuse: Fuse) -> World:
    target, router = FusedTarget(fuse), FusedRouter(fuse)
    backend("target", target)
    backend("router", router)
    return make_world(artifact, target, router)


def beat(world: World, rollout: Rollout) -> None:
    """One second of the product."""
    servers.converge_all(timezone.now())
    servers.stop_idle(timezone.now())
    servers.stop_strays()
    world.check_health()
    routing.write_all()
    reconcile.reconcile(rollout.pk)


def play(world: World, rollout: Rollout, measure: Callable[[Rollout], object]) -> None:
    """To the end, as a supervisor would have it: whenever a worker dies, another one begins where the rows say."""
    measured = False
    for _ in range(40):
        with suppress(Killed):
            beat(world, rollout)
        assert_traffic_is_safe(world)
        rollout.refresh_from_db()
        if not measured and rollout.status == Status.PROGRESSING and rollout.step_index == 1:
            measure(rollout)
            measured = True
        if not rollout.is_active:
            return
    raise AssertionError(f"It never ended: {rollout.status}, {rollout.sentence}")


def assert_traffic_is_safe(world: World) -> None:
    """In every state that is ever seen: shares sum to the whole, and nothing goes to a server that does not run."""
    assert isinstance(world.router, FusedRouter)
    for table in world.router.tables:
        assert sum(b.weight for b in table.backends) == TOTAL_WEIGHT
        assert {b.name for b in table.backends if b.weight} <= world.target.names()


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize(
    ("measure", "status", "verbs"),
    [(World.measure_good, Status.SUCCEEDED, FORWARD), (World.measure_bad, Status.ROLLED_BACK, BACK)],
    ids=["forward", "back"],
)
def test_crash_at_any_side_effect_is_made_good(
    fused: World, fuse: Fuse, measure: Any, status: Status, verbs: list[str], after: bool
) -> None:
    fused.live()
    version = fused.approved()
    parted: list[int] = []

    def measured(rollout: Rollout) -> None:
        measure(fused, rollout)
        parted.append(fuse.calls)

    def story(at: int | None) -> None:
        rollout = fused.request(version, STEPS)
        fuse.set(at, after=after)
        play(fused, rollout, measured)

    def check(at: int | None) -> None:
        rollout = Rollout.objects.order_by("-pk")[0]
        beat(fused, rollout)
        assert rollout.status == status, f"killed at {at}"
        assert verbs_of(rollout) == verbs, f"killed at {at}"
        assert fused.wire() == all_on(rollout.candidate if status == Status.SUCCEEDED else rollout.previous)
        assert fused.target.started.count(fused.deployment(version).name) == 1
        assert Analysis.objects.filter(rollout=rollout).count() == 1
        assert list(audit.verify()) == []

    def again_and_again(points: Iterable[int | None]) -> None:
        for at in points:
            before = transaction.savepoint()
            kept = dict(fused.target._servers), list(fused.target.started), fused.router.tables
            story(at)
            calls.append(fuse.calls)
            fuse.set(None)
            check(at)
            transaction.savepoint_rollback(before)
            fused.target._servers, fused.target.started = dict(kept[0]), list(kept[1])
            fused.router.tamper(kept[2])

    calls: list[int] = []
    again_and_again([None])
    # The way back parts from the way forward where it was measured.
    again_and_again(range(0 if status == Status.SUCCEEDED else parted[0], calls[0]))
    assert len(calls) > 2


# Leases


def test_lease_keeps_a_second_worker_out_until_its_time_is_over(world: World) -> None:
    rollout = world.request(world.approved())
    Rollout.objects.filter(pk=rollout.pk).update(
        lease_owner="another", lease_until=timezone.now() + timedelta(seconds=15)
    )
    assert not reconcile.reconcile(rollout.pk)
    rollout.refresh_from_db()
    assert rollout.status == Status.WAITING_QA
    Rollout.objects.filter(pk=rollout.pk).update(lease_until=timezone.now() - timedelta(seconds=1))
    assert reconcile.reconcile(rollout.pk)


def test_lease_is_given_back_and_the_fence_only_grows(world: World) -> None:
    rollout = world.request(world.approved())
    fences = []
    for _ in range(3):
        reconcile.reconcile(rollout.pk)
        rollout.refresh_from_db()
        assert rollout.lease_until is None
        fences.append(rollout.fence)
    assert fences == sorted(set(fences))


def test_ended_rollouts_are_not_due(world: World) -> None:
    rollout = world.request(world.approved())
    assert reconcile.due() == [rollout.pk]
    world.run(rollout)
    assert reconcile.due() == []
    assert not reconcile.reconcile(rollout.pk)
    assert not reconcile.reconcile(10_000)


class Intruding(MemoryRouter):
    """Something happens while a worker is looking at the gateway, after it has read the rollout's row."""

    def __init__(self) -> None:
        super().__init__()
        self.when: dict[str, Any] = {}
        self.what: Callable[[], object] | None = None

    def installed(self) -> Any:
        seen = super().installed()
        if self.what and Rollout.objects.filter(**self.when).exists():
            what, self.what = self.what, None
            what()
        return seen


@pytest.fixture
def intruded(db: None, artifact: Path, target: MemoryTarget, backend: Replace) -> World:
    router = Intruding()
    backend("router", router)
    return make_world(artifact, target, router)


def intrude(world: World, what: Callable[[], object], **when: Any) -> None:
    assert isinstance(world.router, Intruding)
    world.router.what, world.router.when = what, when


def begun(world: World) -> Rollout:
    """Its candidate is healthy, and the next pass would give it 10 %."""
    world.live()
    rollout = world.request(world.approved(), [{"setWeight": 10}, {"pause": {}}, {"setWeight": 100}])
    reconcile.reconcile(rollout.pk)
    world.check_health()
    return rollout


DECIDING = {"status": Status.PROGRESSING, "step_index": 0}


def of(rollout: Rollout) -> Rollout:
    """As a person's page reads it."""
    return Rollout.objects.get(pk=rollout.pk)


def test_pause_that_comes_while_a_worker_decides_stops_the_weight(intruded: World) -> None:
    rollout = begun(intruded)
    intrude(intruded, lambda: actions.pause(of(rollout), actor=intruded.cast.cy), **DECIDING)
    reconcile.reconcile(rollout.pk)
    intruded.run(rollout)
    assert intruded.wire() == all_on(rollout.previous)
    assert rollout.sentence == "Paused by a person."


def test_persons_word_to_go_to_the_end_is_not_lost_when_a_step_ends_at_that_moment(intruded: World) -> None:
    rollout = intruded.run(begun(intruded))
    actions.promote(rollout, actor=intruded.cast.cy)

    def to_the_end() -> None:
        actions.promote(of(rollout), actor=intruded.cast.cy, full=True)

    intrude(intruded, to_the_end, step_index=1)
    reconcile.reconcile(rollout.pk)
    assert intruded.run(rollout).status == Status.SUCCEEDED
    assert "rollout.step_skipped" not in verbs_of(rollout)


def test_abort_that_comes_while_a_worker_decides_wins(intruded: World) -> None:
    rollout = begun(intruded)
    intrude(intruded, lambda: actions.abort(of(rollout), actor=intruded.cast.cy, reason="Bad."), **DECIDING)
    reconcile.reconcile(rollout.pk)
    intruded.run(rollout)
    assert rollout.status == Status.ROLLED_BACK
    assert "rollout.weight" not in verbs_of(rollout)


def test_abort_that_comes_before_the_promoting_write_wins(intruded: World) -> None:
    rollout = intruded.run(begun(intruded))
    actions.promote(rollout, actor=intruded.cast.cy, full=True)
    intrude(
        intruded,
        lambda: actions.abort(of(rollout), actor=intruded.cast.cy, reason="Bad."),
        status=Status.PROMOTING,
        candidate__in=Route.objects.filter(weight=TOTAL_WEIGHT).values("candidate"),
    )
    intruded.run(rollout)
    assert rollout.status == Status.ROLLED_BACK
    assert "rollout.promoted" not in verbs_of(rollout)
    assert intruded.wire() == all_on(rollout.previous)


def test_worker_whose_lease_was_taken_over_cannot_write_any_more(intruded: World) -> None:
    rollout = begun(intruded)

    def take_over() -> None:
        Rollout.objects.filter(pk=rollout.pk).update(lease_until=timezone.now() - timedelta(seconds=1))
        assert reconcile._take_lease(rollout.pk, "another") is not None

    intrude(intruded, take_over, **DECIDING)
    reconcile.reconcile(rollout.pk)
    assert "rollout.weight" not in verbs_of(rollout)
    assert intruded.wire() == all_on(of(rollout).previous)
    assert of(rollout).lease_owner == "another"
    assert of(rollout).lease_until is not None


def test_two_workers_on_one_step_do_it_once(intruded: World) -> None:
    rollout = begun(intruded)

    def overtake() -> None:
        Rollout.objects.filter(pk=rollout.pk).update(lease_until=timezone.now() - timedelta(seconds=1))
        reconcile.reconcile(rollout.pk, by="another")

    intrude(intruded, overtake, **DECIDING)
    reconcile.reconcile(rollout.pk)
    intruded.run(rollout)
    assert rollout.step_index == 1
    assert verbs_of(rollout).count("rollout.weight") == 1
    assert verbs_of(rollout).count("rollout.step_done") == 1


def test_promotion_of_a_route_that_somebody_changed_is_refused_and_said(intruded: World) -> None:
    rollout = intruded.run(begun(intruded))
    actions.promote(rollout, actor=intruded.cast.cy, full=True)
    intrude(
        intruded,
        lambda: Route.objects.update(stable=None),
        status=Status.PROMOTING,
        candidate__in=Route.objects.filter(weight=TOTAL_WEIGHT).values("candidate"),
    )
    intruded.run(rollout)
    assert (rollout.status, rollout.problem) == (Status.PROMOTING, True)
    assert "The route of textgen is not as this rollout has left it." in rollout.sentence
    actions.abort(rollout, actor=intruded.cast.cy, reason="Who did that?")
    assert intruded.run(rollout).status == Status.ROLLED_BACK
    assert intruded.wire() == all_on(rollout.previous)


def test_look_that_is_out_of_date_is_not_noted(world: World) -> None:
    """Of two workers the one that looked first and wrote last does not undo what the other has seen."""
    world.live()
    version = world.approved()
    rollout = world.run(world.request(version))
    slow = Deployment.objects.select_related("environment", "version__model").get(version=version)

    class Slow(MemoryTarget):
        def observe(self, name: str) -> Any:
            seen = super().observe(name)
            targets.replace("local", world.target)
            world.crash(slow)
            servers.converge(Deployment.objects.get(pk=slow.pk), timezone.now())
            return seen

    target = Slow()
    target._servers = world.target._servers
    targets.replace("local", target)
    assert not servers.converge(slow, timezone.now())
    assert slow.phase == "failed"
    assert world.run(rollout).status == Status.ROLLED_BACK


def test_end_of_an_earlier_life_that_is_seen_late_is_not_noted_against_the_next(world: World) -> None:
    rollout = world.canary()
    world.crash(rollout.candidate)
    world.run(rollout)
    old = Deployment.objects.select_related("environment", "version__model").get(version=rollout.version)
    assert old.phase == "failed"

    class Slow(MemoryTarget):
        def observe(self, name: str) -> Any:
            seen = super().observe(name)
            servers.deploy(rollout.version, world.production)
            return seen

    target = Slow()
    target._servers = world.target._servers
    targets.replace("local", target)
    servers.converge(old, timezone.now())
    assert (old.phase, old.start_wanted) == ("absent", True)


# Threads and real transactions


@pytest.fixture
def shared(transactional_db: None, artifact: Path, target: MemoryTarget, router: MemoryRouter) -> World:
    """Emptying the tables after a test with real transactions has taken the environments too."""
    for name, protected in (("staging", False), ("canary", True), ("production", True)):
        Environment.objects.get_or_create(name=name, defaults={"protected": protected})
    return make_world(artifact, target, router)


def in_threads(count: int, work: Callable[[], object]) -> None:
    barrier = threading.Barrier(count)
    faults: list[BaseException] = []

    def run() -> None:
        try:
            barrier.wait(10)
            work()
        except BaseException as error:
            faults.append(error)
        finally:
            connections.close_all()

    threads = [threading.Thread(target=run) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not faults


def test_workers_at_once_do_each_thing_once(shared: World) -> None:
    shared.live()
    rollout = shared.request(shared.approved(), STEPS)
    shared.read_records()

    def work() -> None:
        for _ in range(400):
            beat(shared, rollout)
            status = Rollout.objects.values_list("status", "step_index").get(pk=rollout.pk)
            if status[0] in (Status.SUCCEEDED, Status.ROLLED_BACK) or status[1] == 1:
                return

    in_threads(4, work)
    rollout.refresh_from_db()
    shared.measure_good(rollout)

    def finish() -> None:
        while Rollout.objects.active().exists():
            beat(shared, rollout)

    in_threads(4, finish)
    rollout.refresh_from_db()
    assert rollout.status == Status.SUCCEEDED, rollout.sentence
    assert verbs_of(rollout) == FORWARD
    assert shared.target.started.count(candidate_of(rollout).name) == 1
    assert list(audit.verify()) == []


def test_persons_at_once_are_heard_once(shared: World) -> None:
    rollout = shared.canary()
    heard: list[str] = []

    def press() -> None:
        mine = Rollout.objects.get(pk=rollout.pk)
        try:
            actions.abort(mine, actor=shared.cast.cy, reason="Bad.")
            heard.append("abort")
        except IllegalTransition:
            heard.append("refused")

    in_threads(4, press)
    assert sorted(heard) == ["abort", "refused", "refused", "refused"]
    assert verbs_of(rollout).count("rollout.aborted") == 1
    assert shared.run(rollout).status == Status.ROLLED_BACK


def test_requests_at_once_make_one_rollout(shared: World) -> None:
    version = shared.approved()
    made: list[int] = []
    in_threads(4, lambda: made.append(shared.request(version, request_key="k").pk))
    assert len(set(made)) == 1
    assert Rollout.objects.count() == 1
    assert connection.is_usable()


def test_writer_that_had_to_wait_writes_the_newer_rows(shared: World) -> None:
    rollout = shared.canary([{"setWeight": 10}, {"pause": {}}])
    queries: list[str] = []

    def note(execute: Callable[..., Any], sql: str, *rest: Any) -> Any:
        queries.append(sql)
        return execute(sql, *rest)

    def write() -> None:
        try:
            with connection.execute_wrapper(note):
                routing.write("envoy")
        finally:
            connections.close_all()

    with routing._lock("envoy"):
        writer = threading.Thread(target=write)
        writer.start()
        writer.join(0.2)
        assert queries == []
        Route.objects.update(weight=3000)
    writer.join(10)
    assert queries
    assert shared.wire() == {candidate_of(rollout).name: 3000, previous_of(rollout).name: 7000}
