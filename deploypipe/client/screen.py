"""What is seen of an examination while it goes on: lines for people, or JSON for programs."""

from __future__ import annotations

import json
import math
import os
import sys
import time
from collections.abc import Sequence
from typing import Any, Protocol, TextIO

from registry import progress
from registry.qa.base import Check, Outcome
from registry.qa.runner import Result
from registry.report import Examination, measured
from registry.scoring import Status

MARKS = {
    Status.PASSED: ("✓", "+", "32"),
    Status.FAILED: ("✗", "x", "31"),
    Status.ERROR: ("!", "!", "33"),
    Status.NOT_CHECKED: ("?", "?", "33"),
    Status.NOT_APPLICABLE: ("–", "-", "2"),
}
"""The sign, the sign for a terminal that has only ASCII, and the colour."""
MOST_LOSSES = 12
WORDS_WIDTH = max(len(status.value) for status in Status)
EXPLAINED = (Status.FAILED, Status.ERROR, Status.NOT_CHECKED)


class Screen(Protocol):
    def begins(self, what: str, checks: Sequence[type[Check]]) -> None: ...
    def started(self, check: type[Check]) -> None: ...
    def came(self, result: Result) -> None: ...
    def ended(self, examination: Examination, written: Sequence[str]) -> None: ...
    def gave_up(self, why: str) -> None: ...


def screen(*, as_json: bool, quiet: bool, summary: TextIO) -> Screen:
    if as_json:
        return Lines(sys.stdout)
    return Quiet() if quiet else People(sys.stderr, summary)


class Quiet:
    """Only what went wrong."""

    def begins(self, what: str, checks: Sequence[type[Check]]) -> None: ...
    def started(self, check: type[Check]) -> None: ...
    def came(self, result: Result) -> None: ...
    def ended(self, examination: Examination, written: Sequence[str]) -> None: ...

    def gave_up(self, why: str) -> None:
        lines = [plain(line) for line in why.splitlines()]
        print("deploypipe qa: " + "\n".join(lines), file=sys.stderr)  # noqa: T201


class Lines(Quiet):
    """One JSON object a line, at once."""

    def __init__(self, out: TextIO) -> None:
        self.out = out

    def begins(self, what: str, checks: Sequence[type[Check]]) -> None:
        self._say("begins", about=what, checks=[check.name for check in checks])

    def started(self, check: type[Check]) -> None:
        self._say("started", check=check.name, label=check.label)

    def came(self, result: Result) -> None:
        outcome = result.outcome
        self._say(
            "result",
            check=result.name,
            label=result.label,
            status=outcome.status.value,
            required=result.required,
            value=outcome.value,
            limit=outcome.limit,
            unit=outcome.unit,
            reason=outcome.reason,
            seconds=round(result.seconds, 3),
        )

    def ended(self, examination: Examination, written: Sequence[str]) -> None:
        self._say(
            "ended",
            deployment_approved=examination.approved,
            overall_quality_score=examination.score.points,
            sentence=examination.score.sentence,
            written=list(written),
        )

    def gave_up(self, why: str) -> None:
        super().gave_up(why)
        self._say("gave_up", message=why)

    def _say(self, event: str, **what: Any) -> None:
        self.out.write(json.dumps({"event": event, **what}) + "\n")
        self.out.flush()


