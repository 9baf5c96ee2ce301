"""The names that records and feedback give to sessions and requests: digests, never the ids themselves. Pure.

MurmurHash3 (x86, 32 bit): Austin Appleby, public domain; chosen because both LuaJIT and Python do it in a few lines
and similar ids spread evenly.
"""

from __future__ import annotations

import hashlib

_MASK = 0xFFFFFFFF


def session_digest(session: str) -> str:
    """How the records name this session: the same as `digest` in the gateway's `envoy.lua`."""
    data = session.encode()
    return f"{murmur3_32(data, 0x64705F61):08x}{murmur3_32(data, 0x64705F62):08x}"


def request_digest(request_id: str) -> str:
    """How a request is kept, so that feedback finds its session."""
    return hashlib.blake2b(request_id.encode(), digest_size=8).hexdigest()


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
