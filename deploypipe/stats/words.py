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


def ms(value: float) -> str:
    """A latency as it was measured: three leading digits are all that bins give."""
    if value >= 10_000:
        return f"{_leading(value / 1000)} s"
    return f"{_leading(value)} ms"


def stars(value: float) -> str:
    """The mean of ratings."""
    return f"{value:.2f} stars"


def star_limit(value: float) -> str:
    """A setting in stars, as it was set."""
    return "1 star" if value == 1 else f"{value:g} stars"


def change(ratio: float) -> str:
    """1.2 is "20 % more"."""
    size = percent(abs(ratio - 1))
    if size == "0 %" or ratio == 1:
        return "the same"
    if ratio >= 10:
        return f"{_leading(ratio)} times as much"
    return f"{size} {'more' if ratio > 1 else 'less'}"


def slower(ratio: float) -> str:
    """1.2 is "20 % slower"."""
    return change(ratio).replace("times as much", "times as slow").replace("more", "slower").replace("less", "faster")


def signed_points(difference: float) -> str:
    """A difference of rates: 0.012 is "+1.2 points"."""
    return f"{signed(difference * 100)} points"


def signed_percent(ratio: float) -> str:
    """A ratio as its change: 1.12 is "+12 %"."""
    return f"{signed((ratio - 1) * 100)} %"


def signed(value: float) -> str:
    text = _short(value)
    return f"+{text}" if value > 0 and text != "0" else text.replace("-", "−")


def quantile(level: float) -> str:
    """0.95 is "P95", 0.999 "P99.9"."""
    return f"P{level * 100:g}"


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


def _leading(value: float) -> str:
    if value >= 99.95:
        return f"{value:,.0f}"
    return f"{value:.1f}".removesuffix(".0") if value >= 0.95 else f"{value:.2g}"


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
