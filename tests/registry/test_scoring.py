from __future__ import annotations

import math
from dataclasses import replace
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry.scoring import CATEGORY_WEIGHTS, Band, Loss, Scored, Status, band_of, needs_override, score

CATEGORIES = [name for name, weight in CATEGORY_WEIGHTS.items() if weight]
UNKNOWN = (Status.FAILED, Status.ERROR, Status.NOT_CHECKED)


def scored(status: Status = Status.PASSED, category: str = "security", **more: object) -> Scored:
    facts = {"name": "security.x", "label": "The label", "weight": 1.0, "required": False, "reason": "The reason."}
    return Scored(category=category, status=status, **{**facts, **more})  # type: ignore[arg-type]


def one_of(categories: list[str]) -> st.SearchStrategy[Scored]:
    return st.builds(
        Scored,
        name=st.sampled_from(["security.x", "security.y", "security.z"]),
        label=st.sampled_from(["One", "Two", "Three"]),
        category=st.sampled_from(categories),
        status=st.sampled_from(Status),
        weight=st.floats(0, 10),
        required=st.booleans(),
        reason=st.just("The reason."),
    )


results = st.lists(one_of(CATEGORIES), min_size=1, max_size=12)
mixed = st.lists(one_of([*CATEGORIES, "quality", "house"]), max_size=12)
weights = st.dictionaries(st.sampled_from([*CATEGORIES, "quality", "house"]), st.floats(0, 100))


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


def test_sentence_names_what_cost_the_points_and_how_many() -> None:
    found = [
        scored(weight=8),
        scored(Status.FAILED, label="Keys are not echoed"),
        scored(Status.NOT_CHECKED, label="Rate limiting", weight=1.5),
    ]
    assert score(found).sentence == (
        "76.1 of 100 (caution): only an approver's override with a reason lets it through. "
        "Points were lost on: Rate limiting (14.3), Keys are not echoed (9.6)."
    )


def test_sentence_says_when_the_policy_asks_for_more_than_a_good_score() -> None:
    found = [scored(weight=9), scored(Status.FAILED, label="Keys are not echoed")]
    assert score(found, minimum_score=90).sentence.startswith("90 of 100 (good): may be approved;")
    assert score(found, minimum_score=90.5).sentence.startswith(
        "90 of 100 (good): less than the 90.5 that the policy asks for; only an approver's override with a reason lets "
        "it through. Points were lost on: "
    )


@pytest.mark.parametrize(
    ("points", "minimum", "needed"),
    [(100, 80, False), (84, 84, False), (84, 85, True), (79.9, 60, True), (65, 0, True), (64.9, 0, False)],
)
def test_override_is_needed_in_the_band_of_caution_and_below_the_policys_minimum(
    points: float, minimum: float, needed: bool
) -> None:
    assert needs_override(points, minimum) is needed


def test_sentence_names_five_and_counts_the_rest() -> None:
    labels = ["A", "B", "C", "D", "E", "F", "G"]
    found = [scored(weight=93)] + [scored(Status.ERROR, name=f"security.{x}", label=x) for x in labels]
    assert score(found).sentence.endswith("on: A (1.0), B (1.0), C (1.0), D (1.0), E (1.0) and 2 more (2.0).")


def test_cost_too_small_for_a_decimal_is_said_to_be_so() -> None:
    found = [scored(weight=1e6), scored(Status.FAILED, label="A"), scored(Status.FAILED, label="B", name="security.b")]
    assert score(found).sentence.endswith("Points were lost on: B (0.1), A (under 0.1).")


def test_nothing_that_counts_is_said_to_be_the_reason() -> None:
    assert score([]).sentence == "Blocked: nothing that counts could be looked at, so there is no score."


def test_losses_are_named_and_sorted_by_what_they_cost() -> None:
    found = [
        scored(name="security.a", label="A", weight=3),
        scored(Status.FAILED, name="security.b", label="B", weight=1),
        scored(Status.ERROR, "performance", name="performance.c", label="C"),
    ]
    # Performance has 30 of 55, security a quarter of 25 of them: 54.55 and 11.36 of the score's 34.0, rounded down.
    assert score(found).points == 34.0
    assert score(found).lost == (Loss("performance.c", "C", 54.6), Loss("security.b", "B", 11.4))


