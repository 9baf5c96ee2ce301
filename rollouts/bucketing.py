"""Which sessions meet the candidate: a pure function, the same as the one in the gateway.

bucket = murmur3_32(f"{salt}:{session}", seed 0) modulo 10,000. The candidate owns the buckets from 0 up to its weight,
so that a growing weight never takes a session away from it, and a new salt reshuffles everybody.
MurmurHash3 (x86, 32 bit): Austin Appleby, public domain; chosen because both LuaJIT and Python do it in a few lines
and similar ids spread evenly.
"""

from __future__ import annotations

BUCKETS = 10_000
_MASK = 0xFFFFFFFF


def murmur3_32(data: bytes, seed: int = 0) -> int:
    h = seed
    rounded = len(data) & ~3
    for i in range(0, rounded, 4):
        h ^= _mix(int.from_bytes(data[i : i + 4], "little"))
        h = ((h << 13) | (h >> 19)) & _MASK
        h = (h * 5 + 0xE6546B64) & _MASK
    if tail := data[rounded:]:
        h ^= _mix(int.from_bytes(tail, "little"))
    h ^= len(data)
    h ^= h >> 16
    h = (h * 0x85EBCA6B) & _MASK
    h ^= h >> 13
    h = (h * 0xC2B2AE35) & _MASK
    return h ^ (h >> 16)


def _mix(k: int) -> int:
    k = (k * 0xCC9E2D51) & _MASK
    k = ((k << 15) | (k >> 17)) & _MASK
    return (k * 0x1B873593) & _MASK


def bucket(session: str, *, salt: str) -> int:
    """0 to BUCKETS - 1."""
    return murmur3_32(f"{salt}:{session}".encode()) % BUCKETS
