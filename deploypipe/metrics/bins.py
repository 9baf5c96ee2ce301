"""Histograms of stored windows, whichever code wrote them.

Rows of code that knew eight bins for each doubling may still come while a new version is rolled out beside it.
"""

from __future__ import annotations

from collections.abc import Mapping

from deploypipe.metrics.models import Window
from deploypipe.stats.histogram import BINS_PER_DOUBLING, Histogram


def first_ms(window: Window) -> Histogram:
    return Histogram(finer(window.first_ms, window.bins))


def duration_ms(window: Window) -> Histogram:
    return Histogram(finer(window.duration_ms, window.bins))


def finer(said: Mapping[str, int], per_doubling: int) -> dict[int, int]:
    """The bins of now; those of coarser ones are taken for the middle of each."""
    if per_doubling == BINS_PER_DOUBLING:
        return {int(bin_): count for bin_, count in said.items()}
    factor = BINS_PER_DOUBLING // per_doubling
    return {int(bin_) * factor + factor // 2: count for bin_, count in said.items()}
