"""What Envoy's files say, and the tables that Envoy says are in force: from tables of routes to JSON and back."""

from __future__ import annotations

import hashlib
import ipaddress
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from itertools import chain
from pathlib import Path
from typing import Any, cast
from urllib.parse import quote

from rollouts.bucketing import Cut, holdout_salt, weights_of
from rollouts.traffic.base import TOTAL_WEIGHT, Assignment, Backend, ForcedRule, RouteTable
from rollouts.traffic.envoy_lua import ARM_HEADER, BUCKET_HEADER, LUA_FILTER, STREAM_IDLE, TABLE
from rollouts.traffic.revision import revision_of, split_address

Json = dict[str, Any]

VERSION_HEADER = "x-deploypipe-version"

# uvicorn, which most engines use, closes a connection after 5 idle seconds; a request sent into that moment is lost.
_UPSTREAM_IDLE = "4s"
_PROTOCOL = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
_REQUESTS = "max_requests_per_connection"
_NOWHERE = "0.0.0.0:1"
_UNLIMITED = 1_000_000_000


def _file(version: str, resources: Sequence[Json]) -> bytes:
    return json.dumps({"version_info": version, "resources": resources}, indent=1).encode()


def clusters_file(backends: Iterable[Backend]) -> bytes:
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


def routes_file(routes: Sequence[RouteTable]) -> bytes:
    ordered = sorted(routes, key=lambda route: route.key)
    table = {
        "@type": "type.googleapis.com/envoy.config.route.v3.RouteConfiguration",
        "name": TABLE,
        "request_headers_to_remove": [BUCKET_HEADER, ARM_HEADER],
        "virtual_hosts": [
            {"name": TABLE, "domains": ["*"], "routes": [*chain.from_iterable(map(_routes, ordered)), _not_found()]}
        ],
    }
    return _file(revision_of(routes), [table])


def _routes(route: RouteTable) -> Iterator[Json]:
    """One for each arm, that the Lua filter picks for whoever is not to be drawn, and one for everybody else."""
    common = {"metadata": {"filter_metadata": {LUA_FILTER: _facts(route)}}}
    match = {"prefix": f"/{quote(route.environment, safe='')}/{quote(route.model, safe='')}/"}
    for arm, backend in sorted(route.arms):
        here = {"name": ARM_HEADER, "string_match": {"exact": arm}}
        yield {"match": {**match, "headers": [here]}, **common, **_split([(backend, TOTAL_WEIGHT)])}
    yield {"match": match, **common, **(_split(route.pieces) if route.backends else _nothing_live(route))}


def _facts(route: RouteTable) -> Json:
    """What the Lua filter and the records are told of a route."""
    return {
        "environment": route.environment,
        "model": route.model,
        "salt": route.salt,
        "arms": {arm: True for arm, _ in route.arms},
        "holdout": {"share": route.holdout, "salt": holdout_salt(route.model)},
        "by": route.assignment.by,
        "name": route.assignment.name,
        "forced": [asdict(rule) for rule in route.forced],
    }


def _split(pieces: Iterable[Cut]) -> Json:
    return {
        "route": {
            "prefix_rewrite": "/",
            "timeout": "0s",
            "idle_timeout": STREAM_IDLE,
            # Before any byte was sent, and to the same version: a dead candidate is not hidden behind the stable one.
            "retry_policy": {"retry_on": "connect-failure,refused-stream", "num_retries": 1},
            "weighted_clusters": {
                "header_name": BUCKET_HEADER,
                "clusters": [_share(name, weight) for name, weight in pieces],
            },
        }
    }


def _share(name: str, weight: int) -> Json:
    return {"name": name, "weight": weight, "response_headers_to_add": [_header(VERSION_HEADER, name)]}


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


def backend_of(cluster: Json) -> Backend:
    """Which share it has is said by the routes, so the weight is none here."""
    try:
        endpoint = cluster["load_assignment"]["endpoints"][0]["lb_endpoints"][0]["endpoint"]
        address = endpoint["address"]["socket_address"]
        options = cluster["typed_extension_protocol_options"][_PROTOCOL]["common_http_protocol_options"]
        return Backend(cluster["name"], f"{address['address']}:{address['port_value']}", 0, _REQUESTS not in options)
    except (LookupError, TypeError):
        return Backend(cluster["name"], _NOWHERE, 0)  # not one that we wrote


def backends_in(file: Path) -> dict[str, Backend]:
    """Nothing when the file is absent or somebody spoilt it: it will be written anew."""
    try:
        found = [backend_of(cluster) for cluster in json.loads(file.read_bytes())["resources"]]
        return {backend.name: backend for backend in found}
    except (FileNotFoundError, ValueError, LookupError, TypeError):
        return {}


def tables_of(routes: Iterable[Json], clusters: Mapping[str, str]) -> list[RouteTable]:
    """`clusters`: name → address. The tables that these routes make, whoever wrote them."""
    of_arms: dict[tuple[object, object], list[Json]] = {}
    tables = []
    for route in routes:
        if not (facts := _facts_of(route)):
            continue
        key = (facts.get("environment"), facts.get("model"))
        if "headers" in route.get("match", {}):
            of_arms.setdefault(key, []).append(route)
        else:
            tables.append(_table_of(facts, route, of_arms.pop(key, []), clusters))
    return tables


def _table_of(facts: Json, route: Json, arms: Iterable[Json], clusters: Mapping[str, str]) -> RouteTable:
    pieces = _pieces_of(route)
    weights = weights_of(pieces)
    backends = tuple(Backend(name, clusters.get(name, _NOWHERE), weight) for name, weight in weights.items())
    return RouteTable(
        environment=facts.get("environment", ""),
        model=facts.get("model", ""),
        salt=facts.get("salt", ""),
        backends=backends,
        cuts=pieces,
        arms=tuple(_arm_of(route, facts) for route in arms),
        holdout=_holdout_of(facts),
        assignment=Assignment(facts.get("by", ""), facts.get("name", "")),
        forced=tuple(
            ForcedRule(rule.get("header", ""), rule.get("value", ""), rule.get("arm", ""))
            for rule in facts.get("forced", [])
        ),
    )


def _facts_of(route: Json) -> Json:
    return cast(Json, route.get("metadata", {}).get("filter_metadata", {}).get(LUA_FILTER, {}))


def _holdout_of(facts: Json) -> int:
    """-1 where it is not of the salt that we give it: somebody else's."""
    said = facts.get("holdout", {})
    return int(said.get("share", 0)) if said.get("salt") == holdout_salt(facts.get("model", "")) else -1


def _pieces_of(route: Json) -> tuple[Cut, ...]:
    shares = route.get("route", {}).get("weighted_clusters", {}).get("clusters", [])
    return tuple((share["name"], share.get("weight", 0)) for share in shares)


def _arm_of(route: Json, facts: Json) -> tuple[str, str]:
    """Its name and its backend; no backend where the route is not as we write it."""
    (header, *_), pieces = route["match"]["headers"], _pieces_of(route)
    as_written = header.get("name") == ARM_HEADER and _facts_of(route) == facts and len(pieces) == 1
    return header.get("string_match", {}).get("exact", ""), pieces[0][0] if as_written else ""