class People(Quiet):
    def __init__(self, out: TextIO, summary: TextIO) -> None:
        self.out, self.summary = out, summary
        self.live = out.isatty() and os.environ.get("TERM") != "dumb"
        self.checks: Sequence[type[Check]] = ()
        self.done: set[str] = set()
        self.under_way: dict[str, tuple[str, float]] = {}
        self.began = time.monotonic()

    def begins(self, what: str, checks: Sequence[type[Check]]) -> None:
        self.checks, self.began = checks, time.monotonic()
        self._line(f"Examining {what}, {len(checks)} check{'s' * (len(checks) != 1)}.")

    def started(self, check: type[Check]) -> None:
        self.under_way[check.name] = (check.label, time.monotonic())
        self._status()

    def came(self, result: Result) -> None:
        self.done.add(result.name)
        self.under_way.pop(result.name, None)
        outcome = result.outcome
        sign, ascii_sign, colour = MARKS[outcome.status]
        mark = sign if _shows(self.out, sign) else ascii_sign
        word = outcome.status.value.replace("_", " ").ljust(WORDS_WIDTH)
        self._line(f"{_painted(f'{mark} {word}', colour, self.out)}  {plain(result.label + _figure(outcome))}")
        if outcome.status in EXPLAINED:
            self._line(f"    {plain(outcome.reason)}")
        self._status()

    def ended(self, examination: Examination, written: Sequence[str]) -> None:
        self._clear()
        out = self.summary
        approved = "approved" if examination.approved else "not approved"
        head = f"{plain(examination.model_name)}: {approved}"
        lines = ["", _painted(head, "1;32" if examination.approved else "1;31", out), plain(examination.score.sentence)]
        lines += _losses(examination)
        if examination.findings:
            lines.append("What to do:")
            lines += [f"  {f.severity.value}: {plain(f.sentence)} {plain(f.action)}" for f, _ in examination.findings]
        if missed := [r.label for r in examination.results if r.name in set(examination.left_out) and r.stops]:
            lines.append(f"Left out although required, so it cannot be approved: {plain(', '.join(missed))}.")
        lines += [f"Written: {plain(place)}" for place in written]
        print("\n".join(lines), file=out, flush=True)

    def gave_up(self, why: str) -> None:
        self._clear()
        super().gave_up(why)

    def _status(self) -> None:
        """One line that is written over, in a terminal."""
        if not self.live:
            return
        now = time.monotonic()
        under_way = [progress.UnderWay(name, label, now - at) for name, (label, at) in self.under_way.items()]
        left = progress.left(
            self.checks,
            progress.expected(self.checks, {}),
            done=self.done,
            under_way=under_way,
            seconds=now - self.began,
            own_server=False,
        )
        running = ", ".join(one.label for one in under_way) or "…"
        text = plain(f"{len(self.done)} of {len(self.checks)} done, {left.sentence}: {running}")
        width = _width(self.out)
        self._write(f"\r\x1b[K{text[: width - 1]}")

    def _line(self, text: str) -> None:
        self._clear()
        self._write(f"{text}\n")

    def _clear(self) -> None:
        if self.live:
            self._write("\r\x1b[K")

    def _write(self, text: str) -> None:
        self.out.write(text)
        self.out.flush()


def plain(text: str) -> str:
    """What a server said must not move the cursor or ring the bell."""
    return "".join(letter if letter.isprintable() else " " for letter in text)


def _losses(examination: Examination) -> list[str]:
    left_out = set(examination.left_out)
    lost = [loss for loss in examination.score.lost if loss.points]
    made = [loss for loss in lost if loss.name not in left_out]
    lines = [f"  -{loss.points:.1f}  {plain(loss.label)}" for loss in made[:MOST_LOSSES]]
    rest = (("smaller losses", made[MOST_LOSSES:]), ("checks that were left out", [x for x in lost if x not in made]))
    return lines + [f"  -{math.fsum(x.points for x in more):.1f}  {len(more)} {what}" for what, more in rest if more]


def _shows(out: TextIO, text: str) -> bool:
    try:
        text.encode(out.encoding or "ascii")
    except UnicodeError:
        return False
    return True


def _figure(outcome: Outcome) -> str:
    if outcome.value is None:
        return ""
    limit = "" if outcome.limit is None else f" (limit {measured(outcome.limit, '')})"
    return f"  {measured(outcome.value, outcome.unit)}{limit}"


def _painted(text: str, colour: str, out: TextIO) -> str:
    if not out.isatty() or os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb":
        return text
    return f"\x1b[{colour}m{text}\x1b[0m"


def _width(out: TextIO) -> int:
    try:
        return os.get_terminal_size(out.fileno()).columns or 80
    except (OSError, ValueError):
        return 80
