"""What may be a table of routes, and the digest of what one means."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Sequence

from deploypipe.core.errors import RouterError
from rollouts.bucketing import weights_of
from rollouts.traffic.base import TOTAL_WEIGHT, RouteTable

_NAME = re.compile(r"[A-Za-z0-9._:-]{1,128}")
HEADER = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")
COOKIE = re.compile(r"[A-Za-z0-9_-]{1,64}")
PRINTABLE = re.compile(r"[\x21-\x7e]([\x20-\x7e]{0,126}[\x21-\x7e])?")


def validate(routes: Sequence[RouteTable]) -> None:
    """Raises RouterError that names the route."""
    addresses: dict[str, str] = {}
    for route in routes:
        for fault in _faults(route):
            raise RouterError(fault, permanent=True)
        for backend in route.backends:
            if addresses.setdefault(backend.name, backend.address) != backend.address:
                raise RouterError(f"Two model servers are called {backend.name}.", permanent=True)
    if len({route.key for route in routes}) != len(routes):
        raise RouterError("One model has two tables of routes in one environment.", permanent=True)


def _faults(route: RouteTable) -> Iterator[str]:
    weights = {backend.name: backend.weight for backend in route.backends}
    if weights and (min(weights.values()) < 0 or sum(weights.values()) != TOTAL_WEIGHT):
        yield f"The weights of {route.key} are {list(weights.values())}: not a split of {TOTAL_WEIGHT}."
    for backend in route.backends:
        split_address(backend.address)
        if not _NAME.fullmatch(backend.name):
            yield f"{backend.name!r} cannot be the name of a model server."
    if route.cuts and ({**dict.fromkeys(weights, 0), **weights_of(route.cuts)} != weights or _is_empty_cut(route)):
        yield f"The cuts of {route.key} are not its weights: {route.cuts} against {weights}."
    if unknown := {name for _, name in route.arms} - weights.keys():
        yield f"An arm of {route.key} is on {min(unknown)}, which is no model server of it."
    if len(dict(route.arms)) != len(route.arms):
        yield f"One arm of {route.key} is named twice."
    if not 0 <= route.holdout <= TOTAL_WEIGHT:
        yield f"The holdout of {route.key} is {route.holdout}: not from 0 to {TOTAL_WEIGHT}."
    by, name = route.assignment.by, route.assignment.name
    known = {"session": name == "", "header": HEADER.fullmatch(name), "cookie": COOKIE.fullmatch(name)}
    if not known.get(by):
        yield f"{route.key} cannot make sessions by {by} {name!r}."
    for rule in route.forced:
        if not HEADER.fullmatch(rule.header) or not PRINTABLE.fullmatch(rule.value):
            yield f"{route.key} cannot force an arm by the header {rule.header!r} with {rule.value!r}."


def _is_empty_cut(route: RouteTable) -> bool:
    return any(width <= 0 for _, width in route.cuts)


def revision_of(routes: Sequence[RouteTable]) -> str:
    """Of what the table means, not of the bytes of a file: the same digest is taken of what Envoy says it does."""
    return hashlib.sha256(json.dumps(sorted(map(_meaning, routes))).encode()).hexdigest()[:16]


def _meaning(route: RouteTable) -> list[object]:
    addresses = {backend.name: _normal(backend.address) for backend in route.backends}
    return [
        route.environment,
        route.model,
        route.salt,
        [[name, addresses[name], width] for name, width in route.pieces],
        sorted(route.arms),
        route.holdout,
        [route.assignment.by, route.assignment.name],
        [[rule.header, rule.value, rule.arm] for rule in route.forced],
    ]


def _normal(address: str) -> str:
    host, port = split_address(address)
    return f"{host}:{port}"


def split_address(address: str) -> tuple[str, int]:
    host, _, port = address.rpartition(":")
    if not host or not port.isascii() or not port.isdigit() or not 0 < int(port) < 65536:
        raise RouterError(f"{address!r} is not an address of the form host:port.", permanent=True)
    return host.removeprefix("[").removesuffix("]"), int(port)
