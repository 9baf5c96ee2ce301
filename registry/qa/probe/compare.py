"""Is the candidate slower than the live version by more than a margin? Pure.

Both were pressed in turns with the same requests. A turn of each is a pair, and within a pair it is only by chance
which of the two the machine disturbed: if the candidate were exactly r times as slow as the live version, its times
divided by r could be exchanged with the live ones, pair by pair. So all 2^pairs exchanges are tried, and the share of
them that look at least as slow as what was seen is an exact p-value (Fisher's randomisation test; Ernst, Statistical
Science 19, 2004, p. 676). The r that are not rejected are the interval. Whole turns are exchanged and not requests,
since the requests of one turn share its disturbances.

Four quantities are compared, each at a quarter of alpha (Bonferroni): alpha bounds the chance that any is called
slower wrongly, and likewise that any is called not slower wrongly.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import product

import numpy as np
from numpy.typing import NDArray

from registry.qa.probe.figures import percentile
from registry.qa.probe.measured import Alternated, Slice

ALPHA = 0.05
MOST_EXCHANGES = 1024
WIDEST = math.log(1000)
STEPS = 16
_SEED = 1

Values = NDArray[np.float64]
Exchanges = NDArray[np.bool_]
Statistic = Callable[[Sequence["Side"], Sequence["Side"], Exchanges, float], Values]


class Verdict(StrEnum):
    SLOWER = "slower"
    NOT_SLOWER = "not slower"
    UNCLEAR = "cannot tell"


@dataclass(frozen=True)
class Side:
    """One server's turn in one pair."""

    firsts: tuple[float, ...]
    pauses: tuple[float, ...]
    """Of each answer its mean pause between two pieces."""
    tokens: int
    seconds: float


@dataclass(frozen=True)
class Compared:
    name: str
    unit: str
    candidate: float
    live: float
    change_percent: float
    """Above 0: the candidate is slower."""
    low_percent: float | None
    """It is slower by at least that; None where so few turns cannot show it."""
    high_percent: float | None
    verdict: Verdict


@dataclass(frozen=True)
class Comparison:
    pairs: int
    most_percent: float
    compared: tuple[Compared, ...]

    def of(self, verdict: Verdict) -> list[Compared]:
        return [one for one in self.compared if one.verdict is verdict]


def pairs_of(alternated: Alternated) -> list[tuple[Side, Side]]:
    """(candidate, live) of each pair that was completed."""
    turns = {(one.pair, one.candidate): _side(one) for one in alternated.slices}
    numbers = sorted({one.pair for one in alternated.slices})
    return [(turns[n, True], turns[n, False]) for n in numbers if (n, True) in turns and (n, False) in turns]


def compare(pairs: Sequence[tuple[Side, Side]], most_percent: float, *, alpha: float = ALPHA) -> Comparison:
    seen = _Seen([pair[0] for pair in pairs], [pair[1] for pair in pairs], _exchanges(len(pairs)), alpha)
    compared = [found for quantity in QUANTITIES if (found := _compared(quantity, seen, most_percent))]
    return Comparison(len(pairs), most_percent, tuple(compared))


def verdict(name: str, pairs: Sequence[tuple[Side, Side]], most_percent: float, *, alpha: float = ALPHA) -> Verdict:
    """The one of `compare`, of the quantity with that name, without its interval."""
    seen = _Seen([pair[0] for pair in pairs], [pair[1] for pair in pairs], _exchanges(len(pairs)), alpha)
    return _verdict(next(quantity for quantity in QUANTITIES if quantity.name == name), seen, most_percent)


def _compared(quantity: _Quantity, seen: _Seen, most_percent: float) -> Compared | None:
    mine, other = quantity.value(seen.candidate), quantity.value(seen.live)
    if mine is None or other is None or mine <= 0 or other <= 0:
        return None
    log_ratio = math.log(quantity.slowdown(mine, other))
    low, high = _end(quantity, seen, log_ratio, 1), _end(quantity, seen, log_ratio, -1)
    return Compared(
        name=quantity.name,
        unit=quantity.unit,
        candidate=round(mine * quantity.scale, 2),
        live=round(other * quantity.scale, 2),
        change_percent=_percent(log_ratio),
        low_percent=None if low is None else _percent(low),
        high_percent=None if high is None else _percent(high),
        verdict=_verdict(quantity, seen, most_percent),
    )


def _side(turn: Slice) -> Side:
    return Side(
        firsts=tuple(request.first for request in turn.requests if request.first is not None),
        pauses=tuple(math.fsum(request.gaps) / len(request.gaps) for request in turn.requests if request.gaps),
        tokens=sum(request.pieces if request.tokens is None else request.tokens for request in turn.requests),
        seconds=turn.seconds,
    )


def _verdict(quantity: _Quantity, seen: _Seen, most_percent: float) -> Verdict:
    margin = math.log1p(most_percent / 100)
    if seen.rejects(quantity, margin, 1):
        return Verdict.SLOWER
    return Verdict.NOT_SLOWER if seen.rejects(quantity, margin, -1) else Verdict.UNCLEAR


