"""The form says what an experiment will take before it starts."""

from __future__ import annotations

import json
from typing import Any

import hypothesis
import numpy as np
import pytest
from django.core.cache import cache
from hypothesis import given
from hypothesis import strategies as st

from abtests.design import SPLITS, Asked, Design, design, usual_splits
from abtests.designs import designed
from abtests.forecast import Traffic
from abtests.settings import parse_settings
from abtests.split_forecast import arriving, counted
from deploypipe.core.errors import Invalid
from deploypipe.metrics.units import Sample
from deploypipe.metrics.windows import ArmWindow
from deploypipe.stats.planning import wald_bound
from deploypipe.stats.samples import Moments
from rollouts.models import Environment
from tests.abtests.traffic import traffic
from tests.abtests.world import World

ERRORS: dict[str, Any] = {"goals": [{"metric": "error_rate", "margin_points": 0.5}], "guardrails": []}
TODAY = traffic(1080)
"""18 requests a second, of which 1 % fail: the example of the reference."""


def asked_for(
    settings: dict[str, Any] | None = None,
    today: Traffic = TODAY,
    *,
    share: float = 0.1,
    arms: int = 1,
    splits: tuple[float, ...] | None = None,
    **changes: Any,
) -> Design:
    parsed = parse_settings({**ERRORS, **(settings or {})})
    usual = {"max_minutes": parsed.max_seconds / 60, "min_requests": parsed.min_requests}
    asked = Asked(share, closing_share=parsed.closing_share, **{**usual, **changes})
    return design(parsed.plan(arms), today, asked, splits=splits)


# --- What it says -----------------------------------------------------------------------------------------------------


def test_form_says_requests_and_minutes_before_the_test_starts() -> None:
    answer = asked_for(max_minutes=60)
    assert answer.requests_to_promote is not None
    assert answer.requests_to_promote == pytest.approx(30_000, rel=0.05)
    assert answer.minutes_to_promote == pytest.approx(answer.requests_to_promote / 1080, abs=0.01)
    (errors,) = answer.metrics
    assert (errors.requests_to_pass, errors.harm) == (answer.requests_to_promote, "twice the error rate")
    assert errors.requests_to_catch == pytest.approx(55_700, rel=0.05)
    assert answer.feasible
    assert answer.suggested_share is None
    assert answer.sentence == (
        "An identical version is promoted after about 30,200 requests, 28 minutes at this traffic."
        " Twice the error rate is caught after about 55,700 requests, 52 minutes; in time in 57 of 100 such"
        " experiments."
    )
    assert answer.traffic is not None
    assert answer.traffic.sentence == (
        "The live version answered 64,800 requests of 64,800 sessions in the last 60 minutes, 1 % failed, P95 401 ms."
    )


def test_split_that_is_too_small_is_answered_with_the_smallest_that_fits() -> None:
    answer = asked_for()
    assert not answer.feasible
    assert answer.suggested_share == 0.2
    assert "Within the 30 minutes allowed that happens in 54 of 100 such experiments; with 20 % instead of 10 %" in (
        answer.sentence
    )
    assert asked_for(share=0.2).feasible
    assert [share for share in SPLITS if share < 0.2 and asked_for(share=share).feasible] == []


def test_where_no_split_fits_it_says_what_else_would_help() -> None:
    answer = asked_for(today=traffic(20))
    assert answer.suggested_share is None
    assert answer.chance < 0.001
    assert "no usual split is sure to decide in time. With 50 % of the traffic it takes about 8 hours." in (
        answer.sentence
    )
    assert "Allow more time or a wider margin; otherwise it may well end without a decision." in answer.sentence


def test_a_thousand_requests_cannot_decide_half_a_point() -> None:
    (warning,) = asked_for({"min_requests": 1000}, max_minutes=60).warnings
    assert warning == (
        "1,000 requests of the candidate cannot decide whether the error rate rises by less than 0.5 points: about"
        " 3,018 are needed."
    )
    assert asked_for({"min_requests": 3000}, max_minutes=60).warnings == ()


def test_twice_a_rate_within_the_margin_is_no_harm_and_so_something_else_is_caught() -> None:
    (errors,) = asked_for({"goals": [{"margin_points": 2}]}, traffic(1080, 0.2)).metrics
    assert errors.harm == "an error rate of 4.2 %"


def test_where_nothing_lies_beyond_what_is_allowed_no_harm_is_named() -> None:
    answer = asked_for({"goals": [{"margin_points": 70}]}, traffic(1080, 40))
    assert answer.metrics[0].harm == ""
    assert answer.metrics[0].requests_to_catch is None


