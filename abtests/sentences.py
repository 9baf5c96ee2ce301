"""A decision as a manager reads it: numbers first, then what they prove, and how strong the evidence is."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from abtests.progress import Progress
from deploypipe.metrics.criteria import Row, State
from deploypipe.metrics.windows import CANDIDATE, STABLE
from deploypipe.stats import words
from deploypipe.stats.srm import SrmProcess

if TYPE_CHECKING:
    from abtests.decision import Arm
    from abtests.sight import Further


def on_hold(problem: str) -> str:
    return f"On hold: {problem}"


def mismatched(mismatch: SrmProcess, alpha: float) -> str:
    arm = mismatch.farthest or CANDIDATE
    if arm == STABLE and len(mismatch.shares) == 2:  # both are equally far, and people ask for the candidate
        arm = next(name for name, _ in mismatch.shares if name != STABLE)
    units, met = sum(mismatch.assigned.values()), mismatch.assigned[arm]
    return (
        f"The split is not what was promised: {met:,} of {units:,} sessions ({words.percent(met / units)}) met the"
        f" {arm}, {words.percent(dict(mismatch.shares)[arm])} should have"
        f" ({evidence(mismatch.max_log_evidence, log_inverse(alpha))})."
        " No comparison can be trusted until the cause is found."
    )


def aborted(arms: Sequence[Arm]) -> str:
    return " ".join(arm.sentence for arm in arms)


def promoted(best: Arm, arms: Sequence[Arm]) -> str:
    if len(arms) == 1:
        return best.sentence
    others = [arm for arm in arms if arm is not best]
    rivals = [arm for arm in others if arm.standing == "met"]
    level = [arm.name for arm in rivals if arm.rows[0].estimate == best.rows[0].estimate]
    worse = [arm.name for arm in rivals if arm.name not in level]
    said = [
        *([f"better than {_listed(worse)}"] if worse else []),
        *([f"named before {_listed(level)}, which is level with it"] if len(level) == 1 else []),
        *([f"named before {_listed(level)}, which are level with it"] if len(level) > 1 else []),
    ]
    beaten = f", {' and '.join(said)} by the first goal" if said else ""
    rest = [arm for arm in others if arm.standing != "met"]
    return " ".join([f"{capitalised(best.name)} wins{beaten}.", best.sentence, *(_lost(arm) for arm in rest)])


def _lost(arm: Arm) -> str:
    if arm.standing in ("broken", "gone"):
        return arm.sentence
    return f"{capitalised(arm.name)} has not shown what was asked of it."


def broken(name: str, row: Row) -> str:
    against = evidence(row.log_evidence_against, row.log_threshold_against or 0.0)
    if row.closed_broken and row.log_evidence_against < (row.log_threshold_against or 0.0):
        against = f"exact test at the end: p = {row.closing_p:.2g}, at most {row.closing_alpha:.2g} calls harm"
    return f"{capitalised(_named(row.measured, name))}: {row.broken_words} ({against})."


def gone(name: str, reason: str) -> str:
    return f"{capitalised(name)} was taken off: {reason}"


def met(name: str, rows: Sequence[Row]) -> str:
    """Each thing that was proven, with its numbers once; then the least of the evidence."""
    proven = [row for row in rows if row.log_threshold is not None]
    groups: dict[str, list[str]] = {}
    for row in proven:
        groups.setdefault(row.measured, []).append(row.name)
    said = "; ".join(f"{_named(measured, name)}: {' and '.join(names)}" for measured, names in groups.items())
    least = min(proven, key=lambda row: row.log_evidence - (row.log_threshold or 0.0))
    return f"{capitalised(said)} (least {evidence(least.log_evidence, least.log_threshold or 0.0)})."


def floors(progress: Progress, arm: str, seconds: float) -> list[str]:
    """Why a candidate may not be promoted yet, whatever the evidence."""
    settings, seen = progress.settings, progress.of(arm).requests
    waits = []
    if seen < settings.min_requests:
        waits.append(
            f"the {arm} may be promoted after {settings.min_requests:,} requests, {settings.min_requests - seen:,} more"
        )
    if seconds < settings.min_seconds:
        left = words.duration(settings.min_seconds - seconds)
        waits.append(f"the {arm} may be promoted after {words.duration(settings.min_seconds)}, in {left}")
    return waits


def open_arm(name: str, rows: Sequence[Row], waits: Sequence[str]) -> str:
    """Without a full stop: it goes on."""
    measured = next((_named(row.measured, name) for row in rows if row.candidate_units), None)
    parts = [measured or f"no {rows[0].unit} of the {name} could be counted yet", *waits]
    for row in rows:
        if row.state is State.MISSING:
            parts.append(f"nothing was measured yet that could show that {row.name}")
        elif row.state is State.OPEN and row.log_threshold is not None:
            parts.append(f"evidence that {row.name}: {_odds(row.log_evidence, row.log_threshold)}")
        elif row.state is State.OPEN:
            parts.append(f"it does not hold at the moment that {row.name}")
    return "; ".join(parts)


def still_open(progress: Progress, arms: Sequence[Arm], timed_out_after: float | None, further: Further | None) -> str:
    start = "Keep running"
    if timed_out_after is not None:
        start = f"No decision after {words.duration(timed_out_after)}, the longest allowed"
    if not any(progress.of(arm.name).requests for arm in arms):
        return f"{start}: no request has reached the candidate yet."
    going_on = [arm.sentence for arm in arms if arm.standing == "open"]
    fine = [arm.sentence for arm in arms if arm.standing == "met"]
    dropped = [arm.sentence for arm in arms if arm.standing in ("broken", "gone")]
    ahead = "" if timed_out_after is not None else in_sight(further, progress.settings.unit)
    said = f"{start}: {'. '.join(capitalised(s) if i else s for i, s in enumerate(going_on))}.{ahead}"
    return " ".join([said, *fine, *dropped])


def in_sight(further: Further | None, unit: str) -> str:
    """How much longer, as a sentence of its own; nothing where too little was measured to say."""
    if further is None or further.units == 0:
        return ""
    if further.units is None:
        return " No decision is in sight at these rates."
    about = f" About {words.count(further.units)} more {unit}s are needed"
    return f"{about}, {words.duration(further.seconds)} at this traffic." if further.seconds else f"{about}."


def evidence(seen: float, needed: float) -> str:
    return f"evidence {_odds(seen, needed)}"


def _odds(seen: float, needed: float) -> str:
    return f"{words.odds(seen)}, needed {words.odds(needed)}"


def log_inverse(alpha: float) -> float:
    return -math.log(alpha)


def _named(measured: str, name: str) -> str:
    """Criteria speak of "candidate"; with several it has a number."""
    return measured if name == CANDIDATE else measured.replace(CANDIDATE, name, 1)


def _listed(names: Sequence[str]) -> str:
    return " and ".join(names)


def capitalised(sentence: str) -> str:
    return sentence[:1].upper() + sentence[1:]
