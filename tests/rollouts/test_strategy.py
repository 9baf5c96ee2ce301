"""Strategies as data: what is accepted, and how every fault names its place and what is right."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rollouts.strategy import FIRST_DEPLOYMENT, Step, StrategyError, is_watched, parse_steps
from rollouts.traffic.base import TOTAL_WEIGHT

FIRST = {"setWeight": 10}


def faults(value: Any, **known: Any) -> dict[str, str]:
    with pytest.raises(StrategyError) as caught:
        parse_steps(value, **known)
    return caught.value.fields


def test_canary_is_read_with_its_defaults() -> None:
    steps = parse_steps(
        [FIRST, {"pause": {"seconds": 30}}, {"pause": {}}, {"pause": None}, {"analysis": {"alpha": 0.01}},
         {"analysis": {"on_timeout": "hold"}}, {"approval": {}}, {"setWeight": 10}, {"setWeight": 33.33}]
    )  # fmt: skip
    assert [step.kind for step in steps] == [
        "setWeight", "pause", "pause", "pause", "analysis", "analysis", "approval", "setWeight", "setWeight",
    ]  # fmt: skip
    assert [step.weight for step in steps if step.kind == "setWeight"] == [1000, 1000, 3333]


def test_kinds_of_other_apps_are_known_by_their_names() -> None:
    steps = parse_steps([FIRST, {"tasting": {"wine": "red"}}], gates=["tasting"])
    assert steps[1] == Step("tasting", {"wine": "red"})


@pytest.mark.parametrize(
    ("value", "place", "right"),
    [
        (None, "steps", "give a list with at least one step"),
        ([], "steps", "give a list with at least one step"),
        ("canary", "steps", "give a list"),
        ({"setWeight": 10}, "steps", "give a list"),
        ([FIRST, 5], "steps[1]", "5 is not a step: give an object with one key of setWeight, pause"),
        ([FIRST, {}], "steps[1]", "give an object with one key"),
        ([FIRST, {"setWeight": 20, "pause": {}}], "steps[1]", "give an object with one key"),
        ([{"setweight": 10}], "steps[0].setweight", "did you mean setWeight?"),
        ([FIRST, {"analyse": {}}], "steps[1].analyse", "did you mean analysis?"),
        ([FIRST, {"xyzzy": {}}], "steps[1].xyzzy", "is not a kind of step"),
        ([FIRST, {7: {}}], "steps[1].7", "is not a kind of step"),
        ([{"setWeight": "10"}], "steps[0].setWeight", "'10' is not usable: give a percentage from 0 to 100"),
        ([{"setWeight": True}], "steps[0].setWeight", "give a percentage"),
        ([{"setWeight": None}], "steps[0].setWeight", "give a percentage"),
        ([{"setWeight": -1}], "steps[0].setWeight", "from 0 to 100"),
        ([{"setWeight": 101}], "steps[0].setWeight", "from 0 to 100"),
        ([{"setWeight": float("nan")}], "steps[0].setWeight", "from 0 to 100"),
        ([{"setWeight": float("inf")}], "steps[0].setWeight", "from 0 to 100"),
        ([{"setWeight": 0.001}], "steps[0].setWeight", "too fine"),
        ([FIRST, {"pause": 30}], "steps[1].pause", "30 is not usable: give an object of settings"),
        ([FIRST, {"pause": {"minutes": 1}}], "steps[1].pause.minutes", "is not known; a pause has seconds"),
        ([FIRST, {"pause": {"seconds": 0}}], "steps[1].pause.seconds", "up to seven days"),
        ([FIRST, {"pause": {"seconds": "30"}}], "steps[1].pause.seconds", "'30' is not usable"),
        ([FIRST, {"pause": {"seconds": True}}], "steps[1].pause.seconds", "True is not usable"),
        ([FIRST, {"pause": {"seconds": float("nan")}}], "steps[1].pause.seconds", "nan is not usable"),
        ([FIRST, {"pause": {"seconds": 604801}}], "steps[1].pause.seconds", "up to seven days"),
        ([FIRST, {"analysis": []}], "steps[1].analysis", "give an object of settings"),
        ([FIRST, {"analysis": {"alpha": 2}}], "steps[1].analysis.alpha", "2 is not a probability"),
        ([FIRST, {"analysis": {"aplha": 0.1}}], "steps[1].analysis.aplha", "did you mean alpha?"),
        ([FIRST, {"analysis": {"on_timeout": "pass"}}], "steps[1].analysis.on_timeout", "give rollback or hold"),
        ([FIRST, {"approval": {"by": "bo"}}], "steps[1].approval", "takes no settings: give {}"),
        ([{"pause": {"seconds": 5}}], "steps", "no step sets a weight"),
        ([{"analysis": {}}, FIRST], "steps[0].analysis", "comes before the first setWeight"),
        ([{"setWeight": 0}], "steps", "no step sets a weight above 0"),
        ([{"setWeight": 0}, {"analysis": {}}, FIRST], "steps[1].analysis", "comes before the first setWeight above 0"),
        ([{"pause": {}}, {"analysis": {}}, FIRST], "steps[1].analysis", "comes before the first setWeight"),
        ([{"setWeight": 50}, FIRST], "steps[1].setWeight", "is less than the step before"),
    ],
)
def test_fault_names_its_place_and_what_is_right(value: Any, place: str, right: str) -> None:
    found = faults(value)
    assert list(found) == [place]
    assert right in found[place]


def test_every_fault_is_named_at_once() -> None:
    found = faults([{"setWeight": 200}, {"pause": {"seconds": -1}}, {"analysis": {"alpha": 2, "min_requests": 0}}])
    assert set(found) == {
        "steps[0].setWeight", "steps[1].pause.seconds", "steps[2].analysis.alpha", "steps[2].analysis.min_requests",
    }  # fmt: skip


def test_waiting_and_approval_may_come_before_the_first_traffic() -> None:
    assert parse_steps([{"approval": {}}, {"pause": {"seconds": 1}}, FIRST])


@pytest.mark.parametrize(
    ("step", "title"),
    [
        (Step("setWeight", {"percent": 12.5}), "Send 12.5 % of traffic"),
        (Step("pause", {}), "Wait for a person to go on"),
        (Step("pause", {"seconds": 30.0}), "Wait 30 s"),
        (
            Step("analysis", {}),
            "Judge: error rate at most 0.5 points worse; P95 latency watched, at most 20 % or 5 ms worse",
        ),
        (
            Step("analysis", {"max_error_increase_points": 2, "max_latency_increase_percent": None}),
            "Judge: error rate at most 2 points worse",
        ),
        (Step("approval", {}), "Approval to go on"),
        (Step("tasting", {}), "Tasting"),
    ],
)
def test_titles(step: Step, title: str) -> None:
    assert step.title == title


@pytest.mark.parametrize(
    ("steps", "watched"),
    [
        ([FIRST, {"setWeight": 100}], False),
        ([FIRST, {"pause": {}}, {"approval": {}}, {"setWeight": 100}], False),
        ([FIRST, {"analysis": {}}], True),
        ([FIRST, {"tasting": {}}], True),
    ],
)
def test_watched_is_what_has_a_judge(steps: list[Any], watched: bool) -> None:
    assert is_watched(parse_steps(steps, gates=["tasting"])) is watched


def test_first_deployment_gives_all_traffic() -> None:
    assert [step.weight for step in FIRST_DEPLOYMENT] == [TOTAL_WEIGHT]


percents = st.integers(0, TOTAL_WEIGHT).map(lambda hundredths: hundredths / 100)
rising = st.lists(percents, min_size=1, max_size=6).filter(any).map(lambda ws: [{"setWeight": w} for w in sorted(ws)])


@given(rising)
def test_what_is_read_can_be_written_and_read_again(value: list[Any]) -> None:
    steps = parse_steps(value)
    assert parse_steps([step.to_json() for step in steps]) == steps


@given(st.integers(0, TOTAL_WEIGHT))
def test_every_hundredth_of_a_percent_is_a_weight(hundredths: int) -> None:
    assert parse_steps([{"setWeight": hundredths / 100}, {"setWeight": 100}])[0].weight == hundredths


json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda below: (
        st.lists(below, max_size=3)
        | st.dictionaries(
            st.sampled_from(["setWeight", "pause", "analysis", "approval", "seconds", "x"]), below, max_size=2
        )
    ),
    max_leaves=8,
)


@given(json | st.lists(json, max_size=4))
def test_no_data_whatever_is_met_with_anything_but_steps_or_named_faults(value: Any) -> None:
    named: dict[str, str] = {}
    try:
        steps = parse_steps(value)
    except StrategyError as error:
        steps, named = (), error.fields
    assert bool(steps) is not bool(named)
    assert all(place.startswith("steps") and right for place, right in named.items())
