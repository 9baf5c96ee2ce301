"""Tone, icon and word of every state: the one table that chips, timelines, charts and messages read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, Literal, get_args

Tone = Literal["ok", "warn", "bad", "info", "idle", "hold"]
"""ok: as wished · warn: look at it · bad: failed · info: something runs · idle: at rest · hold: waits for a person."""

TONES: Final[tuple[Tone, ...]] = get_args(Tone)


@dataclass(frozen=True, slots=True)
class Status:
    tone: Tone
    icon: str
    """Name of a symbol in static/icons.svg."""
    label: str


_DEPLOYMENT: Final = {
    "absent": Status("idle", "circle", "Absent"),
    "starting": Status("info", "spinner", "Starting"),
    "ready": Status("ok", "check-circle", "Ready"),
    "stopping": Status("warn", "spinner", "Stopping"),
    "failed": Status("bad", "x-circle", "Failed"),
}

STATUSES: Final[Mapping[str, Mapping[str, Status]]] = MappingProxyType(
    {
        "version": {
            "registered": Status("idle", "tag", "Registered"),
            "examining": Status("info", "spinner", "Examining"),
            "awaiting_approval": Status("hold", "hand", "Awaiting approval"),
            "approved": Status("ok", "check-circle", "Approved"),
            "refused": Status("bad", "x-circle", "Refused"),
            "blocked": Status("bad", "shield", "Blocked"),
            "suspended": Status("warn", "pause", "Suspended"),
            "retired": Status("idle", "archive", "Retired"),
        },
        "qa_run": {
            "queued": Status("idle", "clock", "Queued"),
            "running": Status("info", "spinner", "Running"),
            "finished": Status("ok", "check-circle", "Finished"),
            "error": Status("bad", "triangle", "Error"),
        },
        "qa_result": {
            "passed": Status("ok", "check-circle", "Passed"),
            "failed": Status("bad", "x-circle", "Failed"),
            "error": Status("warn", "triangle", "Error"),
            "not_applicable": Status("idle", "minus", "Not applicable"),
            "not_checked": Status("idle", "circle", "Not checked"),
        },
        "qa_band": {
            "excellent": Status("ok", "check-circle", "Excellent"),
            "good": Status("ok", "check-circle", "Good"),
            "caution": Status("warn", "triangle", "Caution"),
            "poor": Status("bad", "x-circle", "Poor"),
        },
        "rollout": {
            "waiting_qa": Status("info", "clock", "Waiting for QA"),
            "waiting_approval": Status("hold", "hand", "Waiting for approval"),
            "provisioning": Status("info", "spinner", "Provisioning"),
            "progressing": Status("info", "spinner", "Progressing"),
            "paused": Status("hold", "pause", "Paused"),
            "promoting": Status("info", "spinner", "Promoting"),
            "concluding": Status("info", "spinner", "Concluding"),
            "succeeded": Status("ok", "check-circle", "Succeeded"),
            "rolling_back": Status("warn", "rewind", "Rolling back"),
            "rolled_back": Status("bad", "rewind", "Rolled back"),
            "cancelled": Status("idle", "minus", "Cancelled"),
        },
        "step": {
            "pending": Status("idle", "circle", "To come"),
            "active": Status("info", "spinner", "Active"),
            "done": Status("ok", "check-circle", "Done"),
            "failed": Status("bad", "x-circle", "Failed"),
            "skipped": Status("idle", "skip", "Skipped"),
        },
        "verdict": {
            "pass": Status("ok", "check-circle", "Pass"),
            "fail": Status("bad", "x-circle", "Fail"),
            "insufficient_data": Status("idle", "clock", "Insufficient data"),
            "provider_error": Status("warn", "triangle", "Provider error"),
        },
        "experiment": {
            "draft": Status("idle", "circle", "Draft"),
            "running": Status("info", "spinner", "Running"),
            "promote": Status("ok", "check-circle", "Promote"),
            "abort": Status("bad", "x-circle", "Abort"),
            "continue": Status("info", "spinner", "Keep running"),
            "on_hold": Status("warn", "triangle", "On hold"),
            "invalid": Status("warn", "triangle", "Invalid"),
            "inconclusive": Status("warn", "triangle", "Inconclusive"),
            "stopped": Status("idle", "stop", "Stopped"),
        },
        "deployment": _DEPLOYMENT,
        "server": _DEPLOYMENT,
        "health": {
            "healthy": Status("ok", "check-circle", "Healthy"),
            "unhealthy": Status("bad", "x-circle", "Unhealthy"),
            "unknown": Status("idle", "circle", "Unknown"),
        },
    }
)
"""kind → value → status."""


def status_of(kind: str, value: object) -> Status:
    """Never raises: a page that shows an unknown state in plain words beats a page that breaks."""
    text = "" if value is None else str(value)
    known = STATUSES.get(kind, {}).get(text)
    return known or Status("idle", "circle", readable(text))


def readable(value: str) -> str:
    """`half_open` → `Half open`."""
    words = value.replace("_", " ").replace("-", " ").strip()
    return words[:1].upper() + words[1:] if words else "Unknown"
