"""The six versions: what each is, and what must happen to it."""

from __future__ import annotations

from dataclasses import dataclass

MODEL = "textgen"
ENVIRONMENT = "production"
STRATEGY = "canary-quick"


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
    why: str = ""
    """Words that the product's own reason must contain."""


STORY = (
    Part(1, "bigram model", "bigram", status="succeeded"),
    Part(2, "Kneser–Ney trigram, better and as fast", "trigram", status="succeeded"),
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
