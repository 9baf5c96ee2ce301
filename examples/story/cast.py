"""The six versions: what each is, and what must happen to it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

MODEL = "textgen"
ENVIRONMENT = "production"

Steps = list[dict[str, Any]]

JUDGE = {
    "analysis": {
        "max_error_increase_points": 2.0,
        "max_error_rate_percent": 10.0,
        "max_latency_increase_percent": 100.0,
        "max_seconds": 180.0,
    }
}
"""By session. A version without errors needs ln(20) / 0.02 = 150 of them: 20 s at 60 requests a second, two to a
session, and a quarter of the traffic. A first token after 4 ms instead of 2 ms harms nobody, so it may double."""

CANARY: Steps = [{"setWeight": 25}, JUDGE, {"setWeight": 50}, JUDGE, {"setWeight": 100}]
"""What every version gets whose fate does not need more."""


@dataclass(frozen=True)
class Part:
    number: int
    title: str
    kind: str
    """Which model it is trained as."""
    fault: str = ""
    """What its server is told to do wrong."""
    tampered: bool = False
    """Its bytes are changed after they were registered."""
    stage: str = "approved"
    status: str = ""
    """How its rollout must end; empty where it must not get one."""
    cause: str = ""
    steps: Steps | None = None
    """Of its rollout; without them `CANARY`."""
    why: str = ""
    """Words that the product's own reason must contain."""


COMPARISON = {
    "experiment": {
        "goals": [
            {"metric": "error_rate", "aim": "non_inferiority", "margin_points": 2.0},
            {"metric": "latency", "aim": "non_inferiority", "margin_percent": 100.0},
            {"metric": "rating", "limit": 4.0},
        ],
        "guardrails": [
            {"metric": "error_rate", "limit": 10.0},
            {"metric": "latency", "limit": 1000.0},
        ],
        "min_requests": 300,
        "max_seconds": 180.0,
        "auto_promote": True,
        "auto_rollback": True,
    }
}
"""As the mission has it, with margins for half a minute: errors, latency and what users say must all be proven."""

STORY = (
    Part(1, "bigram model", "bigram", status="succeeded"),
    Part(
        2,
        "Kneser–Ney trigram, better and as fast",
        "trigram",
        status="succeeded",
        steps=[{"setWeight": 25}, JUDGE, {"setWeight": 50}, COMPARISON, {"setWeight": 100}],
        why="stars",
    ),
    Part(3, "bytes do not match the digest", "trigram", tampered=True, stage="blocked", why="SHA-256"),
    Part(4, "answers completions without a key", "trigram", "open-completions", stage="blocked", why="without a key"),
    Part(
        5,
        "one stream in twelve ends with an error event inside a 200",
        "trigram",
        "long-prompt-error",
        status="rolled_back",
        cause="verdict",
        why="worse by more than",
    ),
    Part(
        6,
        "its process dies a while after it gets traffic",
        "trigram",
        "long-prompt-crash:10",
        status="rolled_back",
        cause="health",
        why="not healthy",
    ),
)
