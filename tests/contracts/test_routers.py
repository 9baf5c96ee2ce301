"""What every router keeps: one suite over the router in memory and over a real Envoy."""

import contextlib
from dataclasses import replace

import pytest

from deploypipe.core.errors import RouterError
from rollouts.traffic.base import TOTAL_WEIGHT, Assignment, Backend, ForcedRule, Router, RouteTable
from rollouts.traffic.envoy import EnvoyRouter
from rollouts.traffic.memory import MemoryRouter
from tests.rollouts.test_envoy import HOLD, Upstream, event, eventually, free_port, running_gateway


class InMemory:
    def __init__(self):
        self.router = MemoryRouter()

    def tamper(self, tables):
        self.router.tamper(tables)

    def changes(self):
        return self.router.changes

    def unreachable(self):
        self.router.fail_next(RouterError("The data plane does not answer."), operation="installed")
        return self.router

    @contextlib.contextmanager
    def request_in_flight(self, table):
        self.router.set_active(table.backends[-1].name, 1)
        yield
        self.router.set_active(table.backends[-1].name, 0)


class OnEnvoy:
    def __init__(self, gateway, upstream, spare):
        self.gateway, self.upstream, self.spare = gateway, upstream, spare
        self.router = gateway.router

    def tamper(self, tables):
        """Another program that writes the same files."""
        EnvoyRouter(directory=self.router.directory, admin=self.router.admin).write(tables)

    def changes(self):
        files = (self.router.routes_file, self.router.clusters_file)
        return [(file.stat().st_ino, file.stat().st_mtime_ns) for file in files]

    def unreachable(self):
        return EnvoyRouter(directory=self.spare, admin=f"127.0.0.1:{free_port()}")

    @contextlib.contextmanager
    def request_in_flight(self, table):
        self.upstream.stream("/held", event("1"), HOLD)
        self.upstream.released.clear()
        path = f"/{table.key}/held"
        with self.gateway.client() as client, client.stream("GET", path) as answer:
            lines = answer.iter_lines()  # kept: httpx closes the connection of one that is thrown away
            assert next(lines) == "data: 1"
            yield
        self.upstream.released.set()


@pytest.fixture(scope="module")
def upstream():
    with Upstream("stable") as upstream:
        yield upstream


@pytest.fixture(scope="module")
def envoy(tmp_path_factory):
    with running_gateway(tmp_path_factory.mktemp("gateway")) as gateway:
        yield gateway


@pytest.fixture(params=["memory", "envoy"])
def plane(request, upstream, tmp_path):
    if request.param == "memory":
        return InMemory()
    return OnEnvoy(request.getfixturevalue("envoy"), upstream, tmp_path)


@pytest.fixture
def split(upstream):
    backends = (Backend("candidate", "127.0.0.1:9", 1_000), Backend("stable", upstream.address, 9_000))
    return RouteTable("production", "textgen", backends, "salt")


def installed_when(plane, revision):
    eventually(lambda: plane.router.installed().revision == revision)
    return plane.router.installed()


def weighted(table, *weights):
    pairs = zip(table.backends, weights, strict=True)
    return replace(table, backends=tuple(replace(backend, weight=weight) for backend, weight in pairs))


def test_router_keeps_the_protocol(plane):
    router: Router = plane.router
    assert router is plane.router


def test_written_weights_are_what_the_data_plane_says(plane, split):
    staging = RouteTable("staging", "textgen", (Backend("other", "127.0.0.1:10", TOTAL_WEIGHT),), "s")
    installed = installed_when(plane, plane.router.write([split, staging]))
    assert installed.weights == {
        "production/textgen": {"candidate": 1_000, "stable": 9_000},
        "staging/textgen": {"other": TOTAL_WEIGHT},
    }


def test_writing_the_same_table_twice_changes_nothing(plane, split):
    first = plane.router.write([split])
    installed_when(plane, first)
    before = plane.changes()
    assert plane.router.write([split]) == first
    assert plane.changes() == before


