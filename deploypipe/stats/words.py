"""Numbers as a manager reads them; every sentence about evidence is made of these."""

from __future__ import annotations

import math


def count(value: float) -> str:
    """Three leading digits are all that an estimate deserves."""
    whole = math.ceil(value)
    if whole >= 10_000:
        digits = len(str(whole)) - 3
        whole = round(whole, -digits)
    return f"{whole:,}"


def plural(number: int, noun: str) -> str:
    """ "1 request", "1,000 requests"."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def percent(share: float) -> str:
    return f"{_short(share * 100)} %"


def points(value: float) -> str:
    """A setting in percentage points, as it was set."""
    return f"{value:g} point" if value == 1 else f"{value:g} points"


def limit(percentage: float) -> str:
    """A setting in percent, as it was set."""
    return f"{percentage:g} %"


def of(errors: int, requests: int) -> str:
    """ "5 of 61 (8.2 %)"."""
    return f"{errors:,} of {requests:,} ({percent(errors / requests)})" if requests else "no requests"


def odds(log_evidence: float) -> str:
    if log_evidence > math.log(1e6):
        return "more than 1,000,000 : 1"
    value = math.exp(log_evidence)
    if value >= 10:
        return f"{math.floor(value + 1e-9):,} : 1"  # never rounded up to a threshold that was not reached
    if value >= 0.1:
        return f"{math.floor(value * 10 + 1e-9) / 10:.1f} : 1"
    return "less than 0.1 : 1"


def duration(seconds: float) -> str:
    if seconds < 90:
        return _unit(math.ceil(seconds), "second")
    if seconds < 90 * 60:
        return _unit(math.ceil(seconds / 60), "minute")
    if seconds < 48 * 3600:
        return _unit(math.ceil(seconds / 3600), "hour")
    return _unit(math.ceil(seconds / 86400), "day")


def _unit(value: int, name: str) -> str:
    return f"{value:,} {name}" if value == 1 else f"{value:,} {name}s"


def _short(value: float) -> str:
    size = abs(value)
    if size >= 99.95:
        return f"{value:.0f}"
    if size >= 0.095:
        text = f"{value:.1f}"
    elif size >= 0.001:
        text = f"{value:.1g}"
    elif size > 0:
        return "less than 0.001"
    else:
        return "0"
    return text.removesuffix(".0")
