"""What templates say instead of markup: chips, icons, times, humane numbers, verbs, charts. See docs/frontend.md."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

from django import template
from django.template.context import Context
from django.templatetags.static import static
from django.urls import NoReverseMatch, reverse
from django.utils import timezone
from django.utils.dateparse import parse_datetime
from django.utils.html import format_html
from django.utils.safestring import SafeString

from deploypipe.core.status import Tone, status_of

if TYPE_CHECKING:
    from deploypipe.core.pages import Choice

register = template.Library()

NOTHING: Final = "–"
MINUS: Final = "−"
NBSP: Final = "\N{NO-BREAK SPACE}"
TABLE_ROWS: Final = 20

# --- Chips, icons, times ----------------------------------------------------------------------------------------------


@register.simple_tag
def icon(name: str, label: str = "") -> SafeString:
    """Decoration beside a word, unless `label` says what it means on its own."""
    sprite = static("icons.svg")
    spin = " icon-spin" if name == "spinner" else ""
    if label:
        return format_html(
            '<svg class="icon{}" role="img" aria-label="{}"><use href="{}#{}"/></svg>', spin, label, sprite, name
        )
    return format_html('<svg class="icon{}" aria-hidden="true"><use href="{}#{}"/></svg>', spin, sprite, name)


@register.simple_tag
def status(kind: str, value: object, label: str = "") -> SafeString:
    known = status_of(kind, value)
    return chip(known.tone, label or known.label, known.icon)


@register.simple_tag
def chip(tone: str, label: object, icon_name: str = "") -> SafeString:
    drawn = icon(icon_name) if icon_name else ""
    return format_html('<span class="chip chip-{}">{}<span>{}</span></span>', tone, drawn, label)


@register.filter
def tone(value: object, kind: str) -> Tone:
    """`{{ step.status|tone:"step" }}`, for class names."""
    return status_of(kind, value).tone


@register.filter
def state_icon(value: object, kind: str) -> str:
    return status_of(kind, value).icon


@register.filter
def state_label(value: object, kind: str) -> str:
    """For titles and e-mails, where a chip cannot be."""
    return status_of(kind, value).label


@register.simple_tag
def when(moment: datetime | str | None) -> SafeString:
    """Relative words that the browser keeps fresh; absolute on hover."""
    at = parse_datetime(moment) if isinstance(moment, str) else moment
    if at is None:
        return format_html('<span class="text-secondary">{}</span>', NOTHING)
    if timezone.is_naive(at):
        at = at.replace(tzinfo=UTC)
    at = at.astimezone(UTC)
    return format_html(
        '<time class="when" datetime="{}" title="{}">{}</time>',
        at.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        f"{at.day} {at:%b %Y, %H:%M:%S} UTC",
        relative(at, timezone.now()),
    )


def relative(at: datetime, now: datetime) -> str:
    """The same words as `relative` in static/js/ui.js."""
    seconds = round((now - at).total_seconds())
    away = abs(seconds)
    if away < 5:
        return "just now"
    if away < 60:
        words = f"{away}{NBSP}s"
    elif away < 3600:
        words = f"{away // 60}{NBSP}min"
    elif away < 48 * 3600:
        words = f"{away // 3600}{NBSP}h"
    elif away < 60 * 86400:
        words = f"{away // 86400} days"
    else:
        return f"{at.day} {at:%b %Y}"
    return f"{words} ago" if seconds > 0 else f"in {words}"


# --- Numbers ----------------------------------------------------------------------------------------------------------


def _number(value: object) -> float | None:
    if isinstance(value, timedelta):
        return value.total_seconds()
    try:
        number = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) else None


def _significant(number: float) -> str:
    """Three digits are enough to compare: 0.123, 1.23, 12.3, 123, 1,234."""
    size = abs(number)
    decimals = 0 if size >= 100 or size == 0 else 1 if size >= 10 else 2 if size >= 1 else 3
    text = f"{number:,.{decimals}f}"
    if "." in text:
        text = text.rstrip("0").rstrip(".")
    return text.replace("-", MINUS) if text not in ("-0", "0") else "0"


def _with_sign(text: str) -> str:
    return text if text.startswith(MINUS) or text == "0" else f"+{text}"


@register.filter
def percent(fraction: object, decimals: int | None = None) -> str:
    """0.0123 → 1.23 %"""
    number = _number(fraction)
    if number is None:
        return NOTHING
    number *= 100
    text = _significant(number) if decimals is None else f"{number:,.{decimals}f}".replace("-", MINUS)
    return f"{text}{NBSP}%"


@register.filter
def weight(hundredths: object) -> str:
    """Traffic weights are hundredths of a percent: 1000 → 10 %"""
    number = _number(hundredths)
    return NOTHING if number is None else percent(number / 10_000)


@register.filter
def points(fraction: object) -> str:
    """A difference of two fractions, in percentage points: 0.0123 → +1.23 pp"""
    number = _number(fraction)
    return NOTHING if number is None else f"{_with_sign(_significant(number * 100))}{NBSP}pp"


@register.filter
def signed(value: object) -> str:
    number = _number(value)
    return NOTHING if number is None else _with_sign(_significant(number))


@register.filter
def number(value: object) -> str:
    """Three significant digits."""
    known = _number(value)
    return NOTHING if known is None else _significant(known)


@register.filter
def thousands(value: object) -> str:
    """1234567 → 1,234,567"""
    known = _number(value)
    return NOTHING if known is None else f"{round(known):,}".replace("-", MINUS)


@register.filter
def ms(milliseconds: object) -> str:
    """12.34 → 12.3 ms, 12345 → 12.3 s"""
    known = _number(milliseconds)
    if known is None:
        return NOTHING
    if abs(known) >= 10_000:
        return f"{_significant(known / 1000)}{NBSP}s"
    return f"{_significant(known)}{NBSP}ms"


@register.filter
def duration(seconds: object) -> str:
    """Seconds or a timedelta: 0.34 → 340 ms, 92 → 1 min 32 s, 7500 → 2 h 5 min"""
    known = _number(seconds)
    if known is None:
        return NOTHING
    if known < 0:
        return MINUS + duration(-known)
    if 0 < known < 1:
        return ms(known * 1000)
    if known < 10:
        return f"{_significant(round(known, 1))}{NBSP}s"
    whole = round(known)
    if whole < 60:
        return f"{whole}{NBSP}s"
    for size, unit, smaller, smaller_unit in ((86400, "d", 3600, "h"), (3600, "h", 60, "min"), (60, "min", 1, "s")):
        if whole >= size:
            rest = whole % size // smaller
            return f"{whole // size}{NBSP}{unit}" + (f" {rest}{NBSP}{smaller_unit}" if rest else "")
    raise AssertionError("unreachable: 60 seconds or more")


@register.filter
def size(bytes_: object) -> str:
    """1536 → 1.5 KiB"""
    known = _number(bytes_)
    if known is None:
        return NOTHING
    units = ("B", "KiB", "MiB", "GiB", "TiB")
    step = 0
    while abs(known) >= 1024 and step < len(units) - 1:
        known /= 1024
        step += 1
    return f"{_significant(known)}{NBSP}{units[step]}"


@register.filter
def digest(value: str | None, length: int = 12) -> SafeString:
    """The start of a sha256 or commit; the whole on hover, and copied by a click."""
    if not value:
        return format_html('<span class="text-secondary">{}</span>', NOTHING)
    bare = value.rpartition(":")[2]
    return format_html(
        '<code class="digest" title="{}" data-copy="{}">{}</code>',
        value,
        value,
        bare[:length] + ("…" if len(bare) > length else ""),
    )


# --- Bars -------------------------------------------------------------------------------------------------------------


@register.inclusion_tag("_score_bar.html")
def score_bar(score: object, band: str = "", marks: str = "65,80,95") -> dict[str, Any]:
    """0 to 100, with the limits of the bands as ticks; `band` gives the tone, else the score does."""
    known = _number(score)
    if band:
        hue: str = status_of("qa_band", band).tone
    elif known is None:
        hue = "idle"
    else:
        hue = "ok" if known >= 80 else "warn" if known >= 65 else "bad"
    width = None if known is None else f"{min(max(known, 0.0), 100.0):.4g}"
    ticks = [int(mark) for mark in marks.split(",") if mark]
    return {"score": known, "text": NOTHING if known is None else _significant(known), "width": width, "tone": hue,
            "marks": ticks}  # fmt: skip


@register.inclusion_tag("_split_bar.html")
def split_bar(
    candidate: object, measured: object = None, candidate_label: str = "Candidate", stable_label: str = "Stable"
) -> dict[str, Any]:
    """Traffic of two versions. Both numbers are hundredths of a percent; `measured` is drawn as a mark."""
    wanted, seen = _number(candidate), _number(measured)
    return {
        "candidate": wanted,
        "candidate_width": round((wanted or 0) / 100, 2),
        "stable": None if wanted is None else 10_000 - wanted,
        "measured": seen,
        "measured_at": None if seen is None else round(seen / 100, 2),
        "candidate_label": candidate_label,
        "stable_label": stable_label,
    }


# --- Navigation and messages ------------------------------------------------------------------------------------------


@register.inclusion_tag("_nav_link.html", takes_context=True)
def nav_link(context: Context, name: str, label: str, icon_name: str, count: int | None = None) -> dict[str, Any]:
    """Nothing where the page does not exist."""
    try:
        url = reverse(name)
    except NoReverseMatch:
        return {"url": ""}
    request = context.get("request")
    path = request.path if request is not None else ""
    current = path == url or (url != "/" and path.startswith(url))
    return {"url": url, "label": label, "icon_name": icon_name, "current": current, "count": count}


_MESSAGE_TONES: Final[Mapping[str, Tone]] = {
    "debug": "idle",
    "info": "info",
    "success": "ok",
    "warning": "warn",
    "error": "bad",
}
_TONE_ICONS: Final[Mapping[str, str]] = {
    "ok": "check-circle",
    "warn": "triangle",
    "bad": "x-circle",
    "info": "info",
    "idle": "info",
    "hold": "hand",
}


@register.filter
def message_tone(level_tag: str) -> Tone:
    return _MESSAGE_TONES.get(level_tag, "info")


@register.filter
def tone_icon(name: str) -> str:
    return _TONE_ICONS.get(name, "info")


# --- Verbs ------------------------------------------------------------------------------------------------------------


@register.inclusion_tag("_verb_button.html", takes_context=True)
def verb_button(
    context: Context,
    action: str,
    label: str,
    tone: str = "plain",
    icon_name: str = "",
    confirm: str = "",
    reason: str = "",
    disabled_reason: str | None = "",
    title: str = "",
    reason_name: str = "reason",
    reason_label: str = "",
    target: str = "",
    small: bool = False,
    choice: Choice | None = None,
    **fields: object,
) -> dict[str, Any]:
    """A POST form of one button.

    `tone`: plain, primary, ok or bad. `confirm`: the consequence in a sentence; then a dialog opens first, or, without
    JavaScript, the same form unfolds. `reason`: "optional" or "required" adds a text field to it. `disabled_reason`:
    the button is there, cannot be pressed and says why. `choice`: something to choose in that form. `target`: a CSS
    selector that htmx replaces with the answer. Other keywords become hidden fields.
    """
    return {
        "csrf_token": context.get("csrf_token"),
        "action": action,
        "label": label,
        "tone": tone,
        "icon_name": icon_name,
        "confirm": confirm,
        "reason": reason,
        "disabled_reason": disabled_reason,
        "title": title or label,
        "reason_name": reason_name,
        "reason_label": reason_label or ("Reason" if reason == "required" else "Reason (optional)"),
        "target": target,
        "small": small,
        "choice": choice,
        "fields": {name: value for name, value in fields.items() if value is not None},
    }


# --- Charts -----------------------------------------------------------------------------------------------------------


@register.inclusion_tag("_chart.html")
def chart(
    chart_id: str,
    figure: Mapping[str, Any],
    title: str = "",
    topic: str = "",
    src: str = "",
    size: str = "m",
    note: str = "",
) -> dict[str, Any]:
    """A Plotly figure dict with its table twin. `size`: s, m or l. `src`: where the figure is fetched again as JSON."""
    header, rows = chart_table(figure)
    return {
        "chart_id": chart_id,
        "payload_id": f"{chart_id}-figure",
        "figure": figure,
        "title": title,
        "topic": topic,
        "src": src,
        "size": size,
        "note": note,
        "header": header,
        "rows": rows,
    }


def chart_table(figure: Mapping[str, Any], limit: int = TABLE_ROWS) -> tuple[list[str], list[list[str]]]:
    """The newest `limit` values of every trace side by side, as static/js/charts.js does after an update."""
    traces: Sequence[Mapping[str, Any]] = figure.get("data", ())
    axis = figure.get("layout", {}).get("xaxis", {}).get("title", {})
    first = axis.get("text", "") if isinstance(axis, Mapping) else str(axis)
    columns = [dict(zip(trace.get("x", ()), trace.get("y", ()), strict=False)) for trace in traces]
    moments = list(dict.fromkeys(x for column in columns for x in column))
    if all(isinstance(x, (int, float)) for x in moments) or figure.get("layout", {}).get("xaxis", {}).get("type") == (
        "date"
    ):
        moments.sort()
    header = [first or "Time", *(str(trace.get("name") or f"Series {n}") for n, trace in enumerate(traces, 1))]
    rows = [
        [_cell(x), *(_cell(column.get(x), missing=NOTHING) for column in columns)]
        for x in reversed(moments[-limit:])
    ]  # fmt: skip
    return header, rows


def _cell(value: object, missing: str = "") -> str:
    if value is None:
        return missing
    if isinstance(value, datetime):
        return f"{value:%H:%M:%S}"
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        text = str(value)
        moment = parse_datetime(text) if len(text) > 10 and text[4:5] == "-" else None
        return f"{moment:%H:%M:%S}" if moment else text
    return _significant(float(value))