def test_order_of_the_tables_means_nothing_and_that_of_the_backends_does(plane, split):
    other = replace(split, model="other")
    assert plane.router.write([split, other]) == plane.router.write([other, split])
    turned = replace(split, backends=split.backends[::-1])
    assert plane.router.write([turned]) != plane.router.write([split])


@pytest.mark.parametrize(
    "change",
    ["weights", "salt", "address", "nothing live", "cuts", "arms", "holdout", "assignment", "the id's name", "forced"],
)
def test_revision_tells_tables_apart(plane, split, change):
    split = replace(split, arms=BOTH, assignment=Assignment("header", "x-user-id"))
    changed = {
        "cuts": replace(split, cuts=(("stable", 9_000), ("candidate", 1_000))),
        "arms": replace(split, arms=BOTH[:1]),
        "holdout": replace(split, holdout=500),
        "assignment": replace(split, assignment=Assignment("cookie", "x-user-id")),
        "the id's name": replace(split, assignment=Assignment("header", "x-team-id")),
        "forced": replace(split, forced=(ForcedRule("x-beta", "true", "candidate"),)),
        "weights": weighted(split, 2_000, 8_000),
        "salt": replace(split, salt="new"),
        "address": replace(split, backends=(replace(split.backends[0], address="127.0.0.1:11"), split.backends[1])),
        "nothing live": replace(split, backends=(), arms=()),
    }[change]
    first = plane.router.write([split])
    installed_when(plane, first)
    second = plane.router.write([changed])
    assert second != first
    installed_when(plane, second)


def test_table_that_somebody_edited_is_seen_and_put_right_by_the_next_write(plane, split):
    revision = plane.router.write([split])
    installed_when(plane, revision)
    plane.tamper([weighted(split, TOTAL_WEIGHT, 0)])
    eventually(lambda: plane.router.installed().weights[split.key]["candidate"] == TOTAL_WEIGHT)
    assert plane.router.installed().revision != revision
    assert plane.router.write([split]) == revision
    assert installed_when(plane, revision).weights[split.key] == {"candidate": 1_000, "stable": 9_000}


def test_weights_of_a_backend_in_several_pieces_are_summed(plane, split):
    pieces = (("candidate", 400), ("stable", 5_000), ("candidate", 600), ("stable", 4_000))
    installed = installed_when(plane, plane.router.write([replace(split, cuts=pieces)]))
    assert installed.weights[split.key] == {"candidate": 1_000, "stable": 9_000}


def test_cuts_that_are_the_backends_in_their_order_are_the_same_table(plane, split):
    revision = plane.router.write([split])
    assert plane.router.write([replace(split, cuts=(("candidate", 1_000), ("stable", 9_000)))]) == revision


@pytest.mark.parametrize(
    "edited",
    [
        {"arms": ()},
        {"arms": (("candidate", "stable"), ("stable", "stable"))},
        {"holdout": 0},
        {"assignment": Assignment()},
        {"forced": ()},
        {"cuts": (("stable", 9_000), ("candidate", 1_000))},
    ],
    ids=lambda edited: next(iter(edited)),
)
def test_who_is_not_drawn_is_put_right_as_well(plane, split, edited):
    rules = (ForcedRule("x-beta", "true", "candidate"),)
    full = replace(split, arms=BOTH, holdout=500, assignment=Assignment("cookie", "uid"), forced=rules)
    revision = plane.router.write([full])
    installed_when(plane, revision)
    plane.tamper([replace(full, **edited)])
    eventually(lambda: plane.router.installed().revision not in ("", revision))
    assert plane.router.write([full]) == revision
    installed_when(plane, revision)


def test_backend_with_weight_0_stays_known(plane, split):
    installed = installed_when(plane, plane.router.write([weighted(split, 0, TOTAL_WEIGHT)]))
    assert installed.weights[split.key] == {"candidate": 0, "stable": TOTAL_WEIGHT}
    assert installed.active_requests["candidate"] == 0


def test_model_with_nothing_live_is_there_without_backends(plane, split):
    assert installed_when(plane, plane.router.write([replace(split, backends=())])).weights == {split.key: {}}


