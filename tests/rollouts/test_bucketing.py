"""Which sessions meet which arm."""

import math
from collections.abc import Collection, Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rollouts.bucketing import (
    BUCKETS,
    Lane,
    arm_name,
    bucket,
    cuts_of,
    is_held_out,
    murmur3_32,
    owner,
    standing_in,
    weights_of,
)

# Of the reference implementation, as smhasher and the article on MurmurHash in Wikipedia list them.
PUBLISHED = [
    (b"", 0, 0x00000000),
    (b"", 1, 0x514E28B7),
    (b"", 0xFFFFFFFF, 0x81F16F39),
    (b"\xff\xff\xff\xff", 0, 0x76293B50),
    (b"!Ce\x87", 0, 0xF55B516B),
    (b"!Ce", 0, 0x7E4A8634),
    (b"!C", 0, 0xA0F7B07A),
    (b"!", 0, 0x72661CF4),
    (b"\0\0\0\0", 0, 0x2362F9DE),
    (b"test", 0, 0xBA6BD213),
    (b"test", 0x9747B28C, 0x704B81DC),
    (b"Hello, world!", 0, 0xC0363E43),
    (b"Hello, world!", 0x9747B28C, 0x24884CBA),
    (b"The quick brown fox jumps over the lazy dog", 0, 0x2E4FF723),
    (b"The quick brown fox jumps over the lazy dog", 0x9747B28C, 0x2FA826CD),
]


@pytest.mark.parametrize(("data", "seed", "digest"), PUBLISHED)
def test_hash_is_the_published_one(data, seed, digest):
    assert murmur3_32(data, seed) == digest


@given(st.text(), st.text())
def test_bucket_is_in_range_and_always_the_same(session, salt):
    assert 0 <= bucket(session, salt=salt) < BUCKETS
    assert bucket(session, salt=salt) == bucket(session, salt=salt)


