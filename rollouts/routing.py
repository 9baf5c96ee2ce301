"""From the rows that say where traffic shall go to the data plane: render all routes, write, look."""

from __future__ import annotations

import fcntl
import secrets
from collections.abc import Iterator
from contextlib import contextmanager

from django.conf import settings

from deploypipe.core.errors import RouterError
from registry.engines import ENGINES
from rollouts.backends import routers
from rollouts.models import Deployment, Desired, Environment, Route
from rollouts.targets.base import Phase
from rollouts.traffic.base import TOTAL_WEIGHT, Backend, Installed, RouteTable


def new_salt() -> str:
    """A fresh one for each candidate, so that it is not always the same sessions that meet the newcomer."""
    return secrets.token_hex(8)


def tables(router: str) -> list[RouteTable]:
    routes = Route.objects.filter(environment__router=router).select_related("environment", "model")
    running = Deployment.objects.filter(desired=Desired.RUNNING, environment__router=router).exclude(address="")
    by_key: dict[tuple[int, int], list[Deployment]] = {}
    for deployment in running.select_related("version").order_by("pk"):
        by_key.setdefault((deployment.environment_id, deployment.version.model_id), []).append(deployment)
    return [
        _table(route, by_key.get((route.environment_id, route.model_id), []))
        for route in routes.order_by("environment__name", "model__name")
    ]


def _table(route: Route, running: list[Deployment]) -> RouteTable:
    """The candidate first, then the stable version, then what is only warm: it drains, or waits for a rollback.

    A share that cannot be given (its server is not ready) goes to the other version, never nowhere.
    """
    ready = {deployment.pk for deployment in running if deployment.phase == Phase.READY}
    shares = _shares(route, ready) or _shares(route, {deployment.pk for deployment in running})
    order = {route.candidate_id: 0, route.stable_id: 1}
    running = sorted(running, key=lambda deployment: order.get(deployment.pk, 2))
    backends = tuple(Backend(d.name, d.address, shares.get(d.pk, 0), _keeps_connections(d)) for d in running)
    return RouteTable(route.environment.name, route.model.name, backends if shares else (), route.salt)


def _keeps_connections(deployment: Deployment) -> bool:
    engine = ENGINES.get(deployment.version.engine)  # None: one that is no longer there must not stop the traffic
    return engine is None or engine.keeps_connections


def _shares(route: Route, reachable: set[int]) -> dict[int, int]:
    """Deployment → hundredths of a percent, summing to the whole; empty where nothing can take traffic."""
    stable = route.stable_id if route.stable_id in reachable else None
    candidate = route.candidate_id if route.candidate_id in reachable and route.weight else None
    if stable is None and candidate is None:
        return {}
    if candidate is None or stable is None:
        # The only one that can answer does, until the other is back.
        return {pk: TOTAL_WEIGHT for pk in (candidate, stable) if pk}
    return {candidate: route.weight, stable: TOTAL_WEIGHT - route.weight}


def write(router: str) -> str:
    """Make the data plane equal to the rows; the revision. Raises RouterError.

    The rows are read inside the lock: of two writers the later one has always read the newer rows, so that an older
    weight never overwrites a newer one.
    """
    with _lock(router):
        return routers[router].write(tables(router))


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
