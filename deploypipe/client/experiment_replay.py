"""`deploypipe experiment replay`: every stored verdict, computed again from its windows with the code that is here."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Iterator
from itertools import groupby
from typing import Any

from abtests.evidence import EvidenceError
from abtests.replay import Replayed, replays
from deploypipe.client import experiment_files
from deploypipe.client.problems import CannotRead, Ended
from deploypipe.client.screen import plain
from deploypipe.stats import words


def run(options: argparse.Namespace) -> Ended:
    evidence = experiment_files.evidence(options)
    if not evidence.looks:
        raise CannotRead("This experiment has no look yet: there is no verdict to compute again.")
    try:
        looks = list(replays(evidence))
    except EvidenceError as error:
        raise CannotRead(str(error)) from error
    different = [number for number, look in enumerate(looks, 1) if not look.equal]
    if options.json:
        json.dump(_as_json(looks, different), sys.stdout, indent=2, ensure_ascii=False)
        print()  # noqa: T201
    else:
        for line in _lines(evidence.experiment, len(evidence.windows), looks, different, every=options.every):
            print(plain(line))  # noqa: T201
    return Ended.DIFFERENT if different else Ended.WELL


def _as_json(looks: list[Replayed], different: list[int]) -> dict[str, Any]:
    return {
        "looks": [
            {
                "look": number,
                "last_window": one.look.last_window,
                "stored": one.look.verdict,
                "computed": one.verdict,
                "equal": one.equal,
                "differences": list(one.differences),
                "other_code": one.other_code,
            }
            for number, one in enumerate(looks, 1)
        ],
        "different": len(different),
    }


def _lines(experiment: Any, windows: int, looks: list[Replayed], different: list[int], *, every: bool) -> Iterator[str]:
    name = experiment.get("name") or "an experiment without a name"
    yield f"{name}: {words.plural(len(looks), 'look')} at {words.plural(windows, 'window')}."
    numbered = list(enumerate(looks, 1))
    alike = [[pair] for pair in numbered] if every else _alike(numbered)
    for group in alike:
        yield from _told(group)
    yield ""
    if different:
        yield f"{words.plural(len(different), 'verdict')} of {len(looks):,} came out differently."
    else:
        yield f"Every verdict came out as it was stored, to the last bit ({len(looks):,} of {len(looks):,})."


Numbered = tuple[int, Replayed]


def _alike(numbered: Iterable[Numbered]) -> list[list[Numbered]]:
    def kind(pair: Numbered) -> tuple[object, ...]:
        _, one = pair
        return one.look.verdict, one.verdict, one.equal, one.other_code

    return [list(group) for _, group in groupby(numbered, key=kind)]


def _told(group: list[Numbered]) -> Iterator[str]:
    (first, one), (last, _) = group[0], group[-1]
    which = f"look {first}" if first == last else f"looks {first} to {last}"
    if one.equal:
        yield f"  equal      {which}: {one.look.verdict}"
        return
    yield f"  different  {which}: stored {one.look.verdict}, computed {one.verdict}"
    yield f"    Look {first} was taken after window {one.look.last_window}."
    if one.look.sentence != one.sentence:
        yield f"    stored:   {one.look.sentence}"
        yield f"    computed: {one.sentence}"
    if one.differences:
        yield f"    differs in {', '.join(one.differences)}"
    if "windows" in one.differences:
        yield "    The windows are not those that were judged: the evidence was changed, or is not whole."
    if one.other_code:
        yield f"    It was taken by {one.look.code_version}, another version of this code: look with that one."