def _percent(log_ratio: float) -> float:
    return round(100 * math.expm1(log_ratio), 1)


# -- the test ----------------------------------------------------------------------------------------------------------


def _exchanges(pairs: int) -> Exchanges:
    """Rows of which pairs are exchanged; the first is what was seen, with none."""
    if 2**pairs <= MOST_EXCHANGES:
        return np.array(list(product((False, True), repeat=pairs)), dtype=np.bool_).reshape(2**pairs, pairs)
    rng = random.Random(_SEED)  # noqa: S311
    rows = [[rng.random() < 0.5 for _ in range(pairs)] for _ in range(MOST_EXCHANGES - 1)]
    return np.array([[False] * pairs, *rows], dtype=np.bool_)


@dataclass(frozen=True)
class _Seen:
    candidate: Sequence[Side]
    live: Sequence[Side]
    exchanges: Exchanges
    alpha: float
    """For all quantities together."""

    def rejects(self, quantity: _Quantity, log_ratio: float, sign: int) -> bool:
        """That the candidate is at most that much slower; with the sign -1, that it is at least that much slower."""
        slowdowns = sign * quantity.statistic(self.candidate, self.live, self.exchanges, math.exp(log_ratio))
        return float(np.mean(slowdowns >= slowdowns[0] - 1e-9)) <= self.alpha / len(QUANTITIES)


def _end(quantity: _Quantity, seen: _Seen, log_ratio: float, sign: int) -> float | None:
    """The last ratio, going out from what was seen, that is not rejected; None where none ever is."""
    out, inside = log_ratio - sign * WIDEST, log_ratio
    if not seen.rejects(quantity, out, sign):
        return None
    for _ in range(STEPS):
        middle = (out + inside) / 2
        out, inside = (middle, inside) if seen.rejects(quantity, middle, sign) else (out, middle)
    return out


@dataclass(frozen=True)
class _Quantity:
    name: str
    unit: str
    scale: float
    value: Callable[[Sequence[Side]], float | None]
    statistic: Statistic
    """For each exchange the logarithm of how much slower the candidate looks, its times divided by the ratio."""
    more_is_better: bool = False

    def slowdown(self, candidate: float, live: float) -> float:
        return live / candidate if self.more_is_better else candidate / live


def _quantile(name: str, share: float, values_of: Callable[[Side], tuple[float, ...]]) -> _Quantity:
    def value(sides: Sequence[Side]) -> float | None:
        values = sorted(value for side in sides for value in values_of(side))
        return percentile(values, share) if values else None

    def statistic(candidate: Sequence[Side], live: Sequence[Side], exchanges: Exchanges, ratio: float) -> Values:
        mine = [(value / ratio, pair) for pair, side in enumerate(candidate) for value in values_of(side)]
        other = [(value, pair) for pair, side in enumerate(live) for value in values_of(side)]
        values = np.array([value for value, _ in (*mine, *other)])
        owners = np.array([pair for _, pair in (*mine, *other)])
        is_mine = np.arange(len(values)) < len(mine)
        order = np.argsort(values, kind="stable")
        # For each exchange: which values count as the candidate's, in the order of the values.
        members = is_mine[order] ^ exchanges[:, owners[order]]
        return np.log(_of(members, values[order], share)) - np.log(_of(~members, values[order], share))

    return _Quantity(name, "ms", 1000.0, value, statistic)


def _of(members: Exchanges, ordered: Values, share: float) -> Values:
    """Each row's percentile of the values that it names (nearest rank)."""
    counts = members.cumsum(axis=1, dtype=np.int32)
    ranks = np.maximum(1, np.ceil(share * counts[:, -1] - 1e-9))
    found: Values = np.maximum(ordered[(counts >= ranks[:, None]).argmax(axis=1)], 1e-9)
    return found


def _tokens_per_second(sides: Sequence[Side]) -> float | None:
    seconds = math.fsum(side.seconds for side in sides)
    return sum(side.tokens for side in sides) / seconds if seconds else None


def _slower_tokens(candidate: Sequence[Side], live: Sequence[Side], exchanges: Exchanges, ratio: float) -> Values:
    seconds = np.array([[side.seconds / ratio for side in candidate], [side.seconds for side in live]])
    tokens = np.array([[float(side.tokens) for side in candidate], [float(side.tokens) for side in live]])

    def per_token(exchanged: Exchanges) -> Values:
        spent = np.where(exchanged, seconds[1], seconds[0]).sum(axis=1)
        brought: Values = np.maximum(np.where(exchanged, tokens[1], tokens[0]).sum(axis=1), 1e-9)
        return np.asarray(spent / brought, dtype=np.float64)

    return np.asarray(np.log(per_token(exchanges)) - np.log(per_token(~exchanges)), dtype=np.float64)


QUANTITIES = (
    _quantile("median time to first token", 0.50, lambda side: side.firsts),
    _quantile("95th percentile of the time to first token", 0.95, lambda side: side.firsts),
    _quantile("median pause between tokens", 0.50, lambda side: side.pauses),
    _Quantity("throughput", "tokens/s", 1.0, _tokens_per_second, _slower_tokens, more_is_better=True),
)
