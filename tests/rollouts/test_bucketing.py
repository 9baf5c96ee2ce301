"""Which sessions meet the candidate."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rollouts.bucketing import BUCKETS, bucket, murmur3_32

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
