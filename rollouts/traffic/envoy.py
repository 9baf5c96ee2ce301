"""The split on Envoy: tables of routes and clusters as files that Envoy watches, read back from its admin.

Written to a temporary file and renamed, a table is whole or not there, and effective within milliseconds without a
dropped connection. What the files say is in `envoy_tables.py`, what Envoy starts with in `envoy_lua.py`, what it does
to each request in `envoy.lua`.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import cast

from deploypipe.core.errors import RouterError
from rollouts.traffic.base import Installed, RouteTable
from rollouts.traffic.envoy_lua import bootstrap
from rollouts.traffic.envoy_tables import Json, backend_of, backends_in, clusters_file, routes_file, tables_of
from rollouts.traffic.revision import revision_of, split_address, validate

_IN_FORCE_WITHIN = 2.0


class EnvoyRouter:
    """`directory` holds what Envoy reads and writes; `admin` is where its admin interface listens, on loopback."""

    def __init__(self, *, directory: Path, admin: str = "127.0.0.1:9901", timeout: float = 2.0) -> None:
        self.directory = Path(directory).resolve()
        self.admin = admin
        self.timeout = timeout
        self.bootstrap = self.directory / "envoy.json"
        self.access_log = self.directory / "access.log"
        self.log = self.directory / "envoy.log"
        self.routes_file = self.directory / "xds" / "routes.json"
        self.clusters_file = self.directory / "xds" / "clusters.json"

    def write_bootstrap(self, *, listen: str = "127.0.0.1:8080") -> Path:
        """What Envoy is started with. A table that is already there stays, so that a restart serves at once."""
        with self._writing():
            _install(self.bootstrap, self._bootstrap(listen))
            if not self.clusters_file.exists():
                _install(self.clusters_file, clusters_file(()))
            if not self.routes_file.exists():
                _install(self.routes_file, routes_file([]))
        return self.bootstrap

    def write(self, routes: Sequence[RouteTable]) -> str:
        validate(routes)
        with self._writing():
            self._replace(routes)
        return revision_of(routes)

    def installed(self) -> Installed:
        clusters = self._clusters_in_force()
        tables = self._tables_in_force(clusters)
        return Installed(
            revision="" if tables is None else revision_of(tables),
            weights={table.key: {b.name: b.weight for b in table.backends} for table in tables or ()},
            active_requests=self._active_requests(clusters),
        )

    def ask(self, path: str, *, method: str = "GET") -> bytes:
        """One request to the admin interface."""
        host, port = split_address(self.admin)
        connection = http.client.HTTPConnection(host, port, timeout=self.timeout)
        try:
            connection.request(method, path)
            answer = connection.getresponse()
            body = answer.read()
        except (OSError, http.client.HTTPException) as error:
            raise RouterError(f"The gateway does not answer on its admin address {self.admin} ({error!r}).") from error
        finally:
            connection.close()
        if answer.status != 200:
            raise RouterError(f"The gateway's admin interface answered {answer.status} to {method} {path}.")
        return body

    # Writing

    def _bootstrap(self, listen: str) -> bytes:
        return bootstrap(
            listen=split_address(listen),
            admin=split_address(self.admin),
            access_log=self.access_log,
            routes=self.routes_file,
            clusters=self.clusters_file,
        )

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            self.routes_file.parent.mkdir(parents=True, exist_ok=True)
            yield
        except OSError as error:
            raise RouterError(
                f"The gateway's files in {self.directory} could not be written: {error.strerror or error}. "
                "The old routes stay in force."
            ) from error

    def _replace(self, routes: Sequence[RouteTable]) -> None:
        """A cluster is in force before a route names it, and goes only when no route names it any more.

        The order of the files is not enough: Envoy watches each by itself and may read the later one first.
        """
        before = backends_in(self.clusters_file)
        wanted = {backend.name: backend for route in routes for backend in route.backends}
        revision = revision_of(routes)
        changed = _install(self.clusters_file, clusters_file({**before, **wanted}.values()))
        self._wait_until(lambda: wanted.keys() <= self._clusters_in_force().keys(), "the new model servers")
        changed |= _install(self.routes_file, routes_file(routes))
        if not before.keys() <= wanted.keys():
            self._wait_until(lambda: self.installed().revision == revision, "the new routes")
            changed |= _install(self.clusters_file, clusters_file(wanted.values()))
        if not changed:
            self._remind(revision)

    def _remind(self, revision: str) -> None:
        """The files are right. If Envoy does something else all the same, it missed a change: show them again."""
        try:
            missed = self.installed().revision != revision
        except RouterError:
            return
        for file in (self.clusters_file, self.routes_file):
            _install(file, file.read_bytes(), always=missed)

    def _wait_until(self, in_force: Callable[[], bool], what: str) -> None:
        """Returns at once when no gateway runs: it reads both files when it starts."""
        deadline = time.monotonic() + _IN_FORCE_WITHIN
        while time.monotonic() < deadline:
            try:
                if in_force():
                    return
            except RouterError:
                return
            time.sleep(0.001)
        raise RouterError(f"The gateway did not take over {what} within {_IN_FORCE_WITHIN:g} s; see {self.log}.")

    # Reading

    def _ask_for(self, key: str, path: str) -> list[Json]:
        try:
            return cast(list[Json], json.loads(self.ask(path)).get(key, []))
        except (ValueError, AttributeError) as error:
            raise RouterError(f"The gateway's admin interface did not answer {path} with JSON: {error}.") from error

    def _dump(self, resource: str) -> list[Json]:
        return self._ask_for("configs", f"/config_dump?resource={resource}")

    def _clusters_in_force(self) -> dict[str, str]:
        found = [backend_of(entry["cluster"]) for entry in self._dump("dynamic_active_clusters")]
        return {backend.name: backend.address for backend in found}

    def _tables_in_force(self, clusters: Mapping[str, str]) -> list[RouteTable] | None:
        for entry in self._dump("dynamic_route_configs"):
            hosts = entry.get("route_config", {}).get("virtual_hosts", [])
            routes = [route for host in hosts for route in host.get("routes", [])]
            return tables_of(routes, clusters)
        return None

    def _active_requests(self, clusters: Mapping[str, str]) -> dict[str, int]:
        stats = self._ask_for("stats", "/stats?format=json&filter=^cluster%5C..*%5C.upstream_rq_active$")
        values = {stat["name"]: int(stat["value"]) for stat in stats if "name" in stat}
        return {name: values.get(f"cluster.{name.replace(':', '_')}.upstream_rq_active", 0) for name in clusters}


def _install(file: Path, content: bytes, *, always: bool = False) -> bool:
    """Write and rename, unless the file already says this; whether it was written."""
    if not always and file.exists() and file.read_bytes() == content:
        return False
    handle, name = tempfile.mkstemp(dir=file.parent, prefix=f".{file.name}.")
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(handle)
        os.replace(name, file)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(name)
        raise
    return True
