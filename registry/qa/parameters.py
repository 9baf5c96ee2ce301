"""What of a check a policy may set: typed, with unit and limits, so that a wrong value is refused when it is saved."""

from __future__ import annotations

import math
from dataclasses import dataclass

Value = bool | int | float | str
_KINDS = {bool: "true or false", int: "a whole number", float: "a number", str: "a text"}


@dataclass(frozen=True)
class Parameter:
    name: str
    kind: type[bool] | type[int] | type[float] | type[str]
    default: Value
    help: str
    """One sentence for whoever sets it."""
    unit: str = ""
    lowest: float | None = None
    highest: float | None = None
    choices: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if problem := self.problem(self.default):
            raise ValueError(f"the default of the parameter {self.name!r} {problem}")

    def problem(self, value: object) -> str:
        """What is wrong with a value, to stand after the parameter's name; empty where it may be used."""
        if not self._fits(value):
            return f"is {value!r}: give {self.wanted}"
        return ""

    @property
    def wanted(self) -> str:
        """ "a number of ms from 1 to 60,000" """
        if self.choices:
            return f"one of {', '.join(self.choices)}"
        unit = f" ({self.unit})" if self.unit else ""
        low = "" if self.lowest is None else f"{self.lowest:,g}"
        high = "" if self.highest is None else f"{self.highest:,g}"
        limits = f" from {low} to {high}" if low and high else f", {low} or more" if low else f" up to {high}"
        return f"{_KINDS[self.kind]}{unit}{limits if low or high else ''}"

    def _fits(self, value: object) -> bool:
        if self.kind is str or self.kind is bool:
            return isinstance(value, self.kind) and (not self.choices or value in self.choices)
        if isinstance(value, bool) or not isinstance(value, int if self.kind is int else int | float):
            return False
        low = -math.inf if self.lowest is None else self.lowest
        high = math.inf if self.highest is None else self.highest
        return low <= value <= high and not (isinstance(value, float) and math.isinf(value))  # NaN is never between
