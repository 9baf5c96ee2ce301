"""Run the benchmark of judges and write docs/decision_quality.md and its page of cells.

`--small` runs a few cells with few runs, `--part` all of them with that part of their runs; both print instead of
writing.
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
import time
from pathlib import Path

from benchmarks.judges import figures, grid, run, table

DOCS = Path(__file__).parents[2] / "docs"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--small", action="store_true", help="a few cells, printed")
    parser.add_argument("--part", type=float, default=1.0, help="all cells, fewer runs, printed")
    parser.add_argument("--processes", type=int, default=os.cpu_count())
    given = parser.parse_args()
    cells = grid.small() if given.small else grid.cells()
    if given.part != 1:
        cells = grid.scaled(cells, given.part)
    began = time.monotonic()
    done = run.everything(cells, given.processes)
    seconds = time.monotonic() - began
    found = [one for each in done for one in figures.figures(each)]
    summary = table.summary(done, found, seconds, f"{given.processes} cores ({platform.machine()})")
    if given.small or given.part != 1:
        print(summary, table.everything(found), sep="\n\n")
    else:
        table.replace_between(DOCS / "decision_quality.md", summary)
        (DOCS / table.CELLS_PAGE).write_text(table.everything(found))
    slowest = sorted(done, key=lambda one: -one.seconds)[:5]
    print(
        f"{seconds:.0f} s; slowest: {', '.join(f'{one.cell.name} {one.seconds:.0f} s' for one in slowest)}",
        file=sys.stderr,
    )
    # Where the product itself says something else, the table is about something else.
    return 1 if any(one.differences for one in done) else 0


if __name__ == "__main__":
    sys.exit(main())
