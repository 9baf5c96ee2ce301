"""How an experiment's sessions are made and who is not drawn, from data as people write it. Pure.

{"by": "header", "name": "x-user-id", "forced": [{"header": "x-beta", "value": "true", "arm": "candidate"}]}
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rollouts.traffic.base import BY_SESSION, TOTAL_WEIGHT, Assignment, ForcedRule
from rollouts.traffic.revision import COOKIE, HEADER, PRINTABLE

KINDS = ("session", "header", "cookie")
MOST_RULES = 10
MOST_HELD_OUT = 50.0
"""Percent."""
_SECRET = re.compile(r"authorization|cookie|api-?key|token|secret|password")
_OURS = ("x-dp-", "x-deploypipe-", "x-envoy-")
_EXCHANGES = frozenset({"host", "connection", "content-length", "transfer-encoding", "x-request-id", "x-forwarded-for"})


class RoutingError(ValueError):
    """`fields` maps the place ("routing.forced[0].arm") to what would be right."""

    def __init__(self, fields: Mapping[str, str]) -> None:
        self.fields = dict(fields)
        super().__init__("; ".join(f"{place}: {right}" for place, right in self.fields.items()))


@dataclass(frozen=True)
class Routing:
    assignment: Assignment = BY_SESSION
    forced: tuple[ForcedRule, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Nothing where all is as usual."""
        said: dict[str, Any] = {}
        if self.assignment != BY_SESSION:
            said = {"by": self.assignment.by, "name": self.assignment.name}
        if self.forced:
            said["forced"] = [{"header": r.header, "value": r.value, "arm": r.arm} for r in self.forced]
        return said


def parse_routing(value: Any, *, arms: Collection[str]) -> Routing:
    """`arms` are the names that a rule may force. Raises RoutingError that names every fault."""
    if value is None:
        return Routing()
    if not isinstance(value, Mapping):
        raise RoutingError({"routing": f'{value!r} is not usable: give an object such as {{"by": "session"}}'})
    faults = {f"routing.{key}": "is not known; there are: by, name, forced" for key in set(value) - _KEYS}
    assignment = _assignment(value, faults)
    rules = value.get("forced", ())
    if not isinstance(rules, Sequence) or isinstance(rules, str) or len(rules) > MOST_RULES:
        faults["routing.forced"] = f"give a list of at most {MOST_RULES} objects with header, value and arm"
        rules = ()
    forced = [_rule(rule, f"routing.forced[{index}]", arms, faults) for index, rule in enumerate(rules)]
    if faults:
        raise RoutingError(faults)
    return Routing(assignment, tuple(forced))


_KEYS = {"by", "name", "forced"}


def _assignment(value: Mapping[str, Any], faults: dict[str, str]) -> Assignment:
    by, name = value.get("by", "session"), value.get("name", "")
    if by not in KINDS:
        faults["routing.by"] = f"{by!r} is not usable: give one of {', '.join(KINDS)}"
    elif by == "session" and name != "":
        faults["routing.name"] = f"{name!r} is not usable: sessions have no name; give it with by: header or by: cookie"
    elif by == "header":
        name = _header(name, "routing.name", faults)
    elif by == "cookie" and not (isinstance(name, str) and COOKIE.fullmatch(name)):
        faults["routing.name"] = f"{name!r} is not usable: give a cookie's name of letters, digits, - and _"
    return Assignment(str(by), str(name))


def _header(name: Any, place: str, faults: dict[str, str]) -> str:
    lower = name.lower() if isinstance(name, str) else ""
    if not HEADER.fullmatch(lower):
        faults[place] = f"{name!r} is not usable: give a header's name, such as x-user-id"
    elif _SECRET.search(lower):
        faults[place] = f"{name!r} is not usable: it carries a secret; give a header that carries an id"
    elif lower in _EXCHANGES or lower.startswith(_OURS):
        faults[place] = f"{name!r} is not usable: it belongs to the gateway; give a header of your own"
    return lower


def _rule(rule: Any, place: str, arms: Collection[str], faults: dict[str, str]) -> ForcedRule:
    if not isinstance(rule, Mapping) or set(rule) != {"header", "value", "arm"}:
        faults[place] = f"{rule!r} is not usable: give an object with header, value and arm"
        return ForcedRule("", "", "")
    header = _header(rule["header"], f"{place}.header", faults)
    if not isinstance(rule["value"], str) or not PRINTABLE.fullmatch(rule["value"]):
        faults[f"{place}.value"] = f"{rule['value']!r} is not usable: give 1 to 128 printable ASCII characters"
    if rule["arm"] not in arms:
        faults[f"{place}.arm"] = f"{rule['arm']!r} is not usable: give one of {', '.join(arms)}"
    return ForcedRule(header, str(rule["value"]), str(rule["arm"]))


def parse_holdout(percent: Any) -> int:
    """Hundredths of a percent. Raises RoutingError."""
    fine = isinstance(percent, int | float) and not isinstance(percent, bool)
    if not fine or not 0 <= percent <= MOST_HELD_OUT or round(percent, 2) != percent:
        right = f"give a percentage from 0 to {MOST_HELD_OUT:g}, in hundredths at the finest"
        raise RoutingError({"holdout_percent": f"{percent!r} is not usable: {right}"})
    return round(float(percent) * TOTAL_WEIGHT / 100)
