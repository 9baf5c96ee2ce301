"""Which sessions meet which arm: pure functions, the same as those in the gateway (`traffic/envoy.lua`).

bucket = murmur3_32(f"{salt}:{session}", seed 0) modulo 10,000; a new salt reshuffles everybody.

The buckets are laid out in lanes, one for each candidate, in order and each as wide as its part of the experiment. A
candidate owns its lane from the lane's beginning up to the experiment's share of it, the stable version owns the rest:

    share 10 %   |c.........|2.........|     one candidate:   |c.................|
    share 50 %   |ccccc.....|22222.....|                      |cccccccccc........|

So while the share grows, every arm only gains sessions, and only from the stable version; and when an arm is taken
off, its own sessions alone move. Cut one behind the other, the first arm would push into the second as it grows.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise

from deploypipe.metrics.sessions import murmur3_32 as murmur3_32
from deploypipe.metrics.windows import CANDIDATE, STABLE

BUCKETS = 10_000

Cut = tuple[str, int]
"""An owner and how many buckets it has; cuts are laid out from bucket 0 upwards."""


def bucket(session: str, *, salt: str) -> int:
    """0 to BUCKETS - 1."""
    return murmur3_32(f"{salt}:{session}".encode()) % BUCKETS


def owner(number: int, cuts: Sequence[Cut]) -> str:
    """Who has the bucket of that number; `cuts` are BUCKETS in all."""
    ends = accumulate(width for _, width in cuts)
    return next(name for (name, _), end in zip(cuts, ends, strict=True) if number < end)


def holdout_salt(model: str) -> str:
    """Of the model and of no experiment: whoever is held out of one is held out of all."""
    return f"holdout:{model}"


def is_held_out(session: str, *, model: str, share: int) -> bool:
    """`share` in hundredths of a percent; a larger one holds out everybody that a smaller one does."""
    return bucket(session, salt=holdout_salt(model)) < share


def arm_name(position: int) -> str:
    """1 is the first candidate."""
    return CANDIDATE if position == 1 else f"{CANDIDATE}-{position}"


# How an experiment's share is cut


@dataclass(frozen=True)
class Lane:
    arm: str
    parts: int = 1
    """Of the experiment, against the parts of the others."""
    on: bool = True
    """False once the arm was taken off: the stable version has what was its share."""


def lane_widths(lanes: Sequence[Lane]) -> list[int]:
    """In buckets, BUCKETS in all; what does not divide evenly widens the lanes by one bucket here and there."""
    total = sum(lane.parts for lane in lanes)
    ends = [0, *(end * BUCKETS // total for end in accumulate(lane.parts for lane in lanes))]
    return [after - before for before, after in pairwise(ends)]


def cuts_of(share: int, lanes: Sequence[Lane]) -> tuple[Cut, ...]:
    """Who owns which buckets where `share` of them (0 to BUCKETS) belong to the experiment.

    Rounded down within each lane, so that no arm ever loses a bucket while the share grows; the stable version has what
    is left.
    """
    return _joined((name, width) for name, width, _ in _pieces(share, lanes))


def standing_in(share: int, lanes: Sequence[Lane], reachable: Collection[str]) -> tuple[Cut, ...]:
    """The same where only the reachable arms can answer; empty where none of those that have a share can.

    The stable version stands in for a candidate. Where it cannot, the arm of the lane does, and else the first one that
    can: never nobody, as long as anybody is there. A candidate that has no share yet stands in for nobody.
    """
    pieces = _pieces(share, lanes)
    there = [name for name, width, _ in pieces if width and name in reachable]
    if STABLE in reachable:
        return _joined((name if name in there else STABLE, width) for name, width, _ in pieces)
    if not there:
        return ()
    return _joined((next(who for who in (name, lane, *there) if who in there), width) for name, width, lane in pieces)


def weights_of(cuts: Sequence[Cut]) -> dict[str, int]:
    """Owner → how many buckets it has in all."""
    weights: dict[str, int] = {}
    for name, width in cuts:
        weights[name] = weights.get(name, 0) + width
    return weights


def _pieces(share: int, lanes: Sequence[Lane]) -> list[tuple[str, int, str]]:
    """From bucket 0 upwards: the owner, how many buckets it has there, and the candidate whose lane that is."""
    pieces: list[tuple[str, int, str]] = []
    for lane, width in zip(lanes, lane_widths(lanes), strict=True):
        own = width * share // BUCKETS
        pieces += [(lane.arm if lane.on else STABLE, own, lane.arm), (STABLE, width - own, lane.arm)]
    return pieces or [(STABLE, BUCKETS, STABLE)]


def _joined(cuts: Iterable[Cut]) -> tuple[Cut, ...]:
    """Without empty ones, neighbours of one owner as one."""
    joined: list[Cut] = []
    for name, width in cuts:
        if width and joined and joined[-1][0] == name:
            joined[-1] = (name, joined[-1][1] + width)
        elif width:
            joined.append((name, width))
    return tuple(joined)
