"""How many rooted trees there are. DTESN lays its membranes out so: as many on level n as there are with n nodes."""

from __future__ import annotations

from collections.abc import Sequence

SEQUENCE = "A000081"
FEWEST_LEVELS = 3
"""Fewer say nothing: the first two terms are 1 and 1, which any chain has."""
MOST_LEVELS = 64


def rooted_trees(most: int) -> list[int]:
    """The number of unlabelled rooted trees with 1, 2, … `most` nodes (OEIS A000081).

    The recurrence is Knuth's (The Art of Computer Programming 1, section 2.3.4.4, after Otter 1948):
    n a(n+1) = sum over k = 1 … n of s(k) a(n+1-k), where s(k) is the sum of d a(d) over the divisors d of k.
    """
    counts = [0, 1]
    by_divisors = [0] * (most + 1)
    for n in range(1, most):
        for multiple in range(n, most + 1, n):
            by_divisors[multiple] += n * counts[n]
        counts.append(sum(by_divisors[k] * counts[n + 1 - k] for k in range(1, n + 1)) // n)
    return counts[1 : most + 1]


def topology_problem(levels: Sequence[object]) -> str:
    """What is wrong with the number of membranes on each level, the root's first; empty where they are as computed."""
    if not levels:
        return "no level has a membrane"
    expected = rooted_trees(min(len(levels), MOST_LEVELS))
    if list(levels[:MOST_LEVELS]) == expected:
        return ""
    place = next(i for i, (seen, right) in enumerate(zip(levels, expected, strict=False)) if seen != right)
    return (
        f"level {place + 1} of the membranes has {levels[place]!r}, {SEQUENCE} gives {expected[place]:,} "
        f"(reported: {shown(levels)}; computed: {shown(expected)})"
    )


def shown(levels: Sequence[object]) -> str:
    """ "1, 1, 2, 4, 9" """
    cut = "" if len(levels) <= 12 else ", …"
    return ", ".join(str(level)[:20] for level in levels[:12]) + cut
