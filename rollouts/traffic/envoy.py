"""The split on Envoy: tables of routes and clusters as files that Envoy watches, read back from its admin interface.

Written to a temporary file and renamed, a table is whole or not there, and effective within milliseconds without a
dropped connection. What Envoy is started with is in `envoy_lua.py`, what it does to each request in `envoy.lua`.
"""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import ipaddress
import json
import os
import re
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast
from urllib.parse import quote

from deploypipe.core.errors import RouterError
from rollouts.traffic.base import TOTAL_WEIGHT, Backend, Installed, RouteTable
from rollouts.traffic.envoy_lua import BUCKET_HEADER, LUA_FILTER, STREAM_IDLE, TABLE, bootstrap

Json = dict[str, Any]

VERSION_HEADER = "x-deploypipe-version"

# uvicorn, which most engines use, closes a connection after 5 idle seconds; a request sent into that moment is lost.
_UPSTREAM_IDLE = "4s"
_PROTOCOL = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
_REQUESTS = "max_requests_per_connection"
_NOWHERE = "0.0.0.0:1"
_NAME = re.compile(r"[A-Za-z0-9._:-]{1,128}")
_UNLIMITED = 1_000_000_000
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
                _install(self.clusters_file, _clusters(()))
            if not self.routes_file.exists():
                _install(self.routes_file, _routes([]))
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
        before = _backends_in(self.clusters_file)
        wanted = {backend.name: backend for route in routes for backend in route.backends}
        revision = revision_of(routes)
        changed = _install(self.clusters_file, _clusters({**before, **wanted}.values()))
        self._wait_until(lambda: wanted.keys() <= self._clusters_in_force().keys(), "the new model servers")
        changed |= _install(self.routes_file, _routes(routes))
        if not before.keys() <= wanted.keys():
            self._wait_until(lambda: self.installed().revision == revision, "the new routes")
            changed |= _install(self.clusters_file, _clusters(wanted.values()))
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
        found = [_backend_of(entry["cluster"]) for entry in self._dump("dynamic_active_clusters")]
        return {backend.name: backend.address for backend in found}

    def _tables_in_force(self, clusters: Mapping[str, str]) -> list[RouteTable] | None:
        for entry in self._dump("dynamic_route_configs"):
            hosts = entry.get("route_config", {}).get("virtual_hosts", [])
            routes = [route for host in hosts for route in host.get("routes", [])]
            return [_table_of(route, clusters) for route in routes if _facts_of(route)]
        return None

    def _active_requests(self, clusters: Mapping[str, str]) -> dict[str, int]:
        stats = self._ask_for("stats", "/stats?format=json&filter=^cluster%5C..*%5C.upstream_rq_active$")
        values = {stat["name"]: int(stat["value"]) for stat in stats if "name" in stat}
        return {name: values.get(f"cluster.{name.replace(':', '_')}.upstream_rq_active", 0) for name in clusters}


def split_address(address: str) -> tuple[str, int]:
    host, _, port = address.rpartition(":")
    if not host or not port.isascii() or not port.isdigit() or not 0 < int(port) < 65536:
        raise RouterError(f"{address!r} is not an address of the form host:port.", permanent=True)
    return host.removeprefix("[").removesuffix("]"), int(port)


# What the files say


def validate(routes: Sequence[RouteTable]) -> None:
    addresses: dict[str, str] = {}
    for route in routes:
        weights = [backend.weight for backend in route.backends]
        if weights and (min(weights) < 0 or sum(weights) != TOTAL_WEIGHT):
            raise RouterError(
                f"The weights of {route.key} are {weights}: not a split of {TOTAL_WEIGHT}.", permanent=True
            )
        for backend in route.backends:
            split_address(backend.address)
            if not _NAME.fullmatch(backend.name):
                raise RouterError(f"{backend.name!r} cannot be the name of a model server.", permanent=True)
            if addresses.setdefault(backend.name, backend.address) != backend.address:
                raise RouterError(f"Two model servers are called {backend.name}.", permanent=True)
    if len({route.key for route in routes}) != len(routes):
        raise RouterError("One model has two tables of routes in one environment.", permanent=True)


def revision_of(routes: Sequence[RouteTable]) -> str:
    """Of what the table means, not of the bytes of a file: the same digest is taken of what Envoy says it does."""
    meaning = sorted(
        [r.environment, r.model, r.salt, [[b.name, _normal(b.address), b.weight] for b in r.backends]] for r in routes
    )
    return hashlib.sha256(json.dumps(meaning).encode()).hexdigest()[:16]


def _normal(address: str) -> str:
    host, port = split_address(address)
    return f"{host}:{port}"


def _file(version: str, resources: Sequence[Json]) -> bytes:
    return json.dumps({"version_info": version, "resources": resources}, indent=1).encode()


def _clusters(backends: Iterable[Backend]) -> bytes:
    resources = [_cluster(backend) for backend in sorted(backends, key=lambda backend: backend.name)]
    return _file(hashlib.sha256(json.dumps(resources).encode()).hexdigest()[:16], resources)


