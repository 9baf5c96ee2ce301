"""What can be wrong with a served version, on request: faults that a short examination does not meet."""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

LONG_PROMPT_TOKENS = 64
TOKENS_BEFORE_ERROR = 3
CRASH_EXIT_CODE = 139  # what a shell reports for a segmentation fault

FAULTS = {
    "open-completions": "completions answer without a key, while /v1/models still asks for one",
    "long-prompt-error": "a prompt of more than 64 tokens ends in an error event inside the stream, or in a 500",
    "long-prompt-crash:N": "the N-th prompt of more than 64 tokens kills the process",
    "never-ready": "/health answers 503 for ever",
    "exit-at-once": "the server says why on stderr and exits with 3",
    "hang": "/health answers 200 and completions never answer",
    "hang-after:N": "the same, after N completions",
}


@dataclass(frozen=True, slots=True)
class Faults:
    open_completions: bool = False
    long_prompt_error: bool = False
    long_prompt_crash: int | None = None
    never_ready: bool = False
    exit_at_once: bool = False
    hang_after: int | None = None

    @classmethod
    def parse(cls, names: Sequence[str]) -> Self:
        given = dict(_split(name) for name in names)
        return cls(
            open_completions="open-completions" in given,
            long_prompt_error="long-prompt-error" in given,
            long_prompt_crash=given.get("long-prompt-crash"),
            never_ready="never-ready" in given,
            exit_at_once="exit-at-once" in given,
            hang_after=0 if "hang" in given else given.get("hang-after"),
        )


def fault_name(text: str) -> str:
    """An argparse type: the name itself, once it is known to be one."""
    try:
        _split(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return text


def _split(text: str) -> tuple[str, int | None]:
    name, colon, number = text.partition(":")
    if text in FAULTS and not colon:
        return name, None
    if f"{name}:N" in FAULTS and number.isdecimal() and int(number) > 0:
        return name, int(number)
    raise ValueError(f"unknown fault {text!r}; known are {', '.join(FAULTS)}, where N is at least 1")
