from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry.scoring import CATEGORY_WEIGHTS, Band, Scored, Status, band_of, score

CATEGORIES = [name for name, weight in CATEGORY_WEIGHTS.items() if weight]
UNKNOWN = (Status.FAILED, Status.ERROR, Status.NOT_CHECKED)


def scored(status: Status = Status.PASSED, category: str = "security", **more: object) -> Scored:
    facts = {"name": "security.x", "label": "The label", "weight": 1.0, "required": False, "reason": "The reason."}
    return Scored(category=category, status=status, **{**facts, **more})  # type: ignore[arg-type]


results = st.lists(
    st.builds(
        Scored,
        name=st.just("security.x"),
        label=st.sampled_from(["One", "Two", "Three"]),
        category=st.sampled_from(CATEGORIES),
        status=st.sampled_from(Status),
        weight=st.floats(0, 10),
        required=st.booleans(),
        reason=st.just("The reason."),
    ),
    min_size=1,
    max_size=12,
)


@given(results, st.data())
def test_what_is_not_known_to_pass_never_scores_more_than_what_passed(found: list[Scored], data: st.DataObject) -> None:
    index = data.draw(st.integers(0, len(found) - 1))
    passed, unknown = list(found), list(found)
    passed[index] = replace(found[index], status=Status.PASSED)
    unknown[index] = replace(found[index], status=data.draw(st.sampled_from(UNKNOWN)))
    assert score(unknown).points <= score(passed).points
    assert score(unknown).blocked >= score(passed).blocked


@given(results, st.sampled_from(CATEGORIES), st.sampled_from(UNKNOWN), st.floats(0, 10))
def test_adding_an_unknown_result_never_raises_its_category(
    found: list[Scored], category: str, status: Status, weight: float
) -> None:
    before = score(found).categories[category]
    after = score([*found, scored(status, category, weight=weight)]).categories[category]
    assert before is None or (after is not None and after <= before + 1e-9)


@given(results, st.sampled_from(UNKNOWN), st.floats(0, 10), st.sampled_from(CATEGORIES))
def test_required_check_that_did_not_pass_blocks_whatever_the_rest_says(
    found: list[Scored], status: Status, weight: float, category: str
) -> None:
    stop = scored(status, category, weight=weight, required=True)
    total = score([*found, stop])
    assert total.blocked
    assert total.sentence.startswith("Blocked: ")


@given(results)
def test_points_are_between_0_and_100_with_one_decimal_and_fit_their_band(found: list[Scored]) -> None:
    total = score(found)
    assert 0 <= total.points <= 100
    assert total.points == round(total.points, 1)
    assert total.band is band_of(total.points)
    assert total.band is not Band.POOR or total.blocked


@given(results)
def test_all_passed_scores_100(found: list[Scored]) -> None:
    passed = [replace(result, status=Status.PASSED, weight=result.weight + 1) for result in found]
    assert score(passed).points == 100
    assert not score(passed).blocked


@given(results, st.sampled_from(CATEGORIES))
def test_not_applicable_results_change_nothing(found: list[Scored], category: str) -> None:
    more = [*found, scored(Status.NOT_APPLICABLE, category, weight=5.0, required=True)]
    assert score(more) == score(found)


def test_weights_of_a_category_that_is_not_applicable_are_shared() -> None:
    found = [scored(category=c) for c in ("compatibility", "performance")] + [
        scored(Status.FAILED),
        scored(Status.NOT_APPLICABLE, "integration"),
    ]
    total = score(found)
    assert total.points == 68.7  # 55 of the 80 that are left, rounded down
    assert total.categories == {
        "compatibility": 100,
        "performance": 100,
        "security": 0,
        "integration": None,
        "quality": None,
    }


def test_nothing_applicable_is_blocked_and_not_100() -> None:
    total = score([scored(Status.NOT_APPLICABLE)])
    assert (total.points, total.blocked) == (0, True)


@pytest.mark.parametrize(
    ("points", "band"),
    [
        (100, Band.EXCELLENT),
        (95, Band.EXCELLENT),
        (94.9, Band.GOOD),
        (80, Band.GOOD),
        (79.9, Band.CAUTION),
        (65, Band.CAUTION),
        (64.9, Band.POOR),
        (0, Band.POOR),
    ],
)
def test_bands_begin_where_the_policy_says(points: float, band: Band) -> None:
    assert band_of(points) is band


def test_points_are_rounded_down() -> None:
    found = [scored(weight=79.96), scored(Status.FAILED, weight=20.04)]
    assert score(found).points == 79.9


def test_sentence_names_the_failure_before_what_could_not_be_checked() -> None:
    found = [
        scored(Status.NOT_CHECKED, label="Later", required=True, reason="Not started."),
        scored(Status.FAILED, label="The files", required=True, reason="A byte is wrong."),
    ]
    assert score(found).sentence == "Blocked: A byte is wrong."


def test_sentence_names_what_cost_the_points() -> None:
    found = [scored(weight=9), scored(Status.FAILED, label="Keys are not echoed")]
    assert score(found).sentence == (
        "90 of 100 (good): may be approved; its rollout must have analysis steps. "
        "Points were lost on: Keys are not echoed."
    )