def test_category_of_a_custom_check_is_shown_and_costs_nothing() -> None:
    total = score([scored(), scored(Status.FAILED, "house", name="house.style", weight=5)])
    assert (total.points, total.blocked, total.lost) == (100, False, ())
    assert total.categories["house"] == 0


def test_required_check_of_a_category_without_weight_still_blocks() -> None:
    total = score([scored(), scored(Status.FAILED, "house", required=True, reason="It swears.")])
    assert total.points == 100
    assert total.blocked
    assert total.sentence == "Blocked: It swears."


def test_policy_may_give_a_custom_category_a_weight() -> None:
    found = [scored(), scored(Status.FAILED, "house", name="house.style", label="House style")]
    total = score(found, {**CATEGORY_WEIGHTS, "house": 25})
    assert total.points == 50
    assert total.lost == (Loss("house.style", "House style", 50),)


def test_result_of_a_check_that_is_no_longer_installed_scores_as_it_stands() -> None:
    gone = scored(Status.FAILED, name="security.abolished", label="An old check", reason="It was wrong then.")
    total = score([scored(weight=9), gone])
    assert total.points == 90
    assert "An old check (10.0)" in total.sentence


@given(mixed, weights, st.randoms(use_true_random=False))
def test_order_of_the_results_does_not_matter(found: list[Scored], of: dict[str, float], random: Random) -> None:
    other = list(found)
    random.shuffle(other)
    here, there = score(found, of), score(other, dict(reversed(of.items())))
    assert (here.points, here.band, here.blocked, here.lost) == (there.points, there.band, there.blocked, there.lost)
    assert here.categories == there.categories


@given(mixed, weights)
def test_losses_add_up_to_what_is_missing(found: list[Scored], of: dict[str, float]) -> None:
    total = score(found, of)
    missing = sum(round(10 * loss.points) for loss in total.lost)
    counts = any(points is not None and of.get(name, 0) > 0 for name, points in total.categories.items())
    assert missing == (1000 - round(10 * total.points) if counts else 0)
    assert list(total.lost) == sorted(total.lost, key=lambda loss: -loss.points)


@given(mixed, weights)
def test_only_what_did_not_pass_costs_points(found: list[Scored], of: dict[str, float]) -> None:
    unmet = {r.name for r in found if r.status in UNKNOWN and r.weight > 0 and of.get(r.category, 0) > 0}
    assert {loss.name for loss in score(found, of).lost} == unmet


@given(mixed, weights, st.data())
def test_each_check_that_turns_to_passed_raises_the_score_or_leaves_it(
    found: list[Scored], of: dict[str, float], data: st.DataObject
) -> None:
    before = score(found, of)
    for index in data.draw(st.permutations(range(len(found)))):
        if found[index].status is Status.NOT_APPLICABLE:
            continue
        found = [*found[:index], replace(found[index], status=Status.PASSED), *found[index + 1 :]]
        after = score(found, of)
        assert after.points >= before.points
        assert after.blocked <= before.blocked
        before = after
    assert before.points in (0.0, 100.0)  # 0 where nothing counts
    assert before.blocked == (before.points == 0.0)


@given(mixed, weights, st.floats(0.001, 1000))
def test_only_the_relation_of_the_weights_counts(found: list[Scored], of: dict[str, float], factor: float) -> None:
    scaled = {name: weight * factor for name, weight in of.items()}
    assert math.isclose(score(found, of).points, score(found, scaled).points, abs_tol=0.1001)


@given(mixed, weights)
def test_points_are_never_more_than_the_shares_that_passed(found: list[Scored], of: dict[str, float]) -> None:
    total = score(found, of)
    counting = [(of[name], points) for name, points in total.categories.items() if points is not None and of.get(name)]
    exact = sum(w * p for w, p in counting) / sum(w for w, _ in counting) if counting else 0.0
    assert total.points <= exact + 1e-5
    assert total.points > exact - 0.1 - 1e-5 or not counting