def test_several_proofs_take_longer_than_the_longest_of_them() -> None:
    today = traffic(1080, ratings={5: 2000, 4: 1400, 1: 140})
    both = {"goals": [{"margin_points": 0.5}, {"metric": "rating", "limit": 4.3}]}
    answer = asked_for(both, today)
    errors, rating = answer.metrics
    assert errors.requests_to_pass is not None
    assert rating.requests_to_pass is not None
    assert answer.requests_to_promote is not None
    assert answer.requests_to_promote > 1.05 * max(errors.requests_to_pass, rating.requests_to_pass)
    slower = errors if errors.requests_to_pass > rating.requests_to_pass else rating
    assert answer.slowest == slower.name
    assert f"Slowest to prove: {slower.name}." in answer.sentence


@pytest.mark.parametrize(
    ("kind", "says"),
    [
        ({"min_requests": 40_000}, "7 hours at this traffic, when each candidate has its 40,000 requests."),
        ({"min_minutes": 370.5}, "7 hours at this traffic, for it was asked to wait 7 hours."),
    ],
)
def test_floors_of_a_promotion_count(kind: dict[str, Any], says: str) -> None:
    answer = asked_for(max_minutes=600, **kind)
    assert says in answer.sentence
    assert answer.minutes_to_promote == pytest.approx(370.4, abs=0.2)
    assert answer.feasible
    late = asked_for(max_minutes=300, **kind)
    assert (late.feasible, late.chance) == (False, 0.0)


def test_sessions_that_count_as_a_whole_are_waited_for() -> None:
    quick, slow = asked_for(max_minutes=90), asked_for(max_minutes=90, session_minutes=5)
    assert slow.minutes_to_promote == pytest.approx(quick.minutes_to_promote + 5, rel=0.01)  # type: ignore[operator]
    assert slow.chance < quick.chance


@pytest.mark.parametrize(
    ("sessions", "units"),
    [(900, 900), (1000, 1000), (1500, 1250), (2000, 1500), (4000, 2000), (6000, 2250), (2**59 * 1000, 30_500)],
)
def test_of_very_many_sessions_a_sample_counts(sessions: float, units: float) -> None:
    assert counted(sessions, 1000) == pytest.approx(units)
    assert arriving(units, 1000) == pytest.approx(sessions)


def test_sample_is_thought_of_as_it_is_taken() -> None:
    rng, sample, units = np.random.default_rng(1), Sample(2000), 0
    for place in range(1, 12_001):
        if f"{rng.integers(2**64, dtype=np.uint64):016x}" in sample:
            sample.grow()
            units += 1
        if place % 1000 == 0:
            assert units == pytest.approx(counted(place, 2000), rel=0.04)


def test_forecast_takes_longer_where_only_a_sample_counts() -> None:
    all_, some = asked_for(max_minutes=600), asked_for(max_minutes=600, remembered=10_000)
    assert some.requests_to_promote > 3 * all_.requests_to_promote  # type: ignore[operator]
    assert some.chance < all_.chance
    each = {"unit": "request"}
    assert asked_for(each, remembered=10_000).requests_to_promote == asked_for(each).requests_to_promote


def test_holdout_leaves_less_traffic() -> None:
    all_, most = asked_for(), asked_for(holdout=0.2)
    assert most.requests_to_promote == pytest.approx(all_.requests_to_promote, rel=0.01)
    assert most.minutes_to_promote == pytest.approx(all_.minutes_to_promote / 0.8, rel=0.01)  # type: ignore[operator]


def test_several_candidates_share_the_traffic_and_alpha() -> None:
    one, three = asked_for(share=0.3, max_minutes=200), asked_for(share=0.3, arms=3, max_minutes=200)
    assert three.minutes_to_promote > 2 * one.minutes_to_promote  # type: ignore[operator]
    assert three.warnings[-1] == "3 candidates have 30 % of the traffic in all, and share alpha."
    assert usual_splits(1) == SPLITS
    assert usual_splits(3)[-1] == 0.75
    assert asked_for({"goals": [{"margin_points": 1}]}, share=0.1, arms=3, max_minutes=30).suggested_share == 0.2


def test_without_traffic_nothing_is_ever_decided() -> None:
    answer = asked_for(today=Traffic(0.0, ArmWindow()))
    assert (answer.feasible, answer.metrics, answer.requests_to_promote) == (False, (), None)
    assert answer.sentence.startswith("No request has reached the live version lately")


