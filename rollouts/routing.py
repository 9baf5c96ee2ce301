"""From the rows that say where traffic shall go to the data plane: render all routes, write, look."""

from __future__ import annotations

import fcntl
import hashlib
import json
import logging
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from django.conf import settings
from django.db.models import F, QuerySet
from django.utils import timezone

from deploypipe.core.errors import RouterError
from deploypipe.metrics.facts import RouteFacts
from deploypipe.metrics.windows import STABLE
from registry.engines import ENGINES
from rollouts.assignment import Routing, RoutingError, parse_routing
from rollouts.backends import routers
from rollouts.bucketing import cuts_of, standing_in, weights_of
from rollouts.models import Deployment, Desired, Environment, Route
from rollouts.targets.base import Phase
from rollouts.traffic.base import TOTAL_WEIGHT, Backend, Installed, RouteTable

logger = logging.getLogger(__name__)


def new_salt() -> str:
    """A fresh one for each candidate, so that it is not always the same sessions that meet the newcomer."""
    return secrets.token_hex(8)


@dataclass(frozen=True)
class _Drawn:
    """A route's row, and what it comes to with the servers as they are."""

    route: Route
    table: RouteTable
    as_wanted: bool
    """Every arm has the share that the row promises; False where one stands in for another."""
    names: dict[str, str]
    """Arm → name of its deployment."""

    @property
    def split(self) -> str:
        """Digest of what decides who meets which arm; not of the addresses, and not of what is only warm."""
        table = self.table
        cuts = [[name, width] for name, width in table.pieces if width]
        by = [table.assignment.by, table.assignment.name]
        drawn = [cuts, sorted(self.names.items()), table.salt, table.holdout, by]
        return hashlib.sha256(json.dumps(drawn).encode()).hexdigest()[:16]


def tables(router: str) -> list[RouteTable]:
    return [drawn.table for drawn in _drawn(Route.objects.filter(environment__router=router))]


def facts() -> list[RouteFacts]:
    """Of every route on which arms share the traffic now."""
    return [_facts(drawn) for drawn in _drawn(Route.objects.exclude(candidate=None).exclude(stable=None))]


def _facts(drawn: _Drawn) -> RouteFacts:
    """No shares where they are not what was promised: one version stands in for another, or the split is on its way.

    While the row says already what the gateway does not do yet, the period is still the old one.
    """
    route = drawn.route
    since = route.split_at if route.split == drawn.split else None
    weights = weights_of(cuts_of(route.weight, route.lanes)) if since and drawn.as_wanted else {}
    return RouteFacts(
        environment=route.environment.name,
        model=route.model.name,
        epoch=route.salt,
        since=route.salt_at,
        period=route.period,
        period_since=since,
        arms={name: arm for arm, name in drawn.names.items()},
        shares={arm: weight / TOTAL_WEIGHT for arm, weight in weights.items()},
    )


def _drawn(routes: QuerySet[Route]) -> list[_Drawn]:
    found = routes.select_related("environment", "model", "rollout").prefetch_related("rollout__arms")
    of_route: dict[tuple[int, int], list[Deployment]] = {}
    running = Deployment.objects.filter(desired=Desired.RUNNING, environment__in=routes.values("environment"))
    for deployment in running.select_related("version").order_by("pk"):
        of_route.setdefault((deployment.environment_id, deployment.version.model_id), []).append(deployment)
    return [
        _draw(route, of_route.get((route.environment_id, route.model_id), []))
        for route in found.order_by("environment__name", "model__name")
    ]