def test_backend_that_left_the_table_is_forgotten(plane, split):
    installed_when(plane, plane.router.write([split]))
    only = replace(split, backends=(replace(split.backends[1], weight=TOTAL_WEIGHT),))
    revision = plane.router.write([only])
    eventually(lambda: plane.router.installed().active_requests.keys() == {"stable"})
    assert installed_when(plane, revision).weights == {split.key: {"stable": TOTAL_WEIGHT}}


def test_empty_table_takes_everything_away(plane, split):
    installed_when(plane, plane.router.write([split]))
    assert installed_when(plane, plane.router.write([])).weights == {}


def test_requests_in_flight_are_counted(plane, split):
    only = replace(split, backends=(replace(split.backends[1], weight=TOTAL_WEIGHT),))
    installed_when(plane, plane.router.write([only]))
    with plane.request_in_flight(only):
        assert plane.router.installed().active_requests == {"stable": 1}
    eventually(lambda: plane.router.installed().active_requests == {"stable": 0})


def test_data_plane_that_does_not_answer_is_a_router_error(plane):
    with pytest.raises(RouterError, match="does not answer"):
        plane.unreachable().installed()


BOTH = (("candidate", "candidate"), ("stable", "stable"))
WRONG = {
    "cuts that are not the weights": lambda t: [replace(t, cuts=(("candidate", 5_000), ("stable", 5_000)))],
    "a cut of somebody else's": lambda t: [replace(t, cuts=(("candidate", 1_000), ("stable", 8_000), ("x", 1_000)))],
    "an empty cut": lambda t: [replace(t, cuts=(("candidate", 1_000), ("stable", 9_000), ("stable", 0)))],
    "an arm on nobody": lambda t: [replace(t, arms=(("candidate", "nobody"),))],
    "one arm twice": lambda t: [replace(t, arms=(("candidate", "candidate"), ("candidate", "stable")))],
    "a holdout of more than everybody": lambda t: [replace(t, holdout=TOTAL_WEIGHT + 1)],
    "sessions by nothing": lambda t: [replace(t, assignment=Assignment("header", ""))],
    "sessions by the weather": lambda t: [replace(t, assignment=Assignment("weather", "x"))],
    "a cookie that breaks its header": lambda t: [replace(t, assignment=Assignment("cookie", "a;b"))],
    "a rule without a value": lambda t: [replace(t, forced=(ForcedRule("x-beta", "", "candidate"),))],
    "weights that do not sum up": lambda t: [weighted(t, 1_000, 1_000)],
    "a negative weight": lambda t: [weighted(t, -1_000, 11_000)],
    "two tables of one model": lambda t: [t, replace(t, salt="other")],
    "two addresses of one name": lambda t: [
        t,
        replace(t, model="b", backends=(Backend("stable", "127.0.0.1:12", TOTAL_WEIGHT),)),
    ],
    "an address without a port": lambda t: [replace(t, backends=(Backend("x", "127.0.0.1", TOTAL_WEIGHT),))],
    "an odd name": lambda t: [replace(t, backends=(Backend("a\nb", "127.0.0.1:9", TOTAL_WEIGHT),))],
}


@pytest.mark.parametrize("wrong", WRONG.values(), ids=WRONG.keys())
def test_table_that_cannot_be_is_refused_and_the_old_one_stays(plane, split, wrong):
    revision = plane.router.write([split])
    installed_when(plane, revision)
    with pytest.raises(RouterError) as caught:
        plane.router.write(wrong(split))
    assert caught.value.permanent
    assert str(caught.value).endswith(".")
    assert plane.router.installed().revision == revision


def test_memory_router_fails_when_it_is_told_to_and_only_then(split):
    router = MemoryRouter()
    revision = router.write([split])
    router.fail_next(RouterError("The disk is full."))
    with pytest.raises(RouterError, match=r"The disk is full\."):
        router.write([])
    assert router.installed().revision == revision
    assert router.write([]) != revision
