"""Is one arm's error rate above (or below) a fixed limit? One arm alone, an answer that holds at every look.

Beta-binomial mixture over the rates beyond the limit (Robbins 1970; Howard, Ramdas, McAuliffe, Sekhon, Ann. Stat.
49(2), 2021): E = B(a+S, b+F; q beyond p0) / B(a, b; q beyond p0) / (p0^S (1-p0)^F), the Beta prior cut at the limit.
Cut, so that every member of the mixture is a supermartingale under each rate within the limit, also one that changes in
time; the uncut mixture has that property at the limit alone.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import special

from deploypipe.stats.counts import NO_REQUESTS, ArmCounts
from deploypipe.stats.two_arms import LOG_FLOOR, Direction

Floats = npt.NDArray[np.float64]

_PRIOR = 0.5  # Jeffreys


@dataclass(frozen=True, slots=True)
class LimitTest:
    direction: Direction
    """ABORT: the null is rate <= limit. PROMOTE: the null is rate >= limit."""
    limit: float

    def __post_init__(self) -> None:
        if not 0 < self.limit < 1:
            raise ValueError(f"limit must lie between 0 and 1, not {self.limit}")


@dataclass(frozen=True, slots=True)
class LimitProcess:
    test: LimitTest
    counts: ArmCounts = NO_REQUESTS
    max_log_evidence: float = 0.0

    @property
    def log_evidence(self) -> float:
        errors, requests = np.array([self.counts.errors], float), np.array([self.counts.requests], float)
        return float(log_evidence(errors, requests, self.test)[0])

    def reached(self, alpha: float) -> bool:
        return self.max_log_evidence >= -math.log(alpha)

    def to_json(self) -> dict[str, Any]:
        return {
            "direction": self.test.direction.value,
            "limit": self.test.limit,
            "counts": self.counts.to_json(),
            "max_log_evidence": self.max_log_evidence,
        }

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> LimitProcess:
        return cls(
            LimitTest(Direction(stored["direction"]), float(stored["limit"])),
            ArmCounts.from_json(stored["counts"]),
            float(stored["max_log_evidence"]),
        )


def update(state: LimitProcess, arm: ArmCounts) -> LimitProcess:
    return advance(state, (arm,))


def replay(arms: Iterable[ArmCounts], test: LimitTest) -> LimitProcess:
    return advance(LimitProcess(test), arms)


def advance(state: LimitProcess, arms: Iterable[ArmCounts]) -> LimitProcess:
    new = np.array([(arm.requests, arm.errors) for arm in arms if arm.requests], dtype=np.float64).reshape(-1, 2)
    if not len(new):
        return state
    requests = np.cumsum(new[:, 0]) + state.counts.requests
    errors = np.cumsum(new[:, 1]) + state.counts.errors
    return LimitProcess(
        state.test,
        ArmCounts(int(requests[-1]), int(errors[-1])),
        max(state.max_log_evidence, float(log_evidence(errors, requests, state.test).max())),
    )


def log_evidence(errors: Floats, requests: Floats, test: LimitTest) -> Floats:
    """For totals so far; any shape."""
    successes = requests - errors
    beyond = special.betaincc if test.direction is Direction.ABORT else special.betainc
    mass = beyond(errors + _PRIOR, successes + _PRIOR, test.limit)
    prior_mass = float(beyond(_PRIOR, _PRIOR, test.limit))
    # An incomplete beta function that underflows means no evidence; clamped to a small number it would turn into some.
    with np.errstate(divide="ignore"):
        log_mass = np.log(mass)
    value: Floats = (
        log_mass
        + special.betaln(errors + _PRIOR, successes + _PRIOR)
        - math.log(prior_mass)
        - float(special.betaln(_PRIOR, _PRIOR))
        - errors * math.log(test.limit)
        - successes * math.log1p(-test.limit)
    )
    bounded: Floats = np.where(mass > 0, np.maximum(value, LOG_FLOOR), LOG_FLOOR)
    return bounded