def _draw(route: Route, wanted: list[Deployment]) -> _Drawn:
    """The candidates first, then the stable version, then what is only warm: it drains, or waits for a rollback.

    A share that cannot be given (its server is not ready) goes to another version, never nowhere.
    """
    arms, lanes = route.arms, route.lanes
    running = [deployment for deployment in wanted if deployment.address]
    servers = {deployment.pk: deployment for deployment in running}
    there = {arm: servers[pk] for arm, pk in arms.items() if pk in servers}
    ready = {arm for arm, deployment in there.items() if deployment.phase == Phase.READY}
    cuts = standing_in(route.weight, lanes, ready) or standing_in(route.weight, lanes, there.keys())
    weights = {there[arm].pk: weight for arm, weight in weights_of(cuts).items()}
    order = {pk: place for place, pk in enumerate(arms.values())}
    running = sorted(running, key=lambda deployment: order.get(deployment.pk, len(order)))
    backends = tuple(Backend(d.name, d.address, weights.get(d.pk, 0), _keeps_connections(d)) for d in running)
    routing = _routing_of(route)
    table = RouteTable(
        environment=route.environment.name,
        model=route.model.name,
        backends=backends if cuts else (),
        salt=route.salt,
        cuts=tuple((there[arm].name, width) for arm, width in cuts),
        arms=tuple((arm, d.name) for arm, d in there.items() if arm in ready) if lanes and cuts else (),
        holdout=route.rollout.holdout if lanes and route.rollout else 0,
        assignment=routing.assignment,
        forced=routing.forced,
    )
    names = {deployment.pk: deployment.name for deployment in wanted}
    return _Drawn(
        route,
        table,
        as_wanted=cuts == cuts_of(route.weight, lanes) and STABLE in arms,
        names={arm: names[pk] for arm, pk in arms.items() if pk in names},
    )


def _routing_of(route: Route) -> Routing:
    """A rule about an arm that was taken off stays: the gateway passes over it."""
    if not route.lanes or route.rollout is None:
        return Routing()
    try:
        return parse_routing(route.rollout.routing, arms=[STABLE, *(lane.arm for lane in route.lanes)])
    except RoutingError as error:
        logger.warning("%s: %s", route, error)  # somebody wrote to the database: traffic must not stop for it
        return Routing()


def _keeps_connections(deployment: Deployment) -> bool:
    engine = ENGINES.get(deployment.version.engine)  # None: one that is no longer there must not stop the traffic
    return engine is None or engine.keeps_connections


def write(router: str) -> str:
    """Make the data plane equal to the rows; the revision. Raises RouterError.

    The rows are read inside the lock: of two writers the later one has always read the newer rows, so that an older
    weight never overwrites a newer one.
    """
    with _lock(router):
        drawn = _drawn(Route.objects.filter(environment__router=router))
        new = [one for one in drawn if _begin_period(one)]
        revision = routers[router].write([one.table for one in drawn])
        if new and _is_in_force(router, revision):
            for one in new:
                _settle(one)
        return revision


def _is_in_force(router: str, revision: str) -> bool:
    try:
        return installed(router).revision == revision
    except RouterError:
        return False  # it was taken, and is looked at again by the next write


def _begin_period(one: _Drawn) -> bool:
    """Whether its split is not known to be in force yet. The old period ends before the first request meets the new."""
    if one.route.split == one.split:
        return one.route.split_at is None
    Route.objects.filter(pk=one.route.pk).update(split=one.split, split_at=None, period=F("period") + 1)
    return True


def _settle(one: _Drawn) -> None:
    at_it = Route.objects.filter(pk=one.route.pk, split=one.split, split_at=None)
    at_it.update(split_at=timezone.now(), period=F("period") + 1)


def write_all() -> None:
    """Every router, also where another one fails. Raises the last RouterError."""
    problem: RouterError | None = None
    for router in Environment.objects.order_by("router").values_list("router", flat=True).distinct():
        try:
            write(router)
        except RouterError as error:
            problem = error
    if problem is not None:
        raise problem


@contextmanager
def _lock(router: str) -> Iterator[None]:
    folder = settings.VAR_DIR / "locks"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = (folder / f"router-{router}").open("a")
    except OSError as error:
        raise RouterError(f"The routes could not be written: {folder}: {error.strerror or error}.") from error
    with file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def installed(router: str) -> Installed:
    return routers[router].installed()


def installed_share(seen: Installed, route: Route, deployment: Deployment) -> int:
    """Hundredths of a percent that the data plane gives the deployment now; 0 where it does not name it."""
    return seen.weights.get(route.key, {}).get(deployment.name, 0)
