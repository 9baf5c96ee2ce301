"""Values of a policy: what may be kept, and how one is laid over the other."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry.qa import policy_values
from registry.qa.policy import Load, Policy
from registry.qa.policy_values import merge, resolve, validate
from tests.registry.test_pipeline_config import CHECKS, VALUES


def test_every_field_of_policy_and_load_may_be_set() -> None:
    assert sorted(policy_values.shape(CHECKS).keys) == sorted(Policy.__dataclass_fields__)
    assert sorted(policy_values.LOAD.keys) == sorted(Load.__dataclass_fields__)
    assert validate(Policy().to_json(), CHECKS) == {}


@pytest.mark.parametrize(
    ("values", "field", "said"),
    [
        ({"minimum_scor": 80}, "minimum_scor", "is not known here; the nearest is minimum_score (points)"),
        ({"minimum_score": "80"}, "minimum_score", "give a number (points) from 0 to 100, without quotes"),
        ({"minimum_score": True}, "minimum_score", "is true: give a number"),
        ({"minimum_score": float("nan")}, "minimum_score", "is NaN: give a number"),
        ({"minimum_score": 10**400}, "minimum_score", "is 1000"),
        ({"minimum_score": -(10**400)}, "minimum_score", "is -1000"),
        ({"load": {"prompt_words": [[10**400, 1]]}}, "load.prompt_words[0][0]", "give a whole number (words)"),
        ({"max_latency_ms": 0}, "max_latency_ms", "is 0: give a number (milliseconds) from 0.1 to 600,000"),
        ({"deep_tree_echo": "yes"}, "deep_tree_echo", 'is "yes": give true or false'),
        ({"deep_tree_echo_components": ["x"]}, "deep_tree_echo_components[0]", "there are: dtesn, aar_core, echo_self"),
        ({"weights": {"securty": 1}}, "weights.securty", "the nearest is security"),
        ({"weights": {"security": -0.1}}, "weights.security", "is -0.1: give a number"),
        ({"weights": 3}, "weights", "is 3: give its weights, compatibility,"),
        ({"advisory": ["speed"]}, "advisory[0]", "there are: compatibility, performance,"),
        ({"advisory": {"security": 1}}, "advisory.security", "is 1: give true or false"),
        ({"load": {"rate": 3}}, "load.rate", "is not known here"),
        ({"load": {"concurrency": 2.0}}, "load.concurrency", "give a whole number"),
        (
            {"load": {"output_tokens": [[0, 1]]}},
            "load.output_tokens[0][0]",
            "is 0: give a whole number (tokens) from 1",
        ),
        ({"parameters": {"gone.check": {}}}, "parameters.gone.check", "is not known here; there are: custom.colour"),
        (
            {"parameters": {"custom.colour": {"wait_ms": 0}}},
            "parameters.custom.colour.wait_ms",
            "(ms) from 1 to 60,000",
        ),
        ([], "values", "is []: give its values, minimum_score,"),
    ],
)
def test_wrong_value_is_refused_by_its_place(values: Any, field: str, said: str) -> None:
    found = validate(values, CHECKS)
    assert list(found) == [field]
    assert said in found[field]


def test_weights_must_leave_something_that_counts_over_what_is_inherited() -> None:
    below = merge(policy_values.DEFAULTS, {"weights": {"compatibility": 0, "performance": 0, "integration": 0}})
    assert validate({"weights": {"security": 0}}, CHECKS) == {}
    found = validate({"weights": {"security": 0}}, CHECKS, inherited=below)
    assert found == {"weights": "are all 0: give at least one category a share above 0"}


def test_partial_override_does_not_drop_its_siblings() -> None:
    found = resolve([{"load": {"seconds": 9}, "weights": {"quality": 5}}, {"load": {"max_tokens": 3}}])
    assert (found.policy.load.seconds, found.policy.load.max_tokens) == (9, 3)
    assert found.policy.load.requests_per_second == Load().requests_per_second
    assert found.policy.weights == {**Policy().weights, "quality": 5}


def test_parameters_of_one_check_are_laid_over_each_other_one_by_one() -> None:
    found = resolve(
        [{"parameters": {"a.a": {"x": 1, "y": 2}, "b.b": {"z": 3}}}, {"parameters": {"a.a": {"y": 4}}}]
    ).policy
    assert found.parameters == {"a.a": {"x": 1, "y": 4}, "b.b": {"z": 3}}


def test_category_says_of_itself_whether_it_is_advisory_and_the_others_stay() -> None:
    assert resolve([{"advisory": {"security": True}}]).policy.advisory == ("integration", "quality", "security")
    assert resolve([{"advisory": {"integration": False}}]).policy.advisory == ("quality",)
    assert resolve([{"advisory": {"security": True}}, {"advisory": []}]).policy.advisory == ()


def test_each_value_knows_which_layer_has_set_it() -> None:
    found = resolve([{"max_latency_ms": 9, "load": {"seconds": 9}}, {"max_latency_ms": 7, "advisory": ["security"]}])
    origins = found.origins
    assert (origins["max_latency_ms"], origins["load.seconds"], origins["load.max_tokens"]) == (1, 0, None)
    assert (origins["advisory.integration"], origins["minimum_score"]) == (1, None)
    assert set(origins) == set(found.values)


def test_true_is_not_one_for_a_person_who_reads_what_changes() -> None:
    assert [c.name for c in policy_values.changes({"a": 1, "b": 2, "c": 5}, {"a": True, "b": 2.0, "d": 0})] == [
        "a",
        "c",
        "d",
    ]


LAYER = st.fixed_dictionaries({}, optional=VALUES)


@given(LAYER, LAYER, LAYER)
def test_layers_may_be_folded_in_any_grouping(one: Any, two: Any, three: Any) -> None:
    whole = merge(merge(merge(policy_values.DEFAULTS, one), two), three)
    assert policy_values.plain(resolve([one, two, three]).policy.to_json()) == policy_values.plain(
        Policy.from_json(whole).to_json()
    )
    assert dict(policy_values.settings(resolve([one, two, three, three]).policy.to_json())) == dict(
        policy_values.settings(Policy.from_json(whole).to_json())
    )


@given(LAYER, LAYER)
def test_what_the_last_layer_says_holds(one: Any, two: Any) -> None:
    found = resolve([one, two])
    said = dict(policy_values.settings(two, found.policy.weights))
    assert {name: found.values.get(name) for name in said} == said
    assert {name for name, index in found.origins.items() if index == 1} == set(said) & set(found.origins)
