"""What must be true of every table of states."""

from __future__ import annotations

from enum import StrEnum
from typing import Any

import pytest

from abtests.lifecycle import EXPERIMENTS
from deploypipe.core.errors import IllegalTransition
from deploypipe.core.lifecycle import Lifecycle
from registry.lifecycle import RUNS, STAGES
from rollouts.lifecycle import ROLLOUTS

ALL = [STAGES, RUNS, ROLLOUTS, EXPERIMENTS]
every_lifecycle = pytest.mark.parametrize("lifecycle", ALL, ids=lambda found: found.noun)


class Lamp(StrEnum):
    DARK = "dark"
    BURNING_LOW = "burning_low"
    BROKEN = "broken"


LAMP = Lifecycle(
    "lamp",
    {
        Lamp.DARK: {"light": Lamp.BURNING_LOW},
        Lamp.BURNING_LOW: {"put_out": Lamp.DARK, "drop": Lamp.BROKEN},
        Lamp.BROKEN: {},
    },
)


@every_lifecycle
def test_every_state_has_its_line(lifecycle: Lifecycle[Any]) -> None:
    states: set[Any] = set(type(next(iter(lifecycle.table))).__members__.values())
    assert set(lifecycle.table) == states
    assert {to for verbs in lifecycle.table.values() for to in verbs.values()} <= states


@every_lifecycle
def test_every_state_is_reached_from_the_first(lifecycle: Lifecycle[Any]) -> None:
    reached, new = set(), {next(iter(lifecycle.table))}
    while new:
        reached |= new
        new = {to for state in new for to in lifecycle.table[state].values()} - reached
    assert reached == set(lifecycle.table)


@every_lifecycle
def test_from_every_state_an_end_is_reached(lifecycle: Lifecycle[Any]) -> None:
    ends = {state for state in lifecycle.table if lifecycle.is_terminal(state)}
    assert ends
    while more := {s for s, verbs in lifecycle.table.items() if s not in ends and set(verbs.values()) & ends}:
        ends |= more
    assert ends == set(lifecycle.table)


@every_lifecycle
def test_every_refusal_is_a_sentence_that_says_what_is_possible(lifecycle: Lifecycle[Any]) -> None:
    verbs = {verb for of_state in lifecycle.table.values() for verb in of_state} | {"dance"}
    for state, possible in lifecycle.table.items():
        for verb in verbs:
            sentence = lifecycle.refusal(state, verb)
            assert (sentence is None) == (verb in possible)
            if sentence is not None:
                assert sentence.startswith(f"This {lifecycle.noun} is ")
                assert sentence.endswith(".")
                assert "_" not in sentence


def test_next_is_what_the_table_says() -> None:
    assert LAMP.next(Lamp.DARK, "light") is Lamp.BURNING_LOW


def test_impossible_verb_is_refused_with_the_possible_ones() -> None:
    with pytest.raises(IllegalTransition) as refused:
        LAMP.next(Lamp.BURNING_LOW, "light")
    assert str(refused.value) == "This lamp is burning low: it cannot light now. Possible: drop, put out."


def test_ended_thing_says_so() -> None:
    assert LAMP.refusal(Lamp.BROKEN, "put_out") == (
        "This lamp is broken: it cannot put out now. Possible: nothing; it has ended."
    )
    assert LAMP.is_terminal(Lamp.BROKEN)
    assert LAMP.active() == [Lamp.DARK, Lamp.BURNING_LOW]


def test_table_is_drawn_as_a_mermaid_diagram() -> None:
    assert LAMP.mermaid().splitlines() == [
        "stateDiagram-v2",
        "    [*] --> dark",
        "    dark --> burning_low: light",
        "    burning_low --> dark: put out",
        "    burning_low --> broken: drop",
        "    broken --> [*]",
    ]