def test_forecast_is_json() -> None:
    said = json.loads(json.dumps(asked_for().to_json()))
    assert said["metrics"][0]["name"] == "the error rate rises by less than 0.5 points"
    assert said["traffic"]["requests_per_minute"] == 1080


# --- The exact test at the end ----------------------------------------------------------------------------------------


def test_little_traffic_has_an_exact_test_at_the_end() -> None:
    answer = asked_for(today=traffic(40, 5), max_minutes=60, share=0.1)
    assert answer.closing_share == 0.8
    (errors,) = answer.metrics
    assert errors.caught_in_time == pytest.approx(0.80, abs=0.02)
    assert "; with one exact test at the end of the 60 minutes allowed it is caught by then in" in answer.sentence
    without = asked_for({"closing_share": 0}, traffic(40, 5), max_minutes=60).metrics[0]
    assert without.caught_in_time < 0.75 * errors.caught_in_time  # type: ignore[operator]
    assert without.requests_to_catch < errors.requests_to_catch  # type: ignore[operator]


def test_enough_traffic_has_none_and_the_settings_overrule_it() -> None:
    assert asked_for().closing_share == 0.0
    assert asked_for({"closing_share": 0.3}).closing_share == 0.3


def test_each_split_is_thought_through_with_the_closing_share_that_it_would_get() -> None:
    """Of 30 a minute the candidate meets 180 in an hour at 10 %, and 900 at 50 %."""
    today = traffic(30, 10)
    assert asked_for(today=today, max_minutes=60, share=0.1).closing_share == 0.8
    assert asked_for(today=today, max_minutes=60, share=0.5).closing_share == 0.0


# --- What can never be promoted ---------------------------------------------------------------------------------------

RATED = {"goals": [{"margin_points": 0.5}, {"metric": "rating", "limit": 4}]}


@pytest.mark.parametrize(
    ("asks", "today", "says"),
    [
        (
            RATED,
            TODAY,
            "No version can be promoted, for it can never be proven that the rating is at least 4 stars: nothing of it"
            " was measured of the live version lately.",
        ),
        (
            RATED,
            traffic(1080, ratings={5: 10, 1: 30}),
            "No version like the live one can be promoted, for it can never be proven that the rating is at least 4"
            " stars: the live version itself does not keep this.",
        ),
        (
            {"goals": [{"aim": "superiority", "margin_points": 2}]},
            TODAY,
            "No version can be promoted, for it can never be proven that the error rate falls by more than 2 points:"
            " the live version is so good that nothing can be better by that much.",
        ),
        (
            {"guardrails": [{"metric": "error_rate", "limit": 5}]},
            traffic(1080, 6),
            "No version like the live one can be promoted, for it is asked that the error rate is at most 5 %: the live"
            " version itself does not keep this.",
        ),
        (
            {"guardrails": [{"metric": "latency", "limit": 300}]},
            TODAY,
            "No version like the live one can be promoted, for it is asked that the P95 latency is at most 300 ms: the"
            " live version itself does not keep this.",
        ),
    ],
)
def test_what_no_version_can_show_is_said_at_once(asks: dict[str, Any], today: Traffic, says: str) -> None:
    answer = asked_for(asks, today, max_minutes=10_000)
    assert says in answer.sentence
    assert "is promoted after" not in answer.sentence
    assert (answer.feasible, answer.chance, answer.suggested_share) == (False, 0.0, None)


def test_first_good_request_is_no_sign_that_the_live_version_is_bad() -> None:
    asks = {"guardrails": [{"metric": "error_rate", "limit": 5}]}
    assert "does not keep this" not in asked_for(asks, traffic(1, 0, each=60)).sentence
    assert "does not keep this" in asked_for(asks, traffic(1080, 100)).sentence


def test_better_version_is_asked_where_better_is_wanted() -> None:
    answer = asked_for({"goals": [{"aim": "superiority", "margin_points": 0.2}]}, traffic(6000))
    assert answer.sentence.startswith("A version better by twice what is asked is promoted after about")
    assert answer.metrics[0].harm == ""


# --- Warnings ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("asks", "today", "says"),
    [
        ({}, traffic(60, each=60), "60 requests/min come from only 60 sessions, and each session counts once"),
        ({}, traffic(12_000, each=60), "12,000 requests/min come from only 12,000 sessions"),
        ({"unit": "request"}, traffic(1080, each=4), "A session makes 4.0 requests in the mean"),
        ({}, traffic(20, 0.5), "Only 6 requests failed in that time: how often the live version fails is known but"),
        ({}, traffic(1080, 0), "No request failed in that time"),
    ],
)
def test_warning_says_what_makes_the_forecast_worth_less(asks: dict[str, Any], today: Traffic, says: str) -> None:
    assert says in " ".join(asked_for(asks, today).warnings)


