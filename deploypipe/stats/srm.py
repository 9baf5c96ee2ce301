"""Do the arms get the share of users that they were promised? A sample-ratio mismatch spoils every comparison.

Dirichlet-multinomial Bayes factor on the units assigned, monitored at every look: Lindon, Malek, "Anytime-valid
inference for multinomial count data", NeurIPS 2022, arXiv 2011.03567. Stages of constant split are multiplied: each
restarts its prior at the share then in force. Count units of randomisation (sessions): retries are no mismatch.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

CONCENTRATION = 100.0


@dataclass(frozen=True, slots=True)
class Assigned:
    """Units that were newly assigned while the candidate's share was `share`."""

    share: float
    stable: int
    candidate: int

    def __post_init__(self) -> None:
        if not 0 <= self.share <= 1 or self.stable < 0 or self.candidate < 0:
            raise ValueError(f"share must lie in [0, 1] and counts must not be negative: {self}")


@dataclass(frozen=True, slots=True)
class SrmProcess:
    concentration: float = CONCENTRATION
    closed_stages: float = 0.0
    """log evidence of the stages before this one."""
    share: float = 0.0
    stable: int = 0
    candidate: int = 0
    max_log_evidence: float = 0.0

    @property
    def log_evidence(self) -> float:
        return self.closed_stages + _stage(self.stable, self.candidate, self.share, self.concentration)

    def reached(self, alpha: float) -> bool:
        return self.max_log_evidence >= -math.log(alpha)

    def to_json(self) -> dict[str, Any]:
        return {
            "concentration": self.concentration,
            "closed_stages": self.closed_stages,
            "share": self.share,
            "stable": self.stable,
            "candidate": self.candidate,
            "max_log_evidence": self.max_log_evidence,
        }

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> SrmProcess:
        return cls(
            float(stored["concentration"]),
            float(stored["closed_stages"]),
            float(stored["share"]),
            int(stored["stable"]),
            int(stored["candidate"]),
            float(stored["max_log_evidence"]),
        )


def update(state: SrmProcess, new: Assigned) -> SrmProcess:
    """A share of nothing or of everything compares nobody: such units are left out."""
    if not 0 < new.share < 1 or not new.stable + new.candidate:
        return state
    same_stage = new.share == state.share
    after = SrmProcess(
        state.concentration,
        state.closed_stages if same_stage else state.log_evidence,
        new.share,
        new.stable + (state.stable if same_stage else 0),
        new.candidate + (state.candidate if same_stage else 0),
    )
    return SrmProcess(
        after.concentration,
        after.closed_stages,
        after.share,
        after.stable,
        after.candidate,
        max(state.max_log_evidence, after.log_evidence),
    )


def replay(assigned: Iterable[Assigned], *, concentration: float = CONCENTRATION) -> SrmProcess:
    state = SrmProcess(concentration)
    for new in assigned:
        state = update(state, new)
    return state


def _stage(stable: int, candidate: int, share: float, concentration: float) -> float:
    """log of B(k theta + x) / B(k theta) / (theta_A^x_A theta_B^x_B)."""
    if not stable + candidate:
        return 0.0
    a, b = concentration * (1 - share), concentration * share
    return (
        _log_beta(a + stable, b + candidate)
        - _log_beta(a, b)
        - stable * math.log1p(-share)
        - candidate * math.log(share)
    )


def _log_beta(a: float, b: float) -> float:
    return math.lgamma(a) + math.lgamma(b) - math.lgamma(a + b)
