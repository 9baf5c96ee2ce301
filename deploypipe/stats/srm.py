"""Do the arms get the share of users that they were promised? A sample-ratio mismatch spoils every comparison.

Dirichlet-multinomial Bayes factor on the units assigned, monitored at every look: Lindon, Malek, "Anytime-valid
inference for multinomial count data", NeurIPS 2022, arXiv 2011.03567. Stages of constant split are multiplied: each
restarts its prior at the shares then in force. Count units of randomisation (sessions): retries are no mismatch.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

CONCENTRATION = 100.0


@dataclass(frozen=True, slots=True)
class Assignment:
    """Units that were newly assigned while `shares` were in force; both name the same arms."""

    shares: Mapping[str, float]
    """Need not add up to 1: where some units go to no arm, these are their parts of the rest."""
    units: Mapping[str, int]

    def __post_init__(self) -> None:
        for arm, share in self.shares.items():
            if not 0 <= share <= 1:
                raise ValueError(f"share of {arm} must lie between 0 and 1, not {share}")
        for arm, units in self.units.items():
            if arm not in self.shares:
                raise ValueError(
                    f"units of {arm} need a share; there are shares of {', '.join(self.shares) or 'nobody'}"
                )
            if units < 0:
                raise ValueError(f"units of {arm} must not be negative, but are {units}")


def Assigned(share: float, stable: int, candidate: int) -> Assignment:
    return Assignment({"stable": 1 - share, "candidate": share}, {"stable": stable, "candidate": candidate})


@dataclass(frozen=True, slots=True)
class SrmProcess:
    concentration: float = CONCENTRATION
    closed_stages: float = 0.0
    """log evidence of the stages before this one."""
    shares: tuple[tuple[str, float], ...] = ()
    """Of this stage, in the order of the arms' names; they add up to 1."""
    units: tuple[int, ...] = ()
    max_log_evidence: float = 0.0

    @property
    def log_evidence(self) -> float:
        return self.closed_stages + _stage(self.units, self.shares, self.concentration)

    def reached(self, alpha: float) -> bool:
        return self.max_log_evidence >= -math.log(alpha)

    @property
    def assigned(self) -> dict[str, int]:
        """Units of each arm in this stage."""
        return {arm: units for (arm, _), units in zip(self.shares, self.units, strict=True)}

    @property
    def farthest(self) -> str | None:
        """The arm that is farthest from its share in this stage, counted in standard deviations; None without units."""
        total = sum(self.units)
        if not total:
            return None
        away = {
            arm: abs(units - total * share) / math.sqrt(total * share * (1 - share))
            for (arm, share), units in zip(self.shares, self.units, strict=True)
        }
        return max(away, key=lambda arm: (away[arm], arm))

    def to_json(self) -> dict[str, Any]:
        return {
            "concentration": self.concentration,
            "closed_stages": self.closed_stages,
            "shares": [[arm, share] for arm, share in self.shares],
            "units": list(self.units),
            "max_log_evidence": self.max_log_evidence,
        }

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> SrmProcess:
        return cls(
            float(stored["concentration"]),
            float(stored["closed_stages"]),
            tuple((str(arm), float(share)) for arm, share in stored["shares"]),
            tuple(int(units) for units in stored["units"]),
            float(stored["max_log_evidence"]),
        )


def update(state: SrmProcess, new: Assignment) -> SrmProcess:
    """An arm without a share is left out, and so is a stage of fewer than two arms: it compares nobody."""
    promised = {arm: share for arm, share in sorted(new.shares.items()) if share > 0}
    whole = sum(promised.values())
    shares = tuple((arm, share / whole) for arm, share in promised.items())
    units = tuple(new.units.get(arm, 0) for arm in promised)
    if len(shares) < 2 or not sum(units):
        return state
    if shares == state.shares:
        after = replace(state, units=tuple(a + b for a, b in zip(state.units, units, strict=True)))
    else:
        after = replace(state, closed_stages=state.log_evidence, shares=shares, units=units)
    return replace(after, max_log_evidence=max(state.max_log_evidence, after.log_evidence))


def replay(assigned: Iterable[Assignment], *, concentration: float = CONCENTRATION) -> SrmProcess:
    state = SrmProcess(concentration)
    for new in assigned:
        state = update(state, new)
    return state


def _stage(units: tuple[int, ...], shares: tuple[tuple[str, float], ...], concentration: float) -> float:
    """log of B(k theta + x) / B(k theta) / prod theta_i^x_i."""
    if not sum(units):
        return 0.0
    result = math.lgamma(concentration) - math.lgamma(concentration + sum(units))
    for (_, share), count in zip(shares, units, strict=True):
        believed = concentration * share
        result += math.lgamma(believed + count) - math.lgamma(believed) - count * math.log(share)
    return result
