"""Every cell through every judge, on all cores. Seeded by the cell's name: the same table on any number of cores."""

from __future__ import annotations

import multiprocessing
import sys
import time
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.judges import check, ours, peers
from benchmarks.judges.grid import RUNS, Cell
from benchmarks.judges.scenarios import Stream, draw
from benchmarks.judges.verdicts import Verdicts

ALPHAS = (0.05, 0.01)
OURS = "deploypipe"
OURS_ALONE = "deploypipe, error rate alone"
"""With all of alpha for it, as the tests of peers that know nothing else."""
SEED = 20261125
CHECKED = 5
"""Runs of each cell that go through the product's own evaluation, at each alpha."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """Of one judge in one cell at one alpha. Arrays have one item for each run."""

    kind: npt.NDArray[Any]
    minutes: npt.NDArray[Any]
    """Until the verdict, or the end."""
    requests: npt.NDArray[Any]
    """Of both arms, until then."""


Key = tuple[str, float]
"""Judge and alpha."""


@dataclass(frozen=True, slots=True)
class Done:
    cell: Cell
    outcomes: dict[Key, Outcome]
    differences: tuple[str, ...]
    """Where the product's own evaluation said something else."""
    checked: int
    seconds: float
    """Of one core."""


@dataclass(frozen=True, slots=True)
class _Task:
    cell: Cell
    batch: int
    runs: int


def everything(cells: Sequence[Cell], processes: int, checked: int = CHECKED) -> list[Done]:
    tasks = [task for cell in cells for task in _tasks(cell)]
    # The longest first, so that no core waits for the other at the end.
    tasks.sort(key=lambda task: -task.cell.scenario.windows * (30 if task.cell.scenario.latency else 1))
    jobs = [(task, checked if task.batch == 0 else 0) for task in tasks]
    found: dict[str, list[tuple[int, Done]]] = {cell.name: [] for cell in cells}
    began = time.monotonic()
    if processes == 1:
        for count, job in enumerate(jobs):
            _note(found, *_job(job), count + 1, len(jobs), began)
    else:
        with multiprocessing.get_context("fork").Pool(processes) as pool:
            for count, (task, done) in enumerate(pool.imap_unordered(_job, jobs)):
                _note(found, task, done, count + 1, len(jobs), began)
    return [_joined([done for _, done in sorted(found[cell.name], key=lambda pair: pair[0])]) for cell in cells]


def _note(
    found: dict[str, list[tuple[int, Done]]], task: _Task, done: Done, count: int, all_of_them: int, began: float
) -> None:
    found[task.cell.name].append((task.batch, done))
    if count % 100 == 0:
        print(f"{count} of {all_of_them} parts, {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)


def _tasks(cell: Cell) -> Iterable[_Task]:
    for batch, first in enumerate(range(0, cell.runs, cell.batch)):
        yield _Task(cell, batch, min(cell.batch, cell.runs - first))


def _job(job: tuple[_Task, int]) -> tuple[_Task, Done]:
    task, checked = job
    cell = task.cell
    began = time.process_time()
    stream = draw(cell.scenario, task.runs, (SEED, zlib.crc32(cell.name.encode()), task.batch))
    said = {(OURS, alpha): verdicts for alpha, verdicts in ours.judge(stream, ALPHAS).items()}
    differences: list[str] = []
    for alpha in ALPHAS if checked else ():
        differences += check.differences(stream, alpha, said[OURS, alpha], checked)
    if cell.alone:
        for alpha, verdicts in ours.judge(stream, ALPHAS, alone=True).items():
            said[OURS_ALONE, alpha] = verdicts
            differences += check.differences(stream, alpha, verdicts, checked, alone=True)
    # Peers need no more than RUNS: they have no promise of a level to be held to.
    if cell.peers and task.batch * cell.batch < RUNS:
        for peer in peers.of(cell.scenario):
            said |= {(peer.name, alpha): verdicts for alpha, verdicts in peer.judge(stream, ALPHAS).items()}
    outcomes = {key: _outcome(stream, verdicts) for key, verdicts in said.items()}
    seconds = time.process_time() - began
    return task, Done(cell, outcomes, tuple(differences), _checked(task, checked), seconds)


def _checked(task: _Task, checked: int) -> int:
    return min(checked, task.runs) * len(ALPHAS) * (2 if task.cell.alone else 1)


def _outcome(stream: Stream, verdicts: Verdicts) -> Outcome:
    minutes = (verdicts.look + 1) * stream.scenario.window_seconds / 60
    requests = stream.total[np.arange(stream.runs), verdicts.look]
    return Outcome(verdicts.kind.astype(np.int8), minutes.astype(np.float32), requests.astype(np.int64))


def _joined(parts: Sequence[Done]) -> Done:
    keys = parts[0].outcomes
    outcomes = {}
    for key in keys:
        some = [part.outcomes[key] for part in parts if key in part.outcomes]
        columns = ((getattr(one, name) for one in some) for name in ("kind", "minutes", "requests"))
        outcomes[key] = Outcome(*(np.concatenate(list(column)) for column in columns))
    return Done(
        parts[0].cell,
        outcomes,
        tuple(said for part in parts for said in part.differences),
        sum(part.checked for part in parts),
        sum(part.seconds for part in parts),
    )
