"""How an experiment's sessions are made, as people write it."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rollouts.assignment import Routing, RoutingError, parse_holdout, parse_routing
from rollouts.traffic.base import Assignment, ForcedRule

ARMS = ("stable", "candidate", "candidate-2")
BETA = {"header": "X-Beta", "value": "true", "arm": "candidate"}


@pytest.mark.parametrize(
    ("said", "meant"),
    [
        (None, Routing()),
        ({}, Routing()),
        ({"by": "session"}, Routing()),
        ({"by": "header", "name": "X-User-Id"}, Routing(Assignment("header", "x-user-id"))),
        ({"by": "cookie", "name": "__Host-uid"}, Routing(Assignment("cookie", "__Host-uid"))),
        ({"forced": [BETA]}, Routing(forced=(ForcedRule("x-beta", "true", "candidate"),))),
    ],
)
def test_routing_is_read(said: Any, meant: Routing) -> None:
    routing = parse_routing(said, arms=ARMS)
    assert routing == meant
    assert parse_routing(routing.to_json(), arms=ARMS) == meant


@pytest.mark.parametrize(
    ("said", "place", "right"),
    [
        ("header", "routing", 'give an object such as {"by": "session"}'),
        ({"bye": "header"}, "routing.bye", "is not known; there are: by, name, forced"),
        ({"by": "weather"}, "routing.by", "'weather' is not usable: give one of session, header, cookie"),
        ({"by": "session", "name": "x"}, "routing.name", "sessions have no name"),
        ({"by": "header"}, "routing.name", "'' is not usable: give a header's name"),
        ({"by": "header", "name": "x user"}, "routing.name", "give a header's name"),
        ({"by": "header", "name": 7}, "routing.name", "7 is not usable"),
        ({"by": "header", "name": "Authorization"}, "routing.name", "it carries a secret"),
        ({"by": "header", "name": "x-api-key"}, "routing.name", "it carries a secret"),
        ({"by": "header", "name": "cookie"}, "routing.name", "it carries a secret"),
        ({"by": "header", "name": "x-dp-bucket"}, "routing.name", "it belongs to the gateway"),
        ({"by": "header", "name": "X-Request-Id"}, "routing.name", "it belongs to the gateway"),
        ({"by": "cookie", "name": "a;b"}, "routing.name", "give a cookie's name"),
        ({"by": "cookie", "name": None}, "routing.name", "give a cookie's name"),
        ({"forced": "x-beta"}, "routing.forced", "give a list of at most 10"),
        ({"forced": [BETA] * 11}, "routing.forced", "give a list of at most 10"),
        ({"forced": [{}]}, "routing.forced[0]", "give an object with header, value and arm"),
        ({"forced": [BETA, {**BETA, "value": ""}]}, "routing.forced[1].value", "give 1 to 128 printable"),
        ({"forced": [{**BETA, "value": "a\nb"}]}, "routing.forced[0].value", "give 1 to 128 printable"),
        ({"forced": [{**BETA, "arm": "third"}]}, "routing.forced[0].arm", "give one of stable, candidate, candidate-2"),
        ({"forced": [{**BETA, "arm": []}]}, "routing.forced[0].arm", "give one of"),
        ({"forced": [{**BETA, "header": "x-token"}]}, "routing.forced[0].header", "it carries a secret"),
    ],
)
def test_fault_names_its_place_and_what_would_be_right(said: Any, place: str, right: str) -> None:
    with pytest.raises(RoutingError) as caught:
        parse_routing(said, arms=ARMS)
    assert right in caught.value.fields[place]


def test_all_faults_are_told_at_once() -> None:
    with pytest.raises(RoutingError) as caught:
        parse_routing({"by": "header", "name": "host", "forced": [{**BETA, "arm": "x"}], "why": 1}, arms=ARMS)
    assert set(caught.value.fields) == {"routing.why", "routing.name", "routing.forced[0].arm"}


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["header", "value", "arm"]), inner),
    max_leaves=6,
)


@given(st.dictionaries(st.sampled_from(["by", "name", "forced", "x"]), anything))
def test_whatever_is_said_is_read_or_refused_with_words(said: dict[str, Any]) -> None:
    faults: dict[str, str] = {}
    routing = None
    try:
        routing = parse_routing(said, arms=ARMS)
    except RoutingError as error:
        faults = error.fields
    assert (routing is None) == bool(faults)
    assert all(faults.values())
    assert routing is None or parse_routing(routing.to_json(), arms=ARMS) == routing


@pytest.mark.parametrize(("percent", "hundredths"), [(0, 0), (0.0, 0), (5, 500), (2.5, 250), (0.01, 1), (50, 5_000)])
def test_holdout_is_a_percentage(percent: float, hundredths: int) -> None:
    assert parse_holdout(percent) == hundredths


@pytest.mark.parametrize("percent", [-1, 50.01, 0.001, "5", True, None, float("nan"), float("inf")])
def test_holdout_that_cannot_be_is_refused(percent: Any) -> None:
    with pytest.raises(RoutingError, match="from 0 to 50"):
        parse_holdout(percent)