def test_similar_ids_spread_evenly():
    """Chi-square over 20 cells; 43.8 is the 99.9 % point of 19 degrees of freedom."""
    n, cells = 20_000, 20
    counts = [0] * cells
    for i in range(n):
        counts[bucket(f"user-{i}", salt="experiment-1") * cells // BUCKETS] += 1
    assert sum((count - n / cells) ** 2 / (n / cells) for count in counts) < 43.8


def test_two_salts_are_independent():
    """Of the sessions that meet the candidate under one salt, as many as of all others meet it under the next."""
    met = [s for i in range(20_000) if bucket(s := f"user-{i}", salt="a") < 1_000]
    again = sum(bucket(s, salt="b") < 1_000 for s in met)
    assert abs(again - 0.1 * len(met)) < 4 * math.sqrt(len(met) * 0.09)


# How an experiment's share is cut

parts = st.lists(st.integers(1, 1_000), min_size=1, max_size=4)
shares = st.integers(0, BUCKETS)


def lanes_of(parts: list[int], *, off: Collection[int] = ()) -> list[Lane]:
    return [Lane(arm_name(i + 1), part, i not in off) for i, part in enumerate(parts)]


def owners(cuts: Iterable[tuple[str, int]]) -> list[str]:
    """Of every bucket, from 0."""
    return [name for name, width in cuts for _ in range(width)]


def test_one_candidate_owns_the_buckets_from_0_up_to_its_share() -> None:
    assert cuts_of(1_000, lanes_of([1])) == (("candidate", 1_000), ("stable", 9_000))
    assert cuts_of(0, lanes_of([1])) == cuts_of(0, []) == (("stable", BUCKETS),)
    assert cuts_of(BUCKETS, lanes_of([1])) == (("candidate", BUCKETS),)


def test_two_candidates_have_a_lane_each() -> None:
    assert cuts_of(2_000, lanes_of([1, 1])) == (
        ("candidate", 1_000), ("stable", 4_000), ("candidate-2", 1_000), ("stable", 4_000),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("share", "parts", "weights"),
    [
        (1_000, [1, 1, 1], {"candidate": 333, "candidate-2": 333, "candidate-3": 333, "stable": 9_001}),
        (3_000, [3, 2, 1], {"candidate": 1_500, "candidate-2": 999, "candidate-3": 500, "stable": 7_001}),
        (10, [1, 1, 1, 1], {"candidate": 2, "candidate-2": 2, "candidate-3": 2, "candidate-4": 2, "stable": 9_992}),
    ],
)
def test_what_does_not_divide_evenly_stays_with_the_stable_version(
    share: int, parts: list[int], weights: dict[str, int]
) -> None:
    assert weights_of(cuts_of(share, lanes_of(parts))) == weights


@given(parts, shares)
def test_cuts_are_all_buckets_and_each_arm_has_its_part(parts: list[int], share: int) -> None:
    weights = weights_of(cuts_of(share, lanes_of(parts)))
    assert sum(weights.values()) == BUCKETS
    for lane in lanes_of(parts):
        assert abs(weights.get(lane.arm, 0) - share * lane.parts / sum(parts)) < 2


@given(parts, shares, shares)
def test_while_the_share_grows_sessions_leave_the_stable_version_alone(parts: list[int], one: int, other: int) -> None:
    before, after = (owners(cuts_of(share, lanes_of(parts))) for share in sorted((one, other)))
    moved = {(was, now) for was, now in zip(before, after, strict=True) if was != now}
    assert {was for was, _ in moved} <= {"stable"}


@given(parts, shares, st.integers(0, 3))
def test_arm_that_is_taken_off_moves_its_own_sessions_alone(parts: list[int], share: int, gone: int) -> None:
    before = owners(cuts_of(share, lanes_of(parts)))
    after = owners(cuts_of(share, lanes_of(parts, off=[gone])))
    moved = {(was, now) for was, now in zip(before, after, strict=True) if was != now}
    assert moved <= {(arm_name(gone + 1), "stable")}
    assert arm_name(gone + 1) not in after


@given(parts, shares, st.sets(st.integers(0, 3)), st.data())
def test_somebody_reachable_stands_in_for_everybody_else(
    parts: list[int], share: int, off: set[int], data: st.DataObject
) -> None:
    lanes = lanes_of(parts, off=off)
    wanted = owners(cuts_of(share, lanes))
    reachable = data.draw(st.sets(st.sampled_from(["stable", *(lane.arm for lane in lanes)])))
    cuts = standing_in(share, lanes, reachable)
    with_a_share = reachable & ({"stable", *wanted})
    if not with_a_share:
        assert cuts == ()
        return
    assert len(owners(cuts)) == BUCKETS
    assert set(owners(cuts)) <= with_a_share
    for was, now in zip(wanted, owners(cuts), strict=True):
        assert now == was or was not in reachable
        assert now in (was, "stable") or "stable" not in reachable


def test_where_the_stable_version_is_gone_each_lane_goes_to_its_own_arm() -> None:
    lanes = lanes_of([1, 1])
    assert standing_in(2_000, lanes, {"candidate", "candidate-2"}) == (("candidate", 5_000), ("candidate-2", 5_000))
    assert standing_in(2_000, lanes, {"candidate-2"}) == (("candidate-2", BUCKETS),)


@given(parts, shares, st.integers(0, BUCKETS - 1))
def test_owner_of_a_bucket_is_the_one_whose_cut_it_lies_in(parts: list[int], share: int, number: int) -> None:
    cuts = cuts_of(share, lanes_of(parts))
    assert owner(number, cuts) == owners(cuts)[number]


# Holdouts


def test_larger_holdout_holds_out_everybody_that_a_smaller_one_does() -> None:
    users = [f"user-{i}" for i in range(5_000)]
    few, more = ({u for u in users if is_held_out(u, model="m", share=share)} for share in (500, 2_000))
    assert few < more
    assert abs(len(few) - 250) < 4 * math.sqrt(5_000 * 0.05 * 0.95)


def test_those_held_out_are_a_fair_draw_of_every_arm() -> None:
    """Whoever is held out is so whatever the experiment's salt, so that arms do not differ by whom they lost."""
    out = [u for i in range(20_000) if is_held_out(u := f"user-{i}", model="m", share=2_000)]
    in_candidate = sum(bucket(u, salt="experiment") < 1_000 for u in out)
    assert abs(in_candidate - 0.1 * len(out)) < 4 * math.sqrt(len(out) * 0.09)
