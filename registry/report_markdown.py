"""An examination for a pull request: the verdict, a table of categories, what did not pass, and the rest folded."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from datetime import UTC

from deploypipe.core import plain
from registry.qa.runner import Result
from registry.report import Category, Examination, measured
from registry.scoring import Status

MARKS = {
    Status.PASSED: "✅ passed",
    Status.FAILED: "❌ failed",
    Status.ERROR: "⚠️ error",
    Status.NOT_CHECKED: "❔ not checked",
    Status.NOT_APPLICABLE: "➖ not applicable",
}
UNMET = (Status.FAILED, Status.ERROR, Status.NOT_CHECKED)
LONGEST = 500
MOST_DETAILS = 60_000
"""Characters; a comment on a pull request may have 65,536."""
MOST_LISTED = 20_000
"""Characters of one list, so that two of them and the rest stay below that."""
_SPECIAL = re.compile(r"[\\`*_{}\[\]|~#$!]")
_HTML = {"&": "&amp;", "<": "&lt;", ">": "&gt;"}


def markdown(examination: Examination) -> str:
    approved = examination.approved
    head = [
        f"## {'✅' if approved else '❌'} {escape(examination.model_name)}: "
        f"{'approved' if approved else 'not approved'}",
        escape(examination.score.sentence),
        *_left_out(examination),
        _categories(examination.categories),
    ]
    parts = [*head, *_unmet(examination), *_findings(examination)]
    tail = _judged(examination)
    text = "\n\n".join([*parts, *_details(examination), tail]) + "\n"
    if len(text) > MOST_DETAILS:
        parts.append("The table of all checks is too long for a comment; it is in the JSON report.")
        text = "\n\n".join([*parts, tail]) + "\n"
    return text


def escape(text: str) -> str:
    """Plain words, wherever in a line they stand: no markup, no HTML, no table cell's end, nobody is mentioned."""
    flat = " ".join(plain.text(text).split())
    flat = flat if len(flat) <= LONGEST else f"{flat[: LONGEST - 1]}…"
    flat = re.sub("[&<>]", lambda found: _HTML[found[0]], flat)
    flat = _SPECIAL.sub(lambda found: f"\\{found[0]}", flat)
    # A mention or a link begins where such a sign meets a word; a backslash before it does not stop that.
    return re.sub(r"(@|#|://|\bwww\.)(?=\w)", "\\1\N{WORD JOINER}", flat, flags=re.IGNORECASE)


def _table(head: Sequence[str], rows: Iterable[Sequence[str]], right: int = 0) -> str:
    """The last `right` columns are numbers."""
    rule = ["---"] * (len(head) - right) + ["--:"] * right
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, rule, *rows))


def _categories(categories: Sequence[Category]) -> str:
    rows = (
        (
            escape(category.label),
            MARKS[category.status],
            _counted(category),
            "–" if category.points is None else f"{category.points:.0f}",
            f"{category.share:.3g} %" if category.share else "–",
            f"−{category.lost:.1f}" if category.lost else "0",
        )
        for category in categories
    )
    return _table(("Category", "Outcome", "Checks", "Score", "Share", "Points lost"), rows, right=3)


def _counted(category: Category) -> str:
    """ "11 passed, 1 failed" """
    order = sorted(category.counts.items(), key=lambda pair: pair[0] is not Status.PASSED)
    return ", ".join(f"{count} {status.value.replace('_', ' ')}" for status, count in order)


def _left_out(examination: Examination) -> list[str]:
    if not examination.left_out:
        return []
    names = ", ".join(escape(name) for name in examination.left_out)
    return [f"Left out by whoever examined: {names}."]


def _unmet(examination: Examination) -> list[str]:
    lost = {loss.name: loss.points for loss in examination.score.lost}
    unmet = [r for r in examination.results if r.outcome.status in UNMET]
    unmet.sort(key=lambda r: (not r.stops, -lost.get(r.name, 0.0)))
    if not unmet:
        return []
    lines = (
        f"- **{escape(r.label)}** ({_said(r)}{_cost(lost.get(r.name, 0.0))}): {escape(r.outcome.reason)}" for r in unmet
    )
    return ["### What did not pass", _listed(lines)]


def _listed(lines: Iterable[str]) -> str:
    shown: list[str] = []
    more = length = 0
    for line in lines:
        length += len(line)
        if length > MOST_LISTED:
            more += 1
        else:
            shown.append(line)
    return "\n".join([*shown, f"- and {more} more, which are in the JSON report"] if more else shown)


def _said(result: Result) -> str:
    return f"{MARKS[result.outcome.status]}{', required' if result.required else ''}"


def _cost(points: float) -> str:
    return f", −{points:.1f} points" if points else ""


def _findings(examination: Examination) -> list[str]:
    found = examination.findings
    if not found:
        return []
    lines = (f"- **{f.severity.value}**: {escape(f.sentence)} *{escape(f.action)}*" for f, _ in found)
    return ["### Findings", _listed(lines)]


def _details(examination: Examination) -> list[str]:
    rows = (
        (
            escape(r.label),
            MARKS[r.outcome.status],
            escape(measured(r.outcome.value, r.outcome.unit)),
            escape(measured(r.outcome.limit, r.outcome.unit)),
            escape(r.outcome.reason),
        )
        for category in examination.categories
        for r in category.results
    )
    table = _table(("Check", "Outcome", "Measured", "Limit", "What was seen"), rows)
    return [f"<details>\n<summary>All {len(examination.results)} checks</summary>", table, "</details>"]


def _judged(examination: Examination) -> str:
    at = examination.at.astimezone(UTC)
    parts = [f"Examined on {at.day} {at:%B %Y, %H:%M} UTC in {examination.seconds:.0f} s"]
    parts.append(f"engine {escape(examination.engine)}")
    if examination.digest:
        parts.append(f"bytes `{examination.digest[:16]}`")
    if examination.environment:
        parts.append(f"for {escape(examination.environment)}")
    return f"<sub>{', '.join(parts)}; at least {examination.minimum_score:g} points were asked for.</sub>"
