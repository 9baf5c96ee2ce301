"""Is a version worse than the live one on the same lines, by more than is allowed and by more than chance?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from deploypipe.stats.paired import sign_flip, solved_more
from registry.qa.base import Outcome
from registry.qa.builtin.quality_measure import Measured

ALPHA = 0.05


def compared(mine: Measured, live: Measured, *, most_worse_percent: float, most_worse_points: float) -> Outcome:
    """Worse only if it is worse by more than allowed, and by more than chance on the same lines."""
    sides = []
    if mine.losses and live.losses:
        sides.append(_losses_compared(mine, live, most_worse_percent))
    if mine.matches and live.matches:
        sides.append(_matches_compared(mine, live, most_worse_points))
    evidence: dict[str, Any] = {"candidate": mine.to_json(), "live": live.to_json()}
    if not sides:
        why = mine.no_probabilities or f"Of the live version: {live.no_probabilities}"
        return Outcome.not_checked(why, evidence=evidence)
    evidence["p"] = {side.what: side.p for side in sides}
    alpha = ALPHA / len(sides)  # Bonferroni
    worse = [side for side in sides if side.beyond > 0 and side.p < alpha]
    shown = worse[0] if worse else sides[0]
    words = " ".join(f"{side.sentence}{_verdict(side, alpha)}" for side in sides)
    outcome = Outcome.failed if worse else Outcome.passed
    return outcome(words, value=round(shown.value, 3), limit=shown.limit, unit=shown.unit, evidence=evidence)


@dataclass(frozen=True)
class Side:
    what: str
    sentence: str
    value: float
    """How much worse; negative: better."""
    limit: float
    unit: str
    p: float
    """Of being no worse than allowed."""

    @property
    def beyond(self) -> float:
        return self.value - self.limit


def _verdict(side: Side, alpha: float) -> str:
    better = "better" if side.value < 0 else "worse"
    said = f": {abs(side.value):.1f} {side.unit} {better}; up to {side.limit:g} {side.unit} worse is allowed"
    if side.beyond <= 0:
        return f"{said}."
    chance = f"p = {side.p:.2g}" if side.p >= 0.001 else "p below 0.001"
    return (
        f"{said}, and it is not chance ({chance})." if side.p < alpha else f"{said}, but it may be chance ({chance})."
    )


def _losses_compared(mine: Measured, live: Measured, most_worse_percent: float) -> Side:
    """Bits per byte and not perplexity: two models may cut words in two ways."""
    allowed = 1 + most_worse_percent / 100
    theirs = {loss.line: loss for loss in live.losses}
    p = sign_flip([loss.nats - allowed * theirs[loss.line].nats for loss in mine.losses])
    before = live.bits_per_byte
    change = 100 * (mine.bits_per_byte / before - 1) if before > 0 else 0.0
    sentence = (
        f"On {len(mine.losses)} held-out texts the loss is {mine.bits_per_byte:.3f} bits per byte, the live version's "
        f"is {before:.3f}"
    )
    return Side("texts", sentence, change, most_worse_percent, "%", p)


def _matches_compared(mine: Measured, live: Measured, most_worse_points: float) -> Side:
    theirs = {match.line: match.right for match in live.matches}
    only_live = sum(theirs[match.line] and not match.right for match in mine.matches)
    only_mine = sum(match.right and not theirs[match.line] for match in mine.matches)
    worse = live.exact_match_percent - mine.exact_match_percent
    sentence = (
        f"Of {len(mine.matches)} prompts it continued {mine.right} word for word and the live version {live.right} "
        f"({only_live} only the live version, {only_mine} only this one)"
    )
    p = solved_more(only_live, only_mine, len(mine.matches), allowed=most_worse_points / 100)
    return Side("prompts", sentence, worse, most_worse_points, "percentage points", p)
