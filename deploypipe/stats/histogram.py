"""Latencies as counts in log-spaced bins: small, mergeable across batches and processes, good for any quantile.

Bin i covers [G^i, G^(i+1)) milliseconds with G = 2^(1/64): a quantile is known within 1.1 %, and a margin such as
"+20 %" falls between two edges that are as near to each other.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

BINS_PER_DOUBLING = 64
SMALLEST = -640
"""About a microsecond: what is faster, or measured as zero, counts as this."""


@dataclass
class Histogram:
    counts: dict[int, int] = field(default_factory=dict)

    def add(self, ms: float) -> None:
        bin_ = bin_of(ms)
        self.counts[bin_] = self.counts.get(bin_, 0) + 1

    @property
    def total(self) -> int:
        return sum(self.counts.values())

    def merge(self, other: Histogram) -> Histogram:
        """Both together, as a new one."""
        merged = dict(self.counts)
        for bin_, count in other.counts.items():
            merged[bin_] = merged.get(bin_, 0) + count
        return Histogram(merged)

    def quantile(self, p: float) -> float | None:
        """Milliseconds, interpolated geometrically within its bin. None when nothing was counted."""
        if not 0 <= p <= 1:
            raise ValueError(f"{p} is not a probability")
        rank, below = p * self.total, 0
        for bin_, count in sorted(self.counts.items()):
            if count and below + count >= rank:
                return edge(bin_ + (rank - below) / count)
            below += count
        return None

    def to_json(self) -> dict[str, int]:
        return {str(bin_): count for bin_, count in sorted(self.counts.items())}

    @classmethod
    def from_json(cls, counts: Mapping[str, int]) -> Histogram:
        return cls({int(bin_): count for bin_, count in counts.items()})


def edge(bin_: float) -> float:
    """Where the bin begins, in milliseconds."""
    return float(2 ** (bin_ / BINS_PER_DOUBLING))


def bin_of(ms: float) -> int:
    if not math.isfinite(ms) or ms < 0:
        raise ValueError(f"{ms} is not a duration")
    if ms < edge(SMALLEST):
        return SMALLEST
    bin_ = math.floor(math.log2(ms) * BINS_PER_DOUBLING)
    # The logarithm is rounded: at an edge it may name the neighbour.
    if ms < edge(bin_):
        return bin_ - 1
    return bin_ + 1 if ms >= edge(bin_ + 1) else bin_