def _cluster(backend: Backend) -> Json:
    name = backend.name
    host, port = split_address(backend.address)
    # Trying again does not help where the server closes: by then the request was sent, and may have been begun.
    once = {} if backend.keeps_connections else {_REQUESTS: 1}
    endpoint = {"address": {"socket_address": {"address": host, "port_value": port}}}
    return {
        "@type": "type.googleapis.com/envoy.config.cluster.v3.Cluster",
        "name": name,
        "type": "STATIC" if _is_ip(host) else "STRICT_DNS",
        "dns_lookup_family": "V4_PREFERRED",
        "connect_timeout": "1s",
        "load_assignment": {"cluster_name": name, "endpoints": [{"lb_endpoints": [{"endpoint": endpoint}]}]},
        # Engines queue by themselves; a limit here would turn a busy model into failed requests.
        "circuit_breakers": {
            "thresholds": [
                {f"max_{what}": _UNLIMITED for what in ("connections", "pending_requests", "requests", "retries")}
            ]
        },
        "typed_extension_protocol_options": {
            _PROTOCOL: {
                "@type": f"type.googleapis.com/{_PROTOCOL}",
                "common_http_protocol_options": {"idle_timeout": _UPSTREAM_IDLE, **once},
                "explicit_http_config": {"http_protocol_options": {}},
            }
        },
    }


def _is_ip(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _routes(routes: Sequence[RouteTable]) -> bytes:
    ordered = sorted(routes, key=lambda route: route.key)
    table = {
        "@type": "type.googleapis.com/envoy.config.route.v3.RouteConfiguration",
        "name": TABLE,
        "request_headers_to_remove": [BUCKET_HEADER],
        "virtual_hosts": [{"name": TABLE, "domains": ["*"], "routes": [*map(_route, ordered), _not_found()]}],
    }
    return _file(revision_of(routes), [table])


def _route(route: RouteTable) -> Json:
    facts = {"environment": route.environment, "model": route.model, "salt": route.salt}
    return {
        "match": {"prefix": f"/{quote(route.environment, safe='')}/{quote(route.model, safe='')}/"},
        "metadata": {"filter_metadata": {LUA_FILTER: facts}},
        **(_split(route) if route.backends else _nothing_live(route)),
    }


def _split(route: RouteTable) -> Json:
    return {
        "route": {
            "prefix_rewrite": "/",
            "timeout": "0s",
            "idle_timeout": STREAM_IDLE,
            # Before any byte was sent, and to the same version: a dead candidate is not hidden behind the stable one.
            "retry_policy": {"retry_on": "connect-failure,refused-stream", "num_retries": 1},
            "weighted_clusters": {
                "header_name": BUCKET_HEADER,
                "clusters": [_share(backend) for backend in route.backends],
            },
        }
    }


def _share(backend: Backend) -> Json:
    return {
        "name": backend.name,
        "weight": backend.weight,
        "response_headers_to_add": [_header(VERSION_HEADER, backend.name)],
    }


def _nothing_live(route: RouteTable) -> Json:
    return _answer(503, "ServiceUnavailable", f"no version of {route.model} is live in {route.environment}")


def _not_found() -> Json:
    sentence = "There is nothing at this path: a model is served at /{environment}/{model}/ and below."
    return {"match": {"prefix": "/"}, **_answer(404, "NotFoundError", sentence)}


def _answer(status: int, kind: str, sentence: str) -> Json:
    body = json.dumps({"error": {"message": sentence, "type": kind, "code": status}})
    return {
        "direct_response": {"status": status, "body": {"inline_string": body}},
        "response_headers_to_add": [_header("content-type", "application/json")],
    }


def _header(name: str, value: str) -> Json:
    # Envoy reads % in a header's value as the start of a command.
    header = {"key": name, "value": value.replace("%", "%%")}
    return {"header": header, "append_action": "OVERWRITE_IF_EXISTS_OR_ADD"}


# What Envoy says


def _backend_of(cluster: Json) -> Backend:
    """Which share it has is said by the routes, so the weight is none here."""
    try:
        endpoint = cluster["load_assignment"]["endpoints"][0]["lb_endpoints"][0]["endpoint"]
        address = endpoint["address"]["socket_address"]
        options = cluster["typed_extension_protocol_options"][_PROTOCOL]["common_http_protocol_options"]
        return Backend(cluster["name"], f"{address['address']}:{address['port_value']}", 0, _REQUESTS not in options)
    except (LookupError, TypeError):
        return Backend(cluster["name"], _NOWHERE, 0)  # not one that we wrote


def _backends_in(file: Path) -> dict[str, Backend]:
    """Nothing when the file is absent or somebody spoilt it: it will be written anew."""
    try:
        found = [_backend_of(cluster) for cluster in json.loads(file.read_bytes())["resources"]]
        return {backend.name: backend for backend in found}
    except (FileNotFoundError, ValueError, LookupError, TypeError):
        return {}


def _facts_of(route: Json) -> Json:
    return cast(Json, route.get("metadata", {}).get("filter_metadata", {}).get(LUA_FILTER, {}))


def _table_of(route: Json, clusters: Mapping[str, str]) -> RouteTable:
    facts = _facts_of(route)
    shares = route.get("route", {}).get("weighted_clusters", {}).get("clusters", [])
    return RouteTable(
        environment=facts.get("environment", ""),
        model=facts.get("model", ""),
        salt=facts.get("salt", ""),
        backends=tuple(Backend(s["name"], clusters.get(s["name"], _NOWHERE), s.get("weight", 0)) for s in shares),
    )


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
