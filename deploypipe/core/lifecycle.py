"""States and verbs as a table: which verb is possible in which state, and where it leads. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Generic, TypeVar

from deploypipe.core.errors import IllegalTransition

S = TypeVar("S", bound=StrEnum)


class Lifecycle(Generic[S]):
    """`noun` is what the sentence of a refusal calls the thing: "This rollout is …"."""

    def __init__(self, noun: str, table: Mapping[S, Mapping[str, S]]) -> None:
        self.noun = noun
        self.table = table

    def next(self, state: S, verb: str) -> S:
        try:
            return self.table[state][verb]
        except KeyError:
            raise IllegalTransition(self.refusal(state, verb) or "") from None

    def refusal(self, state: S, verb: str) -> str | None:
        """Why the verb is not possible in this state, as a sentence; None where it is possible."""
        if verb in self.table[state]:
            return None
        possible = ", ".join(sorted(verb.replace("_", " ") for verb in self.table[state])) or "nothing; it has ended"
        word = verb.replace("_", " ")
        return f"This {self.noun} is {state.value.replace('_', ' ')}: it cannot {word} now. Possible: {possible}."

    def is_terminal(self, state: S) -> bool:
        return not self.table[state]

    def mermaid(self) -> str:
        """The table as a Mermaid state diagram."""
        lines = ["stateDiagram-v2", f"    [*] --> {next(iter(self.table)).value}"]
        for state, verbs in self.table.items():
            lines += [f"    {state.value} --> {to.value}: {verb.replace('_', ' ')}" for verb, to in verbs.items()]
            lines += [] if verbs else [f"    {state.value} --> [*]"]
        return "\n".join(lines)

    def active(self) -> list[S]:
        return [state for state in self.table if self.table[state]]
