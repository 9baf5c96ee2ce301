"""Is the mean of one arm's values, from 0 to 1, above (or below) a limit? An answer that holds at every look.

Betting: Waudby-Smith, Ramdas, "Estimating means of bounded random variables by betting", J. R. Stat. Soc. B 86, 2024.
A bet l turns each value x into the factor 1 + l (x - m), whose mean is at most 1 for every mean on the null's side of
the limit m, also one that changes in time. The mean over a grid of bets that was fixed beforehand is a mixture of
supermartingales, and needs no memory of the order: it is a function of how often each value was seen.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from deploypipe.stats.samples import NOBODY, Sample
from deploypipe.stats.two_arms import LOG_FLOOR, Side

Floats = npt.NDArray[np.float64]

GRID = np.array([0.01, 0.03, 0.08, 0.16, 0.28, 0.42, 0.6, 0.8, 0.97])
"""As a part of the largest bet that leaves every factor above zero."""


@dataclass(frozen=True, slots=True)
class MeanTest:
    side: Side
    """ABOVE: the null is mean <= limit. BELOW: the null is mean >= limit."""
    limit: float
    """On the scale from 0 to 1: four of one to five stars is 0.75."""

    def __post_init__(self) -> None:
        if not 0 < self.limit < 1:
            raise ValueError(f"limit must lie between 0 and 1, not {self.limit}")


@dataclass(frozen=True, slots=True)
class MeanProcess:
    test: MeanTest
    seen: Sample = NOBODY
    max_log_evidence: float = 0.0

    @property
    def log_evidence(self) -> float:
        values = np.array([value for value, _ in self.seen.frequencies])
        numbers = np.array([number for _, number in self.seen.frequencies])
        return float(log_evidence(values, numbers, self.test))

    @property
    def mean(self) -> float | None:
        return self.seen.mean

    def reached(self, alpha: float) -> bool:
        return self.max_log_evidence >= -math.log(alpha)

    def to_json(self) -> dict[str, Any]:
        return {
            "side": self.test.side.value,
            "limit": self.test.limit,
            "seen": self.seen.to_json(),
            "max_log_evidence": self.max_log_evidence,
        }

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> MeanProcess:
        return cls(
            MeanTest(Side(stored["side"]), float(stored["limit"])),
            Sample.from_json(stored["seen"]),
            float(stored["max_log_evidence"]),
        )


def start(test: MeanTest) -> MeanProcess:
    return MeanProcess(test)


def update(state: MeanProcess, sample: Sample) -> MeanProcess:
    return advance(state, (sample,))


def replay(samples: Iterable[Sample], test: MeanTest) -> MeanProcess:
    return advance(start(test), samples)


def advance(state: MeanProcess, samples: Iterable[Sample]) -> MeanProcess:
    return advance_many((state,), (list(samples),))[0]


def advance_many(states: Sequence[MeanProcess], samples_of_each: Sequence[Sequence[Sample]]) -> list[MeanProcess]:
    """Many tests, each of its own windows, in one pass; the same bits as one after the other."""
    if len(states) != len(samples_of_each):
        raise ValueError(
            f"samples_of_each must have one item for each of {len(states)} states, not {len(samples_of_each)}"
        )
    after = list(states)
    looks: list[Sample] = []
    owners: list[int] = []
    for index, (state, samples) in enumerate(zip(states, samples_of_each, strict=True)):
        seen = state.seen
        for sample in samples:
            if sample.frequencies:
                seen = seen + sample
                looks.append(seen)
                owners.append(index)
    if not looks:
        return after
    width = max(len(seen.frequencies) for seen in looks)
    table = np.zeros((2, len(looks), width))
    for row, seen in enumerate(looks):
        table[:, row, : len(seen.frequencies)] = np.array(seen.frequencies).T
    sign = np.array([states[index].test.side.sign for index in owners])
    limit = np.array([states[index].test.limit for index in owners])
    evidence = log_evidence_at(table[0], table[1], sign, limit).tolist()
    for index, seen, value in zip(owners, looks, evidence, strict=True):
        after[index] = MeanProcess(states[index].test, seen, max(after[index].max_log_evidence, value))
    return after


def log_evidence(values: Floats, numbers: Floats, test: MeanTest) -> Floats:
    """`numbers` of units that had each of `values`, so far: shapes (…, values) and (values,) or the same."""
    values = np.broadcast_to(values, numbers.shape)
    return log_evidence_at(values, numbers, np.array(test.side.sign), np.array(test.limit))


def log_evidence_at(values: Floats, numbers: Floats, sign: Floats, limit: Floats) -> Floats:
    bets = sign[..., None] * GRID / np.where(sign > 0, limit, 1 - limit)[..., None]
    components = np.zeros((*numbers.shape[:-1], len(GRID)))
    for place in range(numbers.shape[-1]):  # one after the other: padding with nothing keeps the bits
        away = (values[..., place] - limit)[..., None]
        components = components + numbers[..., place, None] * np.log1p(bets * away)
    top = components.max(axis=-1)
    scaled = np.zeros_like(top)
    for column in range(len(GRID)):
        scaled = scaled + np.exp(np.maximum(components[..., column] - top, LOG_FLOOR))
    result: Floats = top + np.log(scaled / len(GRID))
    return result