def test_usual_traffic_needs_no_warning() -> None:
    assert asked_for({"min_requests": 10_000}, traffic(1080, each=4), max_minutes=60).warnings == ()


# --- It is coherent ---------------------------------------------------------------------------------------------------


@given(
    error=st.floats(0.05, 20),
    margin=st.floats(0.2, 5),
    share=st.sampled_from([0.01, 0.1, 0.5]),
    alpha=st.sampled_from([0.01, 0.05]),
)
def test_forecast_lies_near_the_bound_of_wald(error: float, margin: float, share: float, alpha: float) -> None:
    """Of independent requests; it is of the mean, and medians are less."""
    today = traffic(100_000, error)
    plan = parse_settings({**ERRORS, "goals": [{"margin_points": margin}], "alpha": alpha}).plan()
    rate = today.arm.failed / today.requests
    bound = wald_bound(rate, rate, share=share, alpha=alpha, difference=margin / 100)
    found = design(plan, today, Asked(share, max_minutes=1e6)).metrics[0].requests_to_pass
    assert found is not None
    assert 0.5 * bound < found < 1.6 * bound + 60 / share


@hypothesis.settings(max_examples=20)
@given(error=st.floats(0.1, 10), share=st.sampled_from([0.05, 0.2, 0.5]))
def test_less_is_needed_for_a_wider_margin_a_larger_alpha_and_more_time(error: float, share: float) -> None:
    today = traffic(2000, error)
    usual = asked_for(today=today, share=share)
    wider = asked_for({"goals": [{"margin_points": 1}]}, today, share=share)
    surer = asked_for({"alpha": 0.01}, today, share=share)
    longer = asked_for(today=today, share=share, max_minutes=60)
    assert wider.requests_to_promote <= usual.requests_to_promote <= surer.requests_to_promote  # type: ignore[operator]
    assert longer.chance >= usual.chance >= surer.chance
    assert longer.requests_to_promote == usual.requests_to_promote


@pytest.mark.parametrize(
    ("criterion", "harm"),
    [
        ({"metric": "latency", "margin_percent": 20}, "a latency 50 % higher"),
        ({"metric": "latency", "margin_percent": 60}, "a P95 latency of 883 ms"),
        ({"metric": "rating", "margin": 0.2}, "a rating of 4.16 stars"),
        ({"metric": "conversion_rate", "margin_points": 2}, "a conversion rate of 6 %"),
        ({"metric": "cost", "margin_percent": 10}, "a cost of 2.4"),
        ({"metric": "rating_response_rate", "margin_percent": 30}, "a number of ratings per session 60 % lower"),
        ({"metric": "success_rate", "margin_points": 0.5}, "twice the error rate"),
    ],
)
def test_every_metric_has_its_forecast(criterion: dict[str, Any], harm: str) -> None:
    today = traffic(
        1080, ratings={5: 5000, 4: 2500, 3: 500}, converted=(50_000, 5000), cost=Moments(50_000, 100_000.0, 250_000.0)
    )
    (found,) = asked_for({"goals": [{**criterion, "aim": "non_inferiority"}]}, today).metrics
    assert found.requests_to_pass is not None
    assert found.requests_to_pass > 500
    assert found.requests_to_catch is not None
    assert found.harm == harm


# --- As the product asks it -------------------------------------------------------------------------------------------


@pytest.mark.django_db
def test_every_wrong_field_is_named_at_once(world: World) -> None:
    empty = Environment.objects.create(name="empty", position=9)
    with pytest.raises(Invalid) as error:
        designed(world.live.model, empty, {"alpha": 9}, traffic_percent=100, candidates=9, holdout_percent=-1)
    assert list(error.value.fields) == ["settings.alpha", "traffic_percent", "holdout_percent", "arms", "environment"]
    assert (
        error.value.fields["environment"] == "no version of textgen is live in empty: there is nothing to compare with"
    )


@pytest.mark.django_db
def test_live_version_without_records_has_no_traffic(world: World, settings: Any, tmp_path: Any) -> None:
    cache.clear()
    settings.GATEWAY_RECORDS = tmp_path / "none"
    answer = designed(world.live.model, world.environment, {}, traffic_percent=10)
    assert answer.sentence.startswith("No request has reached the live version lately")


def test_splits_may_be_others() -> None:
    assert asked_for(splits=(0.15, 0.4)).suggested_share == 0.4
